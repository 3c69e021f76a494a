"""The real pre-training task under torchrun with two gloo processes, against one process with the doubled batch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from soho.training.tracking import read_log
from tests.support import ROOT
from tests.tiny_recipes import tiny_values, write_recipe

pytestmark = [pytest.mark.distributed, pytest.mark.slow]


def pretrain(folder: Path, world: Path, processes: int, batch_size: int) -> Path:
    """Pre-train by the command a user would type; returns the run's folder."""
    values = tiny_values("pretraining", world, folder / "run")
    values["model"]["config"] |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    # A moving CNN would normalise by the pictures of its own process; its batch norm is frozen with it.
    values["training"] |= {"max_steps": 3, "batch_size": batch_size, "freeze_backbone_epochs": -1}
    recipe = write_recipe(folder / "recipe.yaml", values)
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"] if processes > 1 else []
    command = [sys.executable, *launcher, "-m", "soho", "pretrain", str(recipe)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("step 3/3") == 1  # only one process speaks
    return folder / "run"


def test_two_processes_lose_what_one_loses_on_the_joined_batch(world: Path, tmp_path: Path) -> None:
    two = pretrain(tmp_path / "two", world, processes=2, batch_size=4)
    one = pretrain(tmp_path / "one", world, processes=1, batch_size=8)
    records, expected = read_log(two), read_log(one)
    assert [record["step"] for record in records] == [record["step"] for record in expected] == [1, 2, 3]
    for record, reference in zip(records, expected):
        assert record.keys() == reference.keys()
        assert {"loss/mlm", "loss/mvm", "loss/itm", "health/codes_used"} <= set(record)
        for name, value in reference.items():
            if name != "kind":
                assert record[name] == pytest.approx(value, rel=1e-4, abs=1e-4), (name, record["step"])
    weights, reference_weights = (load_file(run / "model" / "model.safetensors") for run in (two, one))
    assert weights.keys() == reference_weights.keys()
    for name, tensor in weights.items():
        # AdamW divides by the root of the squared gradient: where a gradient is all but zero its sign may differ.
        torch.testing.assert_close(tensor, reference_weights[name], atol=2e-3, rtol=1e-3, msg=name)
