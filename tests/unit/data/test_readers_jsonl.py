from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path
from typing import Any

import pytest

from soho.data.images import ImageStore
from soho.data.readers import jsonl
from soho.data.schema import ImageRef
from soho.errors import SohoError
from tests.support import shared_data
from tests.unit.data.pictures import write_json, write_jsonl, write_pictures

ROWS: list[Any] = [
    {"image": "a.jpg", "captions": ["A red bicycle.", " A  bike. "]},
    {"image": "b.jpg", "caption": "Two cats."},
    "",
    {"image": "a.jpg", "question": "What colour?", "answers": ["red", "red", "dark red"]},
    {"image": "b.jpg", "question": "How many cats?", "answer": "2", "id": "q7"},
    {"image": "a.jpg", "caption": "Once more."},
    {"image": "sub/c.jpg", "question": "Where?"},
]


def _write(tmp_path: Path, rows: list[Any]) -> tuple[Path, ImageStore]:
    write_pictures(tmp_path / "photos", ["a.jpg", "b.jpg", "sub/c.jpg"])
    return write_jsonl(tmp_path / "own.jsonl", rows), ImageStore([tmp_path / "photos"])


def test_captions(tmp_path: Path) -> None:
    path, store = _write(tmp_path, ROWS)
    items, notes = jsonl.read_captions(path, store)
    assert [item.image_id for item in items] == ["a.jpg", "b.jpg"]
    assert items[0].captions == ("A red bicycle.", "A bike.", "Once more.")
    assert items[0].caption_ids == ("a.jpg#0", "a.jpg#1", "a.jpg#2")
    digest = hashlib.sha256(str(tmp_path / "photos" / "a.jpg").encode()).hexdigest()
    assert [item.photo_key == f"file:{digest[:32]}" for item in items] == [True, False]
    assert items[0].photo_key == jsonl.read_questions(path, store)[0][0].photo_key  # the same picture
    assert (notes.rows, notes.used, notes.texts) == (3, 2, 4)
    limited, _ = jsonl.read_captions(path, store, limit=1)
    assert [item.captions for item in limited] == [("A red bicycle.", "A bike.", "Once more.")]


def test_questions(tmp_path: Path) -> None:
    path, store = _write(tmp_path, ROWS)
    items, notes = jsonl.read_questions(path, store)
    assert [item.question_id for item in items] == ["a.jpg#0", "q7", "sub/c.jpg#0"]
    assert [item.answers for item in items] == [("red", "red", "dark red"), ("2",), ()]
    assert items[2].image.path == str(tmp_path / "photos" / "sub" / "c.jpg")
    assert (notes.rows, notes.texts) == (3, 3)
    assert len(jsonl.read_questions(path, store, limit=2)[0]) == 2


def test_one_row_may_hold_both_and_ids_count_apart(tmp_path: Path) -> None:
    both = {"image": "a.jpg", "caption": "x", "question": "y", "id": 1}
    path, store = _write(tmp_path, [both])
    assert jsonl.read_captions(path, store)[0][0].image_id == "1"
    assert jsonl.read_questions(path, store)[0][0].question_id == "1"
    apart = [{"image": "a.jpg", "caption": "x", "id": 1}, {"image": "a.jpg", "question": "x", "id": 1}]
    path, store = _write(tmp_path, apart)
    assert len(jsonl.read_captions(path, store)[0]) == 1


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ('{"image": "a.jpg", "caption": "x"', "not JSON (Expecting ',' delimiter at column 34)"),
        ("a.jpg a red bicycle", "not JSON (Expecting value at column 1)"),
        (["a.jpg"], 'an object like {"image": ..., "captions": [...]} was expected, found a list'),
        ({"caption": "x"}, 'the key "image" is missing'),
        ({"img": "a.jpg", "caption": "x"}, 'unknown key "img"; did you mean "image"?'),
        ({"image": "a.jpg", "captoins": ["x"]}, 'unknown key "captoins"; did you mean "captions"?'),
        (
            {"image": "a.jpg", "caption": "x", "zzz": 1},
            'unknown key "zzz"; known are image, captions, caption, question, answers, answer, id',
        ),
        ({"image": 3, "caption": "x"}, '"image" must be a string, found a number: 3'),
        ({"image": " ", "caption": "x"}, '"image" is empty'),
        ({"image": "a.jpg"}, 'neither "captions" nor "question" is given'),
        ({"image": "a.jpg", "answer": "x"}, 'neither "captions" nor "question" is given'),
        ({"image": "a.jpg", "caption": "x", "answer": "x"}, "an answer is given without a question"),
        ({"image": "a.jpg", "caption": "x", "captions": ["y"]}, 'both "caption" and "captions" are given; keep one'),
        ({"image": "a.jpg", "caption": 5}, '"caption" must be a string, found a number: 5'),
        ({"image": "a.jpg", "caption": ["x"]}, "\"caption\" must be a string, found a list: ['x']"),
        ({"image": "a.jpg", "caption": ""}, '"caption" is empty'),
        (
            {"image": "a.jpg", "captions": "x"},
            '"captions" must be a list of strings, found a string: \'x\' (for one, write "caption")',
        ),
        ({"image": "a.jpg", "captions": []}, '"captions" is an empty list'),
        ({"image": "a.jpg", "captions": ["x", None]}, '"captions" must be a list of strings, but number 2 is null'),
        ({"image": "a.jpg", "captions": ["x", " "]}, 'number 2 of "captions" is empty'),
        ({"image": "a.jpg", "question": {}, "answer": "x"}, '"question" must be a string, found an object: {}'),
        ({"image": "a.jpg", "question": " "}, '"question" is empty'),
        ({"image": "a.jpg", "question": "x", "answers": {"a": 1}}, '"answers" must be a list of strings, found an obj'),
        (
            {"image": "a.jpg", "question": "x", "answers": ["x", 2]},
            '"answers" must be a list of strings, but number 2 is a number: 2',
        ),
        ({"image": "a.jpg", "question": "x", "answer": True}, '"answer" must be a string, found a true/false value'),
        ({"image": "a.jpg", "caption": "x", "id": None}, '"id" must be a string or a number, found null'),
        ({"image": "a.jpg", "caption": "x", "id": "first"}, 'the id "first" was used in line 1'),
        ({"image": "A.jpeg", "caption": "x"}, 'the image "A.jpeg" is not in '),
    ],
)
def test_every_broken_row_gives_one_sentence_with_its_line(tmp_path: Path, row: Any, sentence: str) -> None:
    path, store = _write(tmp_path, [{"image": "b.jpg", "caption": "fine", "id": "first"}, row])
    with pytest.raises(SohoError) as caught:
        jsonl.read_captions(path, store)
    message = str(caught.value)
    assert message.startswith(f"{path}:2: {sentence}")
    assert "\n" not in message


