"""A small model of pairs, and a small world for it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

CHANNELS = 6


class ToyScorer(nn.Module):
    """One attention step between text and image; counts what it is asked."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words = nn.Embedding(30, CHANNELS)
        self.project = nn.Linear(3, CHANNELS)
        self.dropout = nn.Dropout(0.5)
        self.images = self.texts = self.blocks = 0
        self.die_after = -1
        self.shapes: list[tuple[int, int, int]] = []

    def image_tokens(self, pixel_values: Tensor, pixel_mask: Tensor) -> tuple[Tensor, Tensor]:
        self.images += len(pixel_values)
        pooled = torch.nn.functional.avg_pool2d(pixel_values, 2).flatten(2).transpose(1, 2)
        mask = torch.nn.functional.max_pool2d(pixel_mask.float().unsqueeze(1), 2).flatten(1) > 0
        return self.project(pooled), mask

    def text_tokens(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        self.texts += len(input_ids)
        return self.words(input_ids), attention_mask.bool()

    def score_pairs(self, text: Tensor, text_mask: Tensor, visual: Tensor, visual_mask: Tensor) -> Tensor:
        if self.blocks == self.die_after:
            raise KeyboardInterrupt
        self.blocks += 1
        self.shapes.append((len(text), text.shape[1], visual.shape[1]))
        weights = self.dropout(text @ visual.transpose(1, 2)).masked_fill(~visual_mask[:, None], -1e9).softmax(-1)
        seen = (weights @ visual * text).tanh().sum(-1)
        return (seen * text_mask).sum(-1)


class VectorScorer(ToyScorer):
    """Has vectors too, of what its attention step reads."""

    def image_vectors(self, visual: Tensor, visual_mask: Tensor) -> Tensor:
        return nn.functional.normalize((visual * visual_mask[..., None]).sum(1), dim=-1)

    def text_vectors(self, text: Tensor, text_mask: Tensor) -> Tensor:
        return nn.functional.normalize((text * text_mask[..., None]).sum(1), dim=-1)


def make_world(images: int = 7, texts: int = 11) -> tuple[list[tuple[Tensor, Tensor, list[int]]], Tensor, Tensor]:
    """Images in batches of two padded shapes, rows in mixed order; texts of 2 .. 6 tokens."""
    generator = torch.Generator().manual_seed(1)
    batches = []
    rows = [(3 * i) % images for i in range(images)]
    for start in range(0, images, 2):
        part = rows[start : start + 2]
        width = 6 if start % 4 else 4
        mask = torch.ones(len(part), 4, width, dtype=torch.bool)
        mask[:, :, 4 - 2 * (start % 3 == 0) :] = False
        batches.append((torch.randn(len(part), 3, 4, width, generator=generator), mask, part))
    ids = torch.randint(1, 30, (texts, 6), generator=generator)
    mask = (torch.arange(6) < 2 + torch.arange(texts)[:, None] * 7 % 5).long()
    return batches, ids * mask, mask
