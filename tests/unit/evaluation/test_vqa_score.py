from __future__ import annotations

import json

import pytest

from soho.errors import SohoError
from soho.evaluation.vqa_score import VqaScore, score_answers, vqa_accuracy
from tests.unit.evaluation.parity import parity_file


@pytest.mark.parametrize(
    ("matches", "score"),
    # m matching of ten: m sets keep m - 1 of them, 10 - m sets keep m.
    [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)],
)
def test_leave_one_out_average_of_ten(matches: int, score: float) -> None:
    answers = ["red"] * matches + ["blue"] * (10 - matches)
    assert vqa_accuracy("red", answers) == pytest.approx(score)


def test_normalised_only_where_annotators_differ() -> None:
    assert vqa_accuracy("yes", ["Yes"] * 10) == 0.0
    assert vqa_accuracy("Yes", ["Yes"] * 10) == 1.0
    assert vqa_accuracy("yes", ["Yes"] * 9 + ["no"]) == 1.0
    assert vqa_accuracy("the two dogs", ["2 dogs"] * 5 + ["dogs"] * 5) == 1.0


def test_line_breaks_and_outer_spaces_never_count() -> None:
    assert vqa_accuracy(" red\n", ["red"] * 10) == 1.0
    assert vqa_accuracy("fire\ttruck", ["fire truck"] * 10) == 1.0


def test_fewer_annotators() -> None:
    assert vqa_accuracy("A dog.", ["dog"]) == 1.0
    assert vqa_accuracy("cat", ["dog"]) == 0.0
    assert vqa_accuracy("dog", ["dog", "dog"]) == 1.0
    assert vqa_accuracy("dog", ["dog", "cat"]) == 0.5
    # Three annotators, two match: without a match 2/2, without one of the matching two 1/2 each.
    assert vqa_accuracy("dog", ["dog", "dog", "cat"]) == pytest.approx(2 / 3)
    assert vqa_accuracy("dog", ["dog"] * 4) == 1.0


def test_no_answers_cannot_be_scored() -> None:
    with pytest.raises(SohoError, match="without annotators' answers"):
        vqa_accuracy("dog", [])


def test_breakdown_and_merge() -> None:
    left, right = VqaScore(), VqaScore()
    assert left.update("red", ["red"] * 10, "other", "what color") == 1.0
    left.update("yes", ["no"] * 10, "yes/no", "is the")
    right.update("no", ["no"] * 10, "yes/no", "is there")
    assert left.merge(right).result() == pytest.approx(
        {
            "accuracy": 2 / 3,
            "answer_type/other": 1.0,
            "answer_type/yes/no": 0.5,
            "question_type/is the": 0.0,
            "question_type/is there": 1.0,
            "question_type/what color": 1.0,
        }
    )


def test_score_answers_wants_each_question_once() -> None:
    truths = {"1": ["a"] * 10, "2": ["b"] * 10}
    assert score_answers({"1": "a", "2": "c"}, truths, {"1": "other"}).result() == {
        "accuracy": 0.5,
        "answer_type/other": 1.0,
    }
    with pytest.raises(SohoError, match="question 2 has no prediction"):
        score_answers({"1": "a"}, truths)
    with pytest.raises(SohoError, match="question 3 was answered but"):
        score_answers({"1": "a", "2": "c", "3": "d"}, truths)


def test_official_evaluator_agrees_in_every_number() -> None:
    expected = json.loads(parity_file("vqa_score.json").read_text())
    score = VqaScore()
    for case in expected["cases"]:
        found = score.update(case["prediction"], case["answers"], case["answer_type"], case["question_type"])
        assert 100 * found == pytest.approx(case["accuracy_percent"], abs=1e-6), case
    found = score.result()
    assert 100 * found["accuracy"] == pytest.approx(expected["overall"], abs=5e-3)
    for kind in ("question_type", "answer_type"):
        for name, value in expected[f"per_{kind}"].items():
            assert 100 * found[f"{kind}/{name}"] == pytest.approx(value, abs=1e-6)
