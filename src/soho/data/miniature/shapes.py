"""The silhouettes of the embedded world: twelve stickers drawn with Pillow, and their patterns.

A shape is drawn once, large, as a map of paints (body, shade, light, ...). The coverage of every paint is then kept
at sticker size, so that any colour and pattern is a weighted sum and edges stay smooth.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from soho.data.miniature.lexicon import CRATE

Array = NDArray[np.float32]
Point = tuple[float, float]

SIDES = (120, 96, 72)
"""Sides in pixels at which a finished sticker is kept, so that stamping it hardly shrinks it."""
SIDE = SIDES[0]
_OVERSAMPLING = 4
_FILL = 0.86  # part of the square that the drawing takes; the rest is for the white rim and the shadow

PAINTS: tuple[str, ...] = ("body", "shade", "tint", "dark", "light", "wood", "glass")
FIXED_PAINTS: dict[str, tuple[int, int, int]] = {
    "dark": (58, 52, 66),
    "light": (255, 246, 226),
    "wood": (146, 102, 66),
    "glass": (205, 232, 246),
}
RGB: dict[str, tuple[int, int, int]] = {
    "red": (220, 38, 44),
    "orange": (247, 138, 22),
    "yellow": (250, 214, 40),
    "green": (44, 156, 62),
    "blue": (36, 92, 216),
    "purple": (128, 52, 172),
    "pink": (248, 138, 188),
    "gray": (134, 139, 146),
}


class Pen:
    """Draws paints in unit coordinates: (0, 0) is the top left of the drawing, (1, 1) the bottom right."""

    def __init__(self) -> None:
        side = SIDE * _OVERSAMPLING
        self.map = Image.new("L", (side, side), 0)
        self._draw = ImageDraw.Draw(self.map)
        self._side = side

    def _at(self, point: Point) -> Point:
        low = (1 - _FILL) / 2
        return (low + point[0] * _FILL) * self._side, (low + point[1] * _FILL) * self._side

    def polygon(self, paint: str, points: Sequence[Point]) -> None:
        """Fill a polygon."""
        self._draw.polygon([self._at(point) for point in points], fill=PAINTS.index(paint) + 1)

    def ellipse(self, paint: str, x: float, y: float, rx: float, ry: float) -> None:
        """Fill an ellipse given by centre and radii."""
        self._draw.ellipse([*self._at((x - rx, y - ry)), *self._at((x + rx, y + ry))], fill=PAINTS.index(paint) + 1)

    def box(self, paint: str, x0: float, y0: float, x1: float, y1: float, radius: float = 0.0) -> None:
        """Fill a rectangle with rounded corners."""
        self._draw.rounded_rectangle(
            [*self._at((x0, y0)), *self._at((x1, y1))], radius * _FILL * self._side, fill=PAINTS.index(paint) + 1
        )

    def line(self, paint: str, points: Sequence[Point], width: float) -> None:
        """Draw a polyline."""
        wide = round(width * _FILL * self._side)
        self._draw.line([self._at(point) for point in points], PAINTS.index(paint) + 1, wide, joint="curve")


def _around(count: int, radius: float, start: float = -90.0, center: Point = (0.5, 0.5)) -> list[Point]:
    angles = np.radians(start + np.arange(count) * 360.0 / count)
    return [(center[0] + radius * float(np.cos(a)), center[1] + radius * float(np.sin(a))) for a in angles]


def _ball(pen: Pen) -> None:
    pen.ellipse("body", 0.5, 0.5, 0.47, 0.47)
    pen.ellipse("tint", 0.34, 0.28, 0.1, 0.07)


def _star(pen: Pen) -> None:
    outer, inner = _around(5, 0.54, center=(0.5, 0.54)), _around(5, 0.25, -54.0, (0.5, 0.54))
    pen.polygon("body", [point for pair in zip(outer, inner, strict=True) for point in pair])


def _heart(pen: Pen) -> None:
    t = np.linspace(0, 2 * np.pi, 120)
    x = 16 * np.sin(t) ** 3
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    pen.polygon("body", [(0.5 + a / 33, 0.46 - b / 33) for a, b in zip(x.tolist(), y.tolist(), strict=True)])


def _house(pen: Pen) -> None:
    pen.box("shade", 0.68, 0.08, 0.8, 0.4)
    pen.box("body", 0.13, 0.42, 0.87, 0.97)
    pen.polygon("shade", [(0.5, 0.04), (1.0, 0.46), (0.0, 0.46)])
    pen.box("dark", 0.56, 0.64, 0.74, 0.97)
    pen.box("glass", 0.24, 0.58, 0.44, 0.78)


def _tree(pen: Pen) -> None:
    pen.box("wood", 0.42, 0.62, 0.58, 1.0)
    for x, y, r in ((0.5, 0.25, 0.24), (0.26, 0.44, 0.22), (0.74, 0.44, 0.22), (0.5, 0.5, 0.25)):
        pen.ellipse("body", x, y, r, r)


def _fish(pen: Pen) -> None:
    pen.polygon("shade", [(0.66, 0.5), (1.0, 0.2), (0.93, 0.5), (1.0, 0.8)])
    pen.polygon("shade", [(0.3, 0.32), (0.52, 0.1), (0.62, 0.36)])
    pen.polygon("shade", [(0.38, 0.7), (0.54, 0.9), (0.6, 0.66)])
    pen.ellipse("body", 0.4, 0.5, 0.39, 0.26)
    pen.ellipse("light", 0.18, 0.44, 0.06, 0.06)
    pen.ellipse("dark", 0.17, 0.44, 0.033, 0.033)


def _mushroom(pen: Pen) -> None:
    pen.polygon("light", [(0.38, 0.5), (0.62, 0.5), (0.7, 0.93), (0.6, 0.98), (0.4, 0.98), (0.3, 0.93)])
    t = np.linspace(np.pi, 2 * np.pi, 60)
    dome = [(0.5 + 0.5 * float(np.cos(a)), 0.56 + 0.52 * float(np.sin(a))) for a in t]
    pen.polygon("body", [*dome, (0.94, 0.63), (0.06, 0.63)])


def _boat(pen: Pen) -> None:
    pen.box("wood", 0.475, 0.02, 0.525, 0.72)
    pen.polygon("body", [(0.56, 0.04), (0.96, 0.62), (0.56, 0.62)])
    pen.polygon("body", [(0.44, 0.16), (0.44, 0.62), (0.12, 0.62)])
    pen.polygon("shade", [(0.0, 0.68), (1.0, 0.68), (0.84, 0.94), (0.16, 0.94)])


def _flower(pen: Pen) -> None:
    for x, y in _around(5, 0.31, center=(0.5, 0.52)):
        pen.ellipse("body", x, y, 0.2, 0.2)
    pen.ellipse("body", 0.5, 0.52, 0.25, 0.25)
    pen.ellipse("light", 0.5, 0.52, 0.15, 0.15)
    pen.ellipse("wood", 0.5, 0.52, 0.095, 0.095)


def _car(pen: Pen) -> None:
    pen.polygon("body", [(0.2, 0.46), (0.32, 0.2), (0.68, 0.2), (0.82, 0.46)])
    pen.box("body", 0.0, 0.43, 1.0, 0.75, 0.09)
    pen.polygon("glass", [(0.29, 0.44), (0.37, 0.27), (0.485, 0.27), (0.485, 0.44)])
    pen.polygon("glass", [(0.535, 0.44), (0.535, 0.27), (0.64, 0.27), (0.73, 0.44)])
    for x in (0.24, 0.76):
        pen.ellipse("dark", x, 0.75, 0.14, 0.14)
        pen.ellipse("light", x, 0.75, 0.06, 0.06)


def _umbrella(pen: Pen) -> None:
    pen.box("dark", 0.48, 0.0, 0.52, 0.86)
    hook = np.linspace(0, np.pi, 30)
    pen.line("dark", [(0.59 + 0.09 * float(np.cos(a)), 0.86 + 0.1 * float(np.sin(a))) for a in hook], 0.045)
    t = np.linspace(np.pi, 2 * np.pi, 60)
    dome = [(0.5 + 0.5 * float(np.cos(a)), 0.54 + 0.48 * float(np.sin(a))) for a in t]
    scallops = [
        (1.0 - (k + s) / 4, 0.54 - 0.06 * float(np.sin(np.pi * s))) for k in range(4) for s in np.linspace(0, 1, 15)
    ]
    pen.polygon("body", [*dome, *scallops])


def _butterfly(pen: Pen) -> None:
    for side in (-1, 1):
        pen.polygon("body", _wing(side, 0.27, 0.3, 0.26, 0.22, 35.0))
        pen.polygon("body", _wing(side, 0.2, 0.7, 0.2, 0.17, -35.0))
        pen.line("dark", [(0.5, 0.24), (0.5 + side * 0.05, 0.1), (0.5 + side * 0.13, 0.03)], 0.025)
    pen.ellipse("dark", 0.5, 0.5, 0.05, 0.3)


def _wing(side: int, dx: float, y: float, rx: float, ry: float, degrees: float) -> list[Point]:
    t, tilt = np.linspace(0, 2 * np.pi, 60), np.radians(-degrees * side)
    x, z = rx * np.cos(t), ry * np.sin(t)
    xs = 0.5 + side * dx + x * np.cos(tilt) - z * np.sin(tilt)
    ys = y + x * np.sin(tilt) + z * np.cos(tilt)
    return list(zip(xs.tolist(), ys.tolist(), strict=True))


def _crate(pen: Pen) -> None:
    pen.box("wood", 0.02, 0.04, 0.98, 0.98)
    for y in (0.27, 0.5, 0.73):
        pen.line("dark", [(0.06, y), (0.94, y)], 0.02)
    for x in (0.1, 0.9):
        pen.line("dark", [(x, 0.06), (x, 0.96)], 0.025)
    pen.line("dark", [(0.1, 0.95), (0.9, 0.07)], 0.025)


_DRAWERS: dict[str, Callable[[Pen], None]] = {
    "ball": _ball, "star": _star, "heart": _heart, "house": _house, "tree": _tree, "fish": _fish,
    "mushroom": _mushroom, "boat": _boat, "flower": _flower, "car": _car, "umbrella": _umbrella,
    "butterfly": _butterfly, CRATE: _crate,
}  # fmt: skip


def _small(image: Image.Image) -> Array:
    return np.asarray(image.reduce(_OVERSAMPLING), dtype=np.float32) / 255.0


@cache
def _masks(kind: str) -> tuple[Array, Array, Array]:
    """Return paint coverages (P, SIDE, SIDE), the white rim (SIDE, SIDE) and the shadow (SIDE, SIDE), in [0, 1]."""
    pen = Pen()
    _DRAWERS[kind](pen)
    paints = np.asarray(pen.map)
    coverage = np.stack([_small(Image.fromarray((paints == i + 1).astype(np.uint8) * 255)) for i in range(len(PAINTS))])
    inside = Image.fromarray((paints > 0).astype(np.uint8) * 255)
    rim = inside.filter(ImageFilter.GaussianBlur(8)).point(lambda value: 255 if value > 22 else 0)
    shadow = Image.new("L", rim.size, 0)
    shadow.paste(rim.filter(ImageFilter.GaussianBlur(12)), (7, 12))
    return coverage, _small(rim), _small(shadow) * 0.42


@cache
def _pattern(texture: str) -> Array:
    """Return how much of the pattern's colour shows, (SIDE, SIDE) in [0, 1]."""
    side = SIDE * _OVERSAMPLING
    y, x = np.mgrid[0:side, 0:side].astype(np.float32) / side
    if texture == "plain":
        on = np.zeros_like(x)
    elif texture == "striped":
        on = ((x + y) * 5.6) % 1.0 < 0.42
    elif texture == "dotted":
        row = np.floor(y * 5.6)
        u, v = (x * 5.6 + 0.5 * (row % 2)) % 1.0 - 0.5, (y * 5.6) % 1.0 - 0.5
        on = u * u + v * v < 0.1
    else:
        on = (np.floor(x * 7.0) + np.floor(y * 7.0)) % 2 == 0
    return _small(Image.fromarray(np.asarray(on, dtype=np.uint8) * 255))


