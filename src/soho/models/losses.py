"""Losses: tensors in, (sum, count) out, so that micro-batches and processes can be normalised together."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

IGNORE = -100

SumAndCount = tuple[Tensor, Tensor]


def classification_loss(logits: Tensor, labels: Tensor) -> SumAndCount:
    """Sum of cross-entropies over the places whose label is not -100 (Eq. 6 and 8).

    Args:
        logits: (M, classes).
        labels: (M,) class indices or -100.

    Returns:
        Sum () and number of terms () as floats.
    """
    kept = labels != IGNORE
    total = F.cross_entropy(logits.float(), labels, ignore_index=IGNORE, reduction="sum")
    return total, kept.sum().float()


def masked_visual_loss(logits: Tensor, labels: Tensor, pair: Tensor, pairs: Tensor) -> SumAndCount:
    """Cross-entropy of masked cells, averaged inside each pair, summed over pairs (Eq. 7).

    All masked cells of a pair carry one label, so the pair, not the cell, is the unit: a large sky weighs no more
    than a small face. It also makes the number of terms known before the forward pass.

    Args:
        logits: (M, K) at masked cells.
        labels: (M,) index of the hidden code.
        pair: (M,) which pair a cell belongs to.
        pairs: () number of pairs that count as terms.

    Returns:
        Sum () and `pairs` as float.
    """
    each = F.cross_entropy(logits.float(), labels, reduction="none")
    length = int(pair.max()) + 1 if len(pair) else 1
    cells = torch.zeros(length, device=each.device).index_add_(0, pair, torch.ones_like(each))
    return (each / cells[pair]).sum(), pairs.float()


def answer_loss(logits: Tensor, targets: Tensor) -> SumAndCount:
    """Binary cross-entropy with soft targets, summed over answers (section 4.2.2).

    Args:
        logits: (B, A).
        targets: (B, A) soft scores in [0, 1]; a row that starts with -100 is ignored.

    Returns:
        Sum () over the kept rows and their number ().
    """
    kept = targets[:, 0] != IGNORE
    each = F.binary_cross_entropy_with_logits(logits.float(), targets.float().clamp(min=0.0), reduction="none")
    return (each.sum(dim=1) * kept).sum(), kept.sum().float()


def normalise(parts: dict[str, SumAndCount], denominators: dict[str, Tensor] | None) -> dict[str, Tensor]:
    """Divide each part by its own count, or by the count of the whole optimizer-step batch where it is given."""
    given = denominators or {}
    return {name: total / given.get(name, count).clamp(min=1.0) for name, (total, count) in parts.items()}


def accuracy(logits: Tensor, labels: Tensor) -> SumAndCount:
    """Count the labels that have the highest logit.

    Args:
        logits: (M, classes).
        labels: (M,) class indices or -100.

    Returns:
        Right ones () and all labelled ones (), detached, as floats.
    """
    kept = labels != IGNORE
    return ((logits.argmax(-1) == labels) & kept).sum().float().detach(), kept.sum().float()
