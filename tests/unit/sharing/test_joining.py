"""Several heads on one trunk in one folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import soho as package
from soho.errors import SohoError
from soho.pipelines import SohoPipeline
from soho.runs import train
from soho.serving.shelf import Shelf, find_models
from soho.sharing import join_heads
from soho.sharing.facts import record_measurement
from tests.support import Soho
from tests.tiny_recipes import tiny_recipe

HEADS = ["SohoForQuestionAnswering", "SohoForVisualEntailment", "SohoForVisualReasoning"]


@pytest.fixture(scope="module")
def frozen(trained: Path, world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of three tasks on one trunk that did not learn."""
    out = tmp_path_factory.mktemp("frozen")
    options = [f"model.start={trained / 'pretraining' / 'model'}", "training.max_steps=1", "training.frozen=[soho]"]
    for task in ("vqa", "snli_ve", "nlvr2"):
        train(tiny_recipe(task, world, out / task, *options, "training.freeze_backbone_epochs=-1"))
    return out


@pytest.fixture(scope="module")
def joined(frozen: Path) -> Path:
    folders = [frozen / task / "model" for task in ("vqa", "snli_ve", "nlvr2")]
    recipe = {"data": {"root": None, "test": [{"format": "vqa2", "questions": "q.json"}]}}
    record_measurement(folders[0], "test", {"accuracy": 0.4321}, recipe)
    assert join_heads(folders, frozen / "joined") == HEADS
    return frozen / "joined"


def test_every_head_says_what_it_said_alone(frozen: Path, joined: Path, world: Path) -> None:
    assert json.loads((joined / "config.json").read_text())["architectures"] == HEADS
    pipeline = SohoPipeline.from_pretrained(joined)
    assert [ability.task for ability in pipeline.abilities] == ["vqa", "snli_ve", "nlvr2"]
    assert pipeline.heads[0].trunk is pipeline.model.trunk
    left, right = sorted((world / "images" / "val2014").iterdir())[:2]
    alone = {task: SohoPipeline.from_pretrained(frozen / task / "model") for task in ("vqa", "snli_ve", "nlvr2")}
    for ours, theirs in (
        (pipeline.answer(left, "is there a ball?"), alone["vqa"].answer(left, "is there a ball?")),
        (pipeline.entails(left, "there is a ball"), alone["snli_ve"].entails(left, "there is a ball")),
        (pipeline.compare(left, right, "a ball"), alone["nlvr2"].compare(left, right, "a ball")),
    ):
        assert [one.text for one in ours] == [one.text for one in theirs]
        # The same numbers in other memory: sums may be taken in another order.
        assert [one.probability for one in ours] == pytest.approx([one.probability for one in theirs], abs=1e-6)
    # Two pictures can mean one thing only; one picture two things here.
    assert {one.text for one in pipeline(left, "a ball", right)} == {"true", "false"}
    assert "entailment" in {one.text for one in pipeline(left, "a ball", task="snli_ve")}
    with pytest.raises(
        SohoError,
        match=r"answers questions \(`answer`\) and judges what a picture entails \(`entails`\); name the task "
        r"\(--task\): one of vqa, snli_ve",
    ):
        pipeline(left, "a ball")
    with pytest.raises(SohoError, match=r"\(`compare`\); for `match` load a retrieval or pre-training model"):
        pipeline.match(left, "a ball")
    one = SohoPipeline.from_pretrained(joined, task="nlvr2")
    assert [ability.task for ability in one.abilities] == ["nlvr2"]
    assert [prediction.probability for prediction in one.compare(left, right, "a ball")] == pytest.approx(
        [prediction.probability for prediction in alone["nlvr2"].compare(left, right, "a ball")], abs=1e-6
    )


def test_the_fast_copy_has_one_trunk_too(joined: Path, world: Path) -> None:
    picture = sorted((world / "images" / "val2014").iterdir())[0]
    fast, exact = package.load(joined, device="cpu"), SohoPipeline.from_pretrained(joined)
    assert fast.heads[1].trunk is fast.model.trunk
    found = {one.text: one.probability for one in fast.entails(picture, "a ball")}
    for one in exact.entails(picture, "a ball"):
        assert found[one.text] == pytest.approx(one.probability, abs=0.02)


