"""From a released checkpoint by `soho convert released` to every task of the project."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoProcessor

from soho import SohoForImageTextRetrieval, SohoForPreTraining, SohoForQuestionAnswering, SohoProcessor
from soho.cli import main
from soho.conversion import convert_released
from soho.errors import SohoError
from soho.models import (
    SohoForVisualEntailment,
    SohoForVisualReasoning,
    SohoReleasedConfig,
    SohoReleasedForPreTraining,
    SohoReleasedModel,
)
from soho.models.initialization import read_config
from soho.pipelines import SohoPipeline
from soho.processing.vocabulary import train_wordpiece
from soho.runs import evaluate, train
from soho.tasks import build_task
from soho.training.tracking import read_log
from tests.conftest import shared_folder
from tests.tiny_recipes import MODEL, tiny_recipe
from tests.unit.models.released import official_content, released_model, write

CLASSES = {
    "pretraining": SohoForPreTraining,
    "retrieval": SohoForImageTextRetrieval,
    "vqa": SohoForQuestionAnswering,
    "nlvr2": SohoForVisualReasoning,
    "snli_ve": SohoForVisualEntailment,
}
NEW_HEADS = {"vqa": {"answer_head"}, "nlvr2": {"reasoning_head"}, "snli_ve": {"entailment_head"}}
SIZES = MODEL["config"]
ANSWERS = ["yes", "no", "1", "2", "red"]


@pytest.fixture(scope="session")
def released(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`pretraining.pth`, `vqa.pth`, `tokenizer/`, `answers.json`, and `start/` converted from the first."""

    def make(out: Path) -> None:
        out.mkdir()
        texts = build_task(tiny_recipe("pretraining", world, out / "unused")).texts()
        tokenizer = train_wordpiece(texts, 300)
        tokenizer.save_pretrained(out / "tokenizer")
        for kind in ("pretraining", "vqa"):
            extra = {"answers": ANSWERS} if kind == "vqa" else {}
            model = released_model(kind, **{**SIZES, "vocab_size": len(tokenizer), **extra})
            write(out / f"{kind}.pth", official_content(model))
        (out / "answers.json").write_text(json.dumps(ANSWERS), encoding="utf-8")
        convert_released(out / "pretraining.pth", out / "start", tokenizer=str(out / "tokenizer"))

    return shared_folder(tmp_path_factory, "released", make)


@pytest.mark.parametrize("task", CLASSES)
def test_every_task_trains_from_a_converted_folder(task: str, world: Path, released: Path, tmp_path: Path) -> None:
    start = released / "start"
    recipe = tiny_recipe(task, world, tmp_path / "run", f"model.start={start}", "training.max_steps=2")
    task_object = build_task(recipe)
    assert task_object.processor.image_processor.size_divisor == 32
    before = SohoReleasedForPreTraining.from_pretrained(start)
    model, report = task_object.build_model()
    assert type(model.trunk) is SohoReleasedModel
    assert model.config.visual_input == ("dictionary" if task == "pretraining" else "features")
    for name, value in model.trunk.state_dict().items():
        assert torch.equal(value, before.trunk.state_dict()[name]), name
    assert set(report.initialised) == NEW_HEADS.get(task, set())
    assert ("visual dictionary" in report.left_over) == (task != "pretraining")

    run = train(recipe)
    records = [record for record in read_log(recipe.output) if record["kind"] == "train"]
    assert len(records) == 2
    assert all(0 < record["loss"] < 1e4 for record in records)
    again = CLASSES[task].from_pretrained(run.model_folder)
    assert isinstance(again, SohoReleasedForPreTraining) == (task == "pretraining")
    assert isinstance(again.config, SohoReleasedConfig)
    assert AutoImageProcessor.from_pretrained(run.model_folder).size_divisor == 32
    moved, frozen = 0, 0
    for name, value in again.trunk.state_dict().items():
        same = torch.equal(value, before.trunk.state_dict()[name])
        moved += not same
        if "backbone.embedder" in name or "stages.0." in name:
            assert same, name
            frozen += 1
    assert moved > 20
    assert frozen > 5
    figures = evaluate(recipe, "validation")
    assert all(value == value for value in figures.values())


def test_a_question_answering_checkpoint_goes_on_with_its_answers(world: Path, released: Path, tmp_path: Path) -> None:
    tokenizer, answers = str(released / "tokenizer"), released / "answers.json"
    convert_released(released / "vqa.pth", tmp_path / "start", tokenizer=tokenizer, answers=answers)
    start = f"model.start={tmp_path / 'start'}"
    run = train(tiny_recipe("vqa", world, tmp_path / "run", start, "training.max_steps=1"))
    assert read_config(str(run.model_folder)).answers == ANSWERS
    picture = Image.new("RGB", (96, 64), "red")
    for folder in (tmp_path / "start", run.model_folder):
        found = SohoPipeline.from_pretrained(folder).answer(picture, "what colour is it?", top=2)
        assert {prediction.text for prediction in found} <= set(ANSWERS)


