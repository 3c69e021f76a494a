"""Two gloo processes, started by torchrun as a user would, against one process on the joined batch."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from soho.training.checkpoint import list_checkpoints, load_state
from soho.training.tracking import read_log
from tests.support import ROOT

pytestmark = pytest.mark.distributed


def train(output: Path, *options: str, processes: int = 2) -> subprocess.CompletedProcess[str]:
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"] if processes > 1 else []
    command = [sys.executable, *launcher, "-m", "tests.unit.training.toy", str(output), *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "1"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240)


def final_weights(output: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = load_state(list_checkpoints(output)[-1])["model"]
    return state


def test_two_processes_equal_one_on_the_joined_batch(tmp_path: Path) -> None:
    # 4 batches of 2 x 3 pictures against 4 of 6; 3 per optimizer step, so the last step of an epoch has one. The
    # loss parts have uneven numbers of terms on the two processes, the backbone is frozen in the first epoch, one
    # head is never used and the model's EMA buffer gathers on both.
    two = train(tmp_path / "two", "--batch-size=3", "--dropout=0")
    assert two.returncode == 0, two.stderr
    one = train(tmp_path / "one", "--batch-size=6", "--dropout=0", processes=1)
    assert one.returncode == 0, one.stderr
    records, expected = read_log(tmp_path / "two"), read_log(tmp_path / "one")
    assert len(records) == len(expected) == 8
    for record, reference in zip(records, expected):
        assert record.pop("kind") == reference.pop("kind")
        assert record == pytest.approx(reference, rel=1e-5)
    weights = final_weights(tmp_path / "one")
    for name, value in final_weights(tmp_path / "two").items():
        torch.testing.assert_close(value, weights[name], msg=name)
    assert two.stdout.count("step 2/8") == 1  # only one process speaks


@pytest.mark.slow
def test_a_signal_to_one_process_stops_both_and_the_run_continues_exactly(tmp_path: Path) -> None:
    options = ("--batch-size=3", "--batch-norm")
    whole = train(tmp_path / "whole", *options)
    assert whole.returncode == 0, whole.stderr
    # Only the second process gets the signal, as it fetches its 9th batch (optimizer step 5).
    stopped = train(tmp_path / "run", *options, "--signal-at=8", f"--kill-with={int(signal.SIGTERM)}")
    assert stopped.returncode != 0
    assert "stopped at step 4; the same command continues" in stopped.stdout
    assert [path.name for path in list_checkpoints(tmp_path / "run")] == ["step-00000004"]
    resumed = train(tmp_path / "run", *options)
    assert resumed.returncode == 0, resumed.stderr
    assert "at step 4 of 8" in resumed.stdout

    # Dropout differs between the processes; each got its own random state back.
    assert (tmp_path / "run" / "log.jsonl").read_bytes() == (tmp_path / "whole" / "log.jsonl").read_bytes()
    # Batch-norm statistics too are the same on both processes, so one copy in the checkpoint is enough.
    first, second = (torch.load(tmp_path / "run" / f"process{rank}.pt") for rank in (0, 1))
    weights = final_weights(tmp_path / "whole")
    for name, value in first.items():
        assert torch.equal(value, second[name]), name
        assert torch.equal(value, weights[name]), name
    other_number = train(tmp_path / "run", *options, processes=1)
    assert "other values of the number of processes" in other_number.stderr


def test_the_process_group_ends_before_the_interpreter(tmp_path: Path) -> None:
    # What is registered first runs last.
    program = (
        "import atexit, sys\n"
        "import torch.distributed as dist\n"
        "atexit.register(lambda: print('still there:', dist.is_initialized()))\n"
        "import soho.training.processes\n"
        "dist.init_process_group('gloo', init_method='file://' + sys.argv[1], rank=0, world_size=1)\n"
        "print('there:', dist.is_initialized())\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "meeting")]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=True).stdout
    assert said.splitlines() == ["there: True", "still there: False"]
