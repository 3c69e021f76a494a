"""Optimizers, learning rates and clipping: SGD for the CNN, AdamW for the rest (paper, section 4.1)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from torch import nn

from soho.training.recipe import OptimizerSection, ScheduleSection, TrainingSection

BACKBONE = "backbone"
REST = "rest"


def parameter_groups(
    parameters: Iterable[nn.Parameter], weight_decay: float, decay_bias_and_norm: bool
) -> list[dict[str, object]]:
    """Split parameters into those with and those without weight decay.

    Biases and normalisation weights are the tensors with fewer than two dimensions; the usual practice (and the
    default) leaves them undecayed.

    Args:
        parameters: parameters that require a gradient.
        weight_decay: the decay of the first group.
        decay_bias_and_norm: put everything into the first group.

    Returns:
        One or two groups for a torch optimizer; none is empty.
    """
    decayed: list[nn.Parameter] = []
    undecayed: list[nn.Parameter] = []
    for parameter in parameters:
        (decayed if parameter.ndim >= 2 or decay_bias_and_norm else undecayed).append(parameter)
    groups = ({"params": decayed, "weight_decay": weight_decay}, {"params": undecayed, "weight_decay": 0.0})
    return [group for group in groups if group["params"]]


def build_optimizers(
    model: nn.Module, backbone: nn.Module, settings: TrainingSection
) -> dict[str, torch.optim.Optimizer]:
    """Build one optimizer for the visual backbone and one for everything else.

    Args:
        model: the whole model, already on its device.
        backbone: the CNN inside it.
        settings: `backbone_optimizer`, `optimizer` and `decay_bias_and_norm` are read.

    Returns:
        `{"backbone": ..., "rest": ...}`; a part without trainable parameters has no entry. Every group keeps its
        undecayed learning rate under `initial_lr`.
    """
    in_backbone = {id(parameter) for parameter in backbone.parameters()}
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    parts = {
        BACKBONE: ([p for p in trainable if id(p) in in_backbone], settings.backbone_optimizer),
        REST: ([p for p in trainable if id(p) not in in_backbone], settings.optimizer),
    }
    optimizers: dict[str, torch.optim.Optimizer] = {}
    for name, (parameters, section) in parts.items():
        groups = parameter_groups(parameters, section.weight_decay, settings.decay_bias_and_norm)
        if groups:
            optimizers[name] = _build_optimizer(groups, section)
            for group in optimizers[name].param_groups:
                group["initial_lr"] = section.lr
    return optimizers


def _build_optimizer(groups: list[dict[str, object]], section: OptimizerSection) -> torch.optim.Optimizer:
    if section.name == "sgd":
        return torch.optim.SGD(groups, lr=section.lr, momentum=section.momentum)
    first, second = section.betas
    return torch.optim.AdamW(groups, lr=section.lr, betas=(first, second), eps=section.eps)


def learning_rate_factor(step: int, schedule: ScheduleSection, steps_per_epoch: int, total_steps: int) -> float:
    """Return what every learning rate is multiplied by at an optimizer step.

    A pure function of the step, so that there is no schedule state to lose when a run is resumed, and so that
    accumulation and the number of processes cannot stretch it.

    Args:
        step: optimizer steps done before this one, from 0.
        schedule: the recipe's section. Milestones are in epochs.
        steps_per_epoch: optimizer steps per epoch.
        total_steps: optimizer steps of the whole run; where cosine and linear reach 0.

    Returns:
        The product of warm-up (1/n, 2/n, ..., 1 over the first n steps; from f on: f, f + (1 - f)/n, ...) and decay.
    """
    warmup, start = schedule.warmup_steps, schedule.warmup_from
    ramp = 1.0
    if warmup and step < warmup:
        ramp = (step + 1) / warmup if start is None else start + (1.0 - start) * step / warmup
    if schedule.kind == "constant":
        return ramp
    if schedule.kind == "step":
        passed = sum(step >= round(milestone * steps_per_epoch) for milestone in schedule.milestones)
        return ramp * schedule.factor**passed
    progress = min(1.0, max(0.0, (step - warmup) / max(1, total_steps - warmup)))
    if schedule.kind == "linear":
        return ramp * (1.0 - progress)
    return ramp * 0.5 * (1.0 + math.cos(math.pi * progress))


def set_learning_rates(optimizers: Mapping[str, torch.optim.Optimizer], factor: float) -> dict[str, float]:
    """Set every learning rate to its initial value times `factor`; return them by optimizer name."""
    rates: dict[str, float] = {}
    for name, optimizer in optimizers.items():
        for group in optimizer.param_groups:
            group["lr"] = rates[name] = group["initial_lr"] * factor
    return rates


def backbone_is_frozen(epoch: int, freeze_backbone_epochs: int) -> bool:
    """Say whether the CNN is fixed in an epoch (counted from 0); -1 freezes it always (paper, section 3.2)."""
    return freeze_backbone_epochs < 0 or epoch < freeze_backbone_epochs


def clip_gradients(model: nn.Module, clip_norm: float | None) -> torch.Tensor:
    """Scale all gradients together so that their global L2 norm is at most `clip_norm`.

    Args:
        model: parameters without a gradient (a frozen CNN) are left out.
        clip_norm: the bound, or None to only measure.

    Returns:
        The norm before clipping, a scalar on the model's device.
    """
    return nn.utils.clip_grad_norm_(model.parameters(), math.inf if clip_norm is None else clip_norm)
