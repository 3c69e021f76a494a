"""Batches of pictures of one padded shape, shared out over processes.

A picture is padded by its own shape alone (its result must not depend on its batch mates), so a batch can only hold
pictures whose padded shapes are equal.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from soho.errors import SohoError
from soho.randomness import keyed_generator


class BatchItem(NamedTuple):
    """One place in a batch.

    Attributes:
        index: which sample stands there.
        filler: True where the sample only fills a batch that would be empty on this process; its losses and its
            share in the dictionary have to be zero.
    """

    index: int  # type: ignore[assignment]  # tuple.index is not missed
    filler: bool


class AspectRatioBatches:
    """Deals the samples of an epoch into micro-batches of one shape.

    The samples of each shape are shuffled and cut into global batches of `batch_size * world_size`; the order of the
    global batches is shuffled too; each process gets a contiguous part of every one. Therefore

    - over all processes every sample comes exactly once an epoch (fillers aside);
    - the number of micro-batches depends on the shapes alone: it is the same in every epoch and on every process, so
      schedules can be computed ahead and no process waits for another at the end;
    - which samples an optimizer step reads depends on `batch_size * world_size` and not on how it is factored;
    - the whole epoch follows from (seed, epoch), so that resuming needs only the number of batches already done.

    The last global batch of a shape is usually smaller. Where it has fewer samples than there are processes, the
    processes that would get none get one of its samples again, marked as filler.

    Args:
        shapes: (S, 2) padded shape of every sample, in any unit and order of axes; (S, 4) where a sample has two
            pictures, so that a batch holds one shape of the first and one of the second.
        batch_size: samples of a micro-batch, per process.
        seed: the seed of the run.
        world_size: number of processes.
        rank: number of this process, from 0.
        shuffle: False deals the samples of each shape in their order, shapes by first appearance (evaluation).

    Raises:
        SohoError: no samples, a batch size below 1, or a rank outside [0, world_size).
    """

    def __init__(
        self,
        shapes: Sequence[tuple[int, ...]] | np.ndarray,
        batch_size: int,
        seed: int,
        world_size: int = 1,
        rank: int = 0,
        shuffle: bool = True,
    ) -> None:
        table = np.asarray(shapes, dtype=np.int64)
        if not len(table):
            raise SohoError("there are no samples to make batches of")
        if batch_size < 1:
            raise SohoError(f"batch_size={batch_size} must be at least 1")
        if not 0 <= rank < world_size:
            raise SohoError(f"rank={rank} must lie in 0..{world_size - 1} for world_size={world_size}")
        self.batch_size = batch_size
        self.seed = seed
        self.world_size = world_size
        self.rank = rank
        self.shuffle = shuffle
        self.sample_count = len(table)
        # As one number a shape: unique rows would be found ten times slower.
        _, first, group = np.unique(_as_numbers(table), return_index=True, return_inverse=True)
        # One stable sort instead of one pass over all samples a shape.
        members = np.split(np.argsort(group, kind="stable"), np.bincount(group).cumsum()[:-1])
        self._groups: list[tuple[str, np.ndarray]] = [
            ("x".join(map(str, table[first[number]])), members[number]) for number in np.argsort(first)
        ]
        self._global_size = batch_size * world_size
        self._count = sum(-(-len(members) // self._global_size) for _, members in self._groups)

    def __len__(self) -> int:
        """Return the number of micro-batches per process and epoch; the same for every epoch and process."""
        return self._count

    def batches(self, epoch: int, start: int = 0) -> list[list[BatchItem]]:
        """Return this process's micro-batches of an epoch.

        Args:
            epoch: number of the epoch; equal numbers give equal batches.
            start: how many micro-batches to leave out, to go on in the middle of the epoch.

        Raises:
            SohoError: `start` is not in 0..len(self).
        """
        if not 0 <= start <= self._count:
            raise SohoError(
                f"cannot start epoch {epoch} at batch {start}: it has {self._count} batches. "
                "Was the data, the batch size or the number of processes changed?"
            )
        return [self._share(part) for part in self._global_batches(epoch)[start:]]

    def _global_batches(self, epoch: int) -> list[np.ndarray]:
        size = self._global_size
        result: list[np.ndarray] = []
        for shape, members in self._groups:
            # Keyed by shape: pictures of a new shape leave the order of the others as it was.
            order = keyed_generator(self.seed, epoch, shape, "order").permutation(members) if self.shuffle else members
            result += [order[low : low + size] for low in range(0, len(order), size)]
        if not self.shuffle:
            return result
        return [result[number] for number in keyed_generator(self.seed, epoch, "order").permutation(len(result))]

    def _share(self, part: np.ndarray) -> list[BatchItem]:
        """Return this rank's contiguous part of a global batch; parts differ by at most one in length."""
        low, high = (len(part) * edge // self.world_size for edge in (self.rank, self.rank + 1))
        if low == high:
            return [BatchItem(int(part[min(low, len(part) - 1)]), True)]
        return [BatchItem(index, False) for index in part[low:high].tolist()]


def _as_numbers(table: np.ndarray) -> np.ndarray:
    """Return one number a row, equal for equal rows alone."""
    numbers = np.zeros(len(table), dtype=np.int64)
    for column in table.T:
        values, places = np.unique(column, return_inverse=True)
        numbers = numbers * len(values) + places
    return numbers
