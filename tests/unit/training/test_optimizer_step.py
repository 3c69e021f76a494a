from __future__ import annotations

import pytest
import torch
from torch import Tensor

from soho.errors import SohoError
from soho.models import SohoForPreTraining
from soho.training.optimizer_step import OptimizerStep, placed_model
from soho.training.processes import make_accelerator
from tests.unit.models.tiny import tiny_config
from tests.unit.training.toy import ToyData, ToyModel, settings


def batches(size: int, count: int) -> list[dict[str, Tensor]]:
    found = list(ToyData(batch_size=size).epoch(0))
    return found[:count]


def joined(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def make_step(model: ToyModel | None = None, **changes: object) -> OptimizerStep:
    chosen = settings(**changes)
    step = OptimizerStep(model or ToyModel(dropout=0.0), chosen, make_accelerator(chosen.precision))
    step.training_mode(frozen=False)
    return step


def test_accumulation_equals_one_batch_although_the_parts_have_uneven_terms() -> None:
    micro = batches(3, 4)
    terms = [int((batch["values"] != -100).sum()) for batch in micro]
    assert len(set(terms)) > 1
    split, whole = make_step(), make_step()
    one = split.run(micro, 1.0, "step 1")
    other = whole.run([joined(micro)], 1.0, "step 1")
    assert one.loss == pytest.approx(other.loss, rel=1e-6)
    assert one.parts["value"] == (pytest.approx(other.parts["value"][0], rel=1e-6), sum(terms))
    assert one.parts["class"][1] == 12
    assert one.metrics == other.metrics
    assert one.metrics["accuracy"][1] == 12
    assert one.gradient_norm == pytest.approx(other.gradient_norm, rel=1e-5)
    assert (one.images, other.images) == (12, 12)
    for name, value in split.model.state_dict().items():
        torch.testing.assert_close(value, whole.model.state_dict()[name])


def test_the_loss_is_the_mean_over_the_terms() -> None:
    model = ToyModel(dropout=0.0)
    batch = batches(6, 1)[0]
    known = batch["values"] != -100
    with torch.no_grad():
        hidden = model.norm(model.cnn(batch["pixel_values"]))
        errors = (model.value_head(hidden).squeeze(-1) - batch["values"])[known] ** 2
        expected = {
            "value": errors.mean(),
            "class": torch.nn.functional.cross_entropy(model.class_head(hidden), batch["classes"]),
        }
    result = make_step(model).run([batch], 1.0, "step 1")
    assert {name: mean for name, (mean, _) in result.parts.items()} == pytest.approx(
        {name: float(value) for name, value in expected.items()}, rel=1e-5
    )
    assert result.loss == pytest.approx(float(expected["value"] + expected["class"]), rel=1e-5)


def test_a_frozen_backbone_is_not_stepped() -> None:
    step = make_step()
    before = step.model.cnn[0].weight.clone()
    step.training_mode(frozen=True)
    result = step.run(batches(3, 2), 1.0, "step 1")
    assert result.learning_rates == {"backbone": 0.0, "rest": 1e-4}
    # Not even weight decay or momentum touches it.
    assert torch.equal(step.model.cnn[0].weight, before)
    assert step.optimizers["backbone"].state_dict()["state"] == {}
    step.training_mode(frozen=False)
    assert step.run(batches(3, 2), 0.5, "step 2").learning_rates == {"backbone": 5e-3, "rest": 5e-5}
    assert not torch.equal(step.model.cnn[0].weight, before)


def test_a_fixed_module_keeps_its_weights_and_has_no_dropout() -> None:
    step = make_step(frozen=["value_head"])
    before = {name: value.clone() for name, value in step.model.state_dict().items()}
    step.training_mode(frozen=False)
    assert step.model.class_head.training
    assert not step.model.value_head.training
    step.run(batches(3, 2), 1.0, "step 1")
    after = step.model.state_dict()
    assert torch.equal(after["value_head.weight"], before["value_head.weight"])
    assert not torch.equal(after["class_head.weight"], before["class_head.weight"])


def test_a_fixed_module_inside_the_visual_encoder_stays_fixed() -> None:
    model = SohoForPreTraining(tiny_config(visual_summary=True))
    names = ["soho.visual_encoder.summary", "soho.visual_encoder.backbone"]
    step = OptimizerStep(model, settings(frozen=names), make_accelerator("fp32"))
    step.training_mode(frozen=False)
    assert model.soho.visual_encoder.training
    for name in names:
        assert not any(module.training for module in model.get_submodule(name).modules())


def test_the_dictionary_is_updated_once_per_step() -> None:
    step = make_step()
    with torch.no_grad():
        mean = step.model.cnn(joined(batches(3, 4))["pixel_values"]).mean(0)
    step.run(batches(3, 4), 1.0, "step 1")
    torch.testing.assert_close(step.model.ema, 0.1 * mean)


def test_bf16_computes_in_bf16_and_keeps_fp32_weights() -> None:
    seen: list[torch.dtype] = []
    model = ToyModel(dropout=0.0)
    model.cnn.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    step = make_step(model, precision="bf16")
    result = step.run(batches(6, 1), 1.0, "step 1")
    assert seen == [torch.bfloat16]
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    exact = make_step().run(batches(6, 1), 1.0, "step 1")
    assert result.loss == pytest.approx(exact.loss, rel=0.02)
    assert result.loss != exact.loss


def test_channels_last_reaches_weights_and_pictures() -> None:
    class Pictures(ToyModel):
        def __init__(self) -> None:
            super().__init__(dropout=0.0)
            self.cnn = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())

    model = Pictures()
    step = make_step(model, channels_last=True)
    batch = {**batches(4, 1)[0], "pixel_values": torch.rand(4, 3, 6, 6)}
    layouts: list[bool] = []
    model.cnn.register_forward_pre_hook(
        lambda module, inputs: layouts.append(inputs[0].is_contiguous(memory_format=torch.channels_last))
    )
    step.run([batch], 1.0, "step 1")
    assert layouts == [True]
    assert model.cnn[0].weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("values", float("nan"), "the loss part 'value' is nan at step 7"),
        ("values", float("inf"), "the loss part 'value' is inf at step 7"),
    ],
)
def test_a_loss_that_is_not_finite_names_step_and_part(key: str, value: float, expected: str) -> None:
    step = make_step()
    before = {name: tensor.clone() for name, tensor in step.model.named_parameters()}
    micro = batches(3, 2)
    micro[1][key] = torch.full_like(micro[1][key], value)
    with pytest.raises(SohoError, match=expected):
        step.run(micro, 1.0, "step 7")
    assert all(torch.equal(tensor, before[name]) for name, tensor in step.model.named_parameters())