def test_a_missing_image_is_listed_with_a_similar_name(tmp_path: Path) -> None:
    path, store = _write(tmp_path, [{"image": "A.jpeg", "caption": "x"}, {"image": "b.jpg", "caption": "x"}])
    with pytest.raises(SohoError, match=r'own\.jsonl:1: the image "A\.jpeg" is not in .*photos; there is "a\.jpg"'):
        jsonl.read_captions(path, store)
    items, notes = jsonl.read_captions(path, store, on_missing="skip")
    assert [item.image_id for item in items] == ["b.jpg"]
    assert (notes.rows, notes.missing, notes.missing_names) == (2, 1, ["A.jpeg"])


def test_a_name_that_stands_for_two_files_is_a_broken_row(tmp_path: Path) -> None:
    path, _ = _write(tmp_path, [{"image": "c.jpg", "caption": "x"}])
    write_pictures(tmp_path / "photos", ["other/c.jpg"])
    with pytest.raises(SohoError, match=r'own\.jsonl:1: the image name "c\.jpg" stands for 2 files'):
        jsonl.read_captions(path, ImageStore([tmp_path / "photos"]))


def test_all_broken_rows_are_counted_and_ten_are_told(tmp_path: Path) -> None:
    rows = [{"image": "b.jpg", "caption": "fine"}, *({"image": f"no{k}.jpg", "caption": "x"} for k in range(6))]
    path, store = _write(tmp_path, [*rows, *["{"] * 6])
    with pytest.raises(SohoError) as caught:
        jsonl.read_captions(path, store)
    lines = str(caught.value).split("\n")
    assert lines[0] == f"{path}: 12 broken rows, the first 10:"
    assert len(lines) == 11
    assert lines[1].startswith(f'  {path}:2: the image "no0.jpg" is not in ')
    assert lines[10].startswith(f"  {path}:11: not JSON")


def test_bytes_that_are_not_utf8_and_a_byte_order_mark(tmp_path: Path) -> None:
    path, store = _write(tmp_path, [])
    path.write_bytes(b'\xef\xbb\xbf{"image": "a.jpg", "caption": "x"}\r\n{"image": "b.jpg", "caption": "caf\xe9"}\r\n')
    with pytest.raises(SohoError, match=r"own\.jsonl:2: not UTF-8 text; save the file as UTF-8"):
        jsonl.read_captions(path, store)
    path.write_bytes(path.read_bytes().replace(b"\xe9", "é".encode()))
    assert [item.captions for item in jsonl.read_captions(path, store)[0]] == [("x",), ("café",)]


def test_files_that_are_no_json_lines(tmp_path: Path) -> None:
    _, store = _write(tmp_path, [])
    upstream = write_json(tmp_path / "captions.json", {"images": [], "annotations": [{"caption": "x"}]})
    with pytest.raises(SohoError, match=r"captions\.json is a COCO captions file, but JSON Lines .* set its format"):
        jsonl.read_captions(upstream, store)
    (tmp_path / "list.json").write_text('[\n  {"image": "a.jpg", "caption": "x"}\n]\n')
    with pytest.raises(SohoError, match=r"list\.json is one JSON value over many lines, but JSON Lines"):
        jsonl.read_captions(tmp_path / "list.json", store)
    path, store = _write(tmp_path, [{"image": "a.jpg", "question": "only"}])
    with pytest.raises(
        SohoError, match=r"jsonl: .*own\.jsonl gives no rows \(it holds only questions \(1\), but captions"
    ):
        jsonl.read_captions(path, store)


def test_own_rows_about_published_photos(tmp_path: Path) -> None:
    archive = shared_data("daquar/images_train.zip")
    store = ImageStore([archive])
    with zipfile.ZipFile(archive) as opened:
        member = next(name for name in opened.namelist() if name.endswith(".jpg"))
    row = {"image": Path(member).name, "question": "What?", "answer": "table"}
    items, _ = jsonl.read_questions(write_jsonl(tmp_path / "own.jsonl", [row]), store)
    assert items[0].image == ImageRef(member, str(archive))
    assert items[0].photo_key == f"file:{hashlib.sha256(f'{archive}!{member}'.encode()).hexdigest()[:32]}"
