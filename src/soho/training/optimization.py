"""Optimizers, learning rates and clipping: SGD for the CNN, AdamW for the rest (paper, section 4.1)."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable, Mapping
from typing import cast

import torch
from torch import nn

from soho.errors import SohoError
from soho.training.recipe import OptimizerSection, ScheduleSection, TrainingSection

BACKBONE = "backbone"
REST = "rest"
# Where torch has fused optimizers in every version that this project takes.
FUSED_DEVICES = ("cpu", "cuda")


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


def fixed_module(model: nn.Module, name: str) -> nn.Module:
    """Stop the training of a module and return it.

    Raises:
        SohoError: there is no such module.
    """
    modules = dict(model.named_modules())
    if not name or name not in modules:
        near = difflib.get_close_matches(name, modules, 1, 0.0)
        raise SohoError(f"training.frozen names {name!r}, which is no module of the model; did you mean {near[0]!r}?")
    return modules[name].requires_grad_(False)


def rate_factors(names: Iterable[str], factors: Mapping[str, float]) -> dict[str, float]:
    """Return what the learning rate of every parameter is multiplied by.

    Args:
        names: names of parameters, e.g. `soho.fusion.layers.0.query.weight`.
        factors: name of a parameter or of a module that holds it -> factor; the longest one that fits counts.

    Raises:
        SohoError: a name in `factors` fits no parameter.
    """
    names = list(names)
    chosen = dict.fromkeys(names, 1.0)
    for prefix in sorted(factors, key=len):
        inside = [name for name in names if name == prefix or name.startswith(f"{prefix}.")]
        if not inside:
            modules = sorted({name.rsplit(".", depth)[0] for name in names for depth in range(1, name.count(".") + 1)})
            near = difflib.get_close_matches(prefix, modules, 1, 0.0)
            raise SohoError(
                f"training.lr_factors names {prefix!r}, which is no part of the model that trains; did you mean "
                f"{near[0] if near else names[0]!r}?"
            )
        chosen.update(dict.fromkeys(inside, factors[prefix]))
    return chosen


def build_optimizers(
    model: nn.Module,
    backbone: nn.Module,
    settings: TrainingSection,
    held: Callable[[nn.Parameter], nn.Parameter] | None = None,
) -> dict[str, torch.optim.Optimizer]:
    """Build one optimizer for the visual backbone and one for everything else.

    Args:
        model: the whole model, already on its device.
        backbone: the CNN inside it.
        settings: `backbone_optimizer`, `optimizer`, `lr_factors` and `decay_bias_and_norm` are read.
        held: what this process changes of a parameter where it does not hold all of it; of as many dimensions.

    Returns:
        `{"backbone": ..., "rest": ...}`; a part without trainable parameters has no entry. Every group keeps its
        undecayed learning rate under `initial_lr`.

    Raises:
        SohoError: `lr_factors` names something that is no part of the model.
    """
    in_backbone = {id(parameter) for parameter in backbone.parameters()}
    # Names as the model's own code has them, whatever a wrapper put before them.
    inner = getattr(model, "module", model)
    named = {name: parameter for name, parameter in inner.named_parameters() if parameter.requires_grad}
    factors = rate_factors(named, settings.lr_factors)
    parts = {
        BACKBONE: ([n for n, p in named.items() if id(p) in in_backbone], settings.backbone_optimizer),
        REST: ([n for n, p in named.items() if id(p) not in in_backbone], settings.optimizer),
    }
    optimizers: dict[str, torch.optim.Optimizer] = {}
    for part, (names, section) in parts.items():
        groups: list[dict[str, object]] = []
        for factor in sorted({factors[name] for name in names}, reverse=True):
            parameters = [held(named[n]) if held else named[n] for n in names if factors[n] == factor]
            for group in parameter_groups(parameters, section.weight_decay, settings.decay_bias_and_norm):
                groups.append({**group, "lr": section.lr * factor, "initial_lr": section.lr * factor})
        if groups:
            optimizers[part] = _build_optimizer(groups, section)
    return optimizers


def _build_optimizer(groups: list[dict[str, object]], section: OptimizerSection) -> torch.optim.Optimizer:
    if section.name == "sgd":
        return torch.optim.SGD(groups, lr=section.lr, momentum=section.momentum)
    first, second = section.betas
    # One kernel a parameter instead of a dozen: a third of the time on a CPU too. Other devices may not have it, and on
    # CPUs it takes parameter, gradient and state as they lie in memory: channels-last weights are better left out.
    parameters = [parameter for group in groups for parameter in cast("list[torch.Tensor]", group["params"])]
    fused = all(one.device.type in FUSED_DEVICES and one.is_contiguous() for one in parameters)
    return torch.optim.AdamW(groups, lr=section.lr, betas=(first, second), eps=section.eps, fused=fused)


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
    """Set every learning rate to its initial value times `factor`; return the highest one of every optimizer."""
    rates: dict[str, float] = {}
    for name, optimizer in optimizers.items():
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor
        rates[name] = max(group["lr"] for group in optimizer.param_groups)
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
