from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from soho.data.images import ImageStore
from soho.data.readers import coco
from soho.errors import SohoError
from tests.support import shared_data
from tests.unit.data.pictures import write_json, write_pictures

IMAGES = [
    {"id": 391895, "file_name": "COCO_val2014_000000391895.jpg", "width": 640, "height": 360},
    {"id": 9, "file_name": "COCO_val2014_000000000009.jpg"},
    {"id": 7, "file_name": "COCO_val2014_000000000007.jpg"},
]
CAPTIONS = [
    {"image_id": 9, "id": 50, "caption": "First of nine.\n"},
    {"image_id": 391895, "id": 51, "caption": "A man  with a red helmet"},
    {"image_id": 9, "id": 52, "caption": "Second of nine."},
]


def _write(tmp_path: Path, images: Any = None, annotations: Any = None) -> tuple[Path, ImageStore]:
    content = {"images": IMAGES if images is None else images, "annotations": annotations or CAPTIONS}
    write_pictures(tmp_path / "images", [row["file_name"] for row in IMAGES])
    return write_json(tmp_path / "captions.json", content), ImageStore([tmp_path / "images"])


def test_images_with_their_captions(tmp_path: Path) -> None:
    path, store = _write(tmp_path)
    items, notes = coco.read_captions(path, store)
    assert [item.image_id for item in items] == ["391895", "9"]
    first, second = items
    assert (first.photo_key, first.width, first.height) == ("coco:391895", 640, 360)
    assert first.image.path == str(tmp_path / "images" / "COCO_val2014_000000391895.jpg")
    assert first.captions == ("A man with a red helmet",)
    assert second.captions == ("First of nine.", "Second of nine.")
    assert second.caption_ids == ("50", "52")
    assert (second.width, second.height) == (0, 0)
    assert (notes.rows, notes.used, notes.texts, notes.missing) == (3, 2, 3, 0)
    assert notes.dropped == {"image without captions": 1}
    assert notes.dropped_names == {"image without captions": ["COCO_val2014_000000000007.jpg"]}


def test_limit_and_list_of_names(tmp_path: Path) -> None:
    path, store = _write(tmp_path)
    assert [item.image_id for item in coco.read_captions(path, store, limit=1)[0]] == ["391895"]
    for names in (["9"], ["COCO_val2014_000000000009.jpg"], ["COCO_val2014_000000000009"]):
        assert [item.image_id for item in coco.read_captions(path, store, names=names)[0]] == ["9"]


def test_photos_of_the_2017_release(tmp_path: Path) -> None:
    path, _ = _write(tmp_path)
    write_pictures(tmp_path / "val2017", ["000000391895.jpg", "000000000009.jpg"])
    items, _ = coco.read_captions(path, ImageStore([tmp_path / "val2017"]))
    assert [Path(item.image.path).name for item in items] == ["000000391895.jpg", "000000000009.jpg"]


def test_missing_images(tmp_path: Path) -> None:
    path, store = _write(tmp_path)
    (tmp_path / "images" / "COCO_val2014_000000000009.jpg").unlink()
    with pytest.raises(
        SohoError, match=r"coco: 1 image that .*captions\.json names is not in .*: COCO_val2014_0+9\.jpg"
    ):
        coco.read_captions(path, store)
    items, notes = coco.read_captions(path, ImageStore([tmp_path / "images"]), on_missing="skip")
    assert [item.image_id for item in items] == ["391895"]
    assert (notes.missing, notes.missing_names) == (1, ["COCO_val2014_000000000009.jpg"])
    assert notes.lines()[0] == f"coco ({path}): 1 image not found: COCO_val2014_000000000009.jpg"


