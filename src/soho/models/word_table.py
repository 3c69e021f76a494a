"""The word table of pre-training, which embeds the words and decodes the masked ones: its gradient, made once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class _LookUp(torch.autograd.Function):
    """Rows of a table and the table itself; the backward pass adds the gradient of the former to that of the latter.

    Autograd alone would make a gradient of the table's size for each look-up, zero almost everywhere, and add them
    up: with 30,522 words a third of a small model's step on a CPU (docs/performance.md).
    """

    @staticmethod
    def forward(ctx: Any, table: Tensor, ids: Tensor, padding: int) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(ids)
        ctx.shape, ctx.padding = table.shape, padding
        ctx.set_materialize_grads(False)
        return table[ids], table.view_as(table)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, None, None]:
        of_rows, of_table = gradients
        if of_rows is None:
            return of_table, None, None
        (ids,) = ctx.saved_tensors
        if of_table is None:
            of_table = of_rows.new_zeros(ctx.shape)
        # Nobody else holds it: it is the sum of what came from the uses of `table`, made for this call. Only a
        # gradient that repeats its memory could not be added to.
        total = of_table.contiguous()
        of_rows = of_rows.masked_fill((ids == ctx.padding).unsqueeze(-1), 0.0)  # as nn.Embedding has it
        return total.index_add_(0, ids.flatten(), of_rows.flatten(0, -2).to(total.dtype)), None, None


def look_up(embedding: nn.Embedding, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Look words up in a table that the same forward pass also multiplies with.

    Args:
        embedding: the table (V, C); its padding row gets no gradient from look-ups.
        ids: (M,) rows.

    Returns:
        The rows (M, C) and the table (V, C). What is multiplied with the latter, not with `embedding.weight`, has its
        gradient made together with that of the rows.
    """
    padding = -1 if embedding.padding_idx is None else embedding.padding_idx
    rows, table = _LookUp.apply(embedding.weight, ids, padding)
    return rows, table
