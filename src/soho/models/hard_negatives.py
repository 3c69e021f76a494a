"""Which unaligned pairs of a batch are worth reading: those that look alike to the contrastive head.

The paper reads all t x t pairs of a batch (section 4.2.1). Most of its negatives are easy, and t stays small. With the
optional contrastive head a batch may hold many more pictures and texts, of which only the hard pairs are fused.
"""

from __future__ import annotations

import torch
from torch import Tensor


def pair_table(labels: Tensor, rows: Tensor, texts: Tensor, images: int, text_count: int, ignore: int) -> Tensor:
    """Return the labels (P,) of pairs as a table (B, T); pairs that are not there are ignored."""
    table = torch.full((images, text_count), ignore, dtype=labels.dtype, device=labels.device)
    table[rows, texts] = labels
    return table


def hard_pair_count(table: Tensor, most: int) -> Tensor:
    """Return how many pairs `hard_pairs` will choose, () float: known before any similarity is.

    Args:
        table: (B, T) 1 aligned, 0 unaligned, anything else ignored.
        most: negatives per aligned pair and side.
    """
    unaligned = table == 0
    aligned = table == 1
    of_image = unaligned.sum(1).clamp(max=most)  # (B,)
    of_text = unaligned.sum(0).clamp(max=most)  # (T,)
    used_image, used_text = aligned.any(1), aligned.any(0)
    return (aligned.sum() + of_image[used_image].sum() + of_text[used_text].sum()).float()


def hard_pairs(table: Tensor, similarities: Tensor, most: int, draw: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Choose all aligned pairs and, for each of their pictures and texts, the unaligned partners most alike.

    Args:
        table: (B, T) 1 aligned, 0 unaligned, anything else ignored.
        similarities: (B, T) logits of the contrastive head.
        most: unaligned texts per picture, and pictures per text.
        draw: draw partners in proportion to the softmax of the similarities (by Gumbel noise of torch's generator)
            instead of taking the most similar ones, which are too often true descriptions.

    Returns:
        Rows (P,), texts (P,) and labels (P,), aligned pairs first. A pair may be chosen by both of its sides.
    """
    aligned, unaligned = table == 1, table == 0
    scores = similarities.detach().float()
    rows, texts = aligned.nonzero(as_tuple=True)
    chosen_rows, chosen_texts = [rows], [texts]
    for side in (0, 1):
        noisy = scores - torch.empty_like(scores).exponential_().log() if draw else scores
        noisy = noisy.masked_fill(~unaligned, float("-inf"))
        noisy, own = (noisy, aligned.any(1)) if side == 0 else (noisy.t(), aligned.any(0))
        values, partners = noisy.topk(min(most, noisy.shape[1]), dim=1)
        kept = torch.isfinite(values) & own.unsqueeze(1)
        anchors = torch.arange(len(noisy), device=noisy.device).unsqueeze(1).expand_as(partners)
        pair = (anchors[kept], partners[kept])
        chosen_rows.append(pair[side])
        chosen_texts.append(pair[1 - side])
    all_rows, all_texts = torch.cat(chosen_rows), torch.cat(chosen_texts)
    return all_rows, all_texts, table[all_rows, all_texts]
