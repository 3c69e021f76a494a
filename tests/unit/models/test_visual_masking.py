"""Which cells masked visual modelling hides."""

from __future__ import annotations

import pytest
import torch

from soho.models.visual_masking import choose_masked_cells


def chosen(row: list[int], draw: float, share: float = 0.5) -> list[int]:
    """Return the places of one row that are masked."""
    return choose_masked_cells(torch.tensor([row]), torch.tensor([draw]), share)[0].nonzero()[:, 0].tolist()


ROW = [5, 5, 3, -1, 7, 3]  # five valid cells: index 5 twice, 3 twice, 7 once


@pytest.mark.parametrize(
    ("draw", "places"),
    [(0.0, [0, 1]), (0.333, [0, 1]), (0.334, [2, 5]), (0.666, [2, 5]), (0.667, [4]), (0.999, [4])],
)
def test_all_cells_of_one_existing_index(draw: float, places: list[int]) -> None:
    assert chosen(ROW, draw) == places


def test_a_draw_that_rounds_to_one_still_picks_the_last() -> None:
    assert torch.tensor([1 - 1e-9]).item() == 1.0
    assert chosen(ROW, 1 - 1e-9) == [4]


@pytest.mark.parametrize("draw", [0.0, 0.5, 0.99])
def test_an_index_on_more_than_half_of_the_valid_cells_is_never_picked(draw: float) -> None:
    assert chosen([5, 5, 5, 3], draw) == [3]
    # Padding does not count: 5 is on two of three valid cells.
    assert chosen([5, 5, 3, -1, -1, -1], draw) == [2]


def test_exactly_half_may_be_picked() -> None:
    assert chosen([5, 5, 3, 3], 0.2) == [0, 1]
    assert chosen([5, 5, 3, 3], 0.7) == [2, 3]


def test_the_share_is_a_setting() -> None:
    assert chosen([5, 5, 3, 4], 0.0, share=0.25) == [2]
    assert chosen([5, 5, 5], 0.0, share=1.0) == [0, 1, 2]


@pytest.mark.parametrize("row", [[5, 5, 5], [5, -1, -1], [-1, -1, -1], [5, 5, -1]])
def test_nothing_is_masked_where_no_index_may_be(row: list[int]) -> None:
    for draw in (0.0, 0.5, 0.999):
        assert chosen(row, draw) == []


def test_rows_do_not_touch_each_other() -> None:
    indices = torch.tensor([[1, 2, 3, 4], [4, 3, 2, 1], [9, 9, 9, 9]])
    masked = choose_masked_cells(indices, torch.tensor([0.0, 0.0, 0.0]))
    assert masked.tolist() == [[True, False, False, False], [True, False, False, False], [False] * 4]


def test_uniform_over_distinct_indices_and_not_over_cells() -> None:
    row = torch.tensor([8, 8, 8, 1, 1, 4])  # three, two and one of six cells
    draws = (torch.arange(3000) + 0.5) / 3000
    masked = choose_masked_cells(row.expand(3000, 6), draws)
    picked = torch.where(masked, row, -1).amax(1)
    assert [(picked == index).sum().item() for index in (8, 1, 4)] == [1000, 1000, 1000]


def test_random_rows_keep_the_rules() -> None:
    generator = torch.Generator().manual_seed(0)
    indices = torch.randint(-1, 6, (400, 9), generator=generator)
    masked = choose_masked_cells(indices, torch.rand(400, generator=generator))
    for row, cells in zip(indices, masked):
        valid = int((row >= 0).sum())
        groups = {int(index): int((row == index).sum()) for index in row.unique() if index >= 0}
        picked = row[cells].unique().tolist()
        if not any(2 * size <= valid for size in groups.values()):
            assert picked == []
            continue
        assert len(picked) == 1
        assert picked[0] >= 0
        assert int(cells.sum()) == groups[picked[0]]  # all of them
        assert 2 * int(cells.sum()) <= valid
