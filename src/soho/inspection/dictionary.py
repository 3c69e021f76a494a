"""The visual dictionary as pictures and figures: which patches of images share a code, and how codes are used."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from soho.errors import SohoError
from soho.evaluation.metrics import perplexity
from soho.randomness import keyed_generator

# Pixels between the centres of two cells: the CNN's 32 times the 2x2 max-pool (section 3.1).
STRIDE = 64
PAPER, INK, FAINT = (250, 249, 246), (38, 38, 36), (128, 126, 120)


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


@dataclass
class CodePatches:
    """What one code of the dictionary stands for.

    Attributes:
        code: its index.
        hits: cells that map to it in the images looked at.
        images: images in which it occurs.
        share: its share of all cells looked at.
        patches: square crops around some of the cells.
    """

    code: int
    hits: int = 0
    images: int = 0
    share: float = 0.0
    patches: list[Image.Image] = field(default_factory=list)


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
    """Cut out what maps to each of some codes (the figure of section 4.4).

    Every image offers at most one patch per code, drawn from its cells, and of all images that have the code
    `per_code` are drawn, so that a patch shows the code and not one lucky image. Equal seeds give equal patches.

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
    found = {code: CodePatches(code) for code in codes}
    total = 0
    for number, (image, indices, valid) in enumerate(examples):
        grid, mask = np.asarray(indices), np.asarray(valid, dtype=bool)
        if grid.shape != mask.shape or grid.ndim != 2:
            raise SohoError(f"image {number} has a grid of indices {grid.shape} but a valid mask {mask.shape}")
        total += int(mask.sum())
        for code in np.unique(grid[mask]):
            entry = found.get(int(code))
            if entry is None:
                continue
            cells = np.argwhere((grid == code) & mask)
            entry.hits += len(cells)
            entry.images += 1
            draw = keyed_generator(seed, "dictionary patches", int(code), number)
            # Reservoir sampling: after n images each of them is kept with probability per_code / n.
            place = len(entry.patches) if len(entry.patches) < per_code else int(draw.integers(entry.images))
            if place < per_code:
                row, column = cells[draw.integers(len(cells))]
                entry.patches[place : place + 1] = [_crop(image, row, column, stride, context, patch_size)]
    for entry in found.values():
        entry.share = entry.hits / total if total else 0.0
    return [found[code] for code in codes]


def contact_sheet(entries: Sequence[CodePatches], columns: int = 8, gap: int = 6) -> Image.Image:
    """Draw one line of patches per code, with its index, hits and share of all cells.

    Args:
        entries: what `collect_patches` returned.
        columns: patches per line.
        gap: pixels between patches.

    Returns:
        An RGB image.

    Raises:
        SohoError: there is nothing to draw.
    """
    edge = max((patch.width for entry in entries for patch in entry.patches), default=0)
    if not edge:
        raise SohoError("a contact sheet needs at least one code with a patch")
    label = 132
    font, small = ImageFont.load_default(15), ImageFont.load_default(12)
    width = gap + label + columns * (edge + gap)
    sheet = Image.new("RGB", (width, gap + len(entries) * (edge + gap)), PAPER)
    draw = ImageDraw.Draw(sheet)
    for line, entry in enumerate(entries):
        top = gap + line * (edge + gap)
        middle = top + edge // 2
        draw.text((2 * gap, middle - 10), f"code {entry.code}", INK, font, anchor="lm")
        draw.text((2 * gap, middle + 10), f"{entry.share:.1%} of cells", FAINT, small, anchor="lm")
        for column, patch in enumerate(entry.patches[:columns]):
            sheet.paste(patch, (gap + label + column * (edge + gap), top))
    return sheet


def contact_sheets(entries: Sequence[CodePatches], codes_per_sheet: int = 12, columns: int = 8) -> list[Image.Image]:
    """Draw as many sheets as are needed for all codes that have a patch; see `contact_sheet`."""
    shown = [entry for entry in entries if entry.patches]
    number = math.ceil(len(shown) / codes_per_sheet)
    return [contact_sheet(shown[i * codes_per_sheet : (i + 1) * codes_per_sheet], columns) for i in range(number)]


def _crop(image: Image.Image, row: int, column: int, stride: int, context: float, size: int) -> Image.Image:
    """Cut a square around a cell, moved inwards at the border so that no emptiness is shown."""
    edge = min(round(stride * (1 + 2 * context)), image.width, image.height)
    centre_x, centre_y = (column + 0.5) * stride, (row + 0.5) * stride
    left = round(min(max(centre_x - edge / 2, 0), image.width - edge))
    top = round(min(max(centre_y - edge / 2, 0), image.height - edge))
    square = image.convert("RGB").crop((left, top, left + edge, top + edge))
    return square.resize((size, size), Image.Resampling.BICUBIC)
