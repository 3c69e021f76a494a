from __future__ import annotations

import pytest
import torch
from torch import nn

from soho.errors import SohoError
from soho.training.optimization import (
    backbone_is_frozen,
    build_optimizers,
    clip_gradients,
    fixed_module,
    learning_rate_factor,
    parameter_groups,
    set_learning_rates,
)
from soho.training.recipe import ScheduleSection, TrainingSection


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cnn = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
        self.embedding = nn.Embedding(5, 4)
        self.norm = nn.LayerNorm(4)
        self.head = nn.Linear(4, 5)
        self.head.weight = self.embedding.weight


def test_sgd_for_the_cnn_and_adamw_for_the_rest() -> None:
    model = Model()
    optimizers = build_optimizers(model, model.cnn, TrainingSection())
    backbone, rest = optimizers["backbone"], optimizers["rest"]
    assert isinstance(backbone, torch.optim.SGD)
    assert isinstance(rest, torch.optim.AdamW)
    assert [(g["lr"], g["weight_decay"], g["momentum"]) for g in backbone.param_groups] == [
        (1e-2, 5e-4, 0.9),
        (1e-2, 0.0, 0.9),
    ]
    assert [(g["lr"], g["weight_decay"], g["eps"]) for g in rest.param_groups] == [
        (1e-4, 1e-2, 1e-6),
        (1e-4, 0.0, 1e-6),
    ]
    assert [p.shape for p in backbone.param_groups[0]["params"]] == [(4, 3, 1, 1)]
    assert len(backbone.param_groups[1]["params"]) == 3  # conv bias, batch-norm weight and bias
    assert len(rest.param_groups[0]["params"]) == 1  # the tied matrix stands once
    assert len(rest.param_groups[1]["params"]) == 3


def test_the_fused_adamw_does_what_the_plain_one_does_and_continues_it() -> None:
    section = TrainingSection.model_validate({"optimizer": {"lr": 0.1, "weight_decay": 0.1}})
    models, states = [], []
    for fused in (True, False):
        torch.manual_seed(0)
        model = Model()
        optimizer = build_optimizers(model, model.cnn, section)["rest"]
        assert optimizer.defaults["fused"] is True
        if not fused:
            groups = [{**group, "fused": False} for group in optimizer.param_groups]
            optimizer = torch.optim.AdamW(groups, fused=False)
        for step in range(4):
            if step == 2 and fused:  # as it goes on from a checkpoint of the plain one
                again = build_optimizers(model, model.cnn, section)["rest"]
                again.load_state_dict(optimizer.state_dict())
                optimizer = again
            for parameter in optimizer.param_groups[0]["params"] + optimizer.param_groups[1]["params"]:
                parameter.grad = torch.sin(parameter.detach() * (step + 1))
            optimizer.step()
        models.append(model)
        states.append(optimizer.state_dict()["state"])
    for left, right in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(left, right)
    for number, state in states[0].items():
        torch.testing.assert_close(state, states[1][number])


def test_channels_last_weights_are_left_to_the_plain_adamw() -> None:
    model = Model()
    model.cnn = nn.Sequential(nn.Conv2d(3, 4, 3)).to(memory_format=torch.channels_last)
    section = TrainingSection.model_validate({"backbone_optimizer": {"name": "adamw"}})
    optimizers = build_optimizers(model, model.cnn, section)
    assert {name: one.defaults["fused"] for name, one in optimizers.items()} == {"backbone": False, "rest": True}


def test_both_adamw_and_decay_of_everything() -> None:
    model = Model()
    section = TrainingSection.model_validate(
        {"backbone_optimizer": {"name": "adamw", "lr": 1e-5}, "decay_bias_and_norm": True}
    )
    optimizers = build_optimizers(model, model.cnn, section)
    assert isinstance(optimizers["backbone"], torch.optim.AdamW)
    assert [len(o.param_groups) for o in optimizers.values()] == [1, 1]
    assert optimizers["backbone"].param_groups[0]["lr"] == 1e-5


