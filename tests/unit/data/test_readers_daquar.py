from __future__ import annotations

from pathlib import Path

import pytest

from soho.data.images import ImageStore
from soho.data.readers import daquar
from soho.data.sources import Source, load_questions
from soho.errors import SohoError
from soho.evaluation.vqa_score import VqaScore
from tests.support import shared_data
from tests.unit.data.pictures import write_pictures

TRIPLES = """what is on the  desk ?
book, scissor, papers, tape_dispenser
image3
how many chairs are there ?
2
image3
what is behind the table ?
garbage_bin
image10

"""


def written(tmp_path: Path, text: str = TRIPLES) -> tuple[Path, ImageStore]:
    write_pictures(tmp_path / "images", ["image3.jpg", "image10.png"])
    path = tmp_path / "qa.triple"
    path.write_text(text)
    return path, ImageStore([tmp_path / "images"])


def test_triples(tmp_path: Path) -> None:
    items, notes = daquar.read_questions(*written(tmp_path))
    assert [item.question for item in items] == [
        "what is on the desk ?",
        "how many chairs are there ?",
        "what is behind the table ?",
    ]
    assert [item.answers for item in items] == [("book, papers, scissor, tape dispenser",), ("2",), ("garbage bin",)]
    assert [item.answer_type for item in items] == ["multiple", "single", "single"]
    assert [(item.question_id, item.image_id, item.photo_key) for item in items] == [
        ("1", "image3", "nyu:3"),
        ("2", "image3", "nyu:3"),
        ("3", "image10", "nyu:10"),
    ]
    assert Path(items[2].image.path).name == "image10.png"
    assert (notes.rows, notes.used, notes.texts) == (3, 3, 3)


def test_answers_are_sets(tmp_path: Path) -> None:
    """The order of the words says nothing, a lacking word makes it wrong; single answers are measured apart."""
    path, store = written(tmp_path)
    items, _ = daquar.read_questions(path, store)
    reordered = TRIPLES.replace(
        "book, scissor, papers, tape_dispenser", "papers, book,tape_dispenser , scissor, papers"
    )
    path.write_text(reordered)
    assert daquar.read_questions(path, store)[0][0].answers == items[0].answers
    score = VqaScore()
    for item, prediction in zip(items, ("book papers scissor tape dispenser", "3", "garbage bin")):
        score.update(prediction, item.answers, item.answer_type)
    assert score.result() == pytest.approx(
        {"accuracy": 2 / 3, "answer_type/multiple": 1.0, "answer_type/single": 1 / 2}
    )
    assert VqaScore().update("book papers scissor", items[0].answers) == 0.0


def test_the_held_out_fifth_is_chosen_by_photograph(tmp_path: Path) -> None:
    # `printf image6 | b2sum -l 64` gives 51eaee78a1a211de, divisible by five; image3 e4cdfbab47552fb3, not.
    assert int("51eaee78a1a211de", 16) % 5 == 0
    assert daquar.is_held_out("image6")
    assert not daquar.is_held_out("image3")
    path, store = written(tmp_path, TRIPLES.replace("image10", "image6"))
    write_pictures(tmp_path / "images", ["image6.png"])
    questions = {split: daquar.read_questions(path, store, split=split)[0] for split in ("train", "held_out")}
    assert [item.question_id for item in questions["train"]] == ["1", "2"]
    assert [item.question_id for item in questions["held_out"]] == ["3"]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (TRIPLES.rstrip() + "\nwhat is it ?\nchair\n", r"qa\.triple:10: 11 lines are no triples"),
        ("what ?\nchair\nphoto 3\n", r"qa\.triple:3: expected a photograph like image3, found 'photo 3'"),
        ("what ?\n ,\nimage3\n", r"qa\.triple:2: the answer is empty"),
        ("\nchair\nimage3\n", r"qa\.triple:1: the question is empty"),
        ("what ?\nchair\nimage5\n", r"daquar: 1 image that .*qa\.triple names is not in .*images: image5\.png"),
        ("", r"daquar: .*qa\.triple gives no rows"),
    ],
)
def test_broken_files(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(SohoError, match=sentence):
        daquar.read_questions(*written(tmp_path, text))


def test_missing_photographs_are_counted(tmp_path: Path) -> None:
    path, store = written(tmp_path, TRIPLES.rstrip() + "\nwhat ?\nchair\nimage5\n")
    items, notes = daquar.read_questions(path, store, on_missing="skip")
    assert len(items) == 3
    assert notes.missing_names == ["image5.png"]
    assert notes.dropped == {"question whose image was not found": 1}
    assert len(daquar.read_questions(path, store, limit=1)[0]) == 1


def test_an_unknown_split(tmp_path: Path) -> None:
    with pytest.raises(SohoError, match="no split 'test' of DAQUAR's files; expected train or held_out"):
        daquar.read_questions(*written(tmp_path), split="test")


def test_the_published_file() -> None:
    root = shared_data("daquar")
    common = {"format": "daquar", "annotations": root / "qa.894.raw.train.format_triple"}
    both = {
        split: load_questions(Source(**common, images=root / "images_train.zip", split=split))[0]
        for split in ("train", "held_out")
    }
    assert {split: len(items) for split, items in both.items()} == {"train": 5396, "held_out": 1399}
    photographs = {split: {item.photo_key for item in items} for split, items in both.items()}
    assert {split: len(keys) for split, keys in photographs.items()} == {"train": 629, "held_out": 165}
    assert not photographs["train"] & photographs["held_out"]
    assert sum(item.answer_type == "multiple" for items in both.values() for item in items) == 641
