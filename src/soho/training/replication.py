"""The model on the processes of a run, whole on each of them; `sharding` is the other way, with the same verbs."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from soho.training.optimization import clip_gradients
from soho.training.processes import share_buffers
from soho.training.protocols import Batch


class LossOnly(nn.Module):
    """The model as its parallel wrapper sees it: only the loss carries a graph, logits are let go.

    Data parallelism waits for the gradient of every parameter that an output depends on; outputs beside the loss
    would make it wait in vain.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch, loss_denominators: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss, and by name its parts and the sums and counts of the metrics."""
        output = self.model(**batch, loss_denominators=dict(loss_denominators))
        measured = {f"part/{name}": value.detach() for name, value in output.loss_parts.items()}
        for name, (total, count) in output.metrics.items():
            measured |= {f"sum/{name}": total.detach(), f"count/{name}": count.detach()}
        return self.connected(output.loss), measured

    def connected(self, loss: Tensor) -> Tensor:
        """Return the loss with a graph, for which the other processes wait."""
        if not loss.requires_grad:
            # No term at all in this micro-batch: the gradients are zero.
            loss = loss + sum(0.0 * p.sum() for p in self.model.parameters() if p.requires_grad)
        return loss


class ReplicatedModel:
    """The whole model on every process: torch's data parallelism, or the model alone where there is one process.

    Args:
        model: an `nn.Module` that is a `TrainableModel`, on its device; the main process's weights count.
        accelerator: from `make_accelerator`.
    """

    def __init__(self, model: Any, accelerator: Accelerator) -> None:
        self.model = model
        self.accelerator = accelerator
        with warnings.catch_warnings():
            # torch renames `broadcast_buffers`; Accelerate passes the old name.
            warnings.filterwarnings("ignore", message=".*broadcast_buffers", category=FutureWarning)
            self.wrapped = accelerator.prepare_model(LossOnly(model))
        share_buffers(model, accelerator)

    def held(self, parameter: nn.Parameter) -> nn.Parameter:
        """Return what the optimizers of this process change of a parameter."""
        return parameter

    def forward_backward(
        self, batch: Mapping[str, Tensor], denominators: Batch, exchange: bool
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Add the gradients of a micro-batch to those that are there.

        Args:
            batch: on the device.
            denominators: loss part -> terms in the whole optimizer step.
            exchange: whether gradients travel between the processes, as they do in the last micro-batch of a step.

        Returns:
            The loss () and what `LossOnly` measured, of this process alone.
        """
        with nullcontext() if exchange else self.accelerator.no_sync(self.wrapped):
            loss, measured = self.wrapped(batch, denominators)
            # Every process divides by the terms of all, so gradients must add up; data parallelism averages.
            self.accelerator.backward(loss * self.accelerator.num_processes)
        return loss.detach(), measured

    def finish_gradients(self) -> None:
        """Do what is left of the exchange after the last micro-batch of a step: nothing."""

    def clip_gradients(self, clip_norm: float | None) -> Tensor:
        """Clip by the global norm; see `optimization.clip_gradients`."""
        return clip_gradients(self.model, clip_norm)

    def clear_gradients(self) -> None:
        """Forget the gradients of a step."""
        self.model.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, Any] | None:
        """Return weights and buffers; a sharded model is gathered, and only the main process gets it."""
        state: dict[str, Any] = self.model.state_dict()
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over weights and buffers of a whole model."""
        self.model.load_state_dict(state)

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> dict[str, Any] | None:
        """Return an optimizer's state, whole, as `state_dict` returns the model's."""
        state: dict[str, Any] = optimizer.state_dict()
        return state

    def load_optimizer_state(self, optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
        """Take over an optimizer's whole state."""
        optimizer.load_state_dict(dict(state))

    @contextmanager
    def whole_model(self) -> Iterator[Any]:
        """Lend a model that holds all weights, for evaluating and saving; every process enters and leaves."""
        yield self.model
