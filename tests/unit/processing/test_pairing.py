from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from soho.data.schema import CaptionedImage, ImageRef
from soho.errors import SohoError
from soho.processing.pairing import CaptionIndex, draw_negatives, epoch_groups


def image(image_id: str, photo_key: str, captions: int) -> CaptionedImage:
    texts = tuple(f"caption {number} of {image_id}" for number in range(captions))
    return CaptionedImage(image_id, photo_key, ImageRef(f"{image_id}.jpg"), texts, tuple(map(str, range(captions))))


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_five_captions_by_two_are_three_groups() -> None:
    groups = epoch_groups(5, 2, rng())
    assert [len(group) for group in groups] == [2, 2, 2]
    counts = Counter(number for group in groups for number in group)
    assert sorted(counts) == [0, 1, 2, 3, 4]
    assert sorted(counts.values()) == [1, 1, 1, 1, 2]
    assert all(len(set(group)) == 2 for group in groups)


@pytest.mark.parametrize("captions", range(1, 12))
@pytest.mark.parametrize("positives", range(1, 6))
def test_every_caption_comes_once_before_any_filling(captions: int, positives: int) -> None:
    for seed in range(5):
        groups = epoch_groups(captions, positives, rng(seed))
        assert len(groups) == -(-captions // positives)
        flat = [number for group in groups for number in group]
        assert sorted(flat[:captions]) == list(range(captions))
        assert {len(group) for group in groups} == {positives}
        assert all(len(set(group)) == min(positives, captions) for group in groups)


def test_one_caption_stands_twice_and_none_gives_no_group() -> None:
    assert epoch_groups(1, 2, rng()) == [(0, 0)]
    assert epoch_groups(0, 2, rng()) == []


def test_groups_differ_with_the_generator_and_agree_with_the_same() -> None:
    assert epoch_groups(5, 2, rng(1)) == epoch_groups(5, 2, rng(1))
    assert len({str(epoch_groups(5, 2, rng(seed))) for seed in range(20)}) > 10


def test_a_negative_is_never_of_the_same_photograph_in_another_data_set() -> None:
    # The photograph coco:1 is picture 0 (COCO) and picture 2 (Visual Genome).
    index = CaptionIndex(
        [image("1", "coco:1", 5), image("2", "coco:2", 1), image("900", "coco:1", 40), image("3", "vg:3", 2)]
    )
    assert len(index) == 4
    drawn = Counter(pair for seed in range(600) for pair in draw_negatives(index, "coco:1", 1, rng(seed)))
    assert set(drawn) == {(1, 0), (3, 0), (3, 1)}
    assert all(150 < count < 250 for count in drawn.values())
    drawn = Counter(image for seed in range(300) for image, _ in draw_negatives(index, "coco:2", 1, rng(seed)))
    assert set(drawn) == {0, 2, 3}


def test_captions_are_drawn_evenly_over_all_foreign_captions() -> None:
    index = CaptionIndex([image("a", "a", 3), image("b", "b", 1), image("c", "c", 4), image("d", "d", 2)])
    drawn: Counter[tuple[int, int]] = Counter()
    for seed in range(7000):
        drawn.update(draw_negatives(index, "a", 1, rng(seed)))
    assert set(drawn) == {(1, 0), (2, 0), (2, 1), (2, 2), (2, 3), (3, 0), (3, 1)}
    assert all(880 < count < 1120 for count in drawn.values())  # 7000 / 7 each


def test_a_limit_weighs_pictures_by_the_captions_used_in_an_epoch() -> None:
    index = CaptionIndex([image("own", "own", 1), image("vg", "vg", 50), image("coco", "coco", 5)], limit=5)
    drawn = Counter(image for seed in range(1000) for image, _ in draw_negatives(index, "own", 1, rng(seed)))
    assert abs(drawn[1] - 500) < 60  # 50 captions weigh as much as 5
    captions = {caption for seed in range(1000) for _, caption in draw_negatives(index, "own", 1, rng(seed))}
    assert captions == set(range(50))  # but every one of them can come


def test_negatives_come_from_different_photographs_where_there_are_enough() -> None:
    index = CaptionIndex([image("a", "a", 1), image("b", "b", 9), image("c", "c", 1), image("b2", "b", 9)])
    for seed in range(50):
        photos = sorted(index.photos[number] for number, _ in draw_negatives(index, "a", 2, rng(seed)))
        assert photos == sorted({index.photos[1], index.photos[2]})
        four = [number for number, _ in draw_negatives(index, "a", 4, rng(seed))]
        assert len(four) == 4
        assert 0 not in four


def test_a_picture_outside_the_index_may_be_given_any_caption() -> None:
    index = CaptionIndex([image("a", "a", 1)])
    assert draw_negatives(index, "elsewhere", 1, rng()) == [(0, 0)]


def test_pictures_without_captions_are_never_drawn() -> None:
    index = CaptionIndex(
        [image("a", "a", 0), image("b", "b", 1), image("c", "c", 0), image("d", "d", 1), image("e", "e", 0)]
    )
    assert {draw_negatives(index, "b", 1, rng(seed))[0] for seed in range(20)} == {(3, 0)}


@pytest.mark.parametrize("images", [[], [image("a", "a", 5)], [image("a", "a", 5), image("a2", "a", 3)]])
def test_only_one_photograph_is_an_error(images: list[CaptionedImage]) -> None:
    with pytest.raises(SohoError, match="no negative text for the photograph a"):
        draw_negatives(CaptionIndex(images), "a", 2, rng())
