"""Sizes, padding, normalisation, WordPiece and learning rates beside those of the release."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from transformers import BertTokenizer

from soho.conversion import released_image_processor
from soho.processing.image_processing_soho import SohoImageProcessor
from soho.processing.processing_soho import SohoProcessor
from soho.training.optimization import learning_rate_factor
from tests.parity.official import FOLDER, present, release_training


def aux() -> dict[str, Any]:
    return json.loads(present(FOLDER / "aux_cases.json").read_text(encoding="utf-8"))


def rows_of(table: dict[str, Any]) -> list[dict[str, Any]]:
    return [dict(zip(table["columns"], row)) for row in table["rows"]]


def test_sizes_after_resizing_and_padding() -> None:
    table = aux()["resize_pad"]
    processor = released(longer_edge=table["scale"][0], shorter_edge=table["scale"][1])
    for row in rows_of(table):
        size = row["in_w"], row["in_h"]
        assert processor.target_size(*size) == (row["resized_w"], row["resized_h"]), size
        assert processor.padded_size(*size) == (row["padded_w"], row["padded_h"]), size


def released(**settings: Any) -> SohoImageProcessor:
    """Return the image processor that a converted folder holds."""
    processor = released_image_processor()
    for name, value in settings.items():
        setattr(processor, name, value)
    return processor


def test_sizes_at_several_scales() -> None:
    tables = {name: table for name, table in aux().items() if name.startswith("multiscale_")}
    assert tables
    for name, table in tables.items():
        width, height = map(int, name.removeprefix("multiscale_").split("x"))
        for row in rows_of(table):
            processor = released(longer_edge=row["long"], shorter_edge=row["short"])
            assert processor.target_size(width, height) == (row["w"], row["h"])


def test_normalisation() -> None:
    table = aux()["normalize"]
    picture = np.array(table["bgr_uint8_hwc"], dtype=np.uint8)[..., ::-1]  # ours reads RGB
    expected = np.array(table["rgb_float32_hwc"])
    encoded = released(do_resize=False, smallest_padded_edge=1)(np.ascontiguousarray(picture), return_tensors="np")
    height, width = expected.shape[:2]
    values = encoded["pixel_values"][0].transpose(1, 2, 0)
    assert np.abs(values[:height, :width] - expected).max() <= 1e-6 * np.abs(expected).max()
    # Padded to the divisor with zeros on the right and below.
    assert values.shape[:2] == (released().size_divisor, released().size_divisor)
    assert not values[height:].any()
    assert not values[:, width:].any()
    assert encoded["pixel_mask"][0].sum() == height * width


def test_word_pieces() -> None:
    table = aux()["tokenizer"]
    tokenizer = BertTokenizer(vocab={word: number for number, word in enumerate(table["vocab"])})
    processor = SohoProcessor(released(), tokenizer, text_length=table["max_length"])
    assert len(table["rows"]) > 5
    for row in table["rows"]:
        tokens = tokenizer.tokenize(row["text"])
        assert tokens[: len(row["tokens"])] == row["tokens"], row["text"]
        # The table breaks off long texts, behind what a model reads of them.
        assert len(tokens) == len(row["tokens"]) or len(row["tokens"]) > table["max_length"]
        encoded = processor(text=row["text"], padding="max_length")
        assert encoded["input_ids"][0].tolist() == row["input_ids"]
        assert encoded["attention_mask"][0].tolist() == row["attention_mask"]


@pytest.mark.parametrize("task", ["pretrain", "vqa"])
def test_learning_rates(task: str) -> None:
    """The release counts micro-iterations, a recipe optimizer steps; here both are told in micro-iterations."""
    table = aux()["lr_schedule"]
    settings = release_training(task)
    schedule = settings.schedule.model_copy()
    schedule.warmup_steps *= settings.accumulation
    rows = [dict(zip(table["columns"], values)) for values in table[task]]
    assert len(rows) > 5
    for row in rows:
        assert row["epoch"] == row["iter"] // table["iters_per_epoch"]
        factor = learning_rate_factor(row["iter"], schedule, table["iters_per_epoch"], total_steps=10**9)
        assert factor * settings.optimizer.lr == pytest.approx(row["lr_adamw"], rel=1e-12), row
        assert factor * settings.backbone_optimizer.lr == pytest.approx(row["lr_sgd"], rel=1e-12), row
