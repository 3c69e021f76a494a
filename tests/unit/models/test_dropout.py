from __future__ import annotations

import pytest
import torch

from soho.models.dropout import Dropout, dropout


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("probability", [0.1, 0.5, 0.75])
def test_shares_and_mean(probability: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    values = torch.ones(37, 29, 31, dtype=dtype)  # 33,263 of them: no multiple of four
    dropped = dropout(values, probability)
    assert dropped.shape == values.shape
    assert dropped.dtype == dtype
    # Three standard errors of a share of 33,263 draws are at most 0.0083.
    assert (dropped == 0).float().mean().item() == pytest.approx(probability, abs=0.0083)
    zero, scaled = dropped.unique().tolist()
    assert zero == 0.0
    assert scaled == pytest.approx(1 / (1 - probability), rel=1e-4 if dtype == torch.float32 else 4e-3)


@pytest.mark.parametrize("probability", [1.0, 1 - 2**-17])
def test_nothing_stays_at_one(probability: float) -> None:
    values = torch.randn(5, 3, requires_grad=True)
    dropped = dropout(values, probability)
    assert torch.equal(dropped, torch.zeros(5, 3))
    dropped.sum().backward()
    assert values.grad is not None
    assert torch.equal(values.grad, torch.zeros(5, 3))
    assert torch.equal(Dropout(1.0).train()(values), torch.zeros(5, 3))
    least = dropout(torch.ones(400_000), 1 - 2**-16)  # one of 65,536 levels still passes
    assert set(least.unique().tolist()) <= {0.0, 65536.0}


def test_neighbours_are_independent() -> None:
    torch.manual_seed(0)
    kept = (dropout(torch.ones(400_000), 0.5) > 0).float() - 0.5
    for distance in (1, 2, 3, 4):  # four values share a draw
        correlation = 4 * (kept[:-distance] * kept[distance:]).mean().item()
        assert abs(correlation) < 0.007  # about four standard errors


def test_the_gradient_passes_where_the_value_passed() -> None:
    torch.manual_seed(0)
    values = torch.randn(50, 7, requires_grad=True)
    dropped = dropout(values, 0.3)
    dropped.sum().backward()
    assert values.grad is not None
    assert torch.equal(values.grad == 0, dropped == 0)
    assert values.grad.max().item() == pytest.approx(1 / 0.7, rel=1e-4)


def test_the_seed_decides_and_evaluation_changes_nothing() -> None:
    module, values = Dropout(0.5), torch.randn(100)
    torch.manual_seed(3)
    first = module(values)
    torch.manual_seed(3)
    assert torch.equal(module(values), first)
    assert not torch.equal(module(values), first)
    assert module.eval()(values) is values
    assert Dropout(0.0).train()(values) is values
