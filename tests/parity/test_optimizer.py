"""torch's SGD and AdamW, as the product sets them up, beside the release's combined optimizer."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from soho.training.optimization import build_optimizers, set_learning_rates
from soho.training.recipe import OptimizerSection
from tests.parity.official import EXACT, Arrays, arrays, assert_close, part, release_training


class Parameters(nn.Module):
    """Holds tensors under names with dots; those of the backbone in a module of their own."""

    def __init__(self, values: dict[str, np.ndarray]) -> None:
        super().__init__()
        self.names = {name: name.replace(".", "_") for name in values}
        self.backbone, self.rest = nn.ParameterDict(), nn.ParameterDict()
        for name, value in values.items():
            home = self.backbone if name.startswith("backbone.") else self.rest
            home[self.names[name]] = nn.Parameter(torch.tensor(value))

    def tensor(self, name: str) -> nn.Parameter:
        home = self.backbone if name.startswith("backbone.") else self.rest
        return home[self.names[name]]


def epsilon_allowance(expected: Arrays, name: str, rate: float, settings: OptimizerSection) -> np.ndarray:
    """Return how far one step may lie from the release's because of where epsilon is added.

    The release adds it to sqrt(v) before the bias correction, torch after it. Beside a gradient of 1 that is nothing;
    beside one of 0.001 it shows in the seventh digit.
    """
    state = part(expected, f"state/{name}")
    first, second = (1 - beta ** int(state["step"]) for beta in settings.betas)
    mean, root = np.abs(state["exp_avg"]) / first, np.sqrt(state["exp_avg_sq"] / second)
    difference: np.ndarray = rate * mean * settings.eps * (second**-0.5 - 1) / root**2
    return difference


def test_four_steps() -> None:
    stored = arrays("adamwsgd")
    settings = release_training("pretrain")
    groups = {row.split("|")[0]: row.split("|")[1] for row in map(str, stored["group_of"])}
    model = Parameters(part(stored, "step0/param"))
    for name, kind in groups.items():
        model.tensor(name).requires_grad_("frozen" not in kind)
        assert name.startswith("backbone.") == (kind.startswith("sgd") or "frozen" in kind)
    settings.backbone_optimizer.lr = float(stored["base_lr_sgd"])
    settings.optimizer.lr = float(stored["base_lr_adamw"])
    optimizers = build_optimizers(model, model.backbone, settings)
    allowed: dict[str, Any] = dict.fromkeys(groups, 0.0)
    for number, scale in enumerate(stored["lr_scale"], start=1):
        expected = part(stored, f"step{number}")
        set_learning_rates(optimizers, float(scale))
        for name in groups:
            gradient = expected.get(f"grad/{name}")
            model.tensor(name).grad = None if gradient is None else torch.tensor(gradient)
        for optimizer in optimizers.values():
            optimizer.step()
        ours: dict[str, Any] = {f"param/{name}": model.tensor(name) for name in groups}
        for optimizer in optimizers.values():
            for name in groups:
                for key, value in optimizer.state.get(model.tensor(name), {}).items():
                    ours[f"state/{name}/{key}"] = value.long() if key == "step" else value
        compared = {key: value for key, value in expected.items() if not key.startswith("grad/")}
        assert set(compared) == set(ours)
        for key, value in compared.items():
            kind, _, name = key.partition("/")
            if kind == "param" and groups[name] == "adamw":
                if f"grad/{name}" in expected:
                    allowed[name] += epsilon_allowance(
                        expected, name, float(scale) * settings.optimizer.lr, settings.optimizer
                    )
                error = np.abs(ours[key].detach().numpy() - value)
                assert (error <= EXACT * np.abs(value).max() + allowed[name]).all(), (
                    f"step{number}/{key}: {error.max()}"
                )
                assert (allowed[name] <= 1e-5).all()  # it is a correction, not a licence
            else:
                assert_close(f"step{number}/{key}", ours[key], value, EXACT)
    kinds = {key.split("/")[0] for key in stored}
    steps = {f"step{number}" for number in range(len(stored["lr_scale"]) + 1)}
    assert kinds == {"group_of", "lr_scale", "base_lr_sgd", "base_lr_adamw", *steps}
