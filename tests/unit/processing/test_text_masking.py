from __future__ import annotations

import numpy as np

from soho.processing.text_masking import mask_tokens

SPECIAL = [0, 1, 2, 3, 4]
MASK = 4


class FixedDraws:
    """Stands in for a generator: rows of (choose, what to do, which token)."""

    def __init__(self, rows: list[tuple[float, float, float]]) -> None:
        self.rows = np.array(rows)

    def random(self, shape: tuple[int, int]) -> np.ndarray:
        assert shape == self.rows.shape
        return self.rows


def test_the_rule_by_hand() -> None:
    ids = np.array([2, 10, 11, 12, 13, 14, 3])
    special = np.isin(ids, SPECIAL)
    draws = FixedDraws(
        [
            (0.00, 0.0, 0.0),  # [CLS] is never chosen
            (0.14, 0.79, 0.0),  # chosen, [MASK]
            (0.15, 0.0, 0.0),  # not chosen: 0.15 is not below 0.15
            (0.10, 0.80, 0.0),  # chosen, left as it is
            (0.00, 0.95, 0.0),  # chosen, the first token that is not special
            (0.00, 0.90, 0.99),  # chosen, the last token
            (0.00, 0.0, 0.0),
        ]
    )
    masked, labels = mask_tokens(ids, special, draws, MASK, 20, SPECIAL)  # type: ignore[arg-type]
    assert masked.tolist() == [2, 4, 11, 12, 5, 19, 3]
    assert labels.tolist() == [-100, 10, -100, 12, 13, 14, -100]
    assert masked.dtype == labels.dtype == np.int64
    assert ids.tolist() == [2, 10, 11, 12, 13, 14, 3]


def test_shares_on_a_large_sample() -> None:
    rng = np.random.default_rng(7)
    ids = rng.integers(5, 1000, 200_000)
    masked, labels = mask_tokens(ids, np.zeros(len(ids), bool), rng, MASK, 1000, SPECIAL)
    chosen = labels != -100
    assert abs(chosen.mean() - 0.15) < 0.003
    assert (labels[chosen] == ids[chosen]).all()
    assert (masked[~chosen] == ids[~chosen]).all()
    hidden = (masked == MASK)[chosen].mean()
    kept = (masked == ids)[chosen].mean()
    assert abs(hidden - 0.8) < 0.01
    assert abs(kept - 0.1) < 0.01
    assert abs(1 - hidden - kept - 0.1) < 0.01


def test_random_tokens_are_uniform_and_never_special() -> None:
    # Special ids in between: allowed are 0, 2, 3, 6 and 7.
    special_ids = [5, 1, 4, 4]
    ids = np.full(100_000, 2)
    masked, _ = mask_tokens(
        ids,
        np.zeros(len(ids), bool),
        np.random.default_rng(1),
        mask_id=4,
        vocab_size=8,
        special_ids=special_ids,
        probability=1,
    )
    replaced = masked[(masked != 4)]
    counts = np.bincount(replaced, minlength=8)
    assert counts[[1, 4, 5]].tolist() == [0, 0, 0]
    # A tenth of all, shared by five tokens.
    assert all(abs(counts[token] - 2000) < 200 for token in (0, 3, 6, 7))


def test_probability_zero_and_one() -> None:
    ids = np.arange(5, 50)
    nothing = np.zeros(len(ids), bool)
    masked, labels = mask_tokens(ids, nothing, np.random.default_rng(0), MASK, 50, SPECIAL, probability=0.0)
    assert masked.tolist() == ids.tolist()
    assert (labels == -100).all()
    _, labels = mask_tokens(ids, nothing, np.random.default_rng(0), MASK, 50, SPECIAL, probability=1.0)
    assert labels.tolist() == ids.tolist()


def test_padding_on_the_right_changes_nothing() -> None:
    ids = np.array([2, *range(10, 40), 3])
    padded = np.concatenate([ids, np.zeros(9, dtype=np.int64)])
    short = mask_tokens(ids, np.isin(ids, SPECIAL), np.random.default_rng(3), MASK, 50, SPECIAL, 0.5)
    long = mask_tokens(padded, np.isin(padded, SPECIAL), np.random.default_rng(3), MASK, 50, SPECIAL, 0.5)
    assert long[0][: len(ids)].tolist() == short[0].tolist()
    assert long[1][: len(ids)].tolist() == short[1].tolist()
    assert (long[1][len(ids) :] == -100).all()
