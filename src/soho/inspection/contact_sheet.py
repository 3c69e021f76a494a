"""The visual dictionary as one picture: a line of patches per code. Drawn by Pillow alone."""

from __future__ import annotations

import math
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from soho.errors import SohoError
from soho.inspection.dictionary import CodePatches

PAPER, INK, FAINT, ACCENT = (250, 249, 246), (38, 38, 36), (128, 126, 120), (42, 107, 103)
LABEL = 132
LABEL_WITH_WORDS = 176
WORDS_SHOWN = 3
HEADING, LINE = 48, 22


def contact_sheet(
    entries: Sequence[CodePatches],
    columns: int = 8,
    gap: int = 6,
    title: str = "",
    lines: Sequence[str] = (),
) -> Image.Image:
    """Draw one line of patches per code, with its index, its share of all cells and its words.

    Args:
        entries: what `collect_patches` returned.
        columns: patches per line.
        gap: pixels between patches.
        title: a heading above.
        lines: sentences below the heading.

    Returns:
        An RGB image.

    Raises:
        SohoError: there is nothing to draw.
    """
    edge = max((patch.width for entry in entries for patch in entry.patches), default=0)
    if not edge:
        raise SohoError("a contact sheet needs at least one code with a patch")
    label = LABEL if all(entry.words is None for entry in entries) else LABEL_WITH_WORDS
    head = (HEADING if title else 0) + LINE * len(lines) + (gap if title or lines else 0)
    width = gap + label + columns * (edge + gap)
    sheet = Image.new("RGB", (width, head + gap + len(entries) * (edge + gap)), PAPER)
    draw = ImageDraw.Draw(sheet)
    if title:
        draw.text((2 * gap, HEADING / 2), title, INK, ImageFont.load_default(22), anchor="lm")
    for number, line in enumerate(lines):
        draw.text((2 * gap, (HEADING if title else gap) + LINE * number), line, FAINT, ImageFont.load_default(13))
    for place, entry in enumerate(entries):
        top = head + gap + place * (edge + gap)
        _label(draw, entry, 2 * gap, top + edge // 2)
        for column, patch in enumerate(entry.patches[:columns]):
            sheet.paste(patch, (gap + label + column * (edge + gap), top))
    return sheet


def contact_sheets(entries: Sequence[CodePatches], codes_per_sheet: int = 12, columns: int = 8) -> list[Image.Image]:
    """Draw as many sheets as are needed for all codes that have a patch; see `contact_sheet`."""
    shown = [entry for entry in entries if entry.patches]
    number = math.ceil(len(shown) / codes_per_sheet)
    return [contact_sheet(shown[i * codes_per_sheet : (i + 1) * codes_per_sheet], columns) for i in range(number)]


def _label(draw: ImageDraw.ImageDraw, entry: CodePatches, left: int, middle: int) -> None:
    rows = [(f"code {entry.code}", INK, 15), (f"{entry.share:.1%} of cells", FAINT, 12)]
    if entry.words is not None:
        # Pillow's own font has no multiplication sign.
        said = [(f"{word.word}  {word.lift:.1f}x", ACCENT, 13) for word in entry.words[:WORDS_SHOWN]]
        rows += said or [("no word stands out", FAINT, 12)]
    line = 20 if len(rows) == 2 else 18
    top = middle - (len(rows) - 1) * line / 2
    for number, (text, colour, size) in enumerate(rows):
        draw.text((left, top + number * line), text, colour, ImageFont.load_default(size), anchor="lm")
