"""What `soho serve` finds in a finished demonstration."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from soho.demo.showcase import EACH, prepare_showcase
from soho.search import PictureIndex
from soho.serving.examples import read_examples
from tests.support import ROOT
from tests.unit.search.small import make_model


def test_an_index_and_examples_of_the_test_splits(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    out = tmp_path / "demo"
    make_model(out / "retrieval" / "model")
    (out / "world").symlink_to(world)
    prepare_showcase(out)
    assert len(PictureIndex.open(out / "index")) == len(list((world / "images" / "val2014").iterdir()))
    examples = read_examples(out / "examples.json")
    kinds = ("search", "answer", "compare", "entails", "match", "inspect")
    assert Counter(one.kind for one in examples) == dict.fromkeys(kinds, EACH)
    assert all(len(one.text.splitlines()) == 3 for one in examples if one.kind == "match")

    written = (out / "examples.json").read_text()
    test = json.loads((world / "annotations" / "dataset_coco.json").read_text())["images"]
    names = {one["filename"] for one in test if one["split"] == "test"}
    shown = [Path(one["pictures"][0]).name for one in json.loads(written) if one["kind"] in ("match", "inspect")]
    assert set(shown) <= names
    prepare_showcase(out)  # again, as `soho demo` does when everything is finished
    assert (out / "examples.json").read_text() == written
