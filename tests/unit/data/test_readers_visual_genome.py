from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pytest

from soho.data.images import ImageStore
from soho.data.readers import visual_genome
from soho.errors import SohoError
from tests.support import shared_data
from tests.unit.data.pictures import write_json, write_pictures


def _region(number: int, phrase: Any) -> dict[str, Any]:
    return {"region_id": number, "image_id": 1, "phrase": phrase, "x": 1, "y": 2, "width": 3, "height": 4}


REGIONS = [
    {"id": 1, "regions": [_region(11, "a green clock "), _region(12, "shade")]},
    {"id": 2, "regions": []},
    {"image_id": 3, "regions": [_region(31, "a dog")]},
]
DATA = [
    {"image_id": 1, "url": "https://x.edu/VG_100K_2/1.jpg", "width": 800, "height": 600, "coco_id": None},
    {"image_id": 3, "url": "https://x.edu/VG_100K/3.jpg", "width": 500, "height": 400, "coco_id": 391895},
]


def _write(tmp_path: Path, regions: Any = None) -> tuple[Path, Path, ImageStore]:
    write_pictures(tmp_path / "photos", ["VG_100K_2/1.jpg", "VG_100K/2.jpg", "VG_100K/3.jpg"])
    return (
        write_json(tmp_path / "regions.json", REGIONS if regions is None else regions),
        write_json(tmp_path / "image_data.json", DATA),
        ImageStore([tmp_path / "photos"]),
    )


def test_regions_are_captions_and_coco_ids_are_photo_keys(tmp_path: Path) -> None:
    path, data, store = _write(tmp_path)
    items, notes = visual_genome.read_captions(path, store, image_data=data)
    assert [(item.image_id, item.photo_key) for item in items] == [("1", "vg:1"), ("3", "coco:391895")]
    assert items[0].captions == ("a green clock", "shade")
    assert items[0].caption_ids == ("11", "12")
    assert (items[0].width, items[0].height) == (800, 600)
    assert items[0].image.path == str(tmp_path / "photos" / "VG_100K_2" / "1.jpg")
    assert (notes.rows, notes.used, notes.texts) == (3, 2, 3)
    assert notes.dropped == {"image without region descriptions": 1}
    assert notes.remarks == []


def test_without_image_data_a_remark_says_what_is_lost(tmp_path: Path) -> None:
    path, _, store = _write(tmp_path)
    items, notes = visual_genome.read_captions(path, store, limit=1)
    assert [(item.photo_key, item.width) for item in items] == [("vg:1", 0)]
    assert "cannot be recognised" in notes.remarks[0]


def test_gzip_and_the_id_inside_the_regions(tmp_path: Path) -> None:
    path, data, store = _write(tmp_path, [{"regions": [_region(11, "x")]}])
    packed = tmp_path / "regions.json.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert [item.image_id for item in visual_genome.read_captions(packed, store, image_data=data)[0]] == ["1"]


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ({"id": 1, "regions": [_region(1, "x")]}, r"\[3\]: the image id 1 was used before"),
        ({"id": 4, "regions": [_region(1, 5)]}, r'\[3\]\.regions\[0\]: "phrase" must be a string, found a number: 5'),
        ({"id": 4, "regions": [_region(1, " ")]}, r"\[3\]\.regions\[0\]: region 1: empty phrase"),
        ({"id": 4, "regions": [{"phrase": "x"}]}, r'\[3\]\.regions\[0\]: the key "region_id" is missing'),
        ({"id": 4}, r'\[3\]: an object with a list "regions" was expected'),
        ({"id": 4, "regions": [_region(1, "x")]}, r"1 image that .* names is not in .*photos: 4\.jpg"),
    ],
)
def test_broken_rows(tmp_path: Path, row: Any, sentence: str) -> None:
    path, data, store = _write(tmp_path, [*REGIONS, row])
    with pytest.raises(SohoError, match=sentence):
        visual_genome.read_captions(path, store, image_data=data)


def test_other_files_are_named(tmp_path: Path) -> None:
    path, data, store = _write(tmp_path)
    with pytest.raises(
        SohoError, match=r"image_data\.json is a Visual Genome image_data file, but .*region_descriptions"
    ):
        visual_genome.read_captions(data, store)
    with pytest.raises(SohoError, match=r"regions\.json is a Visual Genome region descriptions file, but .*image_data"):
        visual_genome.read_captions(path, store, image_data=path)


def test_the_published_samples() -> None:
    folder = shared_data("samples/visual_genome")
    items, _ = visual_genome.read_captions(
        folder / "region_descriptions.sample.json",
        ImageStore([folder / "images"]),
        image_data=folder / "image_data.sample.json",
    )
    assert len(items) == 1
    assert items[0].captions == ("the clock is green in colour", "shade is along the street", "man is wearing sneakers")
    assert (items[0].photo_key, items[0].width, items[0].height) == ("vg:1", 800, 600)
