"""Which pairs a shortlist keeps, where the others rank, and what share of the exactly best it keeps."""

from __future__ import annotations

import numpy as np
import pytest

from soho.errors import SohoError
from soho.evaluation import shortlist
from soho.evaluation.shortlist import Cutoffs, below, kept_share

FIRST = np.array(
    [
        [0.9, 0.1, 0.2, 0.3],
        [0.8, 0.7, 0.1, 0.0],
        [0.5, 0.5, -0.2, -0.5],
    ],
    dtype=np.float32,
)


@pytest.mark.parametrize("block", [1, 8, 1 << 22])  # a row at a time, two rows, everything
def test_the_best_of_each_row_and_of_each_column_are_kept(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shortlist, "BLOCK_SCORES", block)
    found = Cutoffs.of(FIRST, 1)
    assert found.rows.tolist() == FIRST.max(1).tolist()
    assert found.columns.tolist() == FIRST.max(0).tolist()
    # Rows: 0.9 | 0.8 | 0.5 twice, a tie. Columns: 0.9 | 0.7 | 0.2 | 0.3.
    assert found.reached(slice(0, 3), FIRST).tolist() == [
        [True, False, True, True],
        [True, True, False, False],
        [True, True, False, False],
    ]
    assert found.reached(np.array([2]), FIRST[2:]).tolist() == [[True, True, False, False]]
    found = Cutoffs.of(FIRST, 2)
    np.testing.assert_array_equal(found.rows, np.array([0.3, 0.7, 0.5], dtype=np.float32))
    np.testing.assert_array_equal(found.columns, np.array([0.8, 0.5, 0.1, 0.0], dtype=np.float32))


def test_more_than_there_are_is_all_of_them() -> None:
    found = Cutoffs.of(FIRST, 4)
    assert found.rows.tolist() == FIRST.min(1).tolist()
    assert found.columns.tolist() == [-np.inf] * 4  # three rows, not four
    assert found.reached(slice(0, 3), FIRST).all()
    with pytest.raises(SohoError, match="at least one candidate, not 0"):
        Cutoffs.of(FIRST, 0)
    with pytest.raises(SohoError, match=r"needs torch\.distributed"):
        Cutoffs.of(FIRST, 1, world_size=2)


def test_pairs_that_are_not_scored_stand_below_those_that_are() -> None:
    assert below(-3.0, np.array([1.0, 0.0, -1.0], dtype=np.float32)).tolist() == [-6.0, -9.0, -12.0]
    assert below(0.5, np.array([1.0, 0.0, -1.0], dtype=np.float32)).tolist() == [-0.5, -1.5, -2.5]
    for lowest in (-1e6, -20.0, 0.0, 1e6):
        steps = below(lowest, np.arange(-1, 1, 2e-6, dtype=np.float64).astype(np.float32))
        assert (np.diff(steps) > 0).all()
        assert steps.max() < np.float32(lowest)


def test_the_share_of_the_exactly_best_that_is_kept() -> None:
    exact = np.array(
        [
            [1.0, 0.0, 5.0, 2.0],  # best text 2, which is kept for being its column's best
            [9.0, 3.0, 4.0, 1.0],  # best text 0, kept
            [0.0, 1.0, 2.0, 3.0],  # best text 3, not kept
        ],
        dtype=np.float32,
    )
    # The best pictures of the texts: 1 (kept), 1 (kept), 0 (kept), 2 (not kept). Of 12 pairs 7 are kept.
    assert kept_share(exact, FIRST, 1, top=1) == {"kept_tr": 2 / 3, "kept_ir": 3 / 4, "pairs": 7 / 12}
    # The two best texts: 2 and 3, 0 and 2, 3 and 2: kept are 2, 3 and 0.
    assert kept_share(exact, FIRST, 1, top=2)["kept_tr"] == 3 / 6
    assert kept_share(exact, FIRST, 4, top=2) == {"kept_tr": 1.0, "kept_ir": 1.0, "pairs": 1.0}
    # All captions tie in row 0: the best one is any of them, and three of the four are kept.
    exact[0] = 7.0
    assert kept_share(exact, FIRST, 1, top=1)["kept_tr"] == (3 + 1 + 0) / (4 + 1 + 1)


def test_what_cannot_be_compared() -> None:
    with pytest.raises(SohoError, match=r"exact scores \(2, 4\) and first stage \(3, 4\)"):
        kept_share(FIRST[:2], FIRST, 1)
    holed = FIRST.copy()
    holed[1, 1] = np.nan
    with pytest.raises(SohoError, match="must be numbers"):
        kept_share(holed, FIRST, 1)
