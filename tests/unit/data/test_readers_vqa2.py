from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from soho.data.images import ImageStore
from soho.data.readers import vqa2
from soho.errors import SohoError
from tests.support import shared_data
from tests.unit.data.pictures import write_json, write_pictures

QUESTIONS = [
    {"image_id": 9, "question": "What is  this?", "question_id": 9000},
    {"image_id": 9, "question": "How many?", "question_id": 9001},
    {"image_id": 458752, "question": "Is it red?", "question_id": 458752000},
]


def _annotation(question: dict[str, Any], *answers: str, **more: Any) -> dict[str, Any]:
    listed = [{"answer": text, "answer_confidence": "yes", "answer_id": k} for k, text in enumerate(answers, 1)]
    return {"question_id": question["question_id"], "image_id": question["image_id"], "answers": listed, **more}


ANNOTATIONS = [
    _annotation(QUESTIONS[2], "yes", "yes", "no", question_type="is it", answer_type="yes/no"),
    _annotation(QUESTIONS[0], "a dog"),
    _annotation(QUESTIONS[1], "2"),
]


def _write(
    tmp_path: Path, questions: Any = None, annotations: Any = None, subtype: str | None = "train2014"
) -> tuple[Path, Path, ImageStore]:
    write_pictures(tmp_path / "images", ["COCO_train2014_000000000009.jpg", "COCO_train2014_000000458752.jpg"])
    head = {"data_type": "mscoco", "data_subtype": subtype} if subtype else {}
    return (
        write_json(tmp_path / "questions.json", {**head, "questions": questions or QUESTIONS}),
        write_json(tmp_path / "annotations.json", {**head, "annotations": annotations or ANNOTATIONS}),
        ImageStore([tmp_path / "images"]),
    )


def test_questions_with_answers(tmp_path: Path) -> None:
    items, notes = vqa2.read_questions(*_write(tmp_path))
    assert [item.question_id for item in items] == ["9000", "9001", "458752000"]
    assert items[0].question == "What is this?"
    assert items[0].answers == ("a dog",)
    assert (items[0].image_id, items[0].photo_key) == ("9", "coco:9")
    assert items[2].answers == ("yes", "yes", "no")
    assert (items[2].question_type, items[2].answer_type) == ("is it", "yes/no")
    assert items[2].image.path == str(tmp_path / "images" / "COCO_train2014_000000458752.jpg")
    assert (notes.rows, notes.used, notes.texts) == (3, 3, 3)


def test_test_questions_have_no_answers(tmp_path: Path) -> None:
    questions, _, store = _write(tmp_path)
    items, _ = vqa2.read_questions(questions, None, store, limit=2)
    assert [item.answers for item in items] == [(), ()]


@pytest.mark.parametrize(
    ("subtype", "name"),
    [
        ("val2014", "COCO_val2014_000000000009.jpg"),
        ("test-dev2015", "COCO_test2015_000000000009.jpg"),
        ("train2014", "000000000009.jpg"),
        (None, "COCO_val2014_000000000009.jpg"),
    ],
)
def test_names_of_photos(tmp_path: Path, subtype: str | None, name: str) -> None:
    questions, _, _ = _write(tmp_path, QUESTIONS[:1], subtype=subtype)
    items, _ = vqa2.read_questions(questions, None, ImageStore([write_pictures(tmp_path / "other", [name])]))
    assert items[0].image.path == str(tmp_path / "other" / name)


def test_missing_photos_are_counted_once(tmp_path: Path) -> None:
    questions, annotations, _ = _write(tmp_path)
    (tmp_path / "images" / "COCO_train2014_000000000009.jpg").unlink()
    store = ImageStore([tmp_path / "images"])
    with pytest.raises(SohoError, match=r"vqa2: 1 image that .* is not in .*: COCO_train2014_000000000009\.jpg"):
        vqa2.read_questions(questions, annotations, store)
    items, notes = vqa2.read_questions(questions, annotations, store, on_missing="skip")
    assert [item.question_id for item in items] == ["458752000"]
    assert notes.missing == 1
    assert notes.dropped == {"question whose image was not found": 2}