def test_an_empty_caption_is_an_error_or_left_out(tmp_path: Path) -> None:
    path, store = _write(tmp_path, annotations=[*CAPTIONS, {"image_id": 9, "id": 53, "caption": " \n"}])
    with pytest.raises(SohoError, match=r"captions\.json, annotations\[3\]: caption 53: empty caption"):
        coco.read_captions(path, store)
    items, notes = coco.read_captions(path, store, on_missing="skip")
    assert [len(item.captions) for item in items] == [1, 2]
    assert notes.dropped["empty caption"] == 1


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ("text", r"annotations\[3\]: an object was expected, found a string"),
        ({"id": 1, "caption": "x"}, r'annotations\[3\]: the key "image_id" is missing'),
        ({"image_id": 9, "caption": "x"}, r'annotations\[3\]: the key "id" is missing'),
        ({"image_id": [9], "id": 1, "caption": "x"}, r'"image_id" must be a number or a string, found a list: \[9\]'),
        ({"image_id": 9, "id": 1, "caption": 5}, r'annotations\[3\]: "caption" must be a string, found a number: 5'),
        ({"image_id": 9, "id": 1}, r'annotations\[3\]: "caption" must be a string, the key is missing'),
        ({"image_id": 9, "id": 50, "caption": "x"}, r"annotations\[3\]: the caption id 50 was used before"),
        ({"image_id": 8, "id": 1, "caption": "x"}, r"caption 1: caption of an image that the file does not list"),
    ],
)
def test_broken_caption_rows(tmp_path: Path, row: Any, sentence: str) -> None:
    path, store = _write(tmp_path, annotations=[*CAPTIONS, row])
    with pytest.raises(SohoError, match=sentence):
        coco.read_captions(path, store)


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ({"id": 9, "file_name": "x.jpg"}, r"images\[3\]: the image id 9 was used before"),
        ({"id": 10, "file_name": None}, r'images\[3\]: "file_name" must be a string, found null'),
        ({"file_name": "x.jpg"}, r'images\[3\]: the key "id" is missing'),
    ],
)
def test_broken_image_rows(tmp_path: Path, row: Any, sentence: str) -> None:
    path, store = _write(tmp_path, images=[*IMAGES, row])
    with pytest.raises(SohoError, match=sentence):
        coco.read_captions(path, store)


def test_all_broken_rows_are_counted_and_ten_are_told(tmp_path: Path) -> None:
    path, store = _write(tmp_path, annotations=[*CAPTIONS, *({"image_id": 9, "id": 100 + i} for i in range(13))])
    with pytest.raises(SohoError) as caught:
        coco.read_captions(path, store)
    lines = str(caught.value).split("\n")
    assert lines[0] == f"{path}: 13 broken rows, the first 10:"
    assert len(lines) == 11
    assert lines[10].startswith(f"  {path}, annotations[12]: ")


def test_another_file_is_named(tmp_path: Path) -> None:
    _, store = _write(tmp_path)
    path = write_json(tmp_path / "instances.json", {"images": IMAGES, "annotations": [{"bbox": [1, 2, 3, 4]}]})
    with pytest.raises(
        SohoError, match=r"instances\.json is a COCO instances file .*but a COCO captions file .*was expected"
    ):
        coco.read_captions(path, store)


def test_ids_that_are_no_numbers_get_keys_of_their_own_data_set(tmp_path: Path) -> None:
    images = [{"id": "xy", "file_name": IMAGES[1]["file_name"]}]
    path, store = _write(tmp_path, images=images, annotations=[{"image_id": "xy", "id": "c", "caption": "x"}])
    items, _ = coco.read_captions(path, store, name="mine")
    assert items[0].photo_key == "mine:xy"


def test_the_published_sample(tmp_path: Path) -> None:
    # Its five captions belong to images that the cut-down images list lacks.
    path = shared_data("samples/coco_captions/captions_val2014.sample.json")
    write_pictures(tmp_path, ["COCO_val2014_000000391895.jpg"])
    with pytest.raises(SohoError, match=r"5 broken rows"):
        coco.read_captions(path, ImageStore([tmp_path]))
    with pytest.raises(SohoError, match=r"gives no rows \(5 left out, caption of an image that the file does not list"):
        coco.read_captions(path, ImageStore([tmp_path]), on_missing="skip")
    results = shared_data("samples/coco_captions/captions_val2014_fakecap_results.json")
    with pytest.raises(SohoError, match=r"is a COCO caption results file, but a COCO captions file"):
        coco.read_captions(results, ImageStore([tmp_path]))
