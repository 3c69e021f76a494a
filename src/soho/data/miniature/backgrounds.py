"""The six places of the embedded world, painted with numpy: a sky gradient and simple scenery with soft edges."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from soho.randomness import keyed_generator

Array = NDArray[np.float32]
Color = tuple[float, float, float]


class Canvas:
    """A picture under way: `pixels` (H, W, 3) in [0, 255], with unit coordinates `x` (1, W) and `y` (H, 1)."""

    def __init__(self, width: int, height: int, rng: np.random.Generator) -> None:
        self.width, self.height, self.rng = width, height, rng
        self.x: Array = (np.arange(width, dtype=np.float32)[None, :] + np.float32(0.5)) / np.float32(width)
        self.y: Array = (np.arange(height, dtype=np.float32)[:, None] + np.float32(0.5)) / np.float32(height)
        self.pixels: Array = np.zeros((height, width, 3), dtype=np.float32)

    def gradient(self, top: Color, bottom: Color, until: float = 1.0) -> None:
        """Fill everything with a vertical gradient that reaches `bottom` at height `until`."""
        share = np.clip(self.y / until, 0, 1)[..., None]
        self.pixels[:] = np.asarray(top, np.float32) * (1 - share) + np.asarray(bottom, np.float32) * share

    def blend(self, mask: Array, color: Color, strength: float = 1.0) -> None:
        """Lay a colour over the picture where `mask` (H, W) is set."""
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        if not len(rows):
            return
        window = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        share, part = (mask[window] * np.float32(strength))[..., None], self.pixels[window]
        part += share * (np.asarray(color, np.float32) - part)

    def below(self, edge: Array | float) -> Array:
        """Return a soft mask of everything below a line, given per column in unit height."""
        return np.clip((self.y - edge) * self.height + 0.5, 0, 1) * np.ones_like(self.x)

    def hills(self, level: float, swing: float, waves: float) -> Array:
        """Return a random rolling line (1, W) in unit height."""
        a, b = self.rng.uniform(0, 2 * np.pi, 2)
        line = np.sin(self.x * waves * 2 * np.pi + a) + 0.5 * np.sin(self.x * waves * 3.7 * np.pi + b)
        return np.asarray(level + swing * line, dtype=np.float32)

    def disc(self, x: float, y: float, radius: float, squash: float = 1.0) -> Array:
        """Return a soft mask of an ellipse; `radius` in pixels, position in unit coordinates."""
        dx, dy = (self.x - x) * self.width, (self.y - y) * self.height / squash
        return np.clip(radius - np.sqrt(dx * dx + dy * dy) + 0.5, 0, 1)

    def specks(self, count: int, top: float, bottom: float, colors: list[Color]) -> None:
        """Scatter small dots of two pixels between two heights."""
        xs = self.rng.integers(0, self.width - 1, count)
        ys = self.rng.integers(int(top * self.height), int(bottom * self.height) - 1, count)
        chosen = np.asarray(colors, np.float32)[self.rng.integers(len(colors), size=count)]
        self.pixels[ys, xs] = chosen
        self.pixels[ys + 1, xs] = 0.5 * chosen + 0.5 * self.pixels[ys + 1, xs]
        self.pixels[ys, xs + 1] = 0.5 * chosen + 0.5 * self.pixels[ys, xs + 1]

    def clouds(self, count: int, color: Color) -> None:
        """Float a few clouds in the upper third."""
        for _ in range(count):
            x, y = self.rng.uniform(0.05, 0.95), self.rng.uniform(0.06, 0.28)
            size = self.rng.uniform(7, 12)
            mask = np.zeros((self.height, self.width), np.float32)
            for dx, dy, part in ((0.0, 0.0, 1.0), (-1.1, 0.25, 0.75), (1.1, 0.2, 0.8), (2.0, 0.4, 0.5)):
                np.maximum(
                    mask,
                    self.disc(x + dx * size / self.width, y + dy * size / self.height, size * part, 0.8),
                    out=mask,
                )
            self.blend(mask, color, 0.85)


def _meadow(canvas: Canvas) -> None:
    horizon = float(canvas.rng.uniform(0.42, 0.56))
    canvas.gradient((142, 203, 244), (220, 240, 252), horizon)
    canvas.clouds(2, (255, 255, 255))
    canvas.blend(canvas.below(canvas.hills(horizon, 0.03, 1.1)), (168, 214, 128))
    canvas.blend(canvas.below(canvas.hills(horizon + 0.14, 0.035, 0.8)), (142, 200, 104))
    canvas.blend(canvas.below(canvas.hills(horizon + 0.32, 0.03, 0.6)), (122, 186, 88))
    canvas.specks(36, horizon + 0.18, 1.0, [(255, 255, 255), (255, 240, 170), (250, 214, 230)])


def _beach(canvas: Canvas) -> None:
    horizon = float(canvas.rng.uniform(0.3, 0.4))
    shore = horizon + float(canvas.rng.uniform(0.2, 0.26))
    canvas.gradient((116, 196, 236), (214, 240, 250), horizon)
    canvas.blend(canvas.disc(float(canvas.rng.uniform(0.1, 0.9)), 0.14, 11), (255, 244, 196))
    canvas.blend(canvas.below(horizon), (48, 166, 196))
    canvas.blend(canvas.below(horizon + 0.1), (86, 196, 208), 0.7)
    line = canvas.hills(shore, 0.018, 1.4)
    canvas.blend(canvas.below(line - 0.025), (244, 252, 252))
    canvas.blend(canvas.below(line), (246, 224, 172))
    canvas.blend(canvas.below(line + 0.2), (240, 212, 152), 0.6)
    canvas.specks(24, shore + 0.08, 1.0, [(226, 196, 138), (255, 242, 214)])


def _desert(canvas: Canvas) -> None:
    horizon = float(canvas.rng.uniform(0.4, 0.54))
    canvas.gradient((250, 206, 148), (255, 238, 208), horizon)
    canvas.blend(canvas.disc(float(canvas.rng.uniform(0.1, 0.9)), 0.16, 14), (255, 250, 226))
    canvas.blend(canvas.below(canvas.hills(horizon, 0.05, 0.7)), (226, 164, 100))
    canvas.blend(canvas.below(canvas.hills(horizon + 0.18, 0.06, 0.6)), (210, 142, 82))
    canvas.blend(canvas.below(canvas.hills(horizon + 0.36, 0.04, 0.5)), (194, 124, 68))


def _snow(canvas: Canvas) -> None:
    horizon = float(canvas.rng.uniform(0.5, 0.6))
    canvas.gradient((166, 194, 218), (226, 236, 244), horizon)
    peaks = canvas.rng.uniform(0.05, 0.95, 3)
    for peak, tall in zip(np.sort(peaks), canvas.rng.uniform(0.22, 0.38, 3), strict=True):
        ridge = horizon - tall + np.abs(canvas.x - peak) * 1.3
        canvas.blend(canvas.below(ridge), (150, 170, 194))
        cap = np.clip(tall * 0.42 - np.abs(canvas.x - peak) * 1.3, 0, None)
        jagged = 0.02 * np.abs(np.sin(canvas.x * 60))
        canvas.blend(canvas.below(ridge) * (1 - canvas.below(ridge + cap + jagged * (cap > 0))), (250, 252, 255))
    canvas.blend(canvas.below(canvas.hills(horizon, 0.025, 0.9)), (238, 244, 250))
    canvas.blend(canvas.below(canvas.hills(horizon + 0.2, 0.03, 0.6)), (248, 251, 255))
    canvas.specks(70, 0.0, 1.0, [(255, 255, 255), (228, 238, 248)])


def _city(canvas: Canvas) -> None:
    canvas.gradient((106, 92, 158), (250, 186, 168), 0.72)
    ground = 0.86
    for color, low, high in (((126, 104, 152), 0.3, 0.52), ((84, 72, 118), 0.46, 0.66)):
        left = 0.0
        while left < 1.0:
            wide = float(canvas.rng.uniform(0.08, 0.15))
            roof = float(canvas.rng.uniform(low, high))
            x0, x1 = int(left * canvas.width), int((left + wide) * canvas.width)
            y0 = int(roof * canvas.height)
            canvas.pixels[y0:, x0:x1] = color
            windows = canvas.pixels[y0 + 5 :: 9, x0 + 4 : x1 - 4 : 7]
            lit = canvas.rng.random(windows.shape[:2]) < 0.45
            windows[lit] = (255, 222, 142)
            below = canvas.pixels[y0 + 6 :: 9, x0 + 4 : x1 - 4 : 7]
            below[lit[: below.shape[0]]] = (255, 222, 142)
            left += wide + float(canvas.rng.choice([0.0, 0.02]))
    canvas.blend(canvas.below(ground), (112, 106, 120))
    canvas.blend(canvas.below(ground) * (1 - canvas.below(ground + 0.012)), (170, 162, 172))


def _space(canvas: Canvas) -> None:
    canvas.gradient((14, 14, 44), (44, 28, 84))
    for _ in range(2):
        x, y, reach = canvas.rng.uniform(0, 1), canvas.rng.uniform(0, 1), canvas.rng.uniform(0.2, 0.35)
        glow = np.exp(-(((canvas.x - x) ** 2 + (canvas.y - y) ** 2) / reach**2))
        canvas.blend(glow.astype(np.float32), (96, 60, 150), 0.5)
    canvas.specks(110, 0.0, 1.0, [(255, 255, 255), (190, 200, 255), (255, 236, 200)])
    x, y = float(canvas.rng.choice([0.02, 0.98])), float(canvas.rng.choice([0.03, 0.97]))
    radius = 0.22 * min(canvas.width, canvas.height)
    planet = canvas.disc(x, y, radius)
    canvas.blend(planet, (104, 96, 170))
    canvas.blend(planet * canvas.disc(x - 0.03, y - 0.04, radius), (136, 126, 198))


_PAINTERS: dict[str, Callable[[Canvas], None]] = {
    "meadow": _meadow, "beach": _beach, "desert": _desert, "snow": _snow, "city": _city, "space": _space
}  # fmt: skip


VIEWS = 16
"""Different views of every place and shape; each is also shown mirrored."""


@cache
def view(background: str, width: int, height: int, number: int, seed: int) -> Image.Image:
    """Return one of the views of a place.

    Args:
        background: one of `BACKGROUNDS`.
        width: pixels.
        height: pixels.
        number: 0 to VIEWS - 1.
        seed: seed of the world.

    Returns:
        An RGB picture; not to be changed, it is kept for the next scene.
    """
    canvas = Canvas(width, height, keyed_generator(seed, "place", background, width, height, number))
    _PAINTERS[background](canvas)
    return Image.fromarray(np.clip(np.round(canvas.pixels), 0, 255).astype(np.uint8))
