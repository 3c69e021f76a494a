"""A real run that is killed at any moment and started again writes the log of an uninterrupted one, byte for byte."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from soho.training.checkpoint import list_checkpoints
from soho.training.tracking import read_log
from tests.support import ROOT
from tests.tiny_recipes import tiny_values, write_recipe

pytestmark = pytest.mark.slow


def run(recipe: Path, kill_at: int = 0) -> subprocess.CompletedProcess[str]:
    """Train in a process of its own, which is killed as it asks for batch `kill_at`."""
    command = [sys.executable, "-m", "tests.unit.killed_run", str(recipe), str(kill_at)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240)


def recipe_in(folder: Path, world: Path) -> Path:
    values = tiny_values("pretraining", world, folder / "run")
    values["model"]["config"] |= {"hidden_dropout_prob": 0.2, "dictionary_revive_after": 2}
    # 20 pictures in 3 turns: 8 or 9 batches of 8, 4 or 5 steps an epoch; the run ends in the third epoch. The backbone
    # is frozen in the first. A checkpoint every 3 steps, so that most stops lose work.
    values["data"]["train"][0]["limit"] = 20
    values["training"] |= {"epochs": 4, "max_steps": 11, "accumulation": 2, "checkpoint_every": 3, "log_every": 2}
    values["training"] |= {"freeze_backbone_epochs": 1, "evaluate_every": 1}
    values["training"]["schedule"] = {"kind": "cosine", "warmup_steps": 2}
    return write_recipe(folder / "recipe.yaml", values)


def test_a_killed_run_continues_to_the_same_losses(world: Path, tmp_path: Path) -> None:
    whole = recipe_in(tmp_path / "whole", world)
    done = run(whole)
    assert done.returncode == 0, done.stderr

    killed = recipe_in(tmp_path / "killed", world)
    stops = []
    for batch in (10, 6):  # in step 5 of the run; then, from step 3 on, in its third step
        stopped = run(killed, batch)
        assert stopped.returncode == -signal.SIGKILL, stopped.stderr
        stops.append([path.name for path in list_checkpoints(tmp_path / "killed" / "run")][-1])
    assert stops == ["step-00000003", "step-00000003"]
    last = run(killed)
    assert last.returncode == 0, last.stderr
    assert "at step 3 of 11" in last.stdout

    log, expected = ((tmp_path / name / "run" / "log.jsonl").read_bytes() for name in ("killed", "whole"))
    assert log == expected
    records = read_log(tmp_path / "whole" / "run")
    assert [record["step"] for record in records if record["kind"] == "train"] == [2, 4, 6, 8, 10, 11]
    assert len([record for record in records if record["kind"] == "evaluation"]) >= 2
    weights = [(tmp_path / name / "run" / "model" / "model.safetensors").read_bytes() for name in ("killed", "whole")]
    assert weights[0] == weights[1]
