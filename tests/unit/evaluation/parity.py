"""Expected values of the official evaluators, where they are at hand."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support import SHARED


def parity_file(name: str) -> Path:
    """Return a file of expected values, or skip the test where it is absent."""
    path = Path(os.environ.get("SOHO_METRICS_DIR", SHARED / "parity/metrics")) / name
    if not path.exists():
        pytest.skip(f"needs the expected values of the official evaluators: {name} is not here (set SOHO_METRICS_DIR)")
    return path
