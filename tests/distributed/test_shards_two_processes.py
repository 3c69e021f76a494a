"""Two gloo processes that read shards lose what one process that reads files loses on the joined batch.

Dropout is off and the CNN is frozen: its batch norm would see the pictures of its own process. Retrieval is left out:
its loss pairs all texts of a process's batch with all pictures of it, so half a batch is another loss by definition.

The file is both the test and, under torchrun, the program of each process.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from soho.runs import shard_data, train
from soho.training.recipe import Recipe, load_recipe
from soho.training.tracking import read_log
from tests.support import ROOT
from tests.tiny_recipes import tiny_values, write_recipe

TASKS = ("pretraining", "vqa", "nlvr2", "snli_ve")


def values_of(task: str, world: Path, output: Path, batch_size: int) -> dict[str, Any]:
    values = tiny_values(task, world, output)
    dropouts = ("hidden_dropout_prob", "attention_probs_dropout_prob", "answer_head_dropout")
    values["model"]["config"] |= dict.fromkeys(dropouts, 0.0)
    # Odd numbers: the last batch of a shape is short, and on two processes uneven or, on the second, empty.
    values["data"]["train"][0]["limit"] = 35 if task in ("vqa", "snli_ve") else 19
    values["data"] |= {"captions_per_image_per_epoch": 2, "validation": [], "test": []}
    values["training"] |= {"epochs": 1, "batch_size": batch_size, "freeze_backbone_epochs": -1, "accumulation": 2}
    return values


def recipe_of(task: str, folder: Path, values: dict[str, Any]) -> Recipe:
    # Each process writes its own: one would read what another is writing.
    return load_recipe(write_recipe(folder / f"{task}-{os.environ.get('RANK', 'alone')}.yaml", values))


def main(world: Path, folder: Path) -> None:
    for task in TASKS:
        values = values_of(task, world, folder / "two" / task, batch_size=4)
        values["data"]["train"] = [{"format": "shards", "shards": str(folder / "shards" / task / "train")}]
        train(recipe_of(task, folder / "two", values))


@pytest.mark.distributed
@pytest.mark.slow
def test_two_processes_from_shards_equal_one_from_files(world: Path, tmp_path: Path) -> None:
    for task in TASKS:
        recipe = recipe_of(task, tmp_path / "one", values_of(task, world, tmp_path / "one" / task, batch_size=8))
        shard_data(recipe, tmp_path / "shards" / task, megabytes=1)
        train(recipe)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "src"))),
        "OMP_NUM_THREADS": "1",
        "ACCELERATE_USE_CPU": "1",
    }
    command = [*launcher, __file__, str(world), str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    for task in TASKS:
        records, expected = read_log(tmp_path / "two" / task), read_log(tmp_path / "one" / task)
        assert len(records) == len(expected) >= 2, task
        # Some steps of AdamW: where a gradient is all but zero its sign may differ, and with it the weight.
        for record, reference in zip(records, expected):
            assert record.keys() == reference.keys()
            for name, value in reference.items():
                if name != "kind":
                    assert record[name] == pytest.approx(value, rel=1e-4, abs=1e-4), (task, name, record["step"])
        assert [record["step"] for record in records] == list(range(1, len(records) + 1))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
