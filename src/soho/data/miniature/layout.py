"""Where the things of a scene stand, in pixels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from soho.data.miniature.scene import Scene
from soho.randomness import keyed_generator

DIAMETERS: dict[str, float] = {"small": 54.0, "medium": 74.0, "large": 98.0}
"""Side of the square a thing is drawn in, in pixels."""

MARGIN = 6.0
_MANY_DIAMETER = 54.0
_OVERLAP_DIAMETER = 86.0


@dataclass(frozen=True, slots=True)
class Placement:
    """Where one object is drawn: centre and side of its square in pixels, and its turn in degrees."""

    x: float
    y: float
    side: float
    turn: float
    mirrored: bool


def _cluster(count: int, side: float, along_row: bool) -> list[tuple[float, float]]:
    """Return offsets of the members of a cluster from its centre."""
    step = side * 1.06
    if count == 1:
        return [(0.0, 0.0)]
    if count == 2:  # across the arrangement, so that the pair takes little room along it
        return [(0.0, -step / 2), (0.0, step / 2)] if along_row else [(-step / 2, 0.0), (step / 2, 0.0)]
    if count == 3:
        return [(0.0, -step / 2), (-step / 2, step / 2), (step / 2, step / 2)]
    return [(sx * step / 2, sy * step / 2) for sy in (-1, 1) for sx in (-1, 1)]


def _overlapping(scene: Scene, rng: np.random.Generator) -> list[list[tuple[float, float, float]]]:
    """Place two things of equal size so that the front one covers a corner of the other."""
    width, height = scene.shape
    angle = rng.uniform(-0.7, 0.7) + (0.0 if width >= height else np.pi / 2) + (np.pi if rng.random() < 0.5 else 0.0)
    reach = 0.34 * _OVERLAP_DIAMETER
    dx, dy = reach * float(np.cos(angle)), reach * float(np.sin(angle))
    space_x = width / 2 - abs(dx) - _OVERLAP_DIAMETER / 2 - MARGIN
    space_y = height / 2 - abs(dy) - _OVERLAP_DIAMETER / 2 - MARGIN
    x = width / 2 + rng.uniform(-1, 1) * space_x
    y = height / 2 + rng.uniform(-1, 1) * space_y
    return [[(x - dx, y - dy, _OVERLAP_DIAMETER)], [(x + dx, y + dy, _OVERLAP_DIAMETER)]]


def _lined_up(scene: Scene, rng: np.random.Generator) -> list[list[tuple[float, float, float]]]:
    """Spread the things along the arrangement, with free room divided at random between them."""
    along_row = scene.arrangement == "row"
    length, breadth = scene.shape if along_row else scene.shape[::-1]
    sides, members, extents = [], [], []
    for thing in scene.things:
        side = _MANY_DIAMETER if thing.count > 1 else DIAMETERS[thing.size]
        offsets = _cluster(thing.count, side, along_row)
        sides.append(side)
        members.append(offsets)
        along = [offset[0 if along_row else 1] for offset in offsets]
        extents.append(max(along) - min(along) + side)
    room = length - 2 * MARGIN - 4.0 * (len(extents) - 1)
    scale = min(1.0, room / sum(extents))
    parts = rng.dirichlet(np.full(len(extents) + 1, 2.0)) * max(0.0, room - sum(extents) * scale)
    across_draws = rng.uniform(-1, 1, size=len(extents))
    centres: dict[int, tuple[float, float]] = {}
    position = MARGIN
    for place, index in enumerate(scene.order):
        extent = extents[index] * scale
        position += parts[place]
        across = [offset[1 if along_row else 0] for offset in members[index]]
        half = (max(across) - min(across) + sides[index]) * scale / 2
        swing = min(0.7 * (breadth / 2 - half - MARGIN), 34.0)
        centres[index] = (position + extent / 2, breadth / 2 + across_draws[place] * max(0.0, swing))
        position += extent + 4.0
    placed = []
    for index in range(len(scene.things)):
        x, y = centres[index] if along_row else centres[index][::-1]
        placed.append([(x + dx * scale, y + dy * scale, sides[index] * scale) for dx, dy in members[index]])
    return placed


def place(scene: Scene, seed: int) -> list[list[Placement]]:
    """Return for every thing of the scene where its members stand.

    The draws belong to `scene.look`, so neighbours of a group differ by their one attribute only.

    Args:
        scene: the scene graph.
        seed: seed of the world.
    """
    rng = keyed_generator(seed, "layout", scene.look)
    spots = _overlapping(scene, rng) if scene.arrangement == "overlap" else _lined_up(scene, rng)
    turn_rng = keyed_generator(seed, "turn", scene.look)
    turns = turn_rng.uniform(-9, 9, size=(len(spots), 4))
    mirrored = turn_rng.random(len(spots)) < 0.5
    return [
        [Placement(*spot, turn=float(turns[i, j]), mirrored=bool(mirrored[i])) for j, spot in enumerate(members)]
        for i, members in enumerate(spots)
    ]
