"""Freed memory is kept: the system hands out, and zeroes, no page twice."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

GIVING_BACK = """
from pathlib import Path
import torch
from soho.memory import give_back_freed_memory, keep_freed_memory

def resident():
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) / 1024

assert not give_back_freed_memory()
assert keep_freed_memory()
gap, above = torch.ones(2**24), torch.ones(2**10)
before = resident()
del gap
kept = resident()
give_back_freed_memory()
print(before - kept, before - resident())
"""

PROGRAM = """
import resource, sys
import torch
from soho.memory import keep_freed_memory

if sys.argv[1] == "keep":
    assert keep_freed_memory()
for _ in range(3):
    torch.ones(2**24)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    torch.ones(2**24)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(mode: str) -> int:
    done = subprocess.run([sys.executable, "-c", PROGRAM, mode], capture_output=True, text=True, check=True)
    return int(done.stdout)


ONLY_GLIBC = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told to keep freed memory")


@ONLY_GLIBC
def test_a_tensor_of_the_same_size_takes_the_same_pages_again() -> None:
    # 64 MiB are 16,384 pages of 4 KiB, or 32 where the system hands out huge ones.
    assert page_faults("leave") >= 10 * 32
    assert page_faults("keep") < 10


@ONLY_GLIBC
def test_gaps_are_given_back_on_demand() -> None:
    done = subprocess.run([sys.executable, "-c", GIVING_BACK], capture_output=True, text=True, check=True)
    after_freeing, after_giving_back = map(float, done.stdout.split())
    assert after_freeing < 8  # MB
    assert after_giving_back > 56  # of 64
