"""Parts of a model in words that a graph of dynamic shapes knows.

The models say things that such a graph cannot: pooling to a size that another tensor has, picking the valid cells out
of a batch, multiplying with a transposed weight. These parts say the same otherwise.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

# Pixels of a cell of the CNN's map; the contract of every CNN here (docs/architecture.md).
CNN_STRIDE = 32


class WholeCells(TorchFunctionMode):
    """Pools masks by cells of 32 x 32 pixels instead of to the size of the CNN's map: ONNX has no such pooling.

    Both are the same for pictures whose edges are multiples of 32.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Replace one function, run all others as they are."""
        if func is F.adaptive_max_pool2d:
            return F.max_pool2d(args[0], CNN_STRIDE)
        return func(*args, **(kwargs or {}))


class Codes(nn.Module):
    """Either visual dictionary, reduced to its lookup and without picking valid cells out of the batch.

    Args:
        codes: (K, C).
        zero_padding: padding cells become zero (the paper's wiring) or get a code too (that of the release).
    """

    codes: Tensor
    half_square: Tensor

    def __init__(self, codes: Tensor, zero_padding: bool) -> None:
        super().__init__()
        self.zero_padding = zero_padding
        self.register_buffer("codes", codes.detach().float().clone())
        self.register_buffer("half_square", 0.5 * (self.codes * self.codes).sum(dim=1))

    def forward(self, features: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Replace features (B, N, C) by their nearest codes; returns them and the indices (B, N)."""
        indices = (self.half_square - features @ self.codes.t()).argmin(dim=-1)
        codes = self.codes[indices]
        return codes * mask.unsqueeze(-1) if self.zero_padding else codes, indices


class ColumnLinear(nn.Module):
    """A linear layer whose weight is stored as (inputs, outputs): a matrix product without a transposition before it.

    onnxruntime quantises products with a constant matrix, and a transposed constant is none until the graph is loaded.
    """

    weight: Tensor
    bias: Tensor | None

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.register_buffer("weight", linear.weight.detach().t().contiguous())
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach().clone())

    def forward(self, rows: Tensor) -> Tensor:
        """Map (..., inputs) to (..., outputs)."""
        product = rows @ self.weight
        return product if self.bias is None else product + self.bias
