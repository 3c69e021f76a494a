"""A pre-training run that kills itself: `python -m tests.unit.killed_run RECIPE BATCH`."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

from torch import Tensor

from soho.data.dataset import EpochLoader
from soho.runs import train
from soho.training.recipe import load_recipe


def kill_at(batch: int) -> None:
    """Have this process killed, with no chance to save anything, as it asks for its n-th batch."""
    epoch = EpochLoader.epoch
    taken = 0

    def walk(self: EpochLoader, number: int, start: int = 0) -> Iterator[dict[str, Tensor]]:
        nonlocal taken
        for tensors in epoch(self, number, start):
            taken += 1
            if taken == batch:
                os.kill(os.getpid(), signal.SIGKILL)
            yield tensors

    EpochLoader.epoch = walk  # type: ignore[method-assign]


if __name__ == "__main__":
    if int(sys.argv[2]):
        kill_at(int(sys.argv[2]))
    train(load_recipe(Path(sys.argv[1])))
