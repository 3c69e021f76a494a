"""One fine-tuning run of the demonstration as a process of its own: `python -m soho.demo.child STAGE`."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from dataclasses import asdict

from soho.demo.side_by_side import RESULT_FILE, Stage
from soho.demo.stages import run_stage, stage_recipe
from soho.errors import SohoError
from soho.training.checkpoint import write_text_atomically


def main(text: str) -> int:
    """Run a stage and leave its result, or the sentence of its error, in the run's folder; return the exit code."""
    stage = Stage.from_json(text)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        left = asdict(run_stage(stage_recipe(stage), "test"))
    except SohoError as error:
        left = {"error": str(error)}
    write_text_atomically(stage.folder / RESULT_FILE, json.dumps(left) + "\n")
    if "error" in left:
        print(f"soho: {left['error']}", file=sys.stderr)
    return int("error" in left)


def _end_with_parent() -> None:
    """Wait for the end of the pipe that the parent holds open, then stop as after SIGTERM, with the state saved."""
    while os.read(sys.stdin.fileno(), 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
