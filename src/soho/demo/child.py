"""Fine-tuning runs of the demonstration in a process of its own: `python -m soho.demo.child`, a line of input each."""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
from collections.abc import Iterable
from dataclasses import asdict

from soho.demo.side_by_side import RESULT_FILE, Stage, print_into
from soho.demo.stages import run_stage, stage_recipe
from soho.errors import SohoError
from soho.training.checkpoint import write_text_atomically


class Stages:
    """Stages as they arrive, read by a thread of its own, so that the end of the parent is seen while one runs."""

    def __init__(self, lines: Iterable[bytes]) -> None:
        self.lines = lines
        self.waiting: queue.SimpleQueue[Stage | None] = queue.SimpleQueue()
        self.busy = threading.Event()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in self.lines:
            self.busy.set()
            self.waiting.put(Stage.from_json(line.decode()))
        self.waiting.put(None)
        if self.busy.is_set():  # the parent is gone: stop as after SIGTERM, with the state saved
            os.kill(os.getpid(), signal.SIGTERM)

    def next(self) -> Stage | None:
        """Wait for a stage; None = there will be no other one."""
        return self.waiting.get()


def main() -> int:
    """Run stages, leave the result or the sentence of the error in each one's folder; return the exit code."""
    stages = Stages(sys.stdin.buffer)
    while stage := stages.next():
        print_into(stage.log)
        try:
            left = asdict(run_stage(stage_recipe(stage), "test"))
        except SohoError as error:
            left = {"error": str(error)}
            print(f"soho: {error}", file=sys.stderr)
        stages.busy.clear()  # before the parent can know: what it sends next sets it again
        write_text_atomically(stage.folder / RESULT_FILE, json.dumps(left) + "\n")
        if "error" in left:
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
