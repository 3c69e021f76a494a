from __future__ import annotations

import gzip
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from soho.data.readers import files
from soho.data.readers.files import describe, iterate_json_list, read_json, read_lines, read_names
from soho.errors import SohoError


def test_plain_gzip_and_zip_read_the_same(tmp_path: Path) -> None:
    text = json.dumps({"a": "ü"}).encode()
    (tmp_path / "plain.json").write_bytes(text)
    (tmp_path / "packed.json.gz").write_bytes(gzip.compress(text))
    (tmp_path / "misnamed.json").write_bytes(gzip.compress(text))
    with zipfile.ZipFile(tmp_path / "one.zip", "w") as archive:
        archive.writestr("x.json", text)
        archive.writestr("__MACOSX/._x.json", b"shadow")
    with zipfile.ZipFile(tmp_path / "two.zip", "w") as archive:
        archive.writestr("x.json", text)
        archive.writestr("y/z.json", text)
    for name in ("plain.json", "packed.json.gz", "misnamed.json", "one.zip", "two.zip!y/z.json"):
        assert read_json(tmp_path / name) == {"a": "ü"}
    with pytest.raises(
        SohoError, match=r"two\.zip holds 2 files \(x\.json, y/z\.json\); name one as .*two\.zip!x\.json"
    ):
        read_json(tmp_path / "two.zip")
    with pytest.raises(SohoError, match=r"two\.zip holds no member w\.json; it holds x\.json, y/z\.json"):
        read_json(tmp_path / "two.zip!w.json")


def test_lines_split_at_line_ends_only(tmp_path: Path) -> None:
    # U+0085 and U+2028 stand inside captions and must not end a line, as str.splitlines would have it.
    (tmp_path / "a.txt").write_bytes("\ufeffone\x85\u2028 more\r\ntwo\n\nfour".encode())
    assert list(read_lines(tmp_path / "a.txt")) == [(1, "one\x85\u2028 more"), (2, "two"), (3, ""), (4, "four")]
    (tmp_path / "b.txt").write_bytes(b"fine\ncaf\xe9\n")
    with pytest.raises(SohoError, match=r"b\.txt:2: not UTF-8 text"):
        list(read_lines(tmp_path / "b.txt"))


def test_names_of_a_split_list(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a.jpg\n\n b.jpg \n")
    assert read_names(tmp_path / "a.txt") == ["a.jpg", "b.jpg"]
    (tmp_path / "b.txt").write_text("\n")
    with pytest.raises(SohoError, match=r"b\.txt: empty"):
        read_names(tmp_path / "b.txt")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b'{"a": 1,}', r"x\.json: not JSON \(line 1, column 9"),
        (b'{"a": 1}\n{"a": 2}\n', r"x\.json: not one JSON value but several lines of them"),
        (b'{"a": "caf\xe9"}', r"x\.json: not JSON: the file is not text"),
        (gzip.compress(b"[1, 2, 3]" * 50, mtime=0)[:25], r"x\.json: the compressed file is damaged or cut off"),
    ],
)
def test_what_is_not_json(tmp_path: Path, content: bytes, sentence: str) -> None:
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(SohoError, match=sentence):
        read_json(tmp_path / "x.json")


def test_missing_files_and_folders(tmp_path: Path) -> None:
    with pytest.raises(SohoError, match=r"gone\.json does not exist"):
        read_json(tmp_path / "gone.json")
    with pytest.raises(SohoError, match=r"is a folder; expected an annotation file"):
        read_json(tmp_path)


@pytest.mark.parametrize("chunk", [1, 7, 1 << 20])
def test_a_list_is_read_as_a_stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr(files, "_CHUNK", chunk)
    content = [{"id": 1, "t": 'a ] , \\ " ü'}, {"id": 22, "inner": [{"x": []}]}, {}]
    for number, text in enumerate((json.dumps(content), "  " + json.dumps(content, indent=2) + "\n")):
        path = tmp_path / f"{number}.json"
        path.write_text(text)
        assert list(iterate_json_list(path, "a list")) == content
    (tmp_path / "none.json").write_text("[ ]")
    assert list(iterate_json_list(tmp_path / "none.json", "a list")) == []


def test_a_cut_or_wrong_list_is_told(tmp_path: Path) -> None:
    (tmp_path / "cut.json").write_text('[{"a": 1}, {"a": 2')
    with pytest.raises(SohoError, match=r"cut\.json: not JSON after element 1 of the list .*cut off"):
        list(iterate_json_list(tmp_path / "cut.json", "a list"))
    (tmp_path / "object.json").write_text('{"a": 1}')
    with pytest.raises(SohoError, match=r'object\.json is an object with the keys "a", but a list of x was expected'):
        list(iterate_json_list(tmp_path / "object.json", "a list of x"))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"questions": [{"question": "?"}]}, "a VQA v2 questions file"),
        ({"annotations": [{"answers": []}]}, "a VQA v2 annotations file"),
        ({"images": [], "annotations": [{"caption": ""}]}, "a COCO captions file"),
        ({"images": [], "annotations": [{"bbox": []}]}, "a COCO instances file (boxes, no captions)"),
        ({"images": [{"sentences": []}]}, "a Karpathy split file"),
        ([{"regions": []}], "a Visual Genome region descriptions file"),
        ([{"coco_id": None}], "a Visual Genome image_data file"),
        ({"b": 1, "c": 2}, 'an object with the keys "b", "c"'),
        ({}, "an empty object"),
        ([], "an empty list"),
        ([{"x": 1}], "a list of 1 objects"),
        (3, "a single number"),
        (None, "a single null"),
    ],
)
def test_files_are_recognised(content: Any, words: str) -> None:
    assert describe(content) == words
