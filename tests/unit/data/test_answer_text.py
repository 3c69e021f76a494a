from __future__ import annotations

import json

import pytest

from soho.data.answer_text import clean_spaces, normalize_answer
from tests.support import shared_data


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("Yes.", "yes"),
        ("  The two Dogs ", "2 dogs"),
        ("none", "0"),
        ("ten", "10"),
        ("eleven", "eleven"),
        ("a an the", ""),
        ("dont know", "don't know"),
        ("doesnt", "doesn't"),
        ("somebody'd", "somebodyd"),
        ("1,000", "1000"),
        ("1,000 dogs-cats", "1000 dogscats"),  # a number with comma: every mark is removed
        ("red, white", "red white"),
        ("red,white", "red white"),  # a mark inside a word becomes a space
        ("t-shirt", "t shirt"),
        ("well - known", "well known"),
        ("3.5", "3.5"),
        (".5", ".5"),
        ("5.", "5"),
        ("u.s.", "us"),
        ("what?!", "what"),
        ("it's", "it's"),
        ("black/white", "black white"),
        ("black\n and\twhite", "black and white"),
        ("a" + "." * 40, "a" + "." * 8),  # the official tool removes at most 32 stops
    ],
)
def test_normal_form(answer: str, expected: str) -> None:
    assert normalize_answer(answer) == expected


def test_clean_spaces() -> None:
    assert clean_spaces(" a\nb\tc ") == "a b c"


def test_the_usual_answer_list_is_in_normal_form() -> None:
    answers = json.loads(shared_data("samples/vqa_v2/trainval_label2ans.json").read_text())
    assert len(answers) == 3129
    assert [answer for answer in answers if normalize_answer(answer) != answer] == []
