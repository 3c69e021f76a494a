from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from soho.data.images import ImageStore
from soho.data.readers import gqa
from soho.data.sources import Source, load_questions, photographs_of
from soho.errors import SohoError
from tests.support import shared_data
from tests.unit.data.pictures import write_json, write_pictures

QUESTIONS: dict[str, Any] = {
    "07333408": {
        "imageId": "2375429",
        "question": "What is on the  white wall?",
        "answer": "pipe",
        "types": {"structural": "query"},
    },
    "07333405": {
        "imageId": "n17",
        "question": "Is it red?",
        "answer": "no",
        "types": {"structural": "verify"},
        "isBalanced": True,
    },
    "1": {"imageId": "2375429", "question": "Withheld?"},
}
DATA = [{"image_id": 2375429, "url": "", "width": 8, "height": 6, "coco_id": 9}]


def written(tmp_path: Path, questions: Any = None) -> tuple[Path, ImageStore]:
    write_pictures(tmp_path / "images", ["2375429.jpg", "n17.jpg"])
    return write_json(tmp_path / "q.json", questions or QUESTIONS), ImageStore([tmp_path / "images"])


def test_questions(tmp_path: Path) -> None:
    path, store = written(tmp_path)
    items, notes = gqa.read_questions(path, store, image_data=write_json(tmp_path / "d.json", DATA))
    assert [item.question_id for item in items] == ["07333408", "07333405", "1"]
    assert items[0].question == "What is on the white wall?"
    assert [item.answers for item in items] == [("pipe",), ("no",), ()]
    assert [(item.question_type, item.answer_type) for item in items] == [
        ("query", "open"),
        ("verify", "binary"),
        ("", ""),
    ]
    assert [item.photo_key for item in items] == ["coco:9", "vg:n17", "coco:9"]
    assert notes.remarks == []
    items, notes = gqa.read_questions(path, store, limit=1)
    assert [item.photo_key for item in items] == ["vg:2375429"]
    assert "cannot be recognised" in notes.remarks[0]


def test_as_a_source_and_as_something_to_leave_out(tmp_path: Path) -> None:
    path, _ = written(tmp_path)
    source = Source(format="gqa", annotations=path, images=tmp_path / "images")
    assert len(load_questions(source)[0]) == 3
    assert photographs_of(source.model_copy(update={"images": [Path("gone")]})) == {"vg:2375429", "vg:n17"}


@pytest.mark.parametrize(
    ("questions", "sentence"),
    [
        ([1], r"q\.json is a list of 1 numbers, but a GQA questions file"),
        ({"1": {"question": "x"}}, r"q\.json is an object with the keys \"1\", but a GQA questions file"),
        ({"1": {"imageId": "n17", "answer": "x"}}, r'q\.json, "1": "question" must be a string, the key is missing'),
        (
            {"1": {"imageId": "n17", "question": "x", "answer": 3}},
            r'q\.json, "1": "answer" must be a string, found a number: 3',
        ),
        ({"1": {"imageId": "n18", "question": "x"}}, r"gqa: 1 image that .* names is not in .*images: n18\.jpg"),
    ],
)
def test_broken_files(tmp_path: Path, questions: Any, sentence: str) -> None:
    with pytest.raises(SohoError, match=sentence):
        gqa.read_questions(*written(tmp_path, questions))


def test_published_records() -> None:
    root = shared_data("samples/gqa")
    items, _ = gqa.read_questions(root / "questions.json", ImageStore([root / "images"]))
    assert items[0].question == "What is hanging above the chalkboard?"
    assert (items[0].answers, items[0].question_type, items[0].answer_type) == (("picture",), "query", "open")
    assert items[0].image.path.endswith("n578564.jpg")
