from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from soho.data.batching import AspectRatioBatches, BatchItem
from soho.errors import SohoError

WIDE, TALL, SQUARE = (832, 640), (640, 832), (640, 640)

shapes_lists = st.lists(st.sampled_from([WIDE, TALL, SQUARE]), min_size=1, max_size=40)


def ranks(shapes: list[tuple[int, int]], batch_size: int, world_size: int, epoch: int = 0, **options: object) -> list:
    return [
        AspectRatioBatches(shapes, batch_size, 3, world_size, rank, **options).batches(epoch)  # type: ignore[arg-type]
        for rank in range(world_size)
    ]


@settings(max_examples=60, deadline=None)
@given(shapes_lists, st.integers(1, 5), st.integers(1, 4), st.integers(0, 3), st.booleans())
def test_every_sample_once_in_batches_of_one_shape(
    shapes: list[tuple[int, int]], batch_size: int, world_size: int, epoch: int, shuffle: bool
) -> None:
    by_rank = ranks(shapes, batch_size, world_size, epoch, shuffle=shuffle)
    count = len(AspectRatioBatches(shapes, batch_size, 3, world_size, 0))
    assert {len(batches) for batches in by_rank} == {count}
    real = [item.index for batches in by_rank for batch in batches for item in batch if not item.filler]
    assert sorted(real) == list(range(len(shapes)))
    for step in zip(*by_rank):  # what all processes read at the same time
        assert len({shapes[item.index] for batch in step for item in batch}) == 1
        assert all(1 <= len(batch) <= batch_size for batch in step)
        # A filler stands alone, and only where there are fewer samples than processes.
        fillers = sum(item.filler for batch in step for item in batch)
        assert fillers == max(0, world_size - sum(not item.filler for batch in step for item in batch))
        assert all(len(batch) == 1 for batch in step if batch[0].filler)


def test_examples_of_two_pictures_stand_together_by_the_pair_of_shapes() -> None:
    shapes = [(*WIDE, *TALL), (*TALL, *WIDE), (*WIDE, *TALL), (*WIDE, *WIDE), (*TALL, *WIDE), (*WIDE, *TALL)]
    batches = AspectRatioBatches(shapes, 2, 3, shuffle=False).batches(0)
    assert [[item.index for item in batch] for batch in batches] == [[0, 2], [5], [1, 4], [3]]
    shuffled = AspectRatioBatches(shapes, 2, 3).batches(0)
    assert all(len({shapes[item.index] for item in batch}) == 1 for batch in shuffled)
    assert sorted(item.index for batch in shuffled for item in batch) == list(range(6))


@settings(max_examples=60, deadline=None)
@given(shapes_lists, st.integers(1, 3), st.sampled_from([(1, 4), (2, 2), (4, 1)]))
def test_a_step_reads_the_same_samples_however_it_is_shared(
    shapes: list[tuple[int, int]], unit: int, split: tuple[int, int]
) -> None:
    batch_size, world_size = split
    whole = ranks(shapes, 4 * unit, 1)[0]
    shared = ranks(shapes, batch_size * unit, world_size)
    for batch, parts in zip(whole, zip(*shared), strict=True):
        joined = [item.index for part in parts for item in part if not item.filler]
        assert joined == [item.index for item in batch]


@settings(max_examples=30, deadline=None)
@given(shapes_lists, st.integers(1, 4), st.integers(1, 3), st.data())
def test_going_on_in_the_middle_of_an_epoch(
    shapes: list[tuple[int, int]], batch_size: int, world_size: int, data: st.DataObject
) -> None:
    batches = AspectRatioBatches(shapes, batch_size, 11, world_size, world_size - 1)
    start = data.draw(st.integers(0, len(batches)))
    again = AspectRatioBatches(shapes, batch_size, 11, world_size, world_size - 1)
    assert again.batches(5, start) == batches.batches(5)[start:]


