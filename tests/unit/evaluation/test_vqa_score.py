from __future__ import annotations

import pytest

from soho.errors import SohoError
from soho.evaluation.vqa_score import VqaScore, score_answers, vqa_accuracy


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


def test_a_tie_of_the_annotators_makes_both_answers_right() -> None:
    answers = ["red"] * 5 + ["blue"] * 5
    assert vqa_accuracy("red", answers) == vqa_accuracy("blue", answers) == 1.0
    # Two, two and six: each of the twos keeps 1/3 in two sets and 2/3 in eight.
    answers = ["red"] * 2 + ["blue"] * 2 + ["green"] * 6
    assert vqa_accuracy("red", answers) == pytest.approx((2 * 1 / 3 + 8 * 2 / 3) / 10)
    assert vqa_accuracy("blue", answers) == vqa_accuracy("red", answers)


@pytest.mark.parametrize(
    ("prediction", "given", "score"),
    [
        ("yes", "Yes.", 1.0),  # case and full stop
        ("dog", "a dog", 1.0),  # article
        ("the", "an", 1.0),  # nothing but articles: both are empty
        ("2", "two", 1.0),  # number word
        ("dont know", "don't know", 1.0),  # contraction
        ("3.5", "3.5.", 1.0),  # a stop between digits stays, one at the end goes
        ("35", "3.5", 0.0),
        ("1000", "1,000", 1.0),
        ("t shirt", "t-shirt", 1.0),  # a mark inside a word becomes a space
        ("tshirt", "t-shirt", 0.0),
        ("red white", "red, white", 1.0),  # a mark at a word's edge is removed
        ("dogs", "dog", 0.0),  # no stemming
        ("it's", "its", 0.0),  # "its" is a word of its own
        ("", "?!", 1.0),  # nothing but punctuation
    ],
)
def test_rules_of_normalisation_where_annotators_differ(prediction: str, given: str, score: float) -> None:
    # Four annotators gave it, which is full agreement; six gave something else, so that normalisation takes place.
    assert vqa_accuracy(prediction, [given] * 4 + ["something else"] * 6) == score


def test_an_empty_answer_matches_only_empty_ones() -> None:
    assert vqa_accuracy("", ["red"] * 10) == 0.0
    assert vqa_accuracy("", [""] * 4 + ["red"] * 6) == 1.0
    assert vqa_accuracy("red", [""] * 8 + ["red"] * 2) == pytest.approx(0.6)


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
