"""Interleaved timing: one call of every side after the other, round after round, so that all meet the same machine."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from tqdm import tqdm

LEAST_ROUNDS = 3


class Clock:
    """Takes the time of parts of a call.

    Attributes:
        laps: part -> seconds, in the order in which they came.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.laps: dict[str, float] = {}
        self._last = 0.0

    def start(self) -> None:
        """Forget all parts and begin the first."""
        wait(self.device)
        self.laps, self._last = {}, time.perf_counter()

    def lap(self, part: str) -> None:
        """End a part; the next begins."""
        wait(self.device)
        now = time.perf_counter()
        self.laps[part] = self.laps.get(part, 0.0) + now - self._last
        self._last = now


@dataclass
class Side:
    """One way of doing the work.

    Attributes:
        name: as in the tables.
        run: does it once; takes a clock and calls `lap` at the end of each part, if it has parts.
        work: how much one call does, in whatever unit the benchmark counts.
        note: what a reader must know of this side.
    """

    name: str
    run: Callable[[Clock], object]
    work: float = 1.0
    note: str = ""


@dataclass
class Timing:
    """What was measured of a side.

    Attributes:
        side: the side.
        seconds: of each call.
        laps: part -> seconds of each call.
    """

    side: Side
    seconds: list[float] = field(default_factory=list)
    laps: dict[str, list[float]] = field(default_factory=dict)

    @property
    def median(self) -> float:
        """Median seconds of a call."""
        return statistics.median(self.seconds)

    @property
    def rate(self) -> float:
        """Work a second, at the median."""
        return self.side.work / self.median

    def part(self, name: str) -> float:
        """Median seconds of a part."""
        return statistics.median(self.laps[name])


def wait(device: torch.device) -> None:
    """Wait until a GPU has done all that it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def interleave(
    sides: Sequence[Side],
    device: torch.device,
    rounds: int,
    label: str,
    seconds: float = float("inf"),
    warm_up: bool = True,
) -> dict[str, Timing]:
    """Time all sides.

    Each side runs once unmeasured (this also compiles it). Then come the rounds; each begins with another side, so
    that none always runs in the wake of the same neighbour.

    Args:
        sides: what to time; names differ.
        device: on which they compute.
        rounds: measured calls of each side.
        label: of the progress bar.
        seconds: after this long no new round begins, once there are `LEAST_ROUNDS`.
        warm_up: False measures the first calls too.

    Returns:
        Side name -> timing, in the order of `sides`.
    """
    timings = {side.name: Timing(side) for side in sides}
    clock = Clock(device)
    calls = len(sides) * (rounds + warm_up)
    with tqdm(total=calls, desc=label, unit="call", file=sys.stderr, dynamic_ncols=True) as bar:
        for side in sides if warm_up else ():
            bar.set_postfix_str(f"warming up {side.name}")
            clock.start()
            side.run(clock)
            wait(device)
            bar.update()
        gc.collect()
        begun = time.perf_counter()
        for number in range(rounds):
            if number >= LEAST_ROUNDS and time.perf_counter() - begun > seconds:
                break
            for place in range(len(sides)):
                side = sides[(place + number) % len(sides)]
                bar.set_postfix_str(side.name)
                clock.start()
                begin = time.perf_counter()
                side.run(clock)
                wait(device)
                timing = timings[side.name]
                timing.seconds.append(time.perf_counter() - begin)
                for part, lap in clock.laps.items():
                    timing.laps.setdefault(part, []).append(lap)
                bar.update()
    return timings


def peak_bytes(run: Callable[[], object], device: torch.device) -> int:
    """Run something and return how much memory it needed at its peak, beyond what was held before.

    On a CPU the process's resident memory is watched: where the kernel lets its high-water mark be set back (Linux)
    this is the peak of this call alone, else that of the process so far.
    """
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        torch.cuda.synchronize(device)
        return int(torch.cuda.max_memory_allocated(device) - before)
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)  # what earlier calls freed would else count as held already
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    before = _resident("VmRSS")
    run()
    return max(0, _resident("VmHWM") - before)


def _resident(field_name: str) -> int:
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(field_name + ":"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
