"""NLVR2: identifiers, the names of the two pictures, labels, lists of subsets, missing pictures."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from soho.data.images import ImageStore
from soho.data.readers import nlvr2
from soho.data.sources import Source, excluded_photographs, load_statements
from soho.errors import SohoError
from tests.support import shared_data
from tests.unit.data.pictures import write_jsonl, write_pictures

SENTENCE = "The left image  contains a dog."


def row(identifier: str, label: Any = "True", **more: Any) -> dict[str, Any]:
    return {"identifier": identifier, "sentence": SENTENCE, "label": label, "left_url": "u", "right_url": "v", **more}


def names(*stems: str, folder: str = "") -> list[str]:
    return [f"{folder}{stem}-{side}.png" for stem in stems for side in ("img0", "img1")]


def store(tmp_path: Path, *files: str) -> ImageStore:
    return ImageStore([write_pictures(tmp_path / "images", files)])


def test_two_pictures_and_a_sentence(tmp_path: Path) -> None:
    images = store(tmp_path, *names("dev-850-0", "dev-850-2"))
    path = write_jsonl(tmp_path / "dev.json", [row("dev-850-0-0", "False"), "", row("dev-850-2-1")])
    items, notes = nlvr2.read_statements(path, images)
    assert [(item.statement_id, item.label) for item in items] == [("dev-850-0-0", False), ("dev-850-2-1", True)]
    assert items[0].sentence == "The left image contains a dog."
    assert items[1].image.path == str(tmp_path / "images" / "dev-850-2-img0.png")
    assert items[1].second_image.path == str(tmp_path / "images" / "dev-850-2-img1.png")
    assert (items[1].photo_key, items[1].second_photo_key) == ("nlvr2:dev-850-2-img0", "nlvr2:dev-850-2-img1")
    assert (notes.rows, notes.used, notes.texts) == (2, 2, 2)


def test_training_pictures_lie_in_numbered_folders(tmp_path: Path) -> None:
    files = [*names("train-1-0", folder="57/"), *names("train-1-0", folder="3/"), *names("train-2-0", folder="8/")]
    images = store(tmp_path, *files)
    rows = [row("train-1-0-0", directory=57), row("train-1-0-1", directory="3"), row("train-2-0-0", directory=9)]
    items, _ = nlvr2.read_statements(write_jsonl(tmp_path / "train.json", rows), images)
    folders = [Path(item.image.path).parent.name for item in items]
    assert folders == ["57", "3", "8"]  # the last one is not where its row says, but there is no other of its name


def test_a_missing_picture_leaves_the_example_out_and_is_named(tmp_path: Path) -> None:
    images = store(tmp_path, *names("dev-1-0"), "dev-1-1-img0.png")
    rows = [row("dev-1-0-0"), row("dev-1-1-0"), row("dev-1-1-1"), row("dev-1-2-0")]
    path = write_jsonl(tmp_path / "dev.json", rows)
    with pytest.raises(SohoError, match=r"nlvr2: 3 images that .*dev\.json names are not in .*: dev-1-1-img1\.png"):
        nlvr2.read_statements(path, images)
    items, notes = nlvr2.read_statements(path, images, on_missing="skip")
    assert [item.statement_id for item in items] == ["dev-1-0-0"]
    assert notes.missing_names == ["dev-1-1-img1.png", "dev-1-2-img0.png", "dev-1-2-img1.png"]
    assert notes.dropped == {"example with a picture that was not found": 3}
    assert notes.dropped_names["example with a picture that was not found"] == ["dev-1-1-0", "dev-1-1-1", "dev-1-2-0"]


def test_lists_of_subsets(tmp_path: Path) -> None:
    images = store(tmp_path, *names("dev-1-0", "dev-1-1", "dev-1-2"))
    rows = [row("dev-1-0-0"), row("dev-1-1-0"), row("dev-1-2-0")]
    path = write_jsonl(tmp_path / "dev.json", rows)
    balanced = write_jsonl(tmp_path / "balanced_dev.json", [rows[2], row("dev-9-0-0")])
    unbalanced = tmp_path / "unbalanced_dev.json.gz"
    unbalanced.write_bytes(gzip.compress(json.dumps(rows[0]).encode()))
    lists = {"balanced": balanced, "unbalanced": unbalanced}
    items, notes = nlvr2.read_statements(path, images, subsets=lists)
    assert [item.subsets for item in items] == [("unbalanced",), (), ("balanced",)]
    assert notes.remarks == ["not in this file: 1 example of the balanced list"]
    items, notes = nlvr2.read_statements(path, images, subsets=lists, limit=1)
    assert len(items) == 1
    assert notes.remarks == []
    (tmp_path / "empty.json").write_text('{"sentence": "a"}\n')
    with pytest.raises(SohoError, match=r"empty\.json names no example, but an NLVR2 file"):
        nlvr2.read_statements(path, images, subsets={"balanced": tmp_path / "empty.json"})


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("{", r":2: not JSON"),
        ("[1]", r":2: an object was expected, found a list"),
        (row("dev-1-0"), r':2: "identifier" must look like "dev-850-2-0", found a string: \'dev-1-0\''),
        ({"sentence": "a", "label": "True"}, r':2: the key "identifier" is missing'),
        (row("dev-1-0-0"), r':2: the identifier "dev-1-0-0" was used in line 1'),
        (row("dev-1-0-1", "yes"), r':2: "label" must be "True" or "False", found a string: \'yes\''),
        ({"identifier": "dev-1-0-1", "sentence": "a"}, r':2: "label" must be "True" or "False", the key is missing'),
        ({"identifier": "dev-1-0-1", "label": "True"}, r':2: "sentence" must be a string, the key is missing'),
        (row("dev-1-0-1") | {"sentence": " "}, r":2: example dev-1-0-1: empty sentence"),
    ],
)
def test_broken_rows(tmp_path: Path, line: Any, sentence: str) -> None:
    path = write_jsonl(tmp_path / "dev.json", [row("dev-1-0-0"), line])
    with pytest.raises(SohoError, match=sentence) as caught:
        nlvr2.read_statements(path, store(tmp_path, *names("dev-1-0")))
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_another_file(tmp_path: Path) -> None:
    images = store(tmp_path, *names("dev-1-0"))
    (tmp_path / "coco.json").write_text('{\n "annotations": []\n}')
    with pytest.raises(SohoError, match=r"coco\.json is one JSON value over many lines, but an NLVR2 file"):
        nlvr2.read_statements(tmp_path / "coco.json", images)
    source = Source(format="nlvr2", annotations=tmp_path / "coco.json", images=[tmp_path])
    with pytest.raises(ValueError, match="balanced belongs to format nlvr2, not to coco"):
        Source(format="coco", annotations=tmp_path / "a", images=[tmp_path], balanced=tmp_path / "b")
    assert source.balanced is None


def test_both_pictures_of_an_excluded_example_are_excluded(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "dev.json", [row("dev-1-0-0"), row("dev-1-0-1")])
    source = Source(format="nlvr2", annotations=path, images=[tmp_path / "nowhere"])
    assert excluded_photographs([source]) == {"nlvr2:dev-1-0-img0", "nlvr2:dev-1-0-img1"}


@pytest.mark.parametrize("name", ["dev.sample.json", "test1.sample.json"])
def test_lines_as_published(name: str) -> None:
    folder = shared_data("samples/nlvr2")
    source = Source(format="nlvr2", annotations=folder / name, images=[folder / "images"])
    items, notes = load_statements(source)
    lines = [json.loads(line) for line in (folder / name).read_text().splitlines() if line]
    assert len(items) == len(lines) == 8
    assert [item.statement_id for item in items] == [line["identifier"] for line in lines]
    assert [str(item.label) for item in items] == [line["label"] for line in lines]
    assert notes.lines() == []


def test_the_whole_development_set(tmp_path: Path) -> None:
    folder = shared_data("nlvr2_text")
    path = folder / "dev.json.gz"
    lines = gzip.decompress(path.read_bytes()).decode().splitlines()
    stems = {json.loads(line)["identifier"].rsplit("-", 1)[0] for line in lines}
    (tmp_path / "images").mkdir()
    for name in names(*stems):
        (tmp_path / "images" / name).touch()
    lists = {name: folder / f"{name}_dev.json.gz" for name in ("balanced", "unbalanced")}
    items, notes = nlvr2.read_statements(path, ImageStore([tmp_path / "images"]), subsets=lists)
    assert len(items) == 6982  # as the data set's paper counts
    assert Counter(item.subsets for item in items) == {("unbalanced",): 3562, ("balanced",): 2300, (): 1120}
    assert notes.lines() == []
