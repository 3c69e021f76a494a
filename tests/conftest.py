"""Fixtures that several test files share: a small embedded world, and tiny models trained on it."""

from __future__ import annotations

import os

# One thread, also in child processes: two workers share two cores, and oneDNN's fp32 backward pass of 1x1 convolutions
# with the few channels of test models crashes with more (seen with torch 2.13).
os.environ["OMP_NUM_THREADS"] = "1"
# No test may reach for the hub: a recipe that asks for a hub id by mistake must fail and not wait for a network.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

from tests.support import Soho

IMAGES = {"train_images": 48, "validation_images": 16, "test_images": 20}


def shared_folder(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """Return a folder that one test process makes and all others of the session read."""
    base = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent  # each worker has a folder of its own below the session's
    folder, done = base / name, base / f"{name}.done"
    with FileLock(f"{folder}.lock"):
        if not done.exists():
            make(folder)
            done.touch()
    return folder


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A drawn world of 48 training, 16 validation and 20 test pictures; not to be changed."""
    from soho.data.miniature import generate

    return shared_folder(
        tmp_path_factory, "world", lambda out: generate(out, **IMAGES, seed=7, workers=0, progress=False) and None
    )


@pytest.fixture(scope="session")
def trained(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Finished tiny runs: `pretraining/`, and from it one of each other task; not to be changed."""
    from soho.runs import train
    from tests.tiny_recipes import tiny_recipe

    def make(out: Path) -> None:
        out.mkdir()
        start = f"model.start={out / 'pretraining' / 'model'}"
        train(tiny_recipe("pretraining", world, out / "pretraining", "training.max_steps=3"))
        for task in ("retrieval", "vqa", "nlvr2", "snli_ve"):
            train(tiny_recipe(task, world, out / task, start, "training.max_steps=2"))

    return shared_folder(tmp_path_factory, "trained", make)


@pytest.fixture
def soho(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Soho:
    """Run the command in this process; returns exit code, stdout and stderr."""
    from soho.cli import main

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["soho", *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", "200")
        capsys.readouterr()
        code = 0
        try:
            main()
        except SystemExit as leaving:
            code = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
        out, err = capsys.readouterr()
        return code, out, err

    return run
