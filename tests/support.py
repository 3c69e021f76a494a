"""Helpers shared by the tests."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("SOHO_SHARED", ROOT.parent / "shared"))


def shared_data(relative: str) -> Path:
    """Return a path in the collection of real data, or skip the test where it is absent."""
    path = SHARED / "data" / relative
    if not path.exists():
        pytest.skip(f"needs the real-data collection: {relative} is not here (set SOHO_SHARED)")
    return path


# Runs the command in this process (the fixture `soho`): arguments -> exit code, stdout, stderr.
Soho = Callable[..., tuple[int, str, str]]
