"""Visual entailment: accuracy overall and per gold label."""

from __future__ import annotations

import pytest

from soho.evaluation.entailment_metrics import EntailmentScore

ROWS = [
    ("entailment", "entailment"),
    ("neutral", "entailment"),
    ("neutral", "neutral"),
    ("contradiction", "contradiction"),
    ("entailment", "contradiction"),
    ("entailment", "contradiction"),
]


def score_of(rows: list[tuple[str, str]]) -> EntailmentScore:
    score = EntailmentScore()
    for prediction, label in rows:
        score.update(prediction, label)
    return score


def test_accuracy_overall_and_per_gold_label() -> None:
    assert score_of(ROWS).result() == pytest.approx(
        {
            "accuracy": 3 / 6,
            "contradiction/accuracy": 1 / 3,
            "entailment/accuracy": 1 / 2,
            "neutral/accuracy": 1.0,
            "examples": 6,
        }
    )


def test_parts_merge() -> None:
    for cut in range(len(ROWS) + 1):
        assert score_of(ROWS[:cut]).merge(score_of(ROWS[cut:])).result() == pytest.approx(score_of(ROWS).result())


def test_a_label_that_does_not_occur_has_no_figure() -> None:
    assert set(score_of(ROWS[:2]).result()) == {"accuracy", "entailment/accuracy", "examples"}
