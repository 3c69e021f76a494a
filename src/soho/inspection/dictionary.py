"""The visual dictionary as pictures and figures: which patches of images share a code, and how codes are used."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from soho.errors import SohoError
from soho.evaluation.metrics import perplexity
from soho.randomness import keyed_generator

# Pixels between the centres of two cells: the CNN's 32 times the 2x2 max-pool (section 3.1).
STRIDE = 64


@dataclass(frozen=True)
class CodeHealth:
    """How alive a visual dictionary is.

    Attributes:
        size: K, number of codes.
        used: codes that were hit at least once.
        dead: codes that were never hit.
        perplexity: exp(entropy) of the use: how many equally used codes it is worth.
        majority_share: share of the most used code, which is the MVM accuracy of always guessing it.
    """

    size: int
    used: int
    dead: int
    perplexity: float
    majority_share: float

    @classmethod
    def of(cls, counts: npt.ArrayLike) -> CodeHealth:
        """Judge by counts or shares (K,) of hits per code."""
        hits = np.asarray(counts, dtype=np.float64)
        used = int((hits > 0).sum())
        majority = float(hits.max() / hits.sum()) if used else 0.0
        return cls(len(hits), used, len(hits) - used, perplexity(hits), majority)


@dataclass(frozen=True)
class CodeWord:
    """A word of the captions that goes with a code; see `soho.inspection.code_words`.

    Attributes:
        word: in lower case.
        images: images that have both the code and the word.
        lift: how many times as often the word is said of images with the code as of all images; its binary logarithm
            is the pointwise mutual information in bits.
        evidence: log-likelihood ratio G^2 of the two being independent.
    """

    word: str
    images: int
    lift: float
    evidence: float


@dataclass
class CodePatches:
    """What one code of the dictionary stands for.

    Attributes:
        code: its index.
        hits: cells that map to it in the images looked at.
        images: images in which it occurs.
        share: its share of all cells looked at.
        patches: square crops around some of the cells.
        words: what the captions of its images say more often than others, best first; None: no captions were given.
    """

    code: int
    hits: int = 0
    images: int = 0
    share: float = 0.0
    patches: list[Image.Image] = field(default_factory=list)
    words: Sequence[CodeWord] | None = None


class Pick(NamedTuple):
    """A cell that was drawn to show a code: at `place` of what is kept of it, cell (row, column) of an image."""

    code: int
    place: int
    image: int
    row: int
    column: int


class CellReservoir:
    """Draws cells to show codes while images go by, and counts.

    Every image offers at most one cell per code, drawn from its cells, and of all images that have the code
    `per_code` are drawn, so that the cells show the code and not one lucky image. Equal seeds give equal draws. Only
    places are kept, no pixels.

    Args:
        per_code: most cells kept per code.
        seed: of the draws.
        codes: only these; None: all.

    Attributes:
        hits: code -> cells that have it.
        images: code -> images that have it.
        kept: code -> the cells drawn so far.
        cells: all cells looked at.
    """

    def __init__(self, per_code: int, seed: int = 0, codes: Iterable[int] | None = None) -> None:
        self.per_code, self.seed = per_code, seed
        self.only = None if codes is None else frozenset(codes)
        self.hits: Counter[int] = Counter()
        self.images: Counter[int] = Counter()
        self.kept: dict[int, list[Pick]] = {}
        self.cells = 0

    def add(self, number: int, indices: npt.ArrayLike, valid: npt.ArrayLike) -> list[Pick]:
        """Look at an image.

        Args:
            number: of the image; the draws belong to it.
            indices: (h, w) code of every cell.
            valid: (h, w) which cells hold picture.

        Returns:
            The cells that are kept now; one may take the place of an earlier one.

        Raises:
            SohoError: shapes differ.
        """
        grid, mask = np.asarray(indices), np.asarray(valid, dtype=bool)
        if grid.shape != mask.shape or grid.ndim != 2:
            raise SohoError(f"image {number} has a grid of indices {grid.shape} but a valid mask {mask.shape}")
        self.cells += int(mask.sum())
        picks = []
        for code in (int(value) for value in np.unique(grid[mask])):
            if self.only is not None and code not in self.only:
                continue
            cells = np.argwhere((grid == code) & mask)
            self.hits[code] += len(cells)
            self.images[code] += 1
            kept = self.kept.setdefault(code, [])
            draw = keyed_generator(self.seed, "dictionary patches", code, number)
            # Reservoir sampling: after n images each of them is kept with probability per_code / n.
            place = len(kept) if len(kept) < self.per_code else int(draw.integers(self.images[code]))
            if place < self.per_code:
                row, column = (int(value) for value in cells[draw.integers(len(cells))])
                pick = Pick(code, place, number, row, column)
                kept[place : place + 1] = [pick]
                picks.append(pick)
        return picks

    def entry(self, code: int) -> CodePatches:
        """Return what was counted of a code, without patches."""
        share = self.hits[code] / self.cells if self.cells else 0.0
        return CodePatches(code, self.hits[code], self.images[code], share)


def most_used_codes(counts: npt.ArrayLike, number: int) -> list[int]:
    """Return up to `number` codes that were hit, by falling count (K,), lower index first where counts are equal."""
    hits = np.asarray(counts)
    order = np.argsort(-hits, kind="stable")[:number]
    return [int(code) for code in order if hits[code] > 0]


def spread_codes(counts: npt.ArrayLike, number: int) -> list[int]:
    """Return up to `number` codes spread evenly from the most to the least used, so that rare ones are shown too."""
    ranked = most_used_codes(counts, np.asarray(counts).size)
    if number <= 0 or not ranked:
        return []
    places = np.linspace(0, len(ranked) - 1, min(number, len(ranked))).round().astype(int)
    return [ranked[place] for place in places]


def collect_patches(
    examples: Iterable[tuple[Image.Image, npt.ArrayLike, npt.ArrayLike]],
    codes: Sequence[int],
    per_code: int = 8,
    stride: int = STRIDE,
    context: float = 0.5,
    patch_size: int = 96,
    seed: int = 0,
) -> list[CodePatches]:
    """Cut out what maps to each of some codes (the figure of section 4.4); see `CellReservoir` for the draws.

    Args:
        examples: images in the size in which the model read them (before or after padding), the index of every cell
            (h, w) and which cells are valid (h, w); cell (i, j) covers `stride` pixels from (stride j, stride i).
        codes: the codes to show, in the order in which they are returned.
        per_code: most patches per code.
        stride: pixels per cell.
        context: how much of the neighbourhood is shown at each side, as a share of a cell.
        patch_size: edge of a patch in pixels.
        seed: of the draws.

    Returns:
        One `CodePatches` per code.

    Raises:
        SohoError: grids whose shapes differ.
    """
    reservoir = CellReservoir(per_code, seed, codes)
    patches: dict[int, list[Image.Image]] = {code: [] for code in codes}
    for number, (image, indices, valid) in enumerate(examples):
        for code, place, _, row, column in reservoir.add(number, indices, valid):
            patch = cut_cell(image, row, column, stride=stride, context=context, patch_size=patch_size)
            patches[code][place : place + 1] = [patch]
    return [replace(reservoir.entry(code), patches=patches[code]) for code in codes]


def cell_square(
    size: tuple[int, int],
    row: int,
    column: int,
    read_size: tuple[int, int] | None = None,
    stride: int = STRIDE,
    context: float = 0.5,
) -> tuple[int, int, int, int]:
    """Return the square around a cell, moved inwards at the border so that no emptiness is shown.

    Args:
        size: (width, height) of the picture to cut from.
        row: of the cell.
        column: of the cell.
        read_size: (width, height) in which the model read it, without padding; None: in `size`.
        stride: pixels of the read picture per cell.
        context: how much of the neighbourhood is shown at each side, as a share of a cell.

    Returns:
        (left, top, right, bottom) in pixels of the picture to cut from.
    """
    width, height = size
    across, down = (width / read_size[0], height / read_size[1]) if read_size else (1.0, 1.0)
    edge = min(max(1, round(stride * math.sqrt(across * down) * (1 + 2 * context))), width, height)
    centre_x, centre_y = (column + 0.5) * stride * across, (row + 0.5) * stride * down
    left = round(min(max(centre_x - edge / 2, 0), width - edge))
    top = round(min(max(centre_y - edge / 2, 0), height - edge))
    return left, top, left + edge, top + edge


def cut_cell(
    image: Image.Image,
    row: int,
    column: int,
    read_size: tuple[int, int] | None = None,
    stride: int = STRIDE,
    context: float = 0.5,
    patch_size: int = 96,
) -> Image.Image:
    """Cut the square of `cell_square` out of a picture; returns `patch_size` x `patch_size` RGB pixels."""
    square = image.convert("RGB").crop(cell_square(image.size, row, column, read_size, stride, context))
    return square.resize((patch_size, patch_size), Image.Resampling.BICUBIC)
