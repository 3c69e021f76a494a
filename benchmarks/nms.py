"""Non-maximum suppression: one set of boxes, class by class as detectors of the time did, and all classes at once.

The loop over boxes is compiled C where a C compiler is at hand (as it was in the detectors that the paper compares
with); without one it is NumPy, several times as slow, and `KIND` says so.
"""

from __future__ import annotations

import ctypes
import functools
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

SOURCE = Path(__file__).with_name("nms.c")


@functools.cache
def compiled() -> Any:
    """Return the compiled function, or None where there is no C compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        return None
    library = Path(tempfile.mkdtemp(prefix="nms-")) / "nms.so"
    try:
        subprocess.run([compiler, "-O3", "-shared", "-fPIC", str(SOURCE), "-o", str(library)], check=True)
        return ctypes.CDLL(str(library)).suppress
    except (OSError, subprocess.CalledProcessError):
        return None


def kind() -> str:
    """Say how `suppress` runs."""
    return "compiled C" if compiled() is not None else "NumPy (no C compiler was found)"


def overlaps(left: Tensor, right: Tensor) -> Tensor:
    """Return intersection over union (M, N) of boxes (M, 4) and (N, 4)."""
    corner = torch.maximum(left[:, None, :2], right[None, :, :2])
    sides = (torch.minimum(left[:, None, 2:], right[None, :, 2:]) - corner).clamp(min=0)
    shared = sides[..., 0] * sides[..., 1]
    areas = [(boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]) for boxes in (left, right)]
    return shared / (areas[0][:, None] + areas[1] - shared)


def suppress(boxes: np.ndarray, scores: np.ndarray, threshold: float, most: int) -> np.ndarray:
    """Keep the best boxes that overlap no better kept one by more than a threshold.

    Args:
        boxes: (N, 4) float32, contiguous.
        scores: (N,).
        threshold: of intersection over union.
        most: boxes to keep.

    Returns:
        Indices of the kept boxes, best first.
    """
    order = np.argsort(-scores, kind="stable").astype(np.int64)
    function = compiled()
    if function is None:
        return _suppress_numpy(boxes, order, threshold, most)
    gone, kept = np.zeros(len(order), dtype=np.uint8), np.empty(len(order), dtype=np.int64)
    pointers = [ctypes.c_void_p(array.ctypes.data) for array in (boxes, order, gone, kept)]
    number = function(pointers[0], pointers[1], len(order), ctypes.c_float(threshold), most, *pointers[2:])
    return kept[:number]


def _suppress_numpy(boxes: np.ndarray, order: np.ndarray, threshold: float, most: int) -> np.ndarray:
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    kept: list[int] = []
    while len(order) and len(kept) < most:
        best, rest = order[0], order[1:]
        kept.append(int(best))
        corner = np.maximum(boxes[best, :2], boxes[rest, :2])
        sides = np.clip(np.minimum(boxes[best, 2:], boxes[rest, 2:]) - corner, 0, None)
        shared = sides[:, 0] * sides[:, 1]
        order = rest[shared / (areas[best] + areas[rest] - shared) <= threshold]
    return np.array(kept, dtype=np.int64)


def best_by_class(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """Suppress class after class; return each box's best score among the classes in which it was kept.

    Args:
        boxes: (R, 4), the same for all classes.
        scores: (R, classes).
        threshold: of intersection over union.

    Returns:
        (R,) zero for a box that no class kept.
    """
    corners, table = boxes.float().cpu().contiguous().numpy(), scores.float().cpu().numpy()
    best = np.zeros(len(corners), dtype=np.float32)
    for one in np.ascontiguousarray(table.T):
        kept = suppress(corners, one, threshold, len(corners))
        best[kept] = np.maximum(best[kept], one[kept])
    return torch.from_numpy(best).to(boxes.device)


def best_batched(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """As `best_by_class`, all classes in step: R steps of a few operations on (classes, R / 64).

    All classes have the same boxes, so overlaps are computed once; what a box suppresses is a row of bits.
    """
    rivals = packed(overlaps(boxes.float(), boxes.float()) > threshold)  # (R, words)
    table = scores.float().t()  # (classes, R)
    order = table.argsort(dim=1, descending=True, stable=True)
    word, bit = order // 64, order % 64
    gone = torch.zeros(len(table), rivals.shape[1], dtype=torch.long, device=boxes.device)
    taken = torch.empty_like(order, dtype=torch.bool)
    for step in range(order.shape[1]):  # the next box of every class
        here = slice(step, step + 1)
        open_ = ((gone.gather(1, word[:, here]) >> bit[:, here]) & 1) == 0  # (classes, 1)
        taken[:, here] = open_
        gone |= rivals[order[:, step]] * open_
    kept = torch.zeros_like(taken).scatter_(1, order, taken)
    return (table * kept).amax(0)


def packed(flags: Tensor) -> Tensor:
    """Return bool rows (M, R) as 64-bit words (M, ceil(R / 64)), the first flag in the lowest bit."""
    flags = torch.nn.functional.pad(flags, (0, -flags.shape[1] % 64)).unflatten(1, (-1, 64))
    return (flags.long() << torch.arange(64, device=flags.device)).sum(-1)
