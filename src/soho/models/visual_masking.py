"""Which visual tokens masked visual modelling hides (section 3.3)."""

from __future__ import annotations

import torch
from torch import Tensor


def choose_masked_cells(indices: Tensor, draws: Tensor, max_share: float = 0.5) -> Tensor:
    """Pick one existing index of every row and mark all cells that carry it.

    The index is drawn uniformly from the distinct indices of the row that cover at most `max_share` of its valid
    cells; hiding all cells of an index keeps the model from copying the label from a neighbour.

    Args:
        indices: (P, N) code index of every cell, -1 at padding.
        draws: (P,) uniform draws from [0, 1).
        max_share: an index that covers a larger share of the valid cells is never picked.

    Returns:
        (P, N) bool; a row is all False where no index may be picked.
    """
    same = (indices.unsqueeze(2) == indices.unsqueeze(1)) & (indices >= 0).unsqueeze(1)  # (P, N, N)
    group = same.sum(2)  # (P, N) cells that carry the index of this cell
    # The first cell of every group stands for it.
    earlier = torch.tril(torch.ones(same.shape[1:], dtype=torch.bool, device=same.device), diagonal=-1)
    first = ~(same & earlier).any(2) & (indices >= 0)
    valid = (indices >= 0).sum(1, keepdim=True)
    eligible = first & (group <= max_share * valid)  # (P, N)
    choices = eligible.sum(1)  # (P,)
    number = (draws * choices).long().clamp(max=choices - 1)  # the how-manieth eligible index
    chosen = eligible & (eligible.cumsum(1) - 1 == number.unsqueeze(1))  # (P, N), at most one True a row
    picked = torch.where(chosen, indices, -2).amax(1)  # (P,); -2 where nothing may be picked
    return indices == picked.unsqueeze(1)
