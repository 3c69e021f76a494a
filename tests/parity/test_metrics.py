"""Every number of the official evaluators: VQA score, NLVR2 accuracy and consistency, retrieval recalls.

The expected values lie in a folder whose layout CONTRIBUTING.md describes. `SOHO_METRICS_DIR` names another one of the
same layout; nothing here knows what is in it beyond names of files and keys.
"""

from __future__ import annotations

import csv
import gzip
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from soho.data.answer_text import CONTRACTIONS, normalize_answer
from soho.evaluation.metrics import retrieval_recalls
from soho.evaluation.reasoning_metrics import ReasoningScore
from soho.evaluation.vqa_score import VqaScore
from tests.support import SHARED

GIVEN = os.environ.get("SOHO_METRICS_DIR")
FOLDER = Path(GIVEN) if GIVEN else SHARED / "parity" / "metrics"
MATRICES = sorted(path.name for path in FOLDER.glob("*.npz"))
EXACT = 1e-6  # the files print six decimals of per cent


def expected_file(pattern: str) -> Path:
    """Return a file of the set; skip where the set is absent, fail where a set was named and is not there."""
    if GIVEN and not FOLDER.is_dir():
        pytest.fail(f"SOHO_METRICS_DIR={GIVEN} is not a folder")
    found = sorted(FOLDER.glob(pattern))
    if not found:
        pytest.skip(f"needs expected values of the official evaluators: no {pattern} in {FOLDER} (SOHO_METRICS_DIR)")
    return found[0]


def read(path: Path) -> str:
    content = path.read_bytes()
    return (gzip.decompress(content) if path.suffix == ".gz" else content).decode("utf-8")


def agrees(found: float, expected: float) -> bool:
    """Compare exactly, or, where the evaluator rounded to two decimals, with every value that rounds to the same."""
    rounded = round(expected, 2) == expected
    return abs(found - expected) <= (0.005 + 1e-9 if rounded else EXACT)


# -- VQA ------------------------------------------------------------------------------------------------------------


def scored_answers() -> tuple[dict[str, Any], VqaScore, list[float]]:
    expected = json.loads(read(expected_file("vqa_score.json*")))
    score = VqaScore()
    each = [
        score.update(case["prediction"], case["answers"], case["answer_type"], case["question_type"])
        for case in expected["cases"]
    ]
    return expected, score, each


def test_vqa_score_of_every_question() -> None:
    expected, _, each = scored_answers()
    assert expected["cases"]
    wrong = [
        (case, 100 * found)
        for case, found in zip(expected["cases"], each)
        if abs(100 * found - case["accuracy_percent"]) > EXACT
    ]
    assert wrong == []


def test_vqa_score_overall_and_by_type() -> None:
    expected, score, _ = scored_answers()
    found = score.result()
    assert agrees(100 * found.pop("accuracy"), expected["overall"])
    types = {
        f"{kind}/{name}": value
        for kind in ("question_type", "answer_type")
        for name, value in expected[f"per_{kind}"].items()
    }
    assert found.keys() == types.keys()
    wrong = {name: (100 * found[name], value) for name, value in types.items() if not agrees(100 * found[name], value)}
    assert wrong == {}


def test_vqa_tables() -> None:
    tables = json.loads(read(expected_file("vqa_tables.json*")))
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


# -- NLVR2 ----------------------------------------------------------------------------------------------------------


def test_nlvr2_accuracy_and_consistency() -> None:
    examples = [json.loads(line) for line in read(expected_file("nlvr2/examples.json*")).splitlines() if line.strip()]
    expected = json.loads(read(expected_file("nlvr2/expected.json*")))
    rows = csv.reader(read(expected_file("nlvr2/predictions.csv*")).splitlines())
    predictions = dict(rows)
    score, other = ReasoningScore(), ReasoningScore()
    for number, example in enumerate(examples):
        part = score if number % 2 else other
        label, prediction = example["label"], predictions.pop(example["identifier"])
        assert {label.lower(), prediction.lower()} <= {"true", "false"}
        part.update(
            identifier=example["identifier"], prediction=prediction.lower() == "true", label=label.lower() == "true"
        )
    assert predictions == {}
    found = score.merge(other).result()
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-12)


# -- Retrieval ------------------------------------------------------------------------------------------------------


def test_there_are_score_matrices() -> None:
    expected_file("*.npz")
    assert MATRICES


@pytest.mark.parametrize("name", MATRICES)
def test_recalls(name: str) -> None:
    case = np.load(FOLDER / name)
    kinds = {"txt_r": "tr_r", "img_r": "ir_r"}
    values = {key: float(case[key]) for key in case.files if key not in ("scores", "text_to_image")}
    wanted = {
        kinds[stem] + key.removeprefix(stem): value
        for stem in kinds
        for key, value in values.items()
        if key.startswith(stem) and key.removeprefix(stem).isdecimal()
    }
    places = sorted({int(key[4:]) for key in wanted})
    assert places, f"{name} holds no recall"
    found = {
        key: 100 * value for key, value in retrieval_recalls(case["scores"], case["text_to_image"], places).items()
    }
    assert {key: found[key] for key in wanted} == pytest.approx(wanted, abs=1e-9)
    count = Counter(key[:2] for key in wanted)
    means = {
        "txt_r_mean": sum(found[key] for key in wanted if key[:2] == "tr") / count["tr"],
        "img_r_mean": sum(found[key] for key in wanted if key[:2] == "ir") / count["ir"],
        "r_mean": found["recall_mean"],
    }
    left = {key: value for key, value in values.items() if key in means}
    assert {key: means[key] for key in left} == pytest.approx(left, abs=1e-9)
