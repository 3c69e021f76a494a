from __future__ import annotations

import math

import pytest

from soho.errors import SohoError
from soho.evaluation.reasoning_metrics import ReasoningScore


def scored(*rows: tuple[str, str, bool | str, bool | str]) -> ReasoningScore:
    score = ReasoningScore()
    for row in rows:
        score.update(*row)
    return score


# Sentence 0 of set 7 on three pairs (one wrong), sentence 1 of set 7 on one pair, sentence 0 of set 8 on two.
ROWS = [
    ("dev-7-0-0", "two dogs", True, True),
    ("dev-7-1-0", "two dogs", False, False),
    ("dev-7-3-0", "two dogs", True, False),
    ("dev-7-0-1", "a cat", "True", "true"),
    ("dev-8-0-0", "two dogs", "False", "False"),
    ("dev-8-2-0", "two dogs", "False", False),
]


def test_accuracy_and_consistency_by_hand() -> None:
    # Five of six examples; two of three sentences. "two dogs" of set 8 is another sentence than that of set 7.
    assert scored(*ROWS).result() == pytest.approx({"accuracy": 5 / 6, "consistency": 2 / 3})


def test_the_same_set_number_in_two_splits_is_two_sets() -> None:
    found = scored(("dev-1-0-0", "x", True, False), ("test1-1-0-0", "x", True, True)).result()
    assert found == {"accuracy": 0.5, "consistency": 0.5}


def test_parts_merge_to_the_whole_although_a_sentence_lies_in_both() -> None:
    left, right = scored(*ROWS[::2]), scored(*ROWS[1::2])
    assert left.merge(right).result() == scored(*ROWS).result()


def test_update_says_whether_it_is_right() -> None:
    assert ReasoningScore().update("dev-1-0-0", "x", "False", "false")
    assert not ReasoningScore().update("dev-1-0-0", "x", "False", "true")


def test_other_identifiers_are_grouped_by_their_sentence() -> None:
    rows = [("a", "one", True, True), ("b", "one", True, False), ("c", "two", True, True)]
    assert scored(*rows).result() == pytest.approx({"accuracy": 2 / 3, "consistency": 1 / 2})


def test_nothing_seen_is_not_a_number() -> None:
    assert all(math.isnan(value) for value in ReasoningScore().result().values())


def test_an_example_counts_once() -> None:
    score = scored(ROWS[0])
    with pytest.raises(SohoError, match="example dev-7-0-0 was scored before"):
        score.update(*ROWS[0])
    with pytest.raises(SohoError, match="example dev-7-0-0 was scored before"):
        score.merge(scored(ROWS[0]))


def test_a_value_that_is_neither_true_nor_false() -> None:
    with pytest.raises(SohoError, match="the prediction of example dev-1-0-0 is 'yes'; expected True or False"):
        ReasoningScore().update("dev-1-0-0", "x", True, "yes")
