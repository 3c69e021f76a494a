"""A map over the cells of a picture, laid over the picture. Pillow and numpy alone."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image

from soho.inspection.dictionary import STRIDE

# What is not attended to fades towards this colour. What is keeps its own colours: words are often about them.
FADED = (236, 233, 226)
REST = 0.12  # of the picture that shines through where the map is zero


def spread(
    values: npt.ArrayLike, valid: npt.ArrayLike, read_size: tuple[int, int], size: tuple[int, int]
) -> npt.NDArray[np.float32]:
    """Bring a map from cells to pixels; every pixel has the value of its cell.

    Nothing is smoothed: a map has no finer detail than its cells, and none is drawn.

    Args:
        values: (h, w) map.
        valid: (h, w) which cells hold picture.
        read_size: (width, height) of the picture as the model reads it, without padding.
        size: (width, height) of the result, which shows the same picture.

    Returns:
        (height, width) float32, zero where no valid cell is.
    """
    grid = np.where(np.asarray(valid, dtype=bool), np.asarray(values, dtype=np.float32), np.float32(0))
    # One row and one column of nothing more, for pixels that a wiring leaves without a cell at the border.
    grid = np.pad(grid, ((0, 1), (0, 1)))
    columns, rows = (
        np.minimum((np.arange(shown) + 0.5) * read / shown / STRIDE, cells - 1).astype(int)
        for shown, read, cells in zip(size, read_size, grid.shape[::-1])
    )
    return np.asarray(grid[np.ix_(rows, columns)], dtype=np.float32)


def overlay(
    picture: Image.Image, values: npt.ArrayLike, valid: npt.ArrayLike, read_size: tuple[int, int], edge: int = 320
) -> Image.Image:
    """Lay a map over a picture: the cell of its largest value keeps its colours, the others fade as they are smaller.

    Args:
        picture: in any size; it is scaled until its longer side has `edge` pixels.
        values: (h, w) map, not negative.
        valid: (h, w) which cells hold picture.
        read_size: (width, height) of the picture as the model reads it, without padding.
        edge: pixels of the longer side.

    Returns:
        An RGB picture.
    """
    shown = fitted(picture, edge)
    heat = spread(values, valid, read_size, shown.size)
    largest = float(heat.max(initial=0.0))
    strength = heat / largest if largest > 0 else np.zeros_like(heat)
    share = (REST + (1.0 - REST) * strength)[..., None]
    pixels = np.asarray(shown, dtype=np.float32) * share + np.asarray(FADED, dtype=np.float32) * (1.0 - share)
    return Image.fromarray(np.rint(pixels).clip(0, 255).astype(np.uint8))


def fitted(picture: Image.Image, edge: int) -> Image.Image:
    """Return a picture as RGB, scaled until its longer side has `edge` pixels."""
    scale = edge / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.convert("RGB").resize(size, Image.Resampling.LANCZOS)
