"""The machine: its name, and the arithmetic peak that the sides are held against."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from pathlib import Path

import torch
import transformers
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.options import Options
from benchmarks.timing import Clock, Side, wait


def describe(options: Options) -> list[str]:
    """Return one sentence each about processor, threads, versions."""
    if options.device.type == "cuda":
        name = torch.cuda.get_device_name(options.device)
    else:
        name = _cpu_name()
    return [
        f"{name}; {torch.get_num_threads()} threads; Python {platform.python_version()}, torch {torch.__version__}, "
        f"transformers {transformers.__version__}"
    ]


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def matmul_side(dtype: torch.dtype, options: Options) -> Side:
    """Return the product of two square matrices as a side; its work is counted in floating-point operations.

    Of several sizes the fastest is taken: what the sides are held against must be a peak.
    """
    device = options.device
    sizes = [64] if options.quick else ([4096, 8192, 16384] if device.type == "cuda" else [1024, 2048, 4096])
    best, chosen = 0.0, sizes[0]
    for size in sizes:
        left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        torch.mm(left, right)
        spent = []
        for _ in range(3):
            wait(device)
            begun = time.perf_counter()
            torch.mm(left, right)
            wait(device)
            spent.append(time.perf_counter() - begun)
        rate = size**3 / min(spent)
        if rate > best:
            best, chosen = rate, size
    left, right = (torch.randn(chosen, chosen, device=device).to(dtype) for _ in range(2))
    # Small products are repeated, so that a call is long enough to be timed.
    repeats = 1 if options.quick else max(1, 2048**3 // chosen**3)

    def run(_: Clock) -> None:
        for _number in range(repeats):
            torch.mm(left, right)

    name = f"matmul {str(dtype).removeprefix('torch.')}"
    return Side(name, run, work=2.0 * repeats * chosen**3, note=f"{chosen} x {chosen}, the fastest of {sizes}")


def count_flops(run: Callable[[], object]) -> float:
    """Return the floating-point operations (multiply-adds times two) of convolutions and matrix products of a call."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        run()
    return float(counter.get_total_flops())