def test_questions_and_annotations_that_do_not_belong_together(tmp_path: Path) -> None:
    questions, annotations, store = _write(tmp_path, annotations=ANNOTATIONS[:2])
    with pytest.raises(SohoError, match=r"questions\[1\]: question 9001: without annotation in .*annotations\.json"):
        vqa2.read_questions(questions, annotations, store)
    items, notes = vqa2.read_questions(questions, annotations, store, on_missing="skip")
    assert [item.question_id for item in items] == ["9000", "458752000"]
    assert list(notes.dropped.values()) == [1]
    questions, annotations, store = _write(tmp_path, questions=QUESTIONS[:1])
    _, notes = vqa2.read_questions(questions, annotations, store)
    assert notes.dropped_names == {"annotation without a question": ["458752000", "9001"]}
    other = [{**ANNOTATIONS[1], "image_id": 10}, *ANNOTATIONS[::2]]
    questions, annotations, store = _write(tmp_path, annotations=other)
    with pytest.raises(SohoError, match=r"questions\[0\]: its image is 9, but 10 in .*annotations\.json"):
        vqa2.read_questions(questions, annotations, store)


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ({"question_id": 1, "question": "?"}, r'questions\.json, questions\[3\]: the key "image_id" is missing'),
        ({"question_id": 1, "image_id": 9}, r'questions\[3\]: "question" must be a string, the key is missing'),
        ({"question_id": 1, "image_id": 9, "question": ""}, r"questions\[3\]: question 1: empty question"),
        (
            {"question_id": 9000, "image_id": 9, "question": "?"},
            r"questions\[3\]: the question id 9000 was used before",
        ),
        ([], r"questions\[3\]: an object was expected, found a list"),
    ],
)
def test_broken_questions(tmp_path: Path, row: Any, sentence: str) -> None:
    questions, _, store = _write(tmp_path, questions=[*QUESTIONS, row])
    with pytest.raises(SohoError, match=sentence):
        vqa2.read_questions(questions, None, store)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"answers": "yes"}, r'annotations\.json, annotations\[3\]: "answers" must be a list of .*found a string'),
        ({"answers": []}, r'annotations\[3\]: "answers" must be a list'),
        ({"answers": [{"answer": "x"}, {}]}, r"annotations\[3\]: each answer must be .* found an? object: \{\}"),
        ({"answers": [{"answer": 2}]}, r"annotations\[3\]: each answer must be an object with a string"),
        ({"answers": ["yes"]}, r"annotations\[3\]: each answer must be .* found a string: 'yes'"),
        ({"question_id": None}, r'annotations\[3\]: "question_id" must be a number or a string, found null'),
        ({"question_id": 9000}, r"annotations\[3\]: the question id 9000 was used before"),
    ],
)
def test_broken_annotations(tmp_path: Path, change: dict[str, Any], sentence: str) -> None:
    row = {"question_id": 77, "answers": [{"answer": "x"}], **change}
    questions, annotations, store = _write(tmp_path, annotations=[*ANNOTATIONS, row])
    with pytest.raises(SohoError, match=sentence):
        vqa2.read_questions(questions, annotations, store)


def test_files_given_in_each_others_place(tmp_path: Path) -> None:
    questions, annotations, store = _write(tmp_path)
    with pytest.raises(SohoError, match=r"is a VQA v2 questions file, but a VQA v2 annotations file .* was expected"):
        vqa2.read_questions(questions, questions, store)
    with pytest.raises(SohoError, match=r"is a VQA v2 annotations file, but a VQA v2 questions file .* was expected"):
        vqa2.read_questions(annotations, annotations, store)


def test_the_published_samples() -> None:
    folder = shared_data("samples/vqa_v2")
    store = ImageStore([folder / "images"])
    items, _ = vqa2.read_questions(
        folder / "allennlp_fixture_questions.json", folder / "allennlp_fixture_annotations.json", store
    )
    assert [item.question_id for item in items] == ["458752000", "458752001", "458752002"]
    assert items[0].answers == ("net", "net", "net", "netting", "net", "net", "mesh", "net", "pitcher", "orange")
    val_questions = folder / "v2_OpenEnded_mscoco_val2014_questions.sample.json"
    items, notes = vqa2.read_questions(
        val_questions, folder / "v2_mscoco_val2014_annotations.sample.json", store, on_missing="skip"
    )
    assert [(item.question_id, item.question_type, item.answer_type) for item in items] == [
        ("262148000", "none of the above", "other")
    ]
    assert items[0].answers[2:4] == ("at table", "skateboard")
    assert sum(notes.dropped.values()) == 6
    assert len(vqa2.read_questions(val_questions, None, store)[0]) == 7
