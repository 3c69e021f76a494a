from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from soho.data.readers.photo_list import read_photo_keys
from soho.data.sources import Source, load_captions, load_questions, photographs_of
from soho.errors import SohoError
from tests.support import shared_data

TABLE = "number\tfile\tsplit\n667626\t667626_18.jpg\ttrain\n36979\t36979_ab.jpg\tdev\n\n55\t55_c.jpg\ttest\n"


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "list.tsv"
    path.write_text(text)
    return path


def test_a_table(tmp_path: Path) -> None:
    path = written(tmp_path, TABLE)
    assert read_photo_keys(path, "flickr", column="number") == {"flickr:667626", "flickr:36979", "flickr:55"}
    for column in ("number", "file"):
        found = read_photo_keys(path, "flickr", column=column, split_column="split", split="dev+test")
        assert found == {"flickr:36979", "flickr:55"}


def test_a_plain_list(tmp_path: Path) -> None:
    path = written(tmp_path, "1016887272\n36979.jpg\n12_ab.jpg\n")
    assert read_photo_keys(path, "flickr") == {"flickr:1016887272", "flickr:36979", "flickr:12"}
    path = written(tmp_path, "COCO_val2014_000000391895.jpg\n000000000009.jpg\n7\n")
    assert read_photo_keys(path, "coco") == {"coco:391895", "coco:9", "coco:7"}


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"column": "name"}, r"list\.tsv has no column 'name'; its first line names number, file, split"),
        ({"column": "file", "split_column": "part", "split": "dev"}, r"has no column 'part'"),
        (
            {"column": "file", "split_column": "split", "split": "dev+val"},
            r"has no row whose split is 'val'; it has dev, test, train",
        ),
        ({"column": "split"}, r"list\.tsv:2: no photograph of flickr: 'train' \(and 2 more such rows\)"),
    ],
)
def test_what_does_not_fit(tmp_path: Path, fields: dict[str, str], sentence: str) -> None:
    with pytest.raises(SohoError, match=sentence):
        read_photo_keys(written(tmp_path, TABLE), "flickr", **fields)


def test_rows_that_are_too_short_and_empty_files(tmp_path: Path) -> None:
    with pytest.raises(SohoError, match=r"list\.tsv:2: 1 tab-separated columns, fewer than the first line names"):
        read_photo_keys(written(tmp_path, "a\tb\n1\n"), "flickr", column="b")
    with pytest.raises(SohoError, match="names no photograph"):
        read_photo_keys(written(tmp_path, "\n"), "flickr")


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({}, "format photo_list needs photos_of"),
        ({"photos_of": "flickr", "split": "dev"}, "split and split_column together"),
        ({"photos_of": "flickr", "split_column": "s", "split": "dev"}, "split_column needs column"),
        ({"photos_of": "vg"}, "'coco' or 'flickr'"),
    ],
)
def test_a_source_that_says_too_little(fields: dict[str, str], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        Source(format="photo_list", annotations="x.tsv", **fields)
    with pytest.raises(ValueError, match="photos_of belongs to format photo_list, not to flickr8k"):
        Source(format="flickr8k", annotations="x", images="y", photos_of="flickr")


def test_a_list_has_nothing_to_train_on(tmp_path: Path) -> None:
    source = Source(format="photo_list", annotations=written(tmp_path, "7\n"), photos_of="coco", name="apart")
    assert photographs_of(source) == {"coco:7"}
    for load in (load_captions, load_questions):
        with pytest.raises(
            SohoError, match=r"apart \(format photo_list, .*\) lists photographs without texts; it belong"
        ):
            load(source)


def test_the_photographs_that_flickr8k_and_snli_ve_share() -> None:
    path = shared_data("snli_ve/flickr8k_in_flickr30k.tsv")
    rows = [line.split("\t") for line in path.read_text().splitlines()[1:]]
    counted = Counter(row[3] for row in rows)
    for split in ("train", "dev", "test"):
        found = read_photo_keys(path, "flickr", column="flickr30k_id", split_column="snli_ve_split", split=split)
        assert len(found) == counted[split]
        by_file = read_photo_keys(path, "flickr", column="flickr8k_file", split_column="snli_ve_split", split=split)
        assert found == by_file
