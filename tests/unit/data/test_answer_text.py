from __future__ import annotations

import json

import pytest

from soho.data.answer_text import CONTRACTIONS, clean_spaces, normalize_answer
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


def test_tables_agree_with_the_official_tool() -> None:
    tables = json.loads(shared_data("../parity/metrics/vqa_tables.json").read_text())
    # Keys with capitals never match, because the text is lower case by then; identities change nothing.
    effective = {key: word for key, word in tables["contractions"].items() if key == key.lower() and key != word}
    assert effective == CONTRACTIONS
    for word, digit in tables["numbers"].items():
        assert normalize_answer(word) == digit
    for article in tables["articles"]:
        assert normalize_answer(f"{article} dog") == "dog"
    for mark in tables["punctuation"]:
        assert normalize_answer(f"x{mark}y") == "x y"
        assert normalize_answer(f"x{mark} y") == "x y"


def test_scores_agree_with_the_official_tool() -> None:
    cases = json.loads(shared_data("../parity/metrics/vqa_score.json").read_text())["cases"]
    assert len(cases) == 400
    for case in cases:
        answers = [clean_spaces(answer) for answer in case["answers"]]
        prediction = clean_spaces(case["prediction"])
        if len(set(answers)) > 1:
            answers, prediction = [normalize_answer(answer) for answer in answers], normalize_answer(prediction)
        others = [answers[:index] + answers[index + 1 :] for index in range(len(answers))]
        accuracy = sum(min(1.0, rest.count(prediction) / 3) for rest in others) / len(others)
        assert 100 * accuracy == pytest.approx(case["accuracy_percent"], abs=1e-5), case


def test_the_usual_answer_list_is_in_normal_form() -> None:
    answers = json.loads(shared_data("samples/vqa_v2/trainval_label2ans.json").read_text())
    assert len(answers) == 3129
    assert [answer for answer in answers if normalize_answer(answer) != answer] == []
