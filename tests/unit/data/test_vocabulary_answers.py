from __future__ import annotations

import pytest

from soho.data.schema import ImageRef, VisualQuestion
from soho.data.vocabulary_answers import build_answer_vocabulary, majority_answer, soft_scores
from soho.errors import SohoError


def _question(*answers: str) -> VisualQuestion:
    return VisualQuestion("1", "1", "coco:1", ImageRef("a.jpg"), "?", tuple(answers))


def test_majority_is_counted_after_normalisation() -> None:
    assert majority_answer(["Two", "2.", "three", "three", "2"]) == "2"
    assert majority_answer(["blue", "red", "red", "blue"]) == "blue"  # first given among equals
    assert majority_answer(["the", ".", "cat"]) == "cat"
    assert majority_answer(["the", "?"]) is None
    assert majority_answer([]) is None


def test_answers_that_are_the_majority_often_enough() -> None:
    questions = [
        *[_question("yes", "yes", "no")] * 3,
        *[_question("Red.")] * 2,
        *[_question("a cat", "cat")] * 2,
        _question("dog"),
        _question(),
    ]
    assert build_answer_vocabulary(questions, 1) == ["yes", "cat", "red", "dog"]
    assert build_answer_vocabulary(questions, 2) == ["yes", "cat", "red"]
    assert build_answer_vocabulary(iter(questions), 3) == ["yes"]  # "no" is never a majority


def test_no_answer_is_frequent_enough() -> None:
    with pytest.raises(SohoError, match=r'given to 9 or more questions \(the most frequent one, "red", stands at 2\)'):
        build_answer_vocabulary([_question("red"), _question("red"), _question("blue")], 9)
    with pytest.raises(SohoError, match=r"no question has an answer"):
        build_answer_vocabulary([_question()], 1)


def test_soft_scores_of_ten_annotators() -> None:
    vocabulary = {"net": 0, "netting": 1, "yes": 2}
    answers = ["net", "Net.", "the net", "netting", "net", "mesh", "mesh", "netting", "orange", "x"]
    assert soft_scores(answers, vocabulary) == {0: 1.0, 1: pytest.approx(2 / 3)}
    assert soft_scores(["mesh"] * 10, vocabulary) == {}
    assert soft_scores(["yes"] + ["mesh"] * 9, vocabulary) == {2: pytest.approx(1 / 3)}


def test_fewer_than_three_annotators_divide_by_their_number() -> None:
    vocabulary = {"red": 0, "blue": 1}
    assert soft_scores(["red"], vocabulary) == {0: 1.0}
    assert soft_scores(["red", "blue"], vocabulary) == {0: 0.5, 1: 0.5}
    assert soft_scores(["red", "green"], vocabulary) == {0: 0.5}
    assert soft_scores(["red", "red", "blue"], vocabulary) == {0: pytest.approx(2 / 3), 1: pytest.approx(1 / 3)}
    assert soft_scores([], vocabulary) == {}


def test_a_list_from_elsewhere_may_hold_other_forms() -> None:
    assert soft_scores(["T-Shirt"], {"t-shirt": 4}) == {4: 1.0}
