"""Scene graphs: what is in a picture, before anything is drawn or said.

A scene is a handful of `Thing`s along one axis (or overlapping) before a background. Training scenes are independent
draws. Validation and test scenes come in groups of four or five neighbours which differ from the first of the group
in exactly one attribute, so that telling their captions apart needs every attribute bound to the right thing.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from soho.data.miniature.lexicon import BACKGROUNDS, COLORS, KINDS, SHAPES, TEXTURES
from soho.randomness import keyed_generator

Pair = tuple[str, str]
GROUP_SIZES = (4, 5)
OPTIONAL_AXES = ("background", "texture0", "texture1", "size0", "size1")


@dataclass(frozen=True, slots=True)
class Thing:
    """One kind of object in a scene, `count` times side by side."""

    kind: str
    color: str
    texture: str = "plain"
    size: str = "medium"
    count: int = 1

    @property
    def pair(self) -> Pair:
        """Return (color, kind), the combination that may be held out of training."""
        return self.color, self.kind


@dataclass(frozen=True, slots=True)
class Scene:
    """A scene graph.

    Attributes:
        image_id: COCO id of the picture.
        split: train, val or test (Karpathy's words).
        shape: width and height in pixels.
        arrangement: `row` (left to right), `column` (top to bottom) or `overlap` (front to back).
        things: the objects; neighbours of a group keep the same order here.
        order: indices into `things` along the arrangement.
        background: one of `BACKGROUNDS`.
        look: key of every random detail of drawing and of phrasing; shared by a group.
        group: number of the group of neighbours; -1 in training.
        focus: the two things which captions of a group must mention.
        axes: attributes that differ inside the group; captions must mention them.
        changed: the one attribute in which this scene differs from the first of its group; empty for the first.
    """

    image_id: int
    split: str
    shape: tuple[int, int]
    arrangement: str
    things: tuple[Thing, ...]
    order: tuple[int, ...]
    background: str
    look: str
    group: int = -1
    focus: tuple[int, int] = (0, 1)
    axes: tuple[str, ...] = ()
    changed: str = ""

    def rank(self, index: int) -> int:
        """Return the place of thing `index` along the arrangement (0 = leftmost, topmost or in front)."""
        return self.order.index(index)

    def record(self) -> dict[str, Any]:
        """Return the scene graph as plain values for `world.json`."""
        return asdict(self)


def held_out_pairs(seed: int, share: float = 1 / 12) -> tuple[Pair, ...]:
    """Choose the (color, kind) combinations that never appear in training.

    No colour and no kind is chosen twice before all were chosen, so that each word is well known by itself.

    Args:
        seed: seed of the world.
        share: part of all combinations to hold out (8 of 96 by default).

    Returns:
        Sorted (color, kind) tuples.
    """
    rng = keyed_generator(seed, "held-out")
    kinds, colors = rng.permutation(KINDS), rng.permutation(COLORS)
    count = round(share * len(KINDS) * len(COLORS))
    return tuple(sorted((str(colors[i % len(colors)]), str(kinds[i % len(kinds)])) for i in range(count)))


def _pick(rng: np.random.Generator, choices: Collection[str]) -> str:
    return str(list(choices)[int(rng.integers(len(choices)))])


def _proper(things: tuple[Thing, ...]) -> bool:
    """Tell whether every thing can be named by its colour and kind."""
    return len({thing.pair for thing in things}) == len(things)


def _draw_things(rng: np.random.Generator, arrangement: str, number: int) -> tuple[Thing, ...]:
    kinds = [str(kind) for kind in rng.permutation(KINDS)[:number]]
    colors = [str(color) for color in rng.permutation(COLORS)[:number]]
    if number == 2:  # two of a kind, or two of a colour: only the pairing tells them apart
        twin = rng.random()
        if twin < 0.15:
            kinds[1] = kinds[0]
        elif twin < 0.3:
            colors[1] = colors[0]
    many = int(rng.integers(number)) if number == 2 and arrangement != "overlap" and rng.random() < 0.4 else -1
    things = []
    large_left = 1 if number == 3 else 2
    for index in range(number):
        texture = "plain" if rng.random() < 0.4 else _pick(rng, TEXTURES[1:])
        size, count = _pick(rng, ("small", "medium", "large")), 1
        if index == many:
            count, size = int(rng.integers(2, 5)), "medium"
        elif arrangement == "overlap":
            size = "medium"
        elif size == "large":
            size, large_left = ("large", large_left - 1) if large_left else ("medium", 0)
        things.append(Thing(kinds[index], colors[index], texture, size, count))
    return tuple(things)


def _arrange(rng: np.random.Generator, shape: tuple[int, int], number: int, many: bool) -> str:
    long_way = "row" if shape[0] > shape[1] else "column" if shape[0] < shape[1] else _pick(rng, ("row", "column"))
    if number == 3 or many or rng.random() < 0.65:
        return long_way
    return "column" if long_way == "row" else "row"


def sample_scene(
    seed: int, image_id: int, split: str, held_out: Collection[Pair], look: str, want_held_out: bool = False
) -> Scene:
    """Draw one scene.

    Args:
        seed: seed of the world.
        image_id: COCO id of the picture.
        split: train, val or test.
        held_out: combinations that a training scene must not show.
        look: key of the draws.
        want_held_out: put a held-out combination into the scene.
    """
    rng = keyed_generator(seed, "scene", look)
    shape = SHAPES[int(rng.choice(len(SHAPES), p=[0.62, 0.3, 0.08]))]
    number = 3 if rng.random() < 0.2 else 2
    arrangement = "overlap" if number == 2 and rng.random() < 0.14 else ""
    while True:
        things = _draw_things(rng, arrangement, number)
        if want_held_out:
            color, kind = list(held_out)[int(rng.integers(len(held_out)))]
            things = (replace(things[0], color=color, kind=kind), *things[1:])
        forbidden = split == "train" and any(thing.pair in held_out for thing in things)
        if _proper(things) and not forbidden:
            break
    many = any(thing.count > 1 for thing in things)
    arrangement = arrangement or _arrange(rng, shape, number, many)
    order = tuple(int(i) for i in rng.permutation(number))
    focus = (0, 1) if number == 2 else (0, 2)
    return Scene(
        image_id=image_id,
        split=split,
        shape=shape,
        arrangement=arrangement,
        things=things,
        order=order,
        background=_pick(rng, BACKGROUNDS),
        look=look,
        focus=focus,
    )


def _choose_axes(rng: np.random.Generator, scene: Scene, number: int) -> tuple[str, ...]:
    """Choose what will differ in a group; at most two axes that captions may otherwise leave out."""
    axes = ["color0", "color1", "kind0", "kind1", "swap", "background", "texture0", "texture1"]
    for position, index in enumerate(scene.focus):
        if scene.things[index].count > 1:
            axes.append("count" + str(position))
        elif scene.arrangement != "overlap":
            axes.append("size" + str(position))
    chosen: list[str] = []
    for axis in rng.permutation(axes):
        if len(chosen) == number:
            break
        if axis in OPTIONAL_AXES and sum(other in OPTIONAL_AXES for other in chosen) == 2:
            continue
        chosen.append(str(axis))
    return tuple(chosen)


def _vary(rng: np.random.Generator, scene: Scene, axis: str) -> Scene:
    """Return a neighbour which differs in `axis` alone."""
    if axis == "swap":
        first, second = scene.focus
        exchange = {first: second, second: first}
        return replace(scene, order=tuple(exchange.get(index, index) for index in scene.order), changed=axis)
    if axis == "background":
        others = [place for place in BACKGROUNDS if place != scene.background]
        return replace(scene, background=_pick(rng, others), changed=axis)
    name, index = axis[:-1], scene.focus[int(axis[-1])]
    values: dict[str, Sequence[Any]] = {
        "color": COLORS, "kind": KINDS, "texture": TEXTURES, "size": ("small", "large"), "count": (2, 3, 4)
    }  # fmt: skip
    thing = scene.things[index]
    others = [value for value in values[name] if value != getattr(thing, name)]
    if name == "kind":  # a neighbour must not gain or lose a second thing of the same kind by chance
        others = [kind for kind in others if kind not in {other.kind for other in scene.things}]
    while True:
        value: Any = others[int(rng.integers(len(others)))]
        changed = replace(thing, **{name: value})
        things = tuple(changed if i == index else other for i, other in enumerate(scene.things))
        if _proper(things):
            return replace(scene, things=things, changed=axis)


def sample_group(
    seed: int, first_id: int, split: str, held_out: Collection[Pair], group: int, size: int
) -> list[Scene]:
    """Draw a group of scenes which differ from the first in one attribute each.

    Args:
        seed: seed of the world.
        first_id: COCO id of the first picture; the others follow.
        split: val or test.
        held_out: combinations kept out of training; three groups in ten show one on purpose.
        group: number of the group.
        size: scenes in the group.
    """
    look = f"{split}-group-{group}"
    rng = keyed_generator(seed, "group", look)
    base = sample_scene(seed, first_id, split, held_out, look, want_held_out=rng.random() < 0.3)
    axes = _choose_axes(rng, base, size - 1)
    things = list(base.things)
    for axis in axes:  # "small" and "large" are said, "medium" is not
        if axis.startswith("size"):
            index = base.focus[int(axis[-1])]
            things[index] = replace(things[index], size=_pick(rng, ("small", "large")))
    base = replace(base, things=tuple(things), axes=axes, group=group)
    neighbours = [_vary(rng, base, axis) for axis in axes]
    scenes = [base, *neighbours]
    return [replace(scene, image_id=first_id + offset) for offset, scene in enumerate(scenes)]


def sample_world(
    seed: int, train_images: int, validation_images: int, test_images: int, held_out: Collection[Pair]
) -> list[Scene]:
    """Draw all scenes; image ids run from 1 and neighbours of a group follow each other."""
    scenes = [sample_scene(seed, number, "train", held_out, f"train-{number}") for number in range(1, train_images + 1)]
    for split, count in (("val", validation_images), ("test", test_images)):
        done, group = 0, 0
        while done < count:
            size = min(GROUP_SIZES[group % len(GROUP_SIZES)], count - done)
            scenes += sample_group(seed, len(scenes) + 1, split, held_out, group, size)
            done, group = done + size, group + 1
    return scenes
