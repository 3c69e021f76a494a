from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from soho.data.images import ImageStore
from soho.data.readers import karpathy
from soho.errors import SohoError
from tests.support import shared_data
from tests.unit.data.pictures import write_json, write_pictures


def _image(number: int, split: str, *texts: Any) -> dict[str, Any]:
    sentences = [{"raw": text, "tokens": [], "sentid": 10 * number + k} for k, text in enumerate(texts)]
    name = f"COCO_val2014_{number:012d}.jpg"
    common = {"filename": name, "filepath": "val2014", "cocoid": number, "imgid": number - 1}
    return {**common, "split": split, "sentences": sentences}


ROWS = [
    _image(1, "test", "one a", "one b"),
    _image(2, "restval", "two a"),
    _image(3, "train", "three  a "),
    _image(4, "val", "four a"),
]


def _write(tmp_path: Path, rows: list[Any], data_set: str = "coco") -> tuple[Path, ImageStore]:
    path = write_json(tmp_path / "dataset.json", {"images": rows, "dataset": data_set})
    write_pictures(tmp_path / "coco" / "val2014", [f"COCO_val2014_{n:012d}.jpg" for n in (1, 2, 3, 4)])
    return path, ImageStore([tmp_path / "coco"])


def test_splits_of_coco(tmp_path: Path) -> None:
    path, store = _write(tmp_path, ROWS)
    items, notes = karpathy.read_captions(path, store, split="test")
    assert len(items) == notes.rows == 1
    assert items[0].image_id == "1"
    assert items[0].photo_key == "coco:1"
    assert items[0].captions == ("one a", "one b")
    assert items[0].caption_ids == ("10", "11")
    assert items[0].image.path == str(tmp_path / "coco" / "val2014" / "COCO_val2014_000000000001.jpg")
    both, _ = karpathy.read_captions(path, store, split="train+restval")
    assert [item.image_id for item in both] == ["2", "3"]
    assert both[1].captions == ("three a",)
    assert [item.image_id for item in karpathy.read_captions(path, store, split="train+restval", limit=1)[0]] == ["2"]


def test_a_split_must_be_named_and_known(tmp_path: Path) -> None:
    path, store = _write(tmp_path, ROWS)
    with pytest.raises(
        SohoError, match=r"dataset\.json holds several splits: test \(1\), restval \(1\), train \(1\), val"
    ):
        karpathy.read_captions(path, store, split=None)
    with pytest.raises(SohoError, match=r"dataset\.json has no split 'dev'; it holds test \(1\)"):
        karpathy.read_captions(path, store, split="train+dev")


def test_flickr_names_give_flickr_keys(tmp_path: Path) -> None:
    row = {"filename": "1000268201_693b08cb0e.jpg", "imgid": 0, "split": "train", "sentences": ROWS[0]["sentences"]}
    for data_set, key in (("flickr8k", "flickr:1000268201"), ("own", "own:1000268201_693b08cb0e.jpg")):
        path, _ = _write(tmp_path, [row], data_set)
        store = ImageStore([write_pictures(tmp_path / "flickr", [row["filename"]])])
        assert karpathy.read_captions(path, store, split="train")[0][0].photo_key == key


def test_emptied_and_absent_sentences(tmp_path: Path) -> None:
    path, store = _write(tmp_path, [_image(1, "test"), _image(2, "test", "", "kept")])
    with pytest.raises(SohoError, match=r"images\[1\]\.sentences\[0\]: caption 20: empty raw"):
        karpathy.read_captions(path, store, split="test")
    items, notes = karpathy.read_captions(path, store, split="test", on_missing="skip")
    assert [item.captions for item in items] == [("kept",)]
    assert notes.dropped == {"image without captions": 1, "empty raw": 1}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"filename": 3}, r'images\[0\]: "filename" must be a string, found a number: 3'),
        ({"sentences": "none"}, r'images\[0\]: "sentences" must be a list, found a string: \'none\''),
        (
            {"sentences": [{"sentid": 1, "raw": None}]},
            r'images\[0\]\.sentences\[0\]: "raw" must be a string, found null',
        ),
        ({"cocoid": 2}, r"images\[1\]: the image id 2 was used before"),
    ],
)
def test_broken_rows(tmp_path: Path, change: dict[str, Any], sentence: str) -> None:
    path, store = _write(tmp_path, [{**ROWS[2], **change}, {**ROWS[1], "split": "train"}])
    with pytest.raises(SohoError, match=sentence):
        karpathy.read_captions(path, store, split="train")


def test_another_file_is_named(tmp_path: Path) -> None:
    _, store = _write(tmp_path, ROWS)
    path = write_json(tmp_path / "c.json", {"images": [{"id": 1}], "annotations": [{"caption": "x"}]})
    with pytest.raises(SohoError, match=r"c\.json is a COCO captions file, but a Karpathy split file"):
        karpathy.read_captions(path, store, split="train")


def test_the_published_flickr8k_sample() -> None:
    path = shared_data("samples/karpathy/dataset_flickr8k.sample.json")
    archive = shared_data("flickr8k/images_train.zip")
    items, notes = karpathy.read_captions(path, ImageStore([archive]), split="train")
    assert [item.photo_key for item in items] == ["flickr:2513260012", "flickr:2903617548", items[2].photo_key]
    assert items[0].image.path == "Flicker8k_Dataset/2513260012_03d33305cf.jpg"
    assert items[0].captions[1] == "Black dog chasing brown dog through snow"
    assert items[2].caption_ids == ("35", "36", "37", "38", "39")
    assert notes.texts == 15
