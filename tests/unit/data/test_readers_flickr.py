from __future__ import annotations

from pathlib import Path

import pytest

from soho.data.images import ImageStore
from soho.data.readers import flickr8k, flickr30k
from soho.data.readers.files import read_names
from soho.errors import SohoError
from tests.support import shared_data
from tests.unit.data.pictures import write_pictures

TOKENS = """1000092795.jpg#0\tTwo young guys .
1000092795.jpg#1\tTwo young , White males .
10002456.jpg#0\tSeveral men in hard hats .

36979.jpg#0\tA group of friends .
"""


def _write(tmp_path: Path, text: str = TOKENS) -> tuple[Path, ImageStore]:
    path = tmp_path / "results.token"
    path.write_text(text)
    write_pictures(tmp_path / "images", ["1000092795.jpg", "10002456.jpg", "36979.jpg"])
    return path, ImageStore([tmp_path / "images"])


def test_captions_of_every_image(tmp_path: Path) -> None:
    path, store = _write(tmp_path)
    items, notes = flickr30k.read_captions(path, store)
    assert [item.image_id for item in items] == ["1000092795.jpg", "10002456.jpg", "36979.jpg"]
    assert items[0].photo_key == "flickr:1000092795"
    assert items[0].captions == ("Two young guys .", "Two young , White males .")
    assert items[0].caption_ids == ("1000092795.jpg#0", "1000092795.jpg#1")
    assert (notes.rows, notes.used, notes.texts) == (3, 3, 4)


def test_a_split_list_gives_images_and_order(tmp_path: Path) -> None:
    path, store = _write(tmp_path)
    for names in (["36979.jpg", "10002456.jpg"], ["36979", "10002456"]):  # Flickr30k Entities leaves .jpg out
        items, notes = flickr30k.read_captions(path, store, names=names)
        assert [item.image_id for item in items] == ["36979.jpg", "10002456.jpg"]
        assert notes.rows == 2
    assert len(flickr30k.read_captions(path, store, limit=2)[0]) == 2


def test_a_listed_name_without_captions(tmp_path: Path) -> None:
    path, store = _write(tmp_path)
    with pytest.raises(SohoError, match=r"split list: 5\.jpg: in the split list, but without captions"):
        flickr30k.read_captions(path, store, names=["36979.jpg", "5.jpg"])
    items, notes = flickr30k.read_captions(path, store, names=["36979.jpg", "5.jpg"], on_missing="skip")
    assert len(items) == 1
    assert notes.dropped_names == {"in the split list, but without captions": ["5.jpg"]}


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("no tab here", r"results\.token:6: expected \"<image>#<number><TAB><caption>\", found 'no tab here'"),
        ("a.jpg\tno number", r"results\.token:6: expected"),
        ("a.jpg#x\tno number", r"results\.token:6: expected"),
        ("36979.jpg#1\t  ", r"results\.token:6: 36979\.jpg#1: empty caption"),
        ("36979.jpg#0\tAgain", r"results\.token:6: the caption id 36979\.jpg#0 was used before"),
        ("a.jpg#0\tNot there", r"1 image that .*results\.token names is not in .*images: a\.jpg"),
    ],
)
def test_broken_lines(tmp_path: Path, line: str, sentence: str) -> None:
    path, store = _write(tmp_path, TOKENS + line + "\n")
    with pytest.raises(SohoError, match=sentence):
        flickr30k.read_captions(path, store)


def test_the_bogus_name_of_flickr8k_is_not_taken_for_the_photo(tmp_path: Path) -> None:
    path, store = _write(tmp_path, TOKENS + "36979_ab.jpg.1#0\tPeople waiting .\n")
    items, notes = flickr8k.read_captions(path, store, on_missing="skip")
    assert len(items) == 3
    assert notes.missing_names == ["36979_ab.jpg.1"]
    with pytest.raises(SohoError, match=r"flickr8k: 1 image .*: 36979_ab\.jpg\.1 \(on_missing: skip"):
        flickr8k.read_captions(path, store)
    # A split list that names the real photo finds it without captions; it never gets the bogus name's captions.
    with pytest.raises(SohoError, match=r"36979_ab\.jpg: in the split list, but without captions"):
        flickr8k.read_captions(path, store, names=["36979.jpg", "36979_ab.jpg"])


def test_flickr8k_as_published() -> None:
    folder = shared_data("flickr8k")
    tokens = folder / "Flickr8k.token.txt"
    store = ImageStore([folder / "images_train.zip"])
    names = read_names(folder / "Flickr_8k.trainImages.txt")
    with pytest.raises(SohoError, match=r"1 image that .* is not in .*images_train\.zip: 3050606344_af711c726c\.jpg"):
        flickr8k.read_captions(tokens, store, names=names)
    items, notes = flickr8k.read_captions(tokens, store, names=names, on_missing="skip")
    assert (len(items), notes.rows, notes.texts, notes.missing) == (5999, 6000, 29995, 1)
    assert notes.missing_names == ["3050606344_af711c726c.jpg"]
    assert items[0].image_id == "2513260012_03d33305cf.jpg"
    dev, _ = flickr8k.read_captions(
        tokens, ImageStore([folder / "images_dev.zip"]), names=read_names(folder / "Flickr_8k.devImages.txt")
    )
    assert len(dev) == 1000
    assert not {item.photo_key for item in dev} & {item.photo_key for item in items}


def test_flickr30k_as_published(tmp_path: Path) -> None:
    path = shared_data("samples/flickr30k/results_20130124.sample.token")
    store = ImageStore([write_pictures(tmp_path, ["1000092795.jpg", "10002456.jpg"])])
    items, notes = flickr30k.read_captions(path, store)
    assert [len(item.captions) for item in items] == [5, 2]
    assert items[1].photo_key == "flickr:10002456"
    assert notes.texts == 7
