"""Stands in for `soho.demo.child`: `python -m tests.unit.demo.fake_child` does what the name of each run says."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from dataclasses import asdict

from soho.demo.result import StageResult
from soho.demo.side_by_side import RESULT_FILE, Stage, print_into


def main(stage: Stage) -> None:
    """Do it."""
    print_into(stage.log)
    print(f"this is {stage.run} with {os.environ['OMP_NUM_THREADS']} threads", flush=True)
    (stage.folder / "process").write_text(str(os.getpid()))
    if stage.run.startswith("good"):
        left = asdict(StageResult({"accuracy": 0.5}, 3.0, 2, 1.0))
        (stage.folder / RESULT_FILE).write_text(json.dumps(left))
    elif stage.run == "wrong":
        (stage.folder / RESULT_FILE).write_text(json.dumps({"error": "the recipe has no data"}))
        sys.exit(1)
    elif stage.run == "sleeper":
        (stage.out / "pid").write_text(str(os.getpid()))
        time.sleep(600)
    elif stage.run == "killed":
        while not (stage.out / "pid").exists():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGKILL)
    else:
        sys.exit(0)


if __name__ == "__main__":
    for line in sys.stdin:
        main(Stage.from_json(line))
