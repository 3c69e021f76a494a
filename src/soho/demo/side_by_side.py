"""Runs stages of the demonstration in two child processes, each of which takes the next one as soon as it is free.

A child (`soho.demo.child`) reads stages from its standard input, a line each: to start Python and torch anew for every
stage would take five seconds each time. It prints into the log file of its stage and leaves the result, or the sentence
of its error, as a file. Only the parent writes the demonstration's results. A child whose parent is gone stops as after
SIGTERM: it saves its state, and the same command continues.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

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

    @property
    def log(self) -> Path:
        """What the run prints."""
        return self.folder / LOG_FILE


@dataclass
class _Child:
    """A process and the stage it is at; `before` = bytes of earlier starts in that stage's log."""

    process: subprocess.Popen[bytes]
    stage: Stage
    begin: float
    bar: TaskID
    before: int

    @property
    def has_ended_its_stage(self) -> bool:
        return (self.stage.folder / RESULT_FILE).is_file() or self.process.poll() is not None


def print_into(log: Path) -> None:
    """Let everything that this process prints go to the end of a file from now on."""
    sys.stdout.flush()
    sys.stderr.flush()
    with open(log, "ab") as file:
        for number in (1, 2):
            os.dup2(file.fileno(), number)


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
    free: list[_Child] = []
    running: list[_Child] = []
    columns = (*Progress.get_default_columns(), TextColumn("{task.fields[note]}"))
    try:
        with Progress(*columns, console=console) as bars:
            whole = bars.add_task("fine-tuning runs", total=len(stages), note="")
            while waiting or running:
                while waiting and len(running) < AT_ONCE:
                    child = _start(waiting.pop(0), threads, bars, free.pop() if free else None)
                    running.append(child)
                    note = f"{child.stage.run}: started, prints into {child.stage.log}"
                    console.print(note, highlight=False, soft_wrap=True)
                time.sleep(_POLL)
                for child in running:
                    bars.update(child.bar, **_position(child.stage.log, child.before))
                failures: list[SohoError] = []
                for child in [child for child in running if child.has_ended_its_stage]:
                    running.remove(child)
                    free.append(child)
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
        _stop([*running, *free])


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


def _start(stage: Stage, threads: int, bars: Progress, free: _Child | None) -> _Child:
    """Give a stage to a child that is free, or to a new one."""
    stage.folder.mkdir(parents=True, exist_ok=True)
    (stage.folder / RESULT_FILE).unlink(missing_ok=True)  # of an earlier, interrupted start
    with open(stage.log, "ab") as log:
        before = log.tell()
        if free is None:
            variables = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONUNBUFFERED": "1"}
            # The pipe stays open as long as this process lives; the child sees when it is gone.
            process = subprocess.Popen(
                [sys.executable, "-m", CHILD],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=variables,
            )
        else:
            process = free.process
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # it has died: `_result_of` says so
        process.stdin.write(f"{stage.to_json()}\n".encode())
        process.stdin.flush()
    return _Child(process, stage, time.perf_counter(), bars.add_task(stage.run, total=None, note="reading"), before)


def _result_of(child: _Child) -> StageResult:
    """Return what a child left.

    Raises:
        SohoError: its own sentence, or where it left none, how it ended and where its output is.
    """
    path = child.stage.folder / RESULT_FILE
    left = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if "error" in left:
        raise SohoError(left["error"])
    if not left:
        code = child.process.wait()
        end = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        raise SohoError(f"the run {child.stage.run} {end} before it had a result; see {child.stage.log}")
    return StageResult(**left)


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
        if child.process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                child.process.stdin.close()