def test_a_gradient_that_is_not_finite_stops_too() -> None:
    step = make_step()
    step.model.value_head.weight.register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(SohoError, match=r"the gradient norm is (inf|nan) at step 7 although the loss is finite"):
        step.run(batches(3, 1), 1.0, "step 7")


def test_a_batch_without_terms_changes_nothing_by_itself() -> None:
    micro = batches(3, 2)
    empty = {**micro[1], "values": torch.full((3,), -100.0), "classes": torch.full((3,), -100)}
    result = make_step().run([micro[0], empty], 1.0, "step 1")
    alone = make_step().run([micro[0]], 1.0, "step 1")
    assert result.parts["class"] == (pytest.approx(alone.parts["class"][0]), 3)
    assert result.gradient_norm == pytest.approx(alone.gradient_norm, rel=1e-5)


def with_scaler(initial: float) -> OptimizerStep:
    step = make_step()
    # What Accelerate sets up for fp16 on a GPU; the arithmetic here stays fp32.
    step.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=initial)
    return step


def test_scaled_gradients_give_the_same_step_for_both_optimizers() -> None:
    scaled, plain = with_scaler(2.0**10), make_step()
    for number in range(3):
        one = scaled.run(batches(3, 8)[number : number + 2], 1.0, "step")
        other = plain.run(batches(3, 8)[number : number + 2], 1.0, "step")
        assert one.gradient_norm == pytest.approx(other.gradient_norm, rel=1e-5)
        assert not one.skipped
    for name, value in scaled.model.state_dict().items():
        torch.testing.assert_close(value, plain.model.state_dict()[name])


def test_an_overflow_skips_both_optimizers_and_lowers_the_scale() -> None:
    step = with_scaler(2.0**127)
    before = {name: tensor.clone() for name, tensor in step.model.named_parameters()}
    result = step.run(batches(3, 2), 1.0, "step 1")
    assert result.skipped
    assert all(torch.equal(tensor, before[name]) for name, tensor in step.model.named_parameters())
    assert step.accelerator.scaler.get_scale() == 2.0**126
    for _ in range(40):
        result = step.run(batches(3, 2), 1.0, "step")
        if not result.skipped:
            break
    assert not result.skipped
    assert not torch.equal(step.model.cnn[0].weight, before["cnn.0.weight"])
    restored = with_scaler(1.0)
    restored.load_state_dict(step.state_dict())
    assert restored.accelerator.scaler.get_scale() == step.accelerator.scaler.get_scale() < 2.0**126


def test_an_old_torch_cannot_share_a_model_out(monkeypatch: pytest.MonkeyPatch) -> None:
    class TwoProcesses:
        num_processes = 2

    monkeypatch.setattr(torch, "__version__", "2.6.1+cpu")
    with pytest.raises(SohoError, match=r"training\.fsdp=true needs torch 2\.13 or newer; this is torch 2\.6\.1\+cpu"):
        placed_model(ToyModel(), settings(fsdp=True), TwoProcesses())  # type: ignore[arg-type]