def test_a_factor_slows_a_module_down_and_the_longest_name_counts() -> None:
    model = Model()
    section = TrainingSection.model_validate(
        {"lr_factors": {"head": 0.5, "head.bias": 0.0, "embedding": 0.1, "cnn.0": 0.2}, "optimizer": {"lr": 1e-3}}
    )
    optimizers = build_optimizers(model, model.cnn, section)
    rates = {
        id(parameter): group["lr"]
        for optimizer in optimizers.values()
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    assert rates[id(model.embedding.weight)] == pytest.approx(1e-4)  # tied to head.weight; it has the first name
    assert rates[id(model.head.bias)] == 0.0
    assert rates[id(model.norm.weight)] == pytest.approx(1e-3)
    assert rates[id(model.cnn[0].weight)] == pytest.approx(2e-3)
    assert rates[id(model.cnn[1].weight)] == pytest.approx(1e-2)
    assert set_learning_rates(optimizers, 0.5) == pytest.approx({"backbone": 5e-3, "rest": 5e-4})
    assert {group["lr"] for group in optimizers["rest"].param_groups} == {5e-5, 0.0, 5e-4}


def test_a_fixed_module_gets_no_gradient_and_a_wrong_name_is_named() -> None:
    model = Model()
    assert fixed_module(model, "cnn.0") is model.cnn[0]
    assert [name for name, p in model.named_parameters() if not p.requires_grad] == ["cnn.0.weight", "cnn.0.bias"]
    with pytest.raises(SohoError, match=r"training.frozen names 'hed', .* did you mean 'head'\?"):
        fixed_module(model, "hed")


def test_a_factor_for_nothing_names_the_nearest_part() -> None:
    section = TrainingSection.model_validate({"lr_factors": {"embeding": 0.1}})
    with pytest.raises(SohoError, match=r"'embeding', which is no part .* did you mean 'embedding'\?"):
        build_optimizers(Model(), Model().cnn, section)


def test_parameters_without_gradient_belong_to_no_optimizer() -> None:
    model = Model()
    model.cnn.requires_grad_(False)
    assert list(build_optimizers(model, model.cnn, TrainingSection())) == ["rest"]


def test_groups_without_members_are_left_out() -> None:
    groups = parameter_groups([nn.Parameter(torch.zeros(2))], 0.1, decay_bias_and_norm=False)
    assert [(len(g["params"]), g["weight_decay"]) for g in groups] == [(1, 0.0)]  # type: ignore[arg-type]


@pytest.mark.parametrize(("step", "factor"), [(0, 1.0), (249, 1.0), (250, 0.1), (349, 0.1), (350, 0.01), (399, 0.01)])
def test_step_decay_of_the_paper(step: int, factor: float) -> None:
    assert learning_rate_factor(step, ScheduleSection(), 10, 400) == pytest.approx(factor)


@pytest.mark.parametrize(("step", "factor"), [(0, 0.25), (1, 0.5), (3, 1.0), (4, 1.0), (6, 0.5), (7, 0.5)])
def test_warm_up_and_a_milestone_within_an_epoch(step: int, factor: float) -> None:
    schedule = ScheduleSection.model_validate({"milestones": [1.5], "factor": 0.5, "warmup_steps": 4})
    assert learning_rate_factor(step, schedule, 4, 100) == pytest.approx(factor)


@pytest.mark.parametrize(
    ("kind", "factors"),
    [
        ("linear", {0: 0.5, 1: 1.0, 2: 1.0, 6: 0.5, 10: 0.0, 12: 0.0}),
        ("cosine", {0: 0.5, 1: 1.0, 2: 1.0, 4: 0.8535534, 6: 0.5, 10: 0.0}),
        ("constant", {0: 0.5, 1: 1.0, 9: 1.0}),
    ],
)
def test_smooth_schedules(kind: str, factors: dict[int, float]) -> None:
    schedule = ScheduleSection.model_validate({"kind": kind, "warmup_steps": 2})
    found = {step: learning_rate_factor(step, schedule, 5, 10) for step in factors}
    assert found == pytest.approx(factors)


def test_rates_are_set_from_the_initial_value_each_time() -> None:
    model = Model()
    optimizers = build_optimizers(model, model.cnn, TrainingSection())
    set_learning_rates(optimizers, 0.5)
    assert set_learning_rates(optimizers, 0.1) == pytest.approx({"backbone": 1e-3, "rest": 1e-5})
    assert [group["lr"] for group in optimizers["rest"].param_groups] == pytest.approx([1e-5, 1e-5])


@pytest.mark.parametrize(
    ("epoch", "epochs", "frozen"), [(0, 0, False), (9, 10, True), (10, 10, False), (0, -1, True), (99, -1, True)]
)
def test_frozen_epochs(epoch: int, epochs: int, frozen: bool) -> None:
    assert backbone_is_frozen(epoch, epochs) is frozen


def test_clipping_is_by_the_norm_of_all_gradients() -> None:
    model = nn.ModuleList([nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False), nn.Linear(1, 1)])
    first, second = (module.weight for module in list(model)[:2])
    first.grad, second.grad = torch.tensor([[3.0]]), torch.tensor([[4.0]])
    assert float(clip_gradients(model, None)) == 5.0
    assert (float(first.grad), float(second.grad)) == (3.0, 4.0)
    assert float(clip_gradients(model, 1.0)) == 5.0
    assert [float(first.grad), float(second.grad)] == pytest.approx([0.6, 0.8], rel=1e-5)
