"""One optimizer step: forward and backward over its micro-batches, then one update of all weights.

The result does not depend on how the step's batch is cut into micro-batches and processes: every loss term is
divided by the number of terms in the whole batch, counted beforehand.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from soho.errors import SohoError
from soho.training.optimization import BACKBONE, build_optimizers, fixed_module, set_learning_rates
from soho.training.processes import average_batch_norm_statistics
from soho.training.protocols import Batch
from soho.training.recipe import TrainingSection
from soho.training.replication import ReplicatedModel


@dataclass(frozen=True)
class StepResult:
    """What an optimizer step measured, over all its micro-batches and processes.

    Attributes:
        loss: the loss.
        parts: loss part -> (mean, number of terms).
        metrics: metric -> (sum, count).
        images: images seen.
        learning_rates: optimizer -> rate of this step; 0 for a frozen backbone.
        gradient_norm: global L2 norm before clipping.
        skipped: fp16 only: the gradients overflowed and no weight was changed.
    """

    loss: float
    parts: dict[str, tuple[float, float]]
    metrics: dict[str, tuple[float, float]]
    images: int
    learning_rates: dict[str, float]
    gradient_norm: float
    skipped: bool


class OptimizerStep:
    """Holds the model, its optimizers and the gradient scaler, and runs one step after the other.

    Args:
        model: an `nn.Module` that is a `TrainableModel`; moved to the device.
        settings: the recipe's `training` section.
        accelerator: from `make_accelerator`.

    Raises:
        SohoError: `training.frozen` or `training.lr_factors` names no part of the model.
    """

    def __init__(self, model: Any, settings: TrainingSection, accelerator: Accelerator) -> None:
        if settings.gradient_checkpointing:
            checkpoint_activations(model)
        model.to(accelerator.device)
        self.fixed = [fixed_module(model, name) for name in settings.frozen]
        if settings.channels_last:
            model.visual_backbone().to(memory_format=torch.channels_last)
        self.model = model
        self.settings = settings
        self.accelerator = accelerator
        self.parallel = placed_model(model, settings, accelerator)
        self.optimizers = build_optimizers(model, model.visual_backbone(), settings, self.parallel.held)
        self.frozen = False

    def training_mode(self, frozen: bool) -> None:
        """Switch dropout and the like on, with the CNN fixed or free."""
        self.frozen = frozen
        self.model.train()
        self.model.freeze_visual_backbone(frozen)
        for module in self.fixed:  # last: thawing the CNN sets the training mode of the whole visual encoder
            module.eval()

    def run(self, micro_batches: Sequence[Batch], learning_rate_factor: float, name: str) -> StepResult:
        """Do one optimizer step.

        Args:
            micro_batches: this process's batches, on the CPU; equally many on every process.
            learning_rate_factor: what the initial learning rates are multiplied by.
            name: what an error calls this step.

        Raises:
            SohoError: a loss or (outside fp16) a gradient that is not finite.
        """
        rates = set_learning_rates(self.optimizers, learning_rate_factor)
        denominators = self._loss_denominators(micro_batches)
        totals = _Totals()
        for position, batch in enumerate(micro_batches):
            # Gradients travel between processes only once per optimizer step.
            exchange = position == len(micro_batches) - 1
            loss, measured = self.parallel.forward_backward(self._to_device(batch), denominators, exchange)
            totals.add({"loss": loss, **measured, "images": _image_count(batch, loss.device)})
        self.parallel.finish_gradients()
        values = totals.over_processes(self.accelerator)
        _require_finite_losses(values, name)

        norm, skipped = self._update_weights(name)
        self.model.after_optimizer_step()
        average_batch_norm_statistics(self.model, self.accelerator)
        if self.frozen and BACKBONE in rates:
            rates[BACKBONE] = 0.0
        terms = {part: float(denominators[part]) if part in denominators else 1.0 for part in _named(values, "part")}
        return StepResult(
            loss=values["loss"],
            parts={part: (value, terms[part]) for part, value in _named(values, "part").items()},
            metrics={key: (value, values[f"count/{key}"]) for key, value in _named(values, "sum").items()},
            images=round(values["images"]),
            learning_rates=rates,
            gradient_norm=norm,
            skipped=skipped,
        )

    def whole_model(self) -> AbstractContextManager[Any]:
        """Lend a model with all its weights, for evaluating and saving; every process enters and leaves."""
        return self.parallel.whole_model()

    def state_dict(self) -> dict[str, Any]:
        """Return weights, buffers, optimizers and gradient scaler, whole; every process calls it.

        With `training.fsdp` only the main process gets them, the others None in their place.
        """
        scaler = self.accelerator.scaler
        return {
            "model": self.parallel.state_dict(),
            "optimizers": {name: self.parallel.optimizer_state(one) for name, one in self.optimizers.items()},
            "scaler": scaler.state_dict() if scaler is not None else None,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the main process's `state_dict`, however many processes hold the model."""
        self.parallel.load_state_dict(state["model"])
        for name, optimizer in self.optimizers.items():
            self.parallel.load_optimizer_state(optimizer, state["optimizers"][name])
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])

    def _loss_denominators(self, micro_batches: Sequence[Batch]) -> dict[str, Tensor]:
        """Count the terms of each loss part over all micro-batches and processes."""
        counts = _Totals()
        for batch in micro_batches:
            counts.add({name: count.cpu() for name, count in self.model.loss_counts(batch).items()})
        return {
            name: torch.tensor(value, device=self.accelerator.device)
            for name, value in counts.over_processes(self.accelerator).items()
        }

    def _to_device(self, batch: Batch) -> dict[str, Tensor]:
        moved = {name: value.to(self.accelerator.device, non_blocking=True) for name, value in batch.items()}
        if self.settings.channels_last and "pixel_values" in moved:
            moved["pixel_values"] = moved["pixel_values"].contiguous(memory_format=torch.channels_last)
        return moved

    def _update_weights(self, name: str) -> tuple[float, bool]:
        """Clip, then step both optimizers or neither; return the norm before clipping, and whether it was neither."""
        active = [o for key, o in self.optimizers.items() if key != BACKBONE or not self.frozen]
        # Not through Accelerate's optimizer wrapper: with two optimizers it would unscale the second one twice.
        scaler = self.accelerator.scaler
        if scaler is not None:
            for optimizer in active:
                scaler.unscale_(optimizer)
        norm = float(self.parallel.clip_gradients(self.settings.clip_norm))
        overflow = not math.isfinite(norm)
        if overflow and scaler is None:
            raise SohoError(f"the gradient norm is {norm} at {name} although the loss is finite; {_ADVICE}")
        if not overflow:
            for optimizer in active:
                optimizer.step()
        if scaler is not None:
            scaler.update()
        self.parallel.clear_gradients()
        return norm, overflow