def test_the_card_tells_of_every_run(joined: Path) -> None:
    text = (joined / "README.md").read_text(encoding="utf-8")
    for title in ("visual question answering", "visual entailment", "visual reasoning about two pictures"):
        assert f"\n## Figures: {title}\n" in text
    assert "0.4321" in text  # measured before; neither trunk nor head has changed


def test_trunks_that_learned_do_not_fit(trained: Path, tmp_path: Path, soho: Soho) -> None:
    folders = [trained / "vqa" / "model", trained / "snli_ve" / "model"]
    code, out, err = soho("join", *folders, "--out", tmp_path / "joined")
    assert (code, out) == (1, "")
    assert err.count("\n") == 1
    assert f"the trunks of {folders[0]} and {folders[1]} differ in " in err
    assert "(soho." not in err  # names within the trunk
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_joined(trained: Path, frozen: Path, joined: Path, tmp_path: Path) -> None:
    vqa, pretraining = frozen / "vqa" / "model", trained / "pretraining" / "model"
    out = tmp_path / "joined"
    with pytest.raises(SohoError, match="two of the folders hold a SohoForQuestionAnswering"):
        join_heads([vqa, vqa], out)
    with pytest.raises(SohoError, match="holds SohoForPreTraining; expected one head of retrieval, vqa"):
        join_heads([vqa, pretraining], out)
    with pytest.raises(SohoError, match="one folder has nothing to be joined with"):
        join_heads([vqa], out)
    with pytest.raises(SohoError, match="joined is there already; name a new folder"):
        join_heads([vqa, frozen / "nlvr2" / "model"], joined)


@pytest.mark.parametrize("fast", [False, True])
def test_one_folder_serves_all_its_heads(joined: Path, world: Path, fast: bool) -> None:
    shelf = Shelf(find_models([joined]), fast=fast)
    assert list(shelf.folders) == ["answer", "compare", "entails"]
    pipeline = shelf.of("answer")
    assert pipeline is not None
    assert pipeline is shelf.of("compare")
    left, right = sorted((world / "images" / "val2014").iterdir())[:2]
    exact = SohoPipeline.from_pretrained(joined)
    tolerance = 0.03 if fast else 1e-6
    for ours, theirs in (
        (pipeline.entails(left, "there is a ball"), exact.entails(left, "there is a ball")),
        (pipeline.compare(left, right, "a ball"), exact.compare(left, right, "a ball")),
    ):
        assert {one.text: one.probability for one in ours} == pytest.approx(
            {one.text: one.probability for one in theirs}, abs=tolerance
        )


def test_attention_asks_the_head_that_fits(joined: Path, world: Path, tmp_path: Path, soho: Soho) -> None:
    left, right = sorted((world / "images" / "val2014").iterdir())[:2]
    out = ("--out", tmp_path)

    def followed(*arguments: str | Path) -> str:
        code, said, err = soho("attention", joined, left, *arguments, *out)
        assert code == 0, err
        return said.splitlines()[0].removeprefix("output: ").split(" (")[0]

    answers = {one.text for one in SohoPipeline.from_pretrained(joined).answer(left, "is there a ball?", 10_000)}
    assert followed("--question", "is there a ball?") in answers
    assert followed("a ball", "--task", "snli_ve") in {"entailment", "neutral", "contradiction"}
    assert followed("a ball", "--second", right) in {"true", "false"}
    for arguments, expected in (
        (("a ball",), "name the task (--task): one of vqa, snli_ve"),
        (("--question", "a ball?", "--task", "snli_ve"), "the head for snli_ve does not answer questions"),
        (("a ball", "--task", "retrieval"), "can do "),
    ):
        code, said, err = soho("attention", joined, left, *arguments, *out)
        assert (code, said, err.count("\n")) == (1, "", 1)
        assert expected in err
