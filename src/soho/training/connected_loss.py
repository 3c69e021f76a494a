"""The loss of a model that processes share: it depends on all of the model, so that no process waits for another."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from soho.training.protocols import Batch
from soho.training.replication import LossOnly
from soho.training.tensor_parts import is_split


class ConnectedLoss(LossOnly):
    """`LossOnly` for a sharded model: the loss depends on every layer and every sharded weight, if only by zeros.

    Weights are gathered and gradients shared out by all processes together. A weight or a layer that counts on one
    process and not on another would make them wait for each other for ever.

    Args:
        model: the model, not yet sharded.
        whole: names of the parameters that every process will hold whole.

    Attributes:
        used: names of the sharded parameters that the last loss depended on by itself.
    """

    def __init__(self, model: nn.Module, whole: set[str]) -> None:
        super().__init__(model)
        self.used: set[str] = set()
        self._whole = whole
        self._names = {module: name for name, module in model.named_modules()}
        self._noting = False
        self._weights: dict[str, nn.Parameter] = {}
        self._outputs: list[Tensor] = []

    def note(self, layer: nn.Module, inputs: Any, output: Any) -> None:
        """Keep a layer's gathered weights and what it returned; but not where activations are computed again."""
        if self._noting:
            self._weights.update(layer.named_parameters(self._names[layer]))
            found = output if isinstance(output, tuple) else (output,)
            self._outputs += [one for one in found if isinstance(one, Tensor) and one.requires_grad]

    def forward(self, batch: Batch, loss_denominators: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """See `LossOnly.forward`."""
        self._noting = True
        try:
            return super().forward(batch, loss_denominators)
        finally:
            self._noting = False
            self._weights, self._outputs = {}, []

    def connected(self, loss: Tensor) -> Tensor:
        """Return the loss, depending on everything that is sharded."""
        # The weights of layers are let go by now; those of everything else are still gathered.
        self._weights.update((name, one) for name, one in self.model.named_parameters() if not is_split(one))
        weights = {name: one for name, one in self._weights.items() if one.requires_grad}
        if loss.requires_grad:
            reached = _leaves(loss)
            self.used = {name for name, one in weights.items() if one in reached}
            zero = [one for name, one in weights.items() if name not in self._whole]
        else:  # no term at all: as without sharding, every weight has a gradient of zeros
            self.used, zero = set(weights), list(weights.values())
        return cast(Tensor, _Zeros.apply(loss, *zero, *self._outputs))


class _Zeros(torch.autograd.Function):
    """Pass a value on and give everything else a gradient of zeros, which takes no memory until a weight keeps it."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, *others: Tensor) -> Tensor:
        ctx.others = [(one.shape, one.dtype, one.device) for one in others]
        return value.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:  # type: ignore[override]
        zeros = (torch.zeros((), dtype=dtype, device=device).expand(shape) for shape, dtype, device in ctx.others)
        return gradient, *zeros


def _leaves(loss: Tensor) -> set[Tensor]:
    """Return the leaves of a loss's graph, whose gradients its backward pass makes."""
    found: set[Tensor] = set()
    ahead: list[Any] = [loss.grad_fn] if loss.grad_fn is not None else []
    seen = set(ahead)
    while ahead:
        node = ahead.pop()
        if hasattr(node, "variable"):
            found.add(node.variable)
        following = {after for after, _ in node.next_functions if after is not None} - seen
        seen |= following
        ahead += following
    return found
