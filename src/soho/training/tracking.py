"""What a run tells: `log.jsonl`, TensorBoard, and a progress bar or plain lines.

`log.jsonl` holds nothing that depends on the clock: an interrupted and resumed run writes the same file as an
uninterrupted one. Speeds go to the terminal and to TensorBoard.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from tqdm import tqdm

LOG_NAME = "log.jsonl"


class WindowAverages:
    """Exact averages over a logging window: sums and counts, divided only at the end."""

    def __init__(self) -> None:
        self._sums: dict[str, tuple[float, float]] = {}

    def add(self, name: str, total: float, count: float) -> None:
        """Add `count` terms that sum to `total`."""
        before = self._sums.get(name, (0.0, 0.0))
        self._sums[name] = (before[0] + total, before[1] + count)

    def averages(self) -> dict[str, float]:
        """Return the average of every name that had a term."""
        return {name: total / count for name, (total, count) in self._sums.items() if count > 0}

    def clear(self) -> None:
        """Begin a new window."""
        self._sums.clear()

    def state_dict(self) -> dict[str, list[float]]:
        """Return the sums and counts so far, as JSON values."""
        return {name: list(pair) for name, pair in self._sums.items()}

    def load_state_dict(self, state: Mapping[str, list[float]]) -> None:
        """Continue a window from `state_dict`."""
        self._sums = {name: (pair[0], pair[1]) for name, pair in state.items()}


class Tracker:
    """Writes the log of a run and shows its progress; silent on every process but the main one."""

    def __init__(self, output: Path, total_steps: int, enabled: bool) -> None:
        self._output = output
        self._total = total_steps
        self._enabled = enabled
        self._log: Any = None
        self._board: Any = None
        self._bar: tqdm | None = None

    def __enter__(self) -> Tracker:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def open(self, step: int, log_bytes: int) -> None:
        """Continue the log after `step`; what was written later (by a run that was killed) is cut off.

        Args:
            step: optimizer steps done.
            log_bytes: length of `log.jsonl` at that step.
        """
        if not self._enabled:
            return
        from torch.utils.tensorboard import SummaryWriter  # takes seconds to import

        self._output.mkdir(parents=True, exist_ok=True)
        path = self._output / LOG_NAME
        if path.exists() and path.stat().st_size > log_bytes:
            os.truncate(path, log_bytes)
        self._log = open(path, "a", encoding="utf-8")  # noqa: SIM115 (closed by `close`)
        self._board = SummaryWriter(str(self._output / "tensorboard"), purge_step=step + 1)
        if sys.stderr.isatty():
            self._bar = tqdm(total=self._total, initial=step, unit="step", dynamic_ncols=True)

    def say(self, text: str) -> None:
        """Print a line, above the progress bar where there is one."""
        if self._bar is not None:
            self._bar.write(text)
        elif self._enabled:
            print(text, flush=True)

    def advance(self) -> None:
        """Move the bar by one optimizer step."""
        if self._bar is not None:
            self._bar.update()

    def training(self, record: Mapping[str, Any], images_per_second: float, seconds_per_step: float) -> None:
        """Log one window of training.

        Args:
            record: `step`, `epoch`, `loss`, `loss/<part>`, `metric/<name>`, `health/<name>`, `learning_rate/<part>`.
            images_per_second: of all processes together, evaluations not counted.
            seconds_per_step: mean time of an optimizer step.
        """
        if not self._enabled:
            return
        self._write({"kind": "train", **record})
        for name, value in record.items():
            if name not in ("step", "epoch"):
                self._board.add_scalar(f"train/{name}", value, record["step"])
        self._board.add_scalar("speed/images_per_second", images_per_second, record["step"])
        losses = "  ".join(f"{k.removeprefix('loss/')} {v:.4f}" for k, v in record.items() if k.startswith("loss"))
        rate = f"{images_per_second:.1f} images/s"
        if self._bar is not None:
            self._bar.set_postfix_str(f"epoch {record['epoch']:.2f}  {losses}  {rate}")
            return
        left = timedelta(seconds=round((self._total - record["step"]) * seconds_per_step))
        self.say(f"step {record['step']}/{self._total}  epoch {record['epoch']:.2f}  {losses}  {rate}  {left} left")

    def evaluation(self, record: Mapping[str, Any]) -> None:
        """Log one evaluation: `step`, `epoch` and the figures by name."""
        if not self._enabled:
            return
        self._write({"kind": "evaluation", **record})
        figures = {name: value for name, value in record.items() if name not in ("step", "epoch")}
        for name, value in figures.items():
            self._board.add_scalar(f"evaluation/{name}", value, record["step"])
        shown = "  ".join(f"{name} {value:.4g}" for name, value in figures.items())
        self.say(f"evaluation at step {record['step']}: {shown}")

    def sync(self) -> int:
        """Bring the log to the disk; return its length in bytes."""
        if not self._enabled:
            return 0
        self._board.flush()
        self._log.flush()
        os.fsync(self._log.fileno())
        return (self._output / LOG_NAME).stat().st_size

    def close(self) -> None:
        """Close files and bar."""
        if self._bar is not None:
            self._bar.close()
        if self._log is not None:
            self._log.close()
            self._board.close()
        self._bar = self._log = self._board = None

    def _write(self, record: Mapping[str, Any]) -> None:
        # JSON has no NaN; a figure that is not finite is written as null.
        clean = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}
        self._log.write(json.dumps(clean) + "\n")
        self._log.flush()


def read_log(output: Path) -> list[dict[str, Any]]:
    """Return the records of a run's `log.jsonl`, oldest first; empty where there is none."""
    path = output / LOG_NAME
    if not path.exists():
        return []
    # The last line of a run that was killed may be unfinished.
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    return [json.loads(line) for line in lines]