def _mix(color: Array, other: Sequence[float], share: float) -> Array:
    return color * (1 - share) + np.asarray(other, dtype=np.float32) * share


@cache
def sticker(kind: str, color: str, texture: str) -> tuple[Image.Image, ...]:
    """Return one thing on a transparent ground, RGBA, once for every side in `SIDES`.

    Args:
        kind: one of `KINDS`, or the crate.
        color: one of `COLORS`.
        texture: one of `TEXTURES`; the pattern covers the coloured parts, not windows or wheels.
    """
    coverage, rim, shadow = _masks(kind)
    body = np.asarray(RGB[color], dtype=np.float32)
    shade, tint = _mix(body, (30, 20, 50), 0.28), _mix(body, (255, 255, 255), 0.5)
    pattern = _mix(body, (255, 252, 240), 0.82) if color != "yellow" else _mix(body, (120, 70, 0), 0.62)
    painted = np.zeros((SIDE, SIDE, 3), dtype=np.float32)
    for paint, share in zip(PAINTS, coverage, strict=True):
        if paint == "body":
            mask = _pattern(texture)[..., None]
            layer: Array = body * (1 - mask) + pattern * mask
        else:
            flat = {"shade": shade, "tint": tint}
            layer = flat[paint] if paint in flat else np.asarray(FIXED_PAINTS[paint], dtype=np.float32)
        painted += share[..., None] * layer
    light = np.linspace(1.07, 0.88, SIDE, dtype=np.float32)[:, None, None]
    painted *= light
    inside = coverage.sum(axis=0)[..., None]
    white = painted + (1 - inside) * 255.0
    alpha = rim[..., None] + (1 - rim[..., None]) * shadow[..., None]
    seen = white * rim[..., None] / np.maximum(alpha, 1e-6)  # the shadow is black
    rgba = np.concatenate([np.clip(seen, 0, 255), alpha * 255.0], axis=-1)
    image = Image.fromarray(np.round(rgba).astype(np.uint8), "RGBA")
    return image, *(image.resize((side, side), Image.Resampling.LANCZOS) for side in SIDES[1:])
