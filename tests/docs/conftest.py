"""The folder in which the blocks of a page run: what a reader has after `make demo`, a thousand times smaller."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from tests.conftest import shared_folder
from tests.docs.shell import FEW, SHORT
from tests.support import ROOT

# Pictures that pages name. Any drawing will do.
PICTURES = ("kitchen.jpg", "street.jpg", "a.jpg", "b.jpg", "c.jpg")
DRAWN = re.compile(r"(?:images|\$images)/((?:val2014|train2014|nlvr2)/[\w-]+\.(?:jpg|png))")


@pytest.fixture(scope="session")
def after_demo(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `runs/demo/` of the demonstration's recipes, trained for two steps; not to be changed."""
    from soho.runs import train
    from soho.training.recipe import load_recipe

    def make(out: Path) -> None:
        runs, trained = out / "runs" / "demo", out.parent / f"{out.name}-training"
        shutil.copytree(world, runs / "world")
        start: list[str] = []
        for name in ("pretrain", "retrieval", "vqa", "nlvr2", "snli_ve"):
            settings = [f"data.root={runs / 'world'}", f"output={trained / name}", *FEW, *start, *SHORT]
            run = train(load_recipe(ROOT / "recipes" / "demo" / f"{name}.yaml", settings))
            start = [f"model.start={trained / 'pretrain' / 'model'}"]
            # Without checkpoints and log: a page may train the same recipe itself.
            shutil.copytree(run.model_folder, runs / name / "model")

    return shared_folder(tmp_path_factory, "after_demo", make)


@pytest.fixture
def reader(after_demo: Path, tmp_path: Path) -> Path:
    """A working folder of a page's own: the source tree's recipes, `runs/demo`, pictures, `my_data`, `texts.txt`."""
    shutil.copytree(after_demo, tmp_path, dirs_exist_ok=True)
    for name in ("recipes", "examples", "docs"):
        (tmp_path / name).symlink_to(ROOT / name, target_is_directory=True)
    drawn = sorted((tmp_path / "runs/demo/world/images").rglob("*.jpg"))
    for number, name in enumerate(PICTURES):
        shutil.copy(drawn[number], tmp_path / name)
    for folder in ("Pictures", "PICTURES", "pictures", "my_data/images"):
        (tmp_path / folder).mkdir(parents=True)
        for number, picture in enumerate(drawn[:4]):
            shutil.copy(picture, tmp_path / folder / f"{'abcd'[number]}.jpg")
    rows = [
        {"image": "a.jpg", "question": "What colour is the bicycle?", "answers": ["red", "red", "dark red"]},
        {"image": "b.jpg", "question": "How many cats are there?", "answer": "2"},
    ]
    captions = [
        {"image": "a.jpg", "captions": ["A red bicycle.", "A bike by the wall."]},
        {"image": "b.jpg", "caption": "Two cats on a sofa."},
    ]
    for name, lines in (("questions", rows), ("captions", captions)):
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (tmp_path / "my_data" / f"{name}.jsonl").write_text(text, encoding="utf-8")
    (tmp_path / "texts.txt").write_text("a red house\na blue ball\n", encoding="utf-8")
    return tmp_path


def draw_named(folder: Path, code: str) -> None:
    """Put a picture wherever a block names one of the demonstration's that the small world does not have."""
    images = folder / "runs/demo/world/images"
    for name in DRAWN.findall(code):
        if not (images / name).exists():
            kind = sorted((images / name).parent.glob(f"*{Path(name).suffix}"))
            shutil.copy(kind[0], images / name)
