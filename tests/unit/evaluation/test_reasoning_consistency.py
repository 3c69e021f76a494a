"""NLVR2 by hand: which examples make one sentence, and what a wrong one costs."""

from __future__ import annotations

import math

import pytest

from soho.errors import SohoError
from soho.evaluation.reasoning_metrics import ReasoningScore

# Identifier, prediction, truth. Sentence 0 of set 7 on three pairs (one wrong), sentence 1 of set 7 on one pair,
# sentence 0 of set 8 on two.
ROWS = [
    ("dev-7-0-0", True, True),
    ("dev-7-1-0", False, False),
    ("dev-7-3-0", False, True),
    ("dev-7-0-1", True, True),
    ("dev-8-0-0", False, False),
    ("dev-8-2-0", False, False),
]


def scored(*rows: tuple[str, bool, bool]) -> ReasoningScore:
    score = ReasoningScore()
    for identifier, prediction, label in rows:
        score.update(identifier=identifier, prediction=prediction, label=label)
    return score


def figures(score: ReasoningScore) -> tuple[float, float]:
    found = score.result()
    return found["accuracy"], found["consistency"]


def test_accuracy_and_consistency_by_hand() -> None:
    # Five of six examples; two of three sentences.
    assert figures(scored(*ROWS)) == pytest.approx((5 / 6, 2 / 3))


def test_the_same_set_number_in_two_splits_is_two_sets() -> None:
    assert figures(scored(("dev-1-0-0", False, True), ("test1-1-0-0", True, True))) == (0.5, 0.5)


def test_parts_merge_to_the_whole_although_a_sentence_lies_in_both() -> None:
    assert figures(scored(*ROWS[::2]).merge(scored(*ROWS[1::2]))) == figures(scored(*ROWS))


def test_nothing_seen_is_not_a_number() -> None:
    assert all(math.isnan(value) for value in figures(ReasoningScore()))


def test_an_identifier_of_another_form() -> None:
    with pytest.raises(SohoError, match="dev-7-0"):
        scored(("dev-7-0", True, True))
