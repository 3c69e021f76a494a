"""Ranking pictures by texts without an index: every pair is scored."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from soho.errors import SohoError
from soho.models.modeling_retrieval import SohoForImageTextRetrieval
from soho.models.pair_scorer import GridScorer
from soho.pipelines.pairs import PAIRS
from soho.pipelines.pictures import Picture, shape_batches
from soho.pipelines.predictions import Hit
from soho.processing.processing_soho import SohoProcessor


def rank_pictures(
    model: SohoForImageTextRetrieval,
    processor: SohoProcessor,
    texts: Sequence[str],
    images: Sequence[Picture],
    top: int | None,
    batch_size: int,
) -> list[list[Hit]]:
    """Score every text with every picture; see `SohoPipeline.search`."""
    if batch_size < 1 or (top is not None and top < 1):
        raise SohoError(f"batch_size={batch_size} and top={top} must be at least 1")
    if not texts or not len(images):
        return [[] for _ in texts]
    scorer = GridScorer(model, next(model.trunk.fusion.parameters()).dtype)
    device = model.device
    words = processor(text=texts, return_tensors="pt").to(device)
    text, text_mask = scorer.text_tokens(words["input_ids"], words["attention_mask"])
    scores = torch.empty(len(texts), len(images))
    for rows in shape_batches([images], processor.image_processor, batch_size):
        batch = processor(images=rows.pictures[0], canvas=rows.shapes[0], return_tensors="pt").to(device)
        visual, mask = scorer.image_tokens(batch["pixel_values"], batch["pixel_mask"])
        step = max(1, PAIRS // len(rows.places))
        for low in range(0, len(texts), step):
            part = slice(low, low + step)
            found = scorer.score_grid(text[part], text_mask[part], visual, mask)
            scores[part, rows.places] = found.t().float().cpu()
    best = scores.argsort(dim=1, descending=True, stable=True)[:, :top]
    return [[Hit(int(place), float(line[place])) for place in order] for line, order in zip(scores, best)]
