"""From attention weights to maps over the cells of a picture: arithmetic on tensors, no model.

Shapes: heads, S = L + N tokens of the sequence, Q rows of it that were computed (S, or 1 for [CLS] alone), h x w cells.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def attention_rows(weights: Tensor) -> Tensor:
    """Return (Q, S): the mean of attention weights (heads, Q, S) over heads."""
    return weights.mean(0)


def gradient_rows(weights: Tensor, gradient: Tensor) -> Tensor:
    """Return (Q, S): attention times the positive part of the score's gradient by it, mean over heads.

    A weight that would lower the score if it grew says nothing for the score; it counts as zero and does not take
    away what another head adds.

    Args:
        weights: (heads, Q, S).
        gradient: (heads, Q, S) of the score by each weight.
    """
    return (weights * gradient.clamp(min=0)).mean(0)


def attention_rollout(layers: Sequence[Tensor]) -> Tensor:
    """Return (S, S): how far each token of the last layer goes back to each token before the first one.

    Each layer is half attention, half the residual path (Abnar and Zuidema 2020); layers multiply.

    Args:
        layers: (heads, S, S) of each layer, first to last.
    """
    total: Tensor | None = None
    for weights in layers:
        mixed = 0.5 * attention_rows(weights)
        mixed = mixed + 0.5 * torch.eye(len(mixed), dtype=mixed.dtype, device=mixed.device)
        total = mixed if total is None else mixed @ total
    assert total is not None
    return total


def cell_map(rows: Tensor, words: Sequence[int], first_cell: int, valid: Tensor) -> Tensor:
    """Cut the map of a word out of a layer's rows.

    Args:
        rows: (Q, S) of one of the functions above.
        words: places of the word's tokens; the map is their mean.
        first_cell: place of the first cell in the sequence.
        valid: (h, w) bool; S = first_cell + h * w.

    Returns:
        (h, w), zero where not valid.
    """
    chosen = rows[list(words), first_cell:].mean(0)
    return chosen.unflatten(0, (valid.shape[0], valid.shape[1])).masked_fill(~valid, 0.0)