class _Totals:
    """Adds up scalars by name, over micro-batches and then over processes."""

    def __init__(self) -> None:
        self._totals: dict[str, Tensor] = {}

    def add(self, values: Mapping[str, Tensor]) -> None:
        for name, value in values.items():
            value = value.float().reshape(())
            self._totals[name] = self._totals[name] + value if name in self._totals else value

    def over_processes(self, accelerator: Accelerator) -> dict[str, float]:
        names = sorted(self._totals)
        if not names:
            return {}
        stacked = torch.stack([self._totals[name] for name in names]).to(accelerator.device)
        return dict(zip(names, accelerator.reduce(stacked, "sum").tolist()))


_ADVICE = "the checkpoints are sound: try a lower learning rate, a smaller clip_norm or precision=fp32"


# What it was tried with. Older versions may move a weight's memory away from under the optimizer.
FSDP_TORCH = (2, 13)


def placed_model(model: Any, settings: TrainingSection, accelerator: Accelerator) -> ReplicatedModel:
    """Lay a model out over the processes: whole on each, or shared out where `training.fsdp` asks for it.

    Raises:
        SohoError: it is to be shared out, and this torch is too old.
    """
    if not settings.fsdp or accelerator.num_processes == 1:
        return ReplicatedModel(model, accelerator)
    if tuple(int(number) for number in torch.__version__.split(".")[:2]) < FSDP_TORCH:
        least = ".".join(map(str, FSDP_TORCH))
        raise SohoError(f"training.fsdp=true needs torch {least} or newer; this is torch {torch.__version__}")
    from soho.training.sharding import ShardedModel  # what it imports older versions do not have

    return ShardedModel(model, accelerator)


def checkpoint_activations(model: Any) -> None:
    """Recompute activations in the backward pass; newer transformers (5.23) have renamed the method."""
    options = {"use_reentrant": False}
    if hasattr(model, "activation_checkpointing_enable"):
        model.activation_checkpointing_enable(activation_checkpointing_kwargs=options)
    else:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=options)


def _require_finite_losses(values: Mapping[str, float], name: str) -> None:
    # A part says more than the sum it spoils, so parts are looked at first.
    parts = {f"the loss part '{part}'": value for part, value in _named(values, "part").items()}
    for what, value in {**parts, "the loss": values["loss"]}.items():
        if not math.isfinite(value):
            raise SohoError(f"{what} is {value} at {name}; {_ADVICE}")


def _named(values: Mapping[str, float], kind: str) -> dict[str, float]:
    return {key[len(kind) + 1 :]: value for key, value in values.items() if key.startswith(f"{kind}/")}


def _image_count(batch: Batch, device: torch.device) -> Tensor:
    first = batch.get("pixel_values", next(iter(batch.values())))
    return torch.tensor(float(first.shape[0]), device=device)
