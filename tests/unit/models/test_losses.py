"""Losses with values worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from soho.models.losses import answer_loss, classification_loss, masked_visual_loss, normalise

LN2, LN3 = math.log(2), math.log(3)


def test_classification_by_hand() -> None:
    logits = torch.tensor([[0.0, LN3], [0.0, 0.0], [9.0, -9.0]], requires_grad=True)
    total, count = classification_loss(logits, torch.tensor([1, 0, -100]))
    assert total.item() == pytest.approx(math.log(4 / 3) + LN2)
    assert count.item() == 2.0
    total.backward()
    assert logits.grad is not None
    # softmax - one-hot, and nothing at the ignored row
    torch.testing.assert_close(logits.grad, torch.tensor([[0.25, -0.25], [-0.5, 0.5], [0.0, 0.0]]))


def test_classification_of_nothing_is_zero_and_differentiable() -> None:
    logits = torch.zeros(0, 5, requires_grad=True)
    total, count = classification_loss(logits, torch.zeros(0, dtype=torch.long))
    total.backward()
    assert (total.item(), count.item()) == (0.0, 0.0)
    ignored, count = classification_loss(torch.zeros(2, 5), torch.tensor([-100, -100]))
    assert (ignored.item(), count.item()) == (0.0, 0.0)


def test_classification_is_float32_for_bf16_logits() -> None:
    total, _ = classification_loss(torch.tensor([[0.0, 1.0]], dtype=torch.bfloat16), torch.tensor([0]))
    assert total.dtype == torch.float32
    assert total.item() == pytest.approx(math.log(1 + math.e), rel=1e-6)


def test_masked_visual_loss_averages_inside_a_pair() -> None:
    logits = torch.tensor([[0.0, 0.0], [LN3, 0.0], [LN3, 0.0], [0.0, 0.0]], requires_grad=True)
    labels = torch.tensor([0, 0, 1, 1])
    pair = torch.tensor([0, 0, 0, 2])  # pair 1 has no masked cell
    total, count = masked_visual_loss(logits, labels, pair, torch.tensor(3))
    assert total.item() == pytest.approx((LN2 + math.log(4 / 3) + math.log(4)) / 3 + LN2)
    assert count.item() == 3.0
    total.backward()
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad[0], torch.tensor([-0.5, 0.5]) / 3)
    torch.testing.assert_close(logits.grad[3], torch.tensor([0.5, -0.5]))


def test_masked_visual_loss_of_nothing_is_zero_and_differentiable() -> None:
    logits = torch.zeros(0, 4, requires_grad=True)
    empty = torch.zeros(0, dtype=torch.long)
    total, count = masked_visual_loss(logits, empty, empty, torch.tensor(2))
    total.backward()
    assert (total.item(), count.item()) == (0.0, 2.0)


def test_answer_loss_by_hand() -> None:
    logits = torch.tensor([[0.0, 0.0, LN3], [5.0, 5.0, 5.0]], requires_grad=True)
    targets = torch.tensor([[1.0, 0.3, 0.0], [-100.0, -100.0, -100.0]])
    total, count = answer_loss(logits, targets)
    # Summed over answers: ln 2 + ln 2 (any target at logit 0) + ln(1 + 3)
    assert total.item() == pytest.approx(4 * LN2)
    assert count.item() == 1.0
    total.backward()
    assert logits.grad is not None
    # sigmoid - target
    torch.testing.assert_close(logits.grad, torch.tensor([[-0.5, 0.2, 0.75], [0.0, 0.0, 0.0]]))


def test_normalise_by_own_or_given_counts() -> None:
    parts = {"a": (torch.tensor(6.0), torch.tensor(3.0)), "b": (torch.tensor(0.0), torch.tensor(0.0))}
    assert {name: value.item() for name, value in normalise(parts, None).items()} == {"a": 2.0, "b": 0.0}
    given = normalise(parts, {"a": torch.tensor(12.0), "b": torch.tensor(5.0)})
    assert {name: value.item() for name, value in given.items()} == {"a": 0.5, "b": 0.0}
