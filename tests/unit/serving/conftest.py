"""One server that most tests ask."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from soho.serving.command import open_house
from soho.serving.limits import Settings
from tests.unit.serving.small import Client, make_runs, serving


@pytest.fixture(scope="session", autouse=True)
def installed() -> None:
    for needed in ("fastapi", "uvicorn", "python_multipart"):
        pytest.importorskip(needed, reason=f"needs {needed}: pip install 'soho-vlp[serve]'")


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_runs(tmp_path_factory.mktemp("serving") / "runs")


@pytest.fixture(scope="session")
def client(runs: Path) -> Iterator[Client]:
    with serving(open_house([runs], None, None, Settings())) as one:
        yield one


@pytest.fixture(scope="session")
def jpeg(runs: Path) -> tuple[str, bytes]:
    return "p00.jpg", (runs / "pictures" / "p00.jpg").read_bytes()
