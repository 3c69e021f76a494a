"""Scoring a rectangle of pairs gives what scoring each pair gives."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from soho.errors import SohoError
from soho.models import SohoForImageTextRetrieval
from soho.models.pair_scorer import GridScorer
from tests.unit.models.tiny import picture_batch, stirred, tiny_config

DUAL = {"itc_pooling": "dual_encoder", "visual_summary": True, "fusion_start": 1}
CONTRAST = {"itc_weight": 1.0, "match_adds_contrast": True}


def retrieval_model(layers: int, **fields: Any) -> SohoForImageTextRetrieval:
    torch.manual_seed(0)
    config = tiny_config(num_hidden_layers=layers, visual_input="features", **fields)
    return stirred(SohoForImageTextRetrieval(config)).eval()


@pytest.mark.parametrize(
    ("layers", "fields"),
    [
        (1, {}),
        (2, {}),
        (3, {}),
        (2, CONTRAST),
        (2, {**CONTRAST, "itc_pooling": "fusion"}),
        (3, {"fusion_start": 1}),
        (3, {"fusion_start": 2}),
        (3, {**CONTRAST, **DUAL, "fusion_start": 1}),
    ],
)
@torch.inference_mode()
def test_a_grid_equals_its_pairs(layers: int, fields: dict[str, Any]) -> None:
    model = retrieval_model(layers, **fields)
    batch = picture_batch(3)
    visual, visual_mask = model.image_tokens(batch["pixel_values"], batch["pixel_mask"])
    text, text_mask = model.text_tokens(batch["input_ids"][:2], batch["attention_mask"][:2])
    assert not text_mask.all()
    assert not visual_mask.all()
    grid = GridScorer(model).score_grid(text, text_mask, visual, visual_mask)
    assert grid.shape == (3, 2)
    wanted = model.score_pairs(
        text.repeat(3, 1, 1),
        text_mask.repeat(3, 1),
        visual.repeat_interleave(2, 0),
        visual_mask.repeat_interleave(2, 0),
    )
    torch.testing.assert_close(grid.flatten(), wanted, atol=1e-5, rtol=1e-5)
    assert wanted.std() > 0.01
    # Some pairs of it, in any order and also twice.
    images, texts = torch.tensor([2, 0, 1, 1, 2]), torch.tensor([1, 1, 0, 1, 1])
    some = GridScorer(model).score_chosen(text, text_mask, visual, visual_mask, images, texts)
    torch.testing.assert_close(some, grid[images, texts], atol=1e-5, rtol=1e-5)
    # The forward pass says the same.
    pairs = {"pair_image_index": torch.arange(3).repeat_interleave(2), "pair_text_index": torch.arange(2).repeat(3)}
    inputs = {"input_ids": batch["input_ids"][:2], "attention_mask": batch["attention_mask"][:2], **pairs}
    logits = model(batch["pixel_values"], pixel_mask=batch["pixel_mask"], **inputs).logits
    torch.testing.assert_close(logits[:, 1] - logits[:, 0], wanted, atol=1e-5, rtol=1e-5)
    rounded = GridScorer(model, torch.bfloat16).score_grid(text, text_mask, visual, visual_mask)
    torch.testing.assert_close(rounded, grid, atol=0.05, rtol=0.05)
    assert not torch.equal(rounded, grid)
    assert next(model.parameters()).dtype == torch.float32  # the model itself is left as it was


@torch.inference_mode()
def test_the_first_layer_projects_every_token_once_a_side() -> None:
    model = retrieval_model(2)
    text, visual = torch.randn(16, 5, 16), torch.randn(8, 6, 16)
    masks = torch.ones(16, 5, dtype=torch.bool), torch.ones(8, 6, dtype=torch.bool)
    with FlopCounterMode(display=False) as grid:
        GridScorer(model).score_grid(text, masks[0], visual, masks[1])
    with FlopCounterMode(display=False) as pairs:
        model.score_pairs(
            text.repeat(8, 1, 1),
            masks[0].repeat(8, 1),
            visual.repeat_interleave(16, 0),
            masks[1].repeat_interleave(16, 0),
        )
    spared = 2 * 3 * 16 * 16 * (8 * 16 * 11 - (16 * 5 + 8 * 6))  # three maps of 16 x 16, for each pair but once
    assert pairs.get_total_flops() - grid.get_total_flops() == spared


@pytest.mark.parametrize("pooling", [{"itc_pooling": "embeddings"}, {"itc_pooling": "fusion"}, DUAL])
@torch.inference_mode()
def test_the_vectors_are_those_of_the_contrastive_head(pooling: dict[str, Any]) -> None:
    model = retrieval_model(2, itc_weight=1.0, **pooling)
    batch = picture_batch(3)
    visual, visual_mask = model.image_tokens(batch["pixel_values"], batch["pixel_mask"])
    text, text_mask = model.text_tokens(batch["input_ids"], batch["attention_mask"])
    images, texts = model.image_vectors(visual, visual_mask), model.text_vectors(text, text_mask)
    with torch.autocast("cpu", dtype=torch.bfloat16):  # the order of a first stage hangs on small differences
        scorer = GridScorer(model)
        torch.testing.assert_close(scorer.image_vectors(visual, visual_mask), images)
        torch.testing.assert_close(scorer.text_vectors(text, text_mask), texts)
    torch.testing.assert_close(images.norm(dim=-1), torch.ones(3))
    assert (images @ texts.t()).std() > 0.01


def test_a_model_without_contrastive_head_has_no_vectors() -> None:
    with pytest.raises(SohoError, match="this model has no contrastive head"):
        GridScorer(retrieval_model(1)).image_vectors(torch.zeros(1, 2, 16), torch.ones(1, 2, dtype=torch.bool))
