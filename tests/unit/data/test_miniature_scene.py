"""Scene graphs and where things stand."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict
from itertools import pairwise

import pytest

from soho.data.miniature.layout import place
from soho.data.miniature.lexicon import COLORS, KINDS
from soho.data.miniature.scene import Scene, Thing, held_out_pairs, sample_world

HELD_OUT = held_out_pairs(0)
WORLD = sample_world(0, 300, 40, 200, HELD_OUT)


def _groups() -> list[list[Scene]]:
    groups: dict[tuple[str, int], list[Scene]] = defaultdict(list)
    for scene in WORLD:
        if scene.group >= 0:
            groups[scene.split, scene.group].append(scene)
    return list(groups.values())


def _facts(scene: Scene) -> dict[str, object]:
    """Return every visible attribute under its own name."""
    facts: dict[str, object] = {"background": scene.background, "order": scene.order, "shape": scene.shape}
    for index, thing in enumerate(scene.things):
        facts |= {f"{name}{index}": value for name, value in asdict(thing).items()}
    return facts


def test_held_out_pairs_are_eight_with_all_colours_and_eight_kinds() -> None:
    assert len(HELD_OUT) == 8  # one twelfth of 12 x 8
    assert {color for color, _ in HELD_OUT} == set(COLORS)
    assert len({kind for _, kind in HELD_OUT}) == 8
    assert held_out_pairs(0) == HELD_OUT
    assert held_out_pairs(1) != HELD_OUT


def test_splits_and_ids() -> None:
    assert [scene.image_id for scene in WORLD] == list(range(1, 541))
    assert [scene.split for scene in WORLD] == ["train"] * 300 + ["val"] * 40 + ["test"] * 200


def test_training_never_shows_a_held_out_pair_and_test_does() -> None:
    shown = {split: [t.pair for s in WORLD if s.split == split for t in s.things] for split in ("train", "test")}
    assert not set(shown["train"]) & set(HELD_OUT)
    assert len(set(shown["test"]) & set(HELD_OUT)) >= 4


def test_all_words_occur_in_training() -> None:
    things = [thing for scene in WORLD if scene.split == "train" for thing in scene.things]
    assert {thing.kind for thing in things} == set(KINDS)
    assert {thing.color for thing in things} == set(COLORS)
    assert {thing.count for thing in things} == {1, 2, 3, 4}
    assert {scene.arrangement for scene in WORLD} == {"row", "column", "overlap"}


def test_groups_have_four_or_five_members_which_differ_in_one_attribute() -> None:
    groups = _groups()
    assert {len(group) for group in groups[:-1]} <= {4, 5}
    seen = set()
    for base, *neighbours in groups:
        assert base.changed == ""
        for scene in neighbours:
            before, after = _facts(base), _facts(scene)
            changed = [name for name in before if before[name] != after[name]]
            assert len(changed) == 1
            expected = {"swap": "order", "background": "background"}.get(
                scene.changed, scene.changed[:-1] + str(scene.focus[int(scene.changed[-1])])
                if scene.changed[-1].isdigit() else ""
            )  # fmt: skip
            assert changed == [expected]
            seen.add(scene.changed.rstrip("01"))
    assert seen == {"color", "kind", "swap", "background", "texture", "size", "count"}


def test_things_are_told_apart_by_colour_and_kind() -> None:
    for scene in WORLD:
        assert len({thing.pair for thing in scene.things}) == len(scene.things)


def test_things_stand_inside_the_picture_in_their_order() -> None:
    for scene in WORLD:
        spots = place(scene, 0)
        width, height = scene.shape
        for members, thing in zip(spots, scene.things, strict=True):
            assert len(members) == thing.count
            for spot in members:
                assert spot.side / 2 <= spot.x <= width - spot.side / 2
                assert spot.side / 2 <= spot.y <= height - spot.side / 2
                assert 44 < spot.side < 100
        if scene.arrangement == "overlap":
            continue
        along = 0 if scene.arrangement == "row" else 1
        edges = [
            (
                min((s.x, s.y)[along] - s.side / 2 for s in spots[i]),
                max((s.x, s.y)[along] + s.side / 2 for s in spots[i]),
            )
            for i in scene.order
        ]
        for (_, end), (start, _) in pairwise(edges):
            assert end <= start  # nothing overlaps, so left of and above are clear


def test_overlapping_things_cover_each_other_by_less_than_half() -> None:
    scenes = [scene for scene in WORLD if scene.arrangement == "overlap"]
    assert scenes
    for scene in scenes:
        (a,), (b,) = place(scene, 0)
        shared = max(0.0, a.side - abs(a.x - b.x)) * max(0.0, a.side - abs(a.y - b.y))
        assert 0.05 < shared / a.side**2 < 0.5


@pytest.mark.parametrize(("order", "first"), [((0, 1), 0), ((1, 0), 1)])
def test_rank_is_the_place_along_the_arrangement(order: tuple[int, int], first: int) -> None:
    things = (Thing("ball", "red"), Thing("car", "blue"))
    scene = Scene(1, "train", (256, 192), "row", things, order, "meadow", "x")
    assert scene.rank(first) == 0
    spots = place(scene, 0)
    assert spots[first][0].x < spots[1 - first][0].x
