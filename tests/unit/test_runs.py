"""Train, evaluate, predict: what the commands do, on a tiny world."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoProcessor

from soho import (
    SohoForImageTextRetrieval,
    SohoForPreTraining,
    SohoForQuestionAnswering,
    SohoForVisualEntailment,
    SohoForVisualReasoning,
    SohoModel,
    SohoProcessor,
)
from soho.errors import SohoError
from soho.runs import check_data, evaluate, train, trained_model
from soho.training.checkpoint import list_checkpoints
from soho.training.recipe import load_recipe
from soho.training.tracking import read_log
from tests.support import ROOT
from tests.tiny_recipes import tiny_recipe, tiny_values, write_recipe

CLASSES = {
    "pretraining": SohoForPreTraining,
    "retrieval": SohoForImageTextRetrieval,
    "vqa": SohoForQuestionAnswering,
    "nlvr2": SohoForVisualReasoning,
    "snli_ve": SohoForVisualEntailment,
}


@pytest.fixture
def runs(trained: Path, tmp_path: Path) -> Path:
    """A copy of the finished runs that a test may change."""
    return Path(shutil.copytree(trained, tmp_path / "runs"))


@pytest.mark.parametrize("task", CLASSES)
def test_a_run_leaves_everything_needed_to_repeat_it(trained: Path, task: str) -> None:
    output = trained / task
    names = {path.name for path in output.iterdir()}
    assert names >= {"checkpoints", "finished.json", "load_report.txt", "log.jsonl", "model", "recipe.yaml"}
    assert names >= {"tensorboard", "versions.json"}
    steps = 3 if task == "pretraining" else 2
    records = read_log(output)
    assert [record["step"] for record in records if record["kind"] == "train"] == list(range(1, steps + 1))
    assert load_recipe(output / "recipe.yaml").output == output
    report = (output / "load_report.txt").read_text()
    assert ("no BERT was named" in report) == (task == "pretraining")
    assert {path.suffix for path in (output / "model").iterdir()} <= {".json", ".safetensors", ".txt", ".md"}
    if task == "pretraining":
        assert {"loss/mlm", "loss/mvm", "loss/itm", "health/codes_used", "health/perplexity"} <= set(records[-1])


@pytest.mark.parametrize("task", CLASSES)
def test_the_model_folder_loads_by_transformers_conventions(trained: Path, task: str) -> None:
    folder = trained / task / "model"
    assert AutoConfig.from_pretrained(folder).architectures == [CLASSES[task].__name__]
    processor = AutoProcessor.from_pretrained(folder)
    assert isinstance(processor, SohoProcessor)
    assert processor.text_length == 20
    images = AutoImageProcessor.from_pretrained(folder)
    assert (images.shorter_edge, images.longer_edge) == (128, 192)
    trunk = AutoModel.from_pretrained(folder)
    assert isinstance(trunk, SohoModel)
    model = CLASSES[task].from_pretrained(folder)
    for name, value in trunk.state_dict().items():
        assert torch.equal(value, model.trunk.state_dict()[name]), name


def test_a_finished_run_is_left_alone(runs: Path, world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = runs / "pretraining"
    recipe = tiny_recipe("pretraining", world, output, "training.max_steps=3")
    weights, log = (output / "model" / "model.safetensors"), (output / "log.jsonl")
    before = (weights.read_bytes(), weights.stat().st_mtime_ns, log.read_bytes())
    # The folder was copied, so the recipe that is kept in it names another place; places may change.
    again = train(recipe)
    assert again.summary.already_finished
    assert again.summary.steps == 3
    assert again.model_folder == output / "model"
    assert (weights.read_bytes(), weights.stat().st_mtime_ns, log.read_bytes()) == before
    assert "holds a finished run of 3 steps; there is nothing to do" in capsys.readouterr().out


def test_more_steps_continue_a_finished_run(runs: Path, world: Path) -> None:
    run = train(tiny_recipe("pretraining", world, runs / "pretraining", "training.max_steps=5"))
    assert run.summary.steps == 5
    assert [record["step"] for record in read_log(runs / "pretraining")] == [1, 2, 3, 4, 5]


def test_another_recipe_does_not_continue_a_run(runs: Path, world: Path) -> None:
    recipe = tiny_recipe("pretraining", world, runs / "pretraining", "training.max_steps=5", "training.optimizer.lr=1")
    with pytest.raises(SohoError, match=r"holds a run with other values of training\.optimizer\.lr; take these back"):
        train(recipe)


def test_a_refused_run_keeps_what_lies_there(runs: Path, world: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(runs / "pretraining", tmp_path / "copy")
    progress = list_checkpoints(copy)[-1] / "progress.json"
    values = json.loads(progress.read_text())
    values["run"]["the number of processes"] = 2
    progress.write_text(json.dumps(values))
    before = {path: path.read_bytes() for path in copy.iterdir() if path.is_file()}
    recipe = tiny_recipe("pretraining", world, copy, "training.max_steps=6")
    with pytest.raises(SohoError, match="holds a run with other values of the number of processes"):
        train(recipe)
    assert {path: path.read_bytes() for path in copy.iterdir() if path.is_file()} == before


def test_evaluation_of_a_run_is_written_into_its_folder(runs: Path, world: Path) -> None:
    expected = {
        "pretraining": "mvm_majority",
        "retrieval": "chance/tr_r1",
        "vqa": "majority",
        "nlvr2": "consistency",
        "snli_ve": "neutral/accuracy",
    }
    for task, figure in expected.items():
        recipe = tiny_recipe(task, world, runs / task)
        figures = evaluate(recipe, "validation")
        assert json.loads((runs / task / "metrics-validation.json").read_text()) == pytest.approx(figures, nan_ok=True)
        assert figure in figures
        assert evaluate(recipe, "validation") == pytest.approx(figures, nan_ok=True)


@pytest.mark.parametrize("task", ["vqa", "nlvr2", "snli_ve"])
def test_baselines_on_request(runs: Path, world: Path, task: str, capsys: pytest.CaptureFixture[str]) -> None:
    start = f"model.start={runs / 'pretraining' / 'model'}"
    recipe = tiny_recipe(task, world, runs / task, start, "training.max_steps=2", "evaluation.baselines=true")
    figures = evaluate(recipe, "test")
    blind = runs / task / "blind"
    trained_blind = load_recipe(blind / "recipe.yaml")
    assert trained_blind.data.image_blind
    assert trained_blind.training == recipe.training
    assert trained_blind.model == recipe.model
    assert 0 <= figures["majority"] <= 1
    assert 0 <= figures["blind/accuracy"] <= 1
    assert not {"blind/majority", "blind/examples", "blind/sentences"} & set(figures)
    assert json.loads((runs / task / "metrics-test.json").read_text()) == pytest.approx(figures, nan_ok=True)
    # The figures of the blind model are those of its own run, and its run is not made a second time.
    capsys.readouterr()
    assert evaluate(trained_blind, "test")["accuracy"] == figures["blind/accuracy"]
    weights = (blind / "model" / "model.safetensors").stat().st_mtime_ns
    assert evaluate(recipe, "test") == pytest.approx(figures, nan_ok=True)
    assert (blind / "model" / "model.safetensors").stat().st_mtime_ns == weights
    assert "holds a finished run of 2 steps" in capsys.readouterr().out
    plain = evaluate(tiny_recipe(task, world, runs / task), "test")
    assert not [name for name in plain if name.startswith("blind/")]
    assert ("majority" in plain) == (task == "vqa")


def test_the_blind_baseline_goes_on_where_it_was_stopped(runs: Path, world: Path) -> None:
    settings = (f"model.start={runs / 'pretraining' / 'model'}", "evaluation.baselines=true")
    recipe = tiny_recipe("snli_ve", world, runs / "snli_ve", *settings, "training.max_steps=2")
    evaluate(recipe, "test")
    blind = runs / "snli_ve" / "blind"
    (blind / "finished.json").unlink()  # as if it had been killed at step 2 of 4
    recipe.training.max_steps = 4
    evaluate(recipe, "test")
    assert [record["step"] for record in read_log(blind) if record["kind"] == "train"] == [1, 2, 3, 4]


def test_a_pretrained_model_scores_pairs_zero_shot(trained: Path, world: Path, tmp_path: Path) -> None:
    start = trained / "pretraining" / "model"
    recipe = tiny_recipe("retrieval", world, tmp_path / "zero", f"model.start={start}", "evaluation.max_images=6")
    figures = evaluate(recipe, "test")
    assert (figures["images"], figures["texts"]) == (6, 30)
    assert figures["chance/ir_r1"] == pytest.approx(1 / 6)
    # The match head is the one that was pre-trained: no new random weights from call to call.
    other = tiny_recipe("retrieval", world, tmp_path / "other", "evaluation.max_images=6")
    assert evaluate(other, "test", start) == figures


def test_training_measures_validation_on_its_way(world: Path, tmp_path: Path) -> None:
    settings = ("training.max_steps=4", "training.evaluate_every=0.1", "data.train.0.limit=20")
    train(tiny_recipe("pretraining", world, tmp_path / "run", *settings))
    evaluations = [record for record in read_log(tmp_path / "run") if record["kind"] == "evaluation"]
    assert evaluations
    assert {"mlm_loss", "mvm_accuracy", "itm_accuracy", "mvm_majority"} <= set(evaluations[0])
    quiet = tiny_recipe("pretraining", world, tmp_path / "quiet", *settings[::2])
    train(quiet)
    losses = [[r["loss"] for r in read_log(tmp_path / name) if r["kind"] == "train"] for name in ("run", "quiet")]
    assert losses[0] == losses[1]  # looking changes nothing


def test_nothing_to_measure_yet(world: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe("retrieval", world, tmp_path / "run")
    with pytest.raises(SohoError, match=r"does not exist yet and the recipe names no model\.start; train first"):
        evaluate(recipe)
    with pytest.raises(SohoError, match=r"gone is not a folder; expected one that holds a trained model"):
        trained_model(recipe, tmp_path / "gone")


def test_a_broken_picture_is_named_in_the_run(world: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(world, tmp_path / "world"))
    name = json.loads((root / "annotations" / "dataset_coco.json").read_text())["images"][3]["filename"]
    picture = next((root / "images").rglob(name))
    whole = picture.read_bytes()
    picture.write_bytes(whole[: len(whole) // 2])  # the header is there, so only reading it all tells
    recipe = tiny_recipe("pretraining", root, tmp_path / "run", "training.epochs=1")
    train(recipe)
    report = (tmp_path / "run" / "load_report.txt").read_text()
    assert f"broken picture, skipped: {picture}" in report


def test_checking_the_data(world: Path, tmp_path: Path) -> None:
    report = check_data(tiny_recipe("pretraining", world, tmp_path / "run"))
    assert report.sound, report.lines()
    values = tiny_values("pretraining", world, tmp_path / "run")
    values["data"]["validation"] = values["data"]["train"]
    overlapping = load_recipe(write_recipe(tmp_path / "overlap.yaml", values))
    assert not check_data(overlapping).sound
    values["data"] |= {"train": [], "validation": [], "test": []}
    with pytest.raises(SohoError, match=r"the recipe names no data"):
        check_data(load_recipe(write_recipe(tmp_path / "none.yaml", values)))


def test_data_check_goes_on_without_a_tokenizer(world, tmp_path, capsys):
    """A hub out of reach costs the text lengths, not the check."""
    recipe = load_recipe(
        ROOT / "recipes/demo/retrieval.yaml",
        [f"data.root={world}", f"output={tmp_path}", "model.start=null", f"model.text={tmp_path / 'nowhere'}"],
    )
    report = check_data(recipe)
    assert report.sound
    assert "the lengths of texts are not measured: " in capsys.readouterr().out


def test_an_output_that_is_a_file(tmp_path: Path) -> None:
    file = tmp_path / "run"
    file.write_text("not a folder")
    recipe = tiny_recipe("pretraining", tmp_path / "world", file)
    with pytest.raises(SohoError, match="run is a file; expected a folder for the run"):
        train(recipe)
    assert file.read_text() == "not a folder"
