"""A run from shards is the run from files: the same batches, the same losses, the same weights, bit for bit."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from soho.data.dataset import EpochLoader
from soho.data.shards.layout import parse_index
from soho.runs import shard_data, train
from soho.tasks import Processes, build_task
from soho.training.recipe import Recipe, load_recipe
from soho.training.tracking import read_log
from tests.shard_server import serve
from tests.tiny_recipes import tiny_values, write_recipe
from tests.unit.data.pictures import write_jsonl

TASKS = ("pretraining", "retrieval", "vqa", "nlvr2", "snli_ve")


def recipes(
    task: str, world: Path, folder: Path, place: str = "", sources: Sequence[Any] = (), **training: Any
) -> tuple[Recipe, Recipe]:
    """Return the recipe from files, and the one from shards that are written into `folder` (or lie at `place`)."""
    values = tiny_values(task, world, folder / "files")
    values["data"]["train"] = list(sources) or values["data"]["train"]
    values["training"] |= training
    values["data"]["exclude"] = [dict(values["data"]["train"][0], limit=2)]
    files = load_recipe(write_recipe(folder / "files.yaml", values))
    shard_data(files, folder / "shards", megabytes=1)
    values["output"] = str(folder / "from_shards")
    values["data"]["exclude"] = []
    for section in ("train", "validation", "test"):
        values["data"][section] = [{"format": "shards", "shards": f"{place or folder / 'shards'}/{section}"}]
    return files, load_recipe(write_recipe(folder / "shards.yaml", values))


def loader(recipe: Recipe, rank: int = 0, world_size: int = 1, workers: int = 0) -> EpochLoader:
    recipe.data.workers = workers
    return build_task(recipe).train_loader(Processes(rank, world_size))


@pytest.mark.parametrize("task", TASKS)
def test_batches_are_the_same(task: str, world: Path, tmp_path: Path) -> None:
    files, shards = recipes(task, world, tmp_path)
    for rank, world_size, start in ((0, 1, 0), (1, 2, 1)):
        expected = list(loader(files, rank, world_size).epoch(1, start))
        batches = list(loader(shards, rank, world_size).epoch(1, start))
        assert len(batches) == len(expected) > 1
        for batch, other in zip(batches, expected):
            assert batch.keys() == other.keys()
            assert all(torch.equal(batch[name], other[name]) for name in batch)


def test_batches_of_ones_own_pictures_are_the_same(world: Path, tmp_path: Path) -> None:
    """Their keys decide which captions are negatives and what is masked; no path of the machine is in the shards."""
    names = sorted(path.name for path in (world / "images" / "train2014").glob("*.jpg"))[:30]
    rows = [{"image": name, "captions": [f"picture {name}", "a dog"]} for name in names]
    one, two = (
        {
            "format": "jsonl",
            "annotations": str(write_jsonl(tmp_path / f"{name}.jsonl", part)),
            "images": "{root}/images",
        }
        for name, part in (("one", rows[:20]), ("two", rows[10:]))  # ten photographs in both
    )
    files, shards = recipes("pretraining", world, tmp_path, sources=[one, two])
    expected, batches = list(loader(files).epoch(1)), list(loader(shards).epoch(1))
    assert len(batches) == len(expected) > 1
    for batch, other in zip(batches, expected):
        assert all(torch.equal(batch[name], other[name]) for name in other)
    assert len({int(photo) for batch in batches for photo in batch["photos"]}) == 28  # 2 are excluded


def test_losses_and_weights_are_the_same(world: Path, tmp_path: Path) -> None:
    files, shards = recipes("pretraining", world, tmp_path, max_steps=3, evaluate_every=1, epochs=1)
    for recipe in (files, shards):
        train(recipe)
    log = (files.output / "log.jsonl").read_bytes()
    assert [record["kind"] for record in read_log(files.output)].count("train") == 3
    assert (shards.output / "log.jsonl").read_bytes() == log
    weights = [(recipe.output / "model" / "model.safetensors").read_bytes() for recipe in (files, shards)]
    assert weights[0] == weights[1]


def test_a_run_goes_on_in_the_middle_of_an_epoch(world: Path, tmp_path: Path) -> None:
    files, shards = recipes("snli_ve", world, tmp_path, max_steps=4, batch_size=4)
    files.data.validation = shards.data.validation = []
    train(files)
    for steps in (3, 4):
        shards.training.max_steps = steps
        train(shards)
    assert loader(files).batches_per_epoch > 4  # still in the first epoch
    assert (shards.output / "log.jsonl").read_bytes() == (files.output / "log.jsonl").read_bytes()


def test_behind_an_address_with_two_workers(world: Path, tmp_path: Path) -> None:
    with serve(tmp_path / "shards") as (address, _):
        files, shards = recipes("pretraining", world, tmp_path, address)
        expected = list(loader(files).epoch(0))
        batches = list(loader(shards, workers=2).epoch(0))
    assert len(batches) == len(expected)
    assert all(torch.equal(batch[name], other[name]) for batch, other in zip(batches, expected) for name in batch)


def test_a_shard_that_is_cut_off_is_named_skipped_and_counted(world: Path, tmp_path: Path) -> None:
    _, shards = recipes("pretraining", world, tmp_path, batch_size=4)
    folder = tmp_path / "shards" / "train"
    index = parse_index((folder / "index.json").read_bytes(), "index")
    whole = loader(shards)
    expected = list(whole.epoch(0))
    assert whole.broken == []
    os.truncate(folder / "000000.tar", index.shards[0].size // 2)
    cut = loader(shards)
    batches = list(cut.epoch(0))
    assert len(batches) == len(expected)  # on every machine of a run, whatever its copy lacks
    assert 5 < len(cut.broken) < index.shards[0].pictures
    assert all("the shard ends before this picture does" in message for message in cut.broken)
    dark = [~batch["pixel_mask"].flatten(1).any(dim=1) for batch in batches]
    assert cut.log.count == sum(int(rows.sum()) for rows in dark)
    for batch, other, rows in zip(batches, expected, dark):
        assert torch.equal(batch["pixel_values"][~rows], other["pixel_values"][~rows])
        assert torch.equal(batch["input_ids"], other["input_ids"])
    task = build_task(shards)
    task.train_loader(Processes())
    assert [note for note in task.notes if "000000.tar is cut off" in note]
