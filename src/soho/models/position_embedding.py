"""2-D sine position embedding of the visual tokens (section 3.3)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

TEMPERATURE = 10_000.0


def sine_position_embedding(mask: Tensor, dim: int) -> Tensor:
    """Return a sine code of every cell's row and column, counted over valid cells and scaled to 2 pi.

    The first half of the channels tells the row, the second half the column; sine and cosine alternate. Because the
    count is divided by the number of valid cells, a code means a relative place, whatever the size of the picture.

    Args:
        mask: (B, H, W) bool, True at valid cells.
        dim: C, number of channels, a multiple of 4.

    Returns:
        (B, H, W, C) float32.
    """
    cells = mask.float()
    rows, columns = cells.cumsum(1), cells.cumsum(2)  # start at 1
    rows = rows / (rows[:, -1:, :] + 1e-6) * (2 * math.pi)
    columns = columns / (columns[:, :, -1:] + 1e-6) * (2 * math.pi)
    half = dim // 2
    exponent = 2 * (torch.arange(half, device=mask.device) // 2).float() / half
    frequency = TEMPERATURE**-exponent  # (C/2,)
    parts = []
    for place in (rows, columns):
        angle = place.unsqueeze(-1) * frequency  # (B, H, W, C/2)
        parts.append(torch.stack((angle[..., 0::2].sin(), angle[..., 1::2].cos()), dim=-1).flatten(-2))
    return torch.cat(parts, dim=-1)
