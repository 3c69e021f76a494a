"""The 2-D sine position embedding."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from soho.models.position_embedding import sine_position_embedding


def code(angle: float) -> list[float]:
    """Four channels of one axis at C = 8: frequencies 1 and 10000^-0.5 = 0.01."""
    return [math.sin(angle), math.cos(angle), math.sin(0.01 * angle), math.cos(0.01 * angle)]


def close(actual: Tensor, row: float, column: float) -> None:
    """Compare with the code of two angles; the 1e-6 that guards the division moves an angle by up to 6e-6."""
    torch.testing.assert_close(actual, torch.tensor(code(row) + code(column)), rtol=0, atol=2e-5)


def test_two_by_two_by_hand() -> None:
    embedding = sine_position_embedding(torch.ones(1, 2, 2, dtype=torch.bool), 8)
    assert embedding.shape == (1, 2, 2, 8)
    assert embedding.dtype == torch.float32
    assert code(math.pi) == pytest.approx([0.0, -1.0, 0.0314108, 0.9995066], abs=1e-7)
    close(embedding[0, 0, 0], math.pi, math.pi)
    close(embedding[0, 0, 1], math.pi, 2 * math.pi)
    close(embedding[0, 1, 0], 2 * math.pi, math.pi)
    close(embedding[0, 1, 1], 2 * math.pi, 2 * math.pi)


def test_frequencies_at_sixteen_channels() -> None:
    # C / 2 = 8 channels an axis: 10000^(-2 i / 8) for i = 0..3 is 1, 0.1, 0.01, 0.001; sine and cosine alternate.
    embedding = sine_position_embedding(torch.ones(1, 4, 1, dtype=torch.bool), 16)[0, 0, 0]
    angle = math.pi / 2  # row 1 of 4
    expected = [function(angle * f) for f in (1, 0.1, 0.01, 0.001) for function in (math.sin, math.cos)]
    torch.testing.assert_close(embedding[:8], torch.tensor(expected), rtol=0, atol=2e-5)


def test_partially_valid_mask_counts_valid_cells_only() -> None:
    mask = torch.tensor([[[True, True], [True, False]]])
    embedding = sine_position_embedding(mask, 8)[0]
    close(embedding[0, 0], math.pi, math.pi)  # row 1 of 2, column 1 of 2
    close(embedding[0, 1], 2 * math.pi, 2 * math.pi)  # row 1 of 1, column 2 of 2
    close(embedding[1, 0], 2 * math.pi, 2 * math.pi)  # row 2 of 2, column 1 of 1


def test_more_padding_does_not_change_the_codes_of_valid_cells() -> None:
    alone = sine_position_embedding(torch.ones(1, 3, 5, dtype=torch.bool), 16)
    mask = torch.zeros(2, 7, 9, dtype=torch.bool)
    mask[0, :3, :5] = True
    mask[1] = True
    assert torch.equal(sine_position_embedding(mask, 16)[0, :3, :5], alone[0])


def test_nothing_valid_is_finite() -> None:
    assert sine_position_embedding(torch.zeros(1, 2, 3, dtype=torch.bool), 8).isfinite().all()
