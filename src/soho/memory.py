"""How a process on the CPU keeps its memory."""

from __future__ import annotations

import ctypes
import sys

# Names and numbers of glibc's malloc.h.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4
_PAD_BYTES = 64 * 2**20

_kept = False


def keep_freed_memory() -> bool:
    """Keep freed memory instead of giving it back to the system, where the C library is glibc (Linux).

    A training step frees and asks again for the same large tensors. By default each of them is mapped anew, and the
    system zeroes it page by page: up to a third of a step's time on a CPU (docs/performance.md). The process then
    stays as large as it ever was.

    Returns:
        Whether it was done.
    """
    global _kept
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):  # another C library
        return False
    # -1: no amount of free memory is too much.
    _kept = all([mallopt(_MMAP_MAX, 0), mallopt(_TRIM_THRESHOLD, -1), mallopt(_TOP_PAD, _PAD_BYTES)])
    return _kept


def give_back_freed_memory() -> bool:
    """Give what is free now back to the system, once; does nothing where freed memory is not kept.

    For long work whose tensors differ in size: the gaps between them add up, and the process grows slowly.

    Returns:
        Whether anything was given back.
    """
    return _kept and bool(ctypes.CDLL(None).malloc_trim(0))
