"""The second stage of a search: the fusion Transformer reads a text together with stored picture tokens."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from tqdm import tqdm

from soho.evaluation.scoring_engine import Engine, refuse_nan
from soho.search.first_stage import ROW_BITS, Best
from soho.search.segments import Indices, Segment, Vectors, take_tokens

# Pairs that go through the fusion Transformer together.
PAIRS = 64


def rerank(
    engine: Engine, segments: Sequence[Segment], text: Tensor, text_mask: Tensor, pictures: Indices
) -> npt.NDArray[np.float32]:
    """Return the match scores (k,) of one text and some pictures, as the pair scorer gives them.

    Args:
        engine: of the model, ready.
        segments: of the index.
        text: (1, L, C) embedded text.
        text_mask: (1, L) bool.
        pictures: (k,) as `nearest` names them.
    """
    places = [(int(name) >> ROW_BITS, int(name) & ((1 << ROW_BITS) - 1)) for name in pictures]
    counts = np.array([int(segments[place].store.counts[row]) for place, row in places], dtype=np.int64)
    scores = np.empty(len(places), dtype=np.float32)
    order = np.argsort(-counts, kind="stable")  # so that pictures of one length stand together
    for start in range(0, len(order), PAIRS):
        part = order[start : start + PAIRS]
        visual, visual_mask = take_tokens(segments, [places[place] for place in part])
        images, texts = np.arange(len(part)), np.zeros(len(part), dtype=np.int64)
        scores[part] = engine.score_chosen(text, text_mask, visual, visual_mask, images, texts)
    refuse_nan(scores, pictures, np.zeros(len(places), dtype=np.int64))
    return scores


def score_everything(
    engine: Engine, segments: Sequence[Segment], texts: Tensor, texts_mask: Tensor, top: int, progress: bool
) -> tuple[Vectors, Indices]:
    """Score every picture with every text and return the best.

    Args:
        engine: of the model, ready.
        segments: of the index.
        texts: (Q, L, C) embedded texts.
        texts_mask: (Q, L) bool.
        top: how many pictures a text gets, or all where there are fewer.
        progress: show a bar with rate and time left.

    Returns:
        (Q, top) match scores and (Q, top) pictures, best first, as `nearest` names them.
    """
    best = Best(len(texts), top)
    total = len(texts) * sum(len(segment.live) for segment in segments)
    size = max(1, PAIRS // len(texts))
    step = max(1, PAIRS // size)
    with tqdm(total=total, desc="pairs", unit="pair", unit_scale=True, disable=not progress, dynamic_ncols=True) as bar:
        for place, segment in enumerate(segments):
            rows = segment.live[np.argsort(-segment.counts(segment.live), kind="stable")]
            for start in range(0, len(rows), size):
                part = rows[start : start + size]
                visual, visual_mask = segment.store.take(part)
                scores = np.empty((len(texts), len(part)), dtype=np.float32)
                for low in range(0, len(texts), step):
                    words = slice(low, low + step)
                    tile = engine.score_block(texts[words], texts_mask[words], visual.float(), visual_mask)  # (a, b)
                    scores[words] = tile.T
                    bar.update(tile.size)
                names = (place << ROW_BITS) | part
                refuse_nan(scores.ravel(), np.tile(names, len(texts)), np.arange(len(texts)).repeat(len(part)))
                best.add(scores, names)
    return best.ranked()


def embed(engine: Engine, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor, Vectors]:
    """Return what both stages need of Q texts.

    Args:
        engine: of the model, ready.
        input_ids: (Q, L).
        attention_mask: (Q, L).

    Returns:
        (Q, L, C) embedded texts, (Q, L) bool mask and (Q, D) unit vectors.
    """
    tokens, mask = engine.text_tokens(input_ids, attention_mask)
    vectors = engine.text_vectors(tokens, mask)
    return tokens, mask, vectors.to(torch.float32).cpu().numpy()
