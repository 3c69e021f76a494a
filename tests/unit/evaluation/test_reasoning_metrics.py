"""NLVR2: accuracy, consistency by sentence, lists and splits; and the official script's figures."""

from __future__ import annotations

import csv
import gzip
import json

import pytest

from soho.errors import SohoError
from soho.evaluation.reasoning_metrics import ReasoningScore, sentence_group
from tests.unit.evaluation.parity import parity_file

# Identifier, prediction, truth, lists. Sentences: dev-1-0 (3 examples), dev-1-1, dev-2-0.
DEV = [
    ("dev-1-0-0", True, True, ("balanced",)),
    ("dev-1-1-0", False, False, ("balanced",)),
    ("dev-1-2-0", True, False, ("unbalanced",)),
    ("dev-1-0-1", False, False, ()),
    ("dev-2-0-0", True, True, ("unbalanced",)),
]


def score_of(rows: list[tuple[str, bool, bool, tuple[str, ...]]]) -> ReasoningScore:
    score = ReasoningScore()
    for row in rows:
        score.update(*row)
    return score


def test_a_group_is_a_sentence_over_all_its_pairs_of_pictures() -> None:
    assert sentence_group("dev-850-2-0") == "dev-850-0"
    assert sentence_group("dev-850-3-0") == sentence_group("dev-850-0-0") != sentence_group("dev-850-0-1")
    assert sentence_group("test1-850-2-0") != sentence_group("dev-850-2-0")
    for wrong in ("dev-850-2", "dev-850-2-0-img0"):
        with pytest.raises(SohoError, match=f"the NLVR2 identifier '{wrong}' must look like"):
            sentence_group(wrong)


def test_accuracy_and_consistency() -> None:
    assert score_of(DEV).result() == pytest.approx(
        {
            "accuracy": 4 / 5,
            "consistency": 2 / 3,  # dev-1-0 has a wrong one
            "balanced/accuracy": 1.0,
            "unbalanced/accuracy": 1 / 2,
            "examples": 5,
            "sentences": 3,
        }
    )


def test_several_splits_are_told_apart() -> None:
    rows = [("test1-1-0-0", True, True, ()), ("test1-1-1-0", True, False, ()), ("test2-1-0-0", False, False, ())]
    assert score_of(rows).result() == pytest.approx(
        {
            "accuracy": 2 / 3,
            "consistency": 1 / 2,
            "test-P/accuracy": 1 / 2,
            "test-P/consistency": 0.0,
            "test-U/accuracy": 1.0,
            "test-U/consistency": 1.0,
            "examples": 3,
            "sentences": 2,
        }
    )


def test_a_sentence_may_be_spread_over_processes() -> None:
    for cut in range(len(DEV) + 1):
        merged = score_of(DEV[:cut]).merge(score_of(DEV[cut:]))
        assert merged.result() == pytest.approx(score_of(DEV).result())
        assert merged.groups == {"dev-1-0": False, "dev-1-1": True, "dev-2-0": True}


def test_nothing_seen() -> None:
    figures = ReasoningScore().result()
    assert figures["examples"] == figures["sentences"] == 0
    assert figures["accuracy"] != figures["accuracy"]
    assert figures["consistency"] != figures["consistency"]


def test_the_official_script_says_the_same() -> None:
    expected = json.loads(parity_file("nlvr2/expected.json").read_text())
    lines = gzip.decompress(parity_file("nlvr2/examples.json.gz").read_bytes()).decode().splitlines()
    truths = {row["identifier"]: row["label"] == "True" for row in map(json.loads, lines)}
    with parity_file("nlvr2/predictions.csv").open() as file:
        predictions = {identifier: said == "True" for identifier, said in csv.reader(file)}
    assert set(predictions) == set(truths)
    score = score_of([(identifier, predictions[identifier], truths[identifier], ()) for identifier in truths])
    figures = score.result()
    assert figures["accuracy"] == pytest.approx(expected["accuracy"], abs=1e-12)
    assert figures["consistency"] == pytest.approx(expected["consistency"], abs=1e-12)
