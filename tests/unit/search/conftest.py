"""What all tests of the search share."""

from __future__ import annotations

from pathlib import Path

import pytest

from soho.pipelines import SohoPipeline
from tests.unit.search.small import fill, make_model


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("search") / "model")


@pytest.fixture
def pipeline(model_folder: Path) -> SohoPipeline:
    return SohoPipeline.from_pretrained(model_folder)


@pytest.fixture
def library(tmp_path: Path) -> Path:
    return fill(tmp_path / "library")
