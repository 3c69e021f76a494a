"""A shortlist of pairs: which a cheap first stage hands on, where the others rank, and what is lost by it.

The paper scores all pairs. A shortlist of k keeps, by the first stage's scores, the best k texts of every picture and
the best k pictures of every text; what ties with the last of them is kept too, so the choice depends on scores alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from soho.errors import SohoError
from soho.evaluation.score_matrix import Scores, over_processes

# Scores looked at in one go: 4 Mi, some 40 MiB with temporaries.
BLOCK_SCORES = 1 << 22

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Cutoffs:
    """What a score must reach to be among the best k of its row or of its column.

    Attributes:
        rows: (N,) k-th best score of each row; -inf where there are fewer than k.
        columns: (T,) the same of each column.
    """

    rows: Scores
    columns: Scores

    @classmethod
    def of(cls, scores: Scores, k: int, world_size: int = 1) -> Cutoffs:
        """Find the cut-offs of a matrix a block of rows at a time; collective where there are several processes.

        Args:
            scores: (own rows, T), without NaN; may be a memory map.
            k: how many are kept.
            world_size: number of processes, each with rows of its own; the cut-offs of columns are over all of them.

        Raises:
            SohoError: k is not positive, or there are several processes but no torch.distributed.
        """
        if k < 1:
            raise SohoError(f"a shortlist keeps at least one candidate, not {k}")
        rows = np.full(len(scores), -np.inf, dtype=np.float32)
        best = np.zeros((0, scores.shape[1]), dtype=np.float32)  # of each column, unordered
        for part in row_blocks(scores.shape):
            block = np.asarray(scores[part])
            if k <= block.shape[1]:
                rows[part] = np.partition(block, -k, axis=1)[:, -k]
            best = _best(np.concatenate((best, block)), k)
        best = _best(np.concatenate(over_processes(best, world_size)), k)
        columns = best.min(axis=0) if len(best) >= k else np.full(best.shape[1], -np.inf, dtype=np.float32)
        return cls(rows, columns)

    def reached(self, rows: slice | npt.NDArray[np.int64], scores: Scores) -> Mask:
        """Return which of the scores (R, T) of some rows are among the best k of their row or their column."""
        return self.reached_in_rows(rows, scores) | self.reached_in_columns(scores)

    def reached_in_rows(self, rows: slice | npt.NDArray[np.int64], scores: Scores) -> Mask:
        """Return which of the scores (R, T) of some rows are among the best k of their row."""
        return scores >= self.rows[rows][:, None]

    def reached_in_columns(self, scores: Scores) -> Mask:
        """Return which of the scores (R, T) are among the best k of their column."""
        return scores >= self.columns


def below(lowest: float, first_stage: Scores) -> Scores:
    """Return scores for pairs that were not scored exactly: all below the exact ones, in the order of the first stage.

    With u = max(1, |lowest|) a pair of cosine c gets lowest - u (2 - c), at least u less than the lowest exact score.
    In float32 that tells cosines apart that differ by about 1e-6; closer ones may tie, which counts against the model.

    Args:
        lowest: the lowest exact score of the whole matrix.
        first_stage: (...) cosines in [-1, 1].

    Returns:
        (...) float32.
    """
    unit = max(1.0, abs(lowest))
    scores: Scores = (lowest - unit * (2.0 - first_stage.astype(np.float64))).astype(np.float32)
    return scores


def kept_share(exact: Scores, first_stage: Scores, k: int, top: int = 10) -> dict[str, float]:
    """Return what share of the exactly best pairs a shortlist of k keeps: the recall of the first stage.

    Args:
        exact: (N, T) scores of all pairs; may be a memory map.
        first_stage: (N, T) scores of the first stage; may be a memory map.
        k: texts kept of every picture and pictures kept of every text.
        top: how many of the exactly best count, those that tie with the last of them included.

    Returns:
        `kept_tr`: the share of all pictures' exact top texts whose pair the shortlist keeps, for whichever reason;
        `kept_ir`: the share of all texts' exact top pictures; `pairs`: the share of all pairs that are kept.

    Raises:
        SohoError: the shapes differ, there is nothing to compare, or an exact score is not a number.
    """
    if exact.shape != first_stage.shape or exact.ndim != 2 or not exact.size:
        raise SohoError(f"exact scores {exact.shape} and first stage {first_stage.shape} must be of one shape (N, T)")
    if any(np.isnan(matrix[part]).any() for matrix in (exact, first_stage) for part in row_blocks(exact.shape)):
        raise SohoError("exact scores and those of the first stage must be numbers, but one of them is not")
    wanted, shortlist = Cutoffs.of(exact, top), Cutoffs.of(first_stage, k)
    kept, of = np.zeros(3, dtype=np.int64), np.zeros(3, dtype=np.int64)
    for part in row_blocks(exact.shape):
        block = np.asarray(exact[part])
        chosen = shortlist.reached(part, np.asarray(first_stage[part]))
        for place, best in enumerate(
            (wanted.reached_in_rows(part, block), wanted.reached_in_columns(block), np.ones_like(chosen))
        ):
            kept[place] += np.count_nonzero(chosen & best)
            of[place] += np.count_nonzero(best)
    return {name: float(share) for name, share in zip(("kept_tr", "kept_ir", "pairs"), kept / of)}


def row_blocks(shape: tuple[int, ...]) -> Iterator[slice]:
    """Yield ranges of rows that hold about `BLOCK_SCORES` scores."""
    step = max(1, BLOCK_SCORES // max(1, shape[1]))
    for start in range(0, shape[0], step):
        yield slice(start, min(start + step, shape[0]))


def _best(scores: Scores, k: int) -> Scores:
    """Return the best k (or fewer) of each column of (R, T), in no order."""
    return scores if len(scores) <= k else np.partition(scores, len(scores) - k, axis=0)[-k:]
