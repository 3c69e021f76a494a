"""Masked language modelling: which tokens are hidden, and behind what (BERT's 80/10/10 rule)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

IGNORE = -100


def mask_tokens(
    input_ids: np.ndarray,
    special: np.ndarray,
    rng: np.random.Generator,
    mask_id: int,
    vocab_size: int,
    special_ids: Sequence[int] | np.ndarray,
    probability: float = 0.15,
) -> tuple[np.ndarray, np.ndarray]:
    """Hide tokens of a text for masked language modelling (section 3.3, after BERT).

    Every token that is not special is chosen on its own with `probability`; a chosen token becomes `[MASK]` in 80 %,
    a random token in 10 % and stays as it is in 10 % of all cases. A text may end up without any chosen token.

    A token's draws depend on its place alone, so padding on the right changes nothing.

    Args:
        input_ids: (L,) token ids.
        special: (L,) bool, True where a token must not be chosen ([CLS], [SEP], padding).
        rng: where the draws come from; 3 L uniform draws are taken.
        mask_id: id of `[MASK]`.
        vocab_size: number of tokens.
        special_ids: ids that a random token never is.
        probability: share of tokens to choose.

    Returns:
        (L,) ids for the model and (L,) labels, int64: the original id at chosen places, -100 elsewhere.
    """
    ids = np.asarray(input_ids, dtype=np.int64)
    chance, action, pick = rng.random((len(ids), 3)).T
    chosen = (chance < probability) & ~np.asarray(special, dtype=bool)
    labels = np.where(chosen, ids, IGNORE)
    forbidden = sorted({number for number in map(int, special_ids) if 0 <= number < vocab_size})
    # The n-th token that is not special: count up from n, stepping over every special id on the way.
    random_ids = (pick * (vocab_size - len(forbidden))).astype(np.int64)
    for number in forbidden:
        random_ids += random_ids >= number
    masked = np.where(chosen & (action < 0.8), mask_id, ids)
    masked = np.where(chosen & (action >= 0.9), random_ids, masked)
    return masked, labels