def test_counts_by_hand() -> None:
    # 7 wide: 2 global batches of 4 (the last with 3); 2 tall: 1; 4 square: 1.
    shapes = [WIDE] * 7 + [TALL] * 2 + [SQUARE] * 4
    batches = AspectRatioBatches(shapes, batch_size=2, seed=0, world_size=2)
    assert len(batches) == 4
    assert all(len(batches.batches(epoch)) == 4 for epoch in range(5))
    assert len(AspectRatioBatches(shapes, batch_size=2, seed=0)) == 4 + 1 + 2


def test_fillers_by_hand() -> None:
    # One sample and three processes: two repeat it as fillers.
    by_rank = ranks([WIDE], 2, 3)
    assert sorted(batches[0][0] for batches in by_rank) == [(0, False), (0, True), (0, True)]


def test_the_last_batch_is_shared_evenly() -> None:
    # 5 samples over 4 processes with batch size 2: nobody is idle.
    lengths = [len(batches[0]) for batches in ranks([WIDE] * 5, 2, 4)]
    assert sorted(lengths) == [1, 1, 1, 2]


def test_evaluation_keeps_the_order() -> None:
    shapes = [TALL, WIDE, TALL, TALL, WIDE]
    batches = AspectRatioBatches(shapes, 2, seed=9, shuffle=False)
    expected = [[0, 2], [3], [1, 4]]
    assert batches.batches(0) == [[BatchItem(index, False) for index in batch] for batch in expected]
    assert batches.batches(0) == batches.batches(7)


def test_epochs_and_seeds_differ_and_repeat() -> None:
    shapes = [WIDE, TALL] * 20
    batches = AspectRatioBatches(shapes, 4, seed=1)
    assert batches.batches(0) == AspectRatioBatches(shapes, 4, seed=1).batches(0)
    assert batches.batches(0) != batches.batches(1)
    assert batches.batches(0) != AspectRatioBatches(shapes, 4, seed=2).batches(0)
    # The shapes are mixed over the epoch, not one after the other.
    order = [shapes[batch[0].index] for batch in batches.batches(0)]
    assert order != sorted(order)
    assert order != sorted(order, reverse=True)


def test_samples_are_mixed_within_a_shape() -> None:
    first = Counter()
    for epoch in range(300):
        first[AspectRatioBatches([WIDE] * 6, 3, seed=0).batches(epoch)[0][0].index] += 1
    assert set(first) == set(range(6))
    assert all(25 < count < 80 for count in first.values())  # 50 each


def test_new_pictures_of_another_shape_leave_the_others_order() -> None:
    def wide(shapes: list[tuple[int, int]]) -> list[int]:
        plan = AspectRatioBatches(shapes, 5, seed=4).batches(2)
        return [item.index for batch in sorted(plan) for item in batch if shapes[item.index] == WIDE]

    assert wide([WIDE] * 20) == wide([WIDE] * 20 + [TALL] * 7)


def test_an_array_of_shapes_is_taken_too() -> None:
    shapes = [WIDE, TALL, WIDE, SQUARE]
    assert AspectRatioBatches(np.array(shapes), 2, 0).batches(0) == AspectRatioBatches(shapes, 2, 0).batches(0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shapes": [], "batch_size": 1}, "no samples"),
        ({"shapes": [WIDE], "batch_size": 0}, "batch_size=0"),
        ({"shapes": [WIDE], "batch_size": 1, "world_size": 2, "rank": 2}, r"rank=2 must lie in 0\.\.1"),
    ],
)
def test_bad_arguments(options: dict[str, object], message: str) -> None:
    with pytest.raises(SohoError, match=message):
        AspectRatioBatches(seed=0, **options)  # type: ignore[arg-type]


def test_a_start_beyond_the_end_asks_what_was_changed() -> None:
    with pytest.raises(SohoError, match="cannot start epoch 3 at batch 2: it has 1 batches"):
        AspectRatioBatches([WIDE], 1, 0).batches(3, start=2)