def test_a_converted_pre_training_folder_scores_pairs(released: Path) -> None:
    pipeline = SohoPipeline.from_pretrained(released / "start")
    picture = Image.new("RGB", (96, 64), "red")
    matches = pipeline.match(picture, ["a red thing", "two dogs"])
    model = SohoReleasedForPreTraining.from_pretrained(released / "start")
    batch = pipeline.processor(images=picture, text=["a red thing", "two dogs"])
    assert batch["pixel_values"].shape[2] % 32 == 0
    with torch.no_grad():
        logits = model(**batch, pair_image_index=torch.zeros(2, dtype=torch.long)).logits
    assert [match.probability for match in matches] == pytest.approx(logits.softmax(-1)[:, 1].tolist(), abs=1e-6)


def test_the_processor_of_a_converted_folder(released: Path) -> None:
    processor = AutoProcessor.from_pretrained(released / "start")
    assert isinstance(processor, SohoProcessor)
    assert processor.text_length == 16
    images = processor.image_processor
    assert (images.shorter_edge, images.longer_edge, images.size_divisor) == (600, 1000, 32)
    pictures = [Image.new("RGB", (100, 60)), Image.new("RGB", (60, 100))]
    batch = processor(images=pictures, pad_to_largest=True)
    assert batch["pixel_values"].shape == (2, 3, 1024, 1024)  # each to a multiple of 32, then to the largest


def test_a_very_narrow_picture_has_a_cell(released: Path) -> None:
    pipeline = SohoPipeline.from_pretrained(released / "start")
    assert pipeline.processor(images=Image.new("RGB", (2000, 24)))["pixel_values"].shape == (1, 3, 64, 1024)
    assert 0 < pipeline.match(Image.new("RGB", (2000, 24)), "a line")[0].probability < 1


def test_the_defect_can_be_kept_and_taken_back(world: Path, released: Path, tmp_path: Path) -> None:
    convert_released(
        released / "pretraining.pth",
        tmp_path / "start",
        tokenizer=str(released / "tokenizer"),
        mask_width_defect=True,
    )
    assert read_config(str(tmp_path / "start")).mask_width_defect is True
    change = "model.config.mask_width_defect=false"
    recipe = tiny_recipe("retrieval", world, tmp_path / "run", f"model.start={tmp_path / 'start'}", change)
    model, _ = build_task(recipe).build_model()
    assert model.config.mask_width_defect is False
    wrong = tiny_recipe(
        "retrieval", world, tmp_path / "w", f"model.start={released / 'start'}", "model.config.mask_width=false"
    )
    with pytest.raises(SohoError, match=r"unknown model field .*; did you mean 'model.config.mask_width_defect'"):
        build_task(wrong).build_model()


def test_another_tokenizer_is_refused(released: Path, tmp_path: Path) -> None:
    other = train_wordpiece(["some other words that make a small vocabulary"] * 3, 80)
    other.save_pretrained(tmp_path / "other")
    with pytest.raises(SohoError, match=r"has \d+ tokens, .* has \d+ word embeddings"):
        convert_released(released / "vqa.pth", tmp_path / "out", tokenizer=str(tmp_path / "other"))
    assert not (tmp_path / "out").exists()


def test_without_a_tokenizer_the_folder_says_what_it_lacks(released: Path, tmp_path: Path) -> None:
    report = convert_released(released / "vqa.pth", tmp_path / "out")
    assert any("no tokenizer was named" in note for note in report.notes)
    assert SohoForQuestionAnswering.from_pretrained(tmp_path / "out").config.answers[0] == "answer 0"
    with pytest.raises(SohoError, match="holds no tokenizer") as caught:
        SohoPipeline.from_pretrained(tmp_path / "out")
    assert "\n" not in str(caught.value)


# -- The command ------------------------------------------------------------------------------------------------------


def command(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["soho", "convert", "released", *map(str, arguments)])
    try:
        main()
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    return 0


def test_the_command(
    released: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    options = ["--tokenizer", released / "tokenizer", "--answers", released / "answers.json", "--mask-width-defect"]
    assert command(monkeypatch, released / "vqa.pth", out, *options) == 0
    said = capsys.readouterr().out
    assert f"model: {out} (every key: {out / 'conversion_report.txt'})" in said
    assert "ignored: meta (" in said
    assert "used: " not in said
    assert read_config(str(out)).mask_width_defect is True

    broken = tmp_path / "broken.pth"
    broken.write_bytes((released / "vqa.pth").read_bytes()[:2000])
    assert command(monkeypatch, broken, tmp_path / "none") == 1
    error = capsys.readouterr().err
    assert error.startswith(f"soho: {broken} is no whole checkpoint")
    assert error.count("\n") == 1
    assert not (tmp_path / "none").exists()
