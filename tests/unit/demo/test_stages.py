"""The whole demonstration with a step or two a run, and its page."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from soho.data.miniature import generate
from soho.demo import DemoResult, run_demo, stages
from soho.demo.pages import write_demo_report
from soho.demo.side_by_side import LOG_FILE
from soho.demo.stages import RUNS
from soho.demo.tables import for_terminal, overview
from soho.errors import SohoError
from tests.support import ROOT

# Nothing that makes the model smaller: neither depth nor width.
STEPS = ["training.max_steps=1", "training.batch_size=2", "data.shorter_edge=128", "data.longer_edge=192"]
CHANGES = {"world": ["40", "8", "10"], **dict.fromkeys(("pretrain", *RUNS), STEPS)}
PAIR = ("vqa", "snli_ve_text_only")


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> DemoResult:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        return run_demo(tmp_path_factory.mktemp("demo") / "out", 2, CHANGES, serial=True)


@pytest.fixture(autouse=True)
def at_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


@pytest.mark.recipe
def test_every_task_has_its_rivals(result: DemoResult) -> None:
    assert set(result.metrics) == {"pretrain", *RUNS}
    assert set(result.steps.values()) == {1}
    assert result.wall_seconds >= result.seconds["pretrain"] > 0
    assert DemoResult.load(result.out) == result
    by_name = {row.name: row.values for row in overview(result).rows}
    for task, title in (("vqa", "VQA accuracy"), ("nlvr2", "NLVR2 accuracy"), ("snli_ve", "SNLI-VE accuracy")):
        names = (task, f"{task}_no_pretraining", f"{task}_text_only")
        expected = [*(result.metrics[name]["accuracy"] for name in names), result.metrics[task]["majority"]]
        assert by_name[title] == expected
    assert result.metrics["nlvr2"]["majority"] == 1 / 2
    assert result.metrics["snli_ve"]["majority"] == pytest.approx(1 / 3)
    for key in ("tr_r1", "ir_r1"):
        ours, plain, blind, chance = by_name[f"{'text' if key[0] == 't' else 'image'} retrieval R@1"]
        assert blind is None  # no meaning in retrieval
        assert (ours, plain) == (result.metrics["retrieval"][key], result.metrics["retrieval_no_pretraining"][key])
        assert chance == pytest.approx(1 / 10)
    assert len(for_terminal(overview(result)).columns) == 5


@pytest.mark.recipe
def test_runs_differ_in_nothing_but_their_start_and_their_pictures(tmp_path: Path) -> None:
    for run, (file, changes) in RUNS.items():
        ours = stages.demo_recipe(RUNS[file.removesuffix(".yaml")][0], file.removesuffix(".yaml"), tmp_path, 0, [])
        other = stages.demo_recipe(file, run, tmp_path, 0, changes)
        assert other.training.max_steps == ours.training.max_steps
        assert other.training.batch_size == ours.training.batch_size
        assert other.data.image_blind == run.endswith("text_only")
        assert (other.model.start is None) == run.endswith("no_pretraining")
        assert other.data.test == ours.data.test


@pytest.mark.recipe
def test_a_finished_demonstration_is_not_run_again(result: DemoResult, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object) -> None:
        raise AssertionError("a finished stage ran again")

    monkeypatch.setattr(stages, "run_stage", forbidden)
    monkeypatch.setattr(stages, "generate", forbidden)
    monkeypatch.setattr(stages, "run_side_by_side", lambda todo, **_: forbidden() if todo else None)
    again = run_demo(result.out, 2, CHANGES)
    assert again.metrics == result.metrics
    assert run_demo(result.out, 2, CHANGES, serial=True).seconds == result.seconds


@pytest.mark.recipe
def test_a_world_of_another_version_or_seed_is_left_alone(tmp_path: Path) -> None:
    world = tmp_path / "world"
    generate(world, train_images=8, validation_images=2, test_images=2, seed=3)
    record = world / "world.json"
    with pytest.raises(SohoError, match=r"holds the embedded world of seed 3, but seed 0 was asked for"):
        run_demo(tmp_path)
    record.write_text(record.read_text().replace('"version":', '"version":9'))
    with pytest.raises(SohoError, match=r"world cannot be used again \(.* of version 9.*or delete "):
        run_demo(tmp_path)
    assert record.is_file()


def test_other_settings_are_not_taken_for_finished(result: DemoResult) -> None:
    with pytest.raises(SohoError, match=r"vqa holds a run with other values of training\.clip_norm"):
        run_demo(result.out, 2, {**CHANGES, "vqa": [*STEPS, "training.clip_norm=1"]}, serial=True)


@pytest.mark.recipe
def test_child_processes_give_the_same_results(
    result: DemoResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "demo"
    out.mkdir()
    for name in ("world", "pretrain"):
        (out / name).symlink_to(result.out / name)
    first = DemoResult(out)
    first.metrics["pretrain"] = {}
    monkeypatch.setattr(stages, "RUNS", {run: RUNS[run] for run in PAIR})
    monkeypatch.setattr(stages, "available_cores", lambda: 2)
    monkeypatch.setattr(stages, "_is_done", lambda _, run, __: run == "pretrain")
    found = run_demo(out, 2, CHANGES)
    for run in PAIR:
        assert found.metrics[run] == pytest.approx(result.metrics[run], nan_ok=True)
        assert found.steps[run] == 1
        assert (out / run / LOG_FILE).stat().st_size > 0
    assert DemoResult.load(out) == found


@pytest.mark.recipe
def test_the_study_covers_every_run(result: DemoResult) -> None:
    spec = importlib.util.spec_from_file_location("study", ROOT / "recipes" / "demo" / "study.py")
    assert spec is not None
    assert spec.loader is not None
    study = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(study)
    rows = [line.split(" | ") for line in study.table([result, result]).splitlines()[2:]]
    assert {row[0].removeprefix("| ") for row in rows} == {"pretrain", *RUNS}
    majority = {row[0].removeprefix("| "): row[3] for row in rows if row[2] == "majority"}
    assert majority == {"vqa": f"{100 * result.metrics['vqa']['majority']:.1f}", "nlvr2": "50.0", "snli_ve": "33.3"}


@pytest.mark.recipe
def test_the_page_shows_every_task(result: DemoResult) -> None:
    page = write_demo_report(result, 2).read_text(encoding="utf-8")
    assert page.count('class="question"') >= 12 + 6
    for words in (
        "Four tasks on unseen images",
        "Visual reasoning (NLVR2)",
        "Visual entailment (SNLI-VE)",
        "consistency",
        "contradiction",
        "left image of the question: ",
        "right image of the question: ",
        "no pre-training",
        "text only",
        "majority; retrieval: chance",
    ):
        assert words in page
