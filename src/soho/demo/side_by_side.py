"""Runs stages of the demonstration as child processes, two at a time.

A child (`soho.demo.child`) prints into a log file of its own and leaves its result, or the sentence of its error, as a
file. Only the parent writes the demonstration's results. A child whose parent is gone stops as after SIGTERM: it saves
its state, and the same command continues.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from rich.console import Console
from rich.progress import Progress, TaskID, TextColumn

from soho.demo.result import StageResult
from soho.errors import SohoError

AT_ONCE = 2
LOG_FILE = "output.log"
RESULT_FILE = "stage.json"
CHILD = "soho.demo.child"
# Time that a child has to save its state once it is asked to stop.
_PATIENCE = 60.0
_POLL = 0.1
# Bytes at the end of a run's output that hold its last line of progress.
_TAIL = 2000
_STEP = re.compile(r"step (\d+)/(\d+) ")


@dataclass(frozen=True)
class Stage:
    """A fine-tuning run: recipe file, its changes, the demonstration's folder and seed."""

    run: str
    file: str
    changes: Sequence[str]
    out: Path
    seed: int

    def to_json(self) -> str:
        """Return the stage as one line for a command line."""
        return json.dumps({**asdict(self), "out": str(self.out)})

    @classmethod
    def from_json(cls, text: str) -> Stage:
        """Read what `to_json` wrote."""
        values = json.loads(text)
        return cls(**{**values, "out": Path(values["out"])})

    @property
    def folder(self) -> Path:
        """The folder of the run."""
        return self.out / self.run


@dataclass(frozen=True)
class _Child:
    stage: Stage
    process: subprocess.Popen[bytes]
    log: IO[bytes]
    begin: float
    bar: TaskID
    before: int  # bytes of earlier starts in the log


def run_side_by_side(
    stages: Sequence[Stage], *, threads: int, keep: Callable[[str, StageResult], None], console: Console
) -> None:
    """Run stages in child processes, `AT_ONCE` at a time.

    Args:
        stages: in the order of their start.
        threads: of the arithmetic of each child.
        keep: called in this process with every run and its result, as it ends.
        console: gets one line when a stage starts and one when it ends.

    Raises:
        SohoError: a stage failed; the others are stopped, and the same command continues them.
    """
    waiting = list(stages)
    running: list[_Child] = []
    columns = (*Progress.get_default_columns(), TextColumn("{task.fields[note]}"))
    try:
        with Progress(*columns, console=console) as bars:
            whole = bars.add_task("fine-tuning runs", total=len(stages), note="")
            while waiting or running:
                while waiting and len(running) < AT_ONCE:
                    child = _start(waiting.pop(0), threads, bars)
                    running.append(child)
                    note = f"{child.stage.run}: started, prints into {child.log.name}"
                    console.print(note, highlight=False, soft_wrap=True)
                time.sleep(_POLL)
                for child in running:
                    bars.update(child.bar, **_position(Path(child.log.name), child.before))
                failures: list[SohoError] = []
                for child in [child for child in running if child.process.poll() is not None]:
                    running.remove(child)
                    _close(child)
                    bars.remove_task(child.bar)
                    try:
                        keep(child.stage.run, _result_of(child))
                    except SohoError as error:
                        failures.append(error)  # one that ended beside it may have a result
                        continue
                    seconds = time.perf_counter() - child.begin
                    console.print(f"{child.stage.run}: finished after {seconds:.0f} s", highlight=False)
                    bars.advance(whole)
                if failures:
                    raise failures[0]
    finally:
        _stop(running)


def _position(log: Path, before: int = 0) -> dict[str, Any]:
    """Read off a run's output, beyond the bytes that stood there before, how far it is: fields of its bar."""
    with open(log, "rb") as file:
        file.seek(max(before, log.stat().st_size - _TAIL))
        tail = file.read().decode("utf-8", errors="replace")
    steps = _STEP.findall(tail)
    if not steps:
        return {}
    done, total = (int(number) for number in steps[-1])
    return {"completed": done, "total": total, "note": "training" if done < total else "measuring"}


def _start(stage: Stage, threads: int, bars: Progress) -> _Child:
    stage.folder.mkdir(parents=True, exist_ok=True)
    (stage.folder / RESULT_FILE).unlink(missing_ok=True)  # of an earlier, interrupted start
    log = open(stage.folder / LOG_FILE, "ab")  # noqa: SIM115 (closed with the child)
    before = log.tell()
    command = [sys.executable, "-m", CHILD, stage.to_json()]
    variables = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONUNBUFFERED": "1"}
    # The pipe stays open as long as this process lives; the child sees when it is gone.
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT, env=variables)
    bar = bars.add_task(stage.run, total=None, note="reading")
    return _Child(stage, process, log, time.perf_counter(), bar, before)


def _result_of(child: _Child) -> StageResult:
    """Return what a child left.

    Raises:
        SohoError: its own sentence, or where it left none, how it ended and where its output is.
    """
    path = child.stage.folder / RESULT_FILE
    left = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if "error" in left:
        raise SohoError(left["error"])
    code = child.process.returncode
    if code != 0 or not left:
        end = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        raise SohoError(f"the run {child.stage.run} {end} before it had a result; see {child.log.name}")
    return StageResult(**left)


def _close(child: _Child) -> None:
    if child.process.stdin is not None:
        child.process.stdin.close()
    child.log.close()


def _stop(children: Sequence[_Child]) -> None:
    """Ask children to save their state and end; kill those that do not."""
    for child in children:
        child.process.terminate()
    end = time.monotonic() + _PATIENCE
    for child in children:
        try:
            child.process.wait(max(0.0, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            child.process.kill()
            child.process.wait()
        _close(child)
