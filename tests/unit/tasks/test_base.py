"""What all tasks share: splits, broken pictures, how a model is built from a recipe."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from soho.errors import SohoError
from soho.tasks import (
    TASKS,
    Nlvr2Task,
    PretrainingTask,
    Processes,
    RetrievalTask,
    SnliVeTask,
    VqaTask,
    build_task,
)
from soho.training.recipe import load_recipe
from tests.tiny_recipes import tiny_recipe, tiny_values, write_recipe


def own_pictures(folder: Path, *overrides: str) -> PretrainingTask:
    """Return the task on four pictures of the folder, as far as they exist."""
    values = tiny_values("pretraining", folder, folder / "run")
    rows = [{"image": f"{number}.png", "caption": f"picture number {number}"} for number in range(4)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    values["data"]["train"] = [{"format": "jsonl", "annotations": "{root}/rows.jsonl"}]
    values["data"]["validation"] = values["data"]["test"] = []
    return PretrainingTask(load_recipe(write_recipe(folder / "r.yaml", values), overrides))


def draw(folder: Path, *numbers: int) -> None:
    for number in numbers:
        Image.effect_noise((96, 64), 50).convert("RGB").save(folder / f"{number}.png")


def test_every_task_of_a_recipe_has_a_class(world: Path, tmp_path: Path) -> None:
    assert list(TASKS) == ["pretraining", "retrieval", "vqa", "nlvr2", "snli_ve"]
    assert set(TASKS.values()) == {PretrainingTask, RetrievalTask, VqaTask, Nlvr2Task, SnliVeTask}
    for name, kind in TASKS.items():
        assert type(build_task(tiny_recipe(name, world, tmp_path / name))) is kind


def test_a_split_the_recipe_does_not_name(tmp_path: Path) -> None:
    draw(tmp_path, 0, 1, 2, 3)
    with pytest.raises(SohoError, match=r"names no source under data\.test, which this command needs"):
        own_pictures(tmp_path).examples("test")


def test_a_split_is_read_once(world: Path, tmp_path: Path) -> None:
    task = build_task(tiny_recipe("retrieval", world, tmp_path / "run"))
    assert len(task.examples("validation")) == 16
    assert task.examples("validation") is task.examples("validation")


def test_a_picture_without_a_readable_header_is_left_out_and_named(tmp_path: Path) -> None:
    draw(tmp_path, 0, 1, 3)
    (tmp_path / "2.png").write_bytes(b"no picture")
    task = own_pictures(tmp_path)
    loader = task.train_loader(Processes())
    assert [item.example.image_id for item in loader.dataset.items] == ["0.png", "1.png", "3.png"]
    assert len(task.notes) == 1
    assert task.notes[0].startswith("1 pictures cannot be read and are left out: ")
    assert task.notes[0].endswith("2.png")


def test_a_truncated_picture_becomes_a_filler_and_is_named(tmp_path: Path) -> None:
    draw(tmp_path, 0, 1, 2, 3)
    whole = (tmp_path / "2.png").read_bytes()
    (tmp_path / "2.png").write_bytes(whole[: len(whole) // 2])
    loader = own_pictures(tmp_path).train_loader(Processes())
    batch = next(loader.epoch(0))
    assert len(batch["pixel_mask"]) == 4
    assert batch["pixel_mask"].flatten(1).any(1).sum() == 3
    assert batch["itm_labels"].view(4, 4).eq(-100).all(1).sum() == 1
    assert len(loader.broken) == 1
    assert "2.png" in loader.broken[0]


def test_no_picture_at_all(tmp_path: Path) -> None:
    for number in range(4):
        (tmp_path / f"{number}.png").write_bytes(b"no picture")
    task = own_pictures(tmp_path)
    with pytest.raises(SohoError, match="none of the pictures can be read; `soho data check` names them"):
        task.train_loader(Processes())


def test_the_model_has_the_sizes_and_the_wiring_of_its_recipe(world: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    task = build_task(tiny_recipe("pretraining", world, tmp_path / "p"))
    model, report = task.build_model()
    config = model.config
    assert (config.hidden_size, config.num_hidden_layers, config.dictionary_size) == (16, 1, 16)
    assert config.vocab_size == len(task.processor.tokenizer) <= 300
    assert config.mask_token_id == task.processor.tokenizer.mask_token_id == 4
    assert config.visual_input == "dictionary"
    assert set(report.initialised) == {
        "text embedding and fusion layers",
        "visual backbone",
        "visual dictionary",
    }
    changed = tiny_recipe("retrieval", world, tmp_path / "r", "model.config.visual_input=dictionary")
    assert build_task(changed).build_model()[0].config.visual_input == "dictionary"
    assert (
        build_task(tiny_recipe("retrieval", world, tmp_path / "r")).build_model()[0].config.visual_input == "features"
    )


def test_an_unknown_model_field_names_the_nearest(world: Path, tmp_path: Path) -> None:
    task = build_task(tiny_recipe("pretraining", world, tmp_path / "run", "model.config.dictionary_sise=8"))
    with pytest.raises(SohoError) as caught:
        task.build_model()
    expected = "unknown model field 'model.config.dictionary_sise'; did you mean 'model.config.dictionary_size'?"
    assert str(caught.value) == expected


def test_starting_from_a_trained_model_says_what_was_loaded(trained: Path, world: Path, tmp_path: Path) -> None:
    start = trained / "pretraining" / "model"
    task = build_task(tiny_recipe("retrieval", world, tmp_path / "run", f"model.start={start}"))
    model, report = task.build_model()
    assert (
        task.processor.tokenizer.get_vocab()
        == build_task(
            tiny_recipe("vqa", world, tmp_path / "vqa", f"model.start={start}")
        ).processor.tokenizer.get_vocab()
    )
    assert not report.initialised  # the match head comes from pre-training
    assert set(report.left_over) == {"mlm_head", "mvm_head"}
    assert report.loaded["model"][0] == str(start)
    assert model.config.visual_input == "features"


def test_a_start_that_is_no_folder(world: Path, tmp_path: Path) -> None:
    with pytest.raises(SohoError) as caught:
        build_task(tiny_recipe("retrieval", world, tmp_path / "run", f"model.start={tmp_path}/gone")).build_model()
    assert "gone" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("task", ["pretraining", "retrieval"])
@pytest.mark.parametrize("key", ["data.image_blind", "evaluation.baselines"])
def test_baselines_are_refused_where_they_say_nothing(world: Path, tmp_path: Path, task: str, key: str) -> None:
    with pytest.raises(SohoError, match=f"{key} is for vqa, nlvr2 and snli_ve; task {task} has no answer without"):
        build_task(tiny_recipe(task, world, tmp_path / "run", f"{key}=true"))


@pytest.mark.parametrize("task", ["vqa", "nlvr2", "snli_ve"])
def test_a_blind_model_has_no_blind_baseline(world: Path, tmp_path: Path, task: str) -> None:
    both = ("data.image_blind=true", "evaluation.baselines=true")
    with pytest.raises(SohoError, match=r"trains a model on grey pictures itself; leave data\.image_blind out"):
        build_task(tiny_recipe(task, world, tmp_path / "run", *both))
