"""Word maps as one picture and as one page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

from soho.inspection.attention import WordMaps
from soho.inspection.contact_sheet import ACCENT, FAINT, INK, PAPER
from soho.inspection.heat import fitted, overlay
from soho.inspection.report import Panel, Section, WordPanels, write_report

WHOLE = "whole text"
ATTENTION, GRADIENT = "attention", "gradient x attention"
# The PNG, in pixels: longer side of a panel, least width of a column, most width of all columns.
EDGE, NARROW, WIDE = 176, 124, 1180
_GAP, _LABEL, _NOTE = 10, 28, 22


def write_word_maps(maps: WordMaps, pictures: Sequence[Image.Image], text: str, out: Path) -> list[Path]:
    """Write `attention.png` and `attention.html` into a folder.

    Args:
        maps: what `word_maps` returned.
        pictures: the picture, or both.
        text: what was read against them.
        out: the folder; it is made.

    Returns:
        The paths of both.
    """
    out.mkdir(parents=True, exist_ok=True)
    blocks = list(_blocks(maps, pictures))
    draw_panels(blocks, text, f"{headline(maps)}; above {ATTENTION}, below {GRADIENT}").save(
        out / "attention.png", optimize=True
    )
    facts = {
        maps.target: f"{maps.probability:.1%}",
        "words read in": f"layer {maps.layer} of {maps.layers}",
        "whole text read in": f"layer {maps.whole_layer} of {maps.layers}",
        "cells": " and ".join(f"{one.grid[0]} × {one.grid[1]}" for one in _sides(maps)),
    }
    page = write_report(
        out / "attention.html",
        text,
        [Section("Where the words look", blocks)],
        lead=" ".join(maps.notes),
        facts=facts,
    )
    return [out / "attention.png", page]


def headline(maps: WordMaps) -> str:
    """Return what was followed and where, as one line."""
    place = f"words in layer {maps.layer} of {maps.layers}, whole text in layer {maps.whole_layer}"
    return f"output: {maps.target} ({maps.probability:.1%}); {place}"


def word_panels(maps: WordMaps, picture: Image.Image, title: str = "", edge: int = 320) -> WordPanels:
    """Lay the maps of one picture over it.

    Beside the attention of a word stands the share of it that goes to the picture; beside its gradient map the sum of
    it as a share of the largest sum of any word, because each panel is scaled to its own maximum.

    Args:
        maps: of this picture.
        picture: in any size.
        title: which picture.
        edge: pixels of a panel's longer side.
    """
    names = [WHOLE, *maps.words]
    sums = maps.gradient.sum(axis=(1, 2))
    most = float(sums.max(initial=0.0))
    parts = ["", *(f"{value / most:.0%}" if most > 0 else "none" for value in sums)]
    shares = [f"{one.sum():.0%}" for one in (maps.whole_attention, *maps.attention)]
    kinds = (
        (ATTENTION, [maps.whole_attention, *maps.attention], shares),
        (GRADIENT, [maps.whole_gradient, *maps.gradient], parts),
    )
    rows = [
        (
            kind,
            [
                Panel(overlay(picture, one, maps.valid, maps.read_size, edge), name, note)
                for one, name, note in zip(values, names, notes)
            ],
        )
        for kind, values, notes in kinds
    ]
    return WordPanels(fitted(picture, 2 * edge), rows, title)


def draw_panels(blocks: Sequence[WordPanels], text: str, line: str) -> Image.Image:
    """Draw panels as one picture: per band of words their attention above, their gradient maps below.

    Args:
        blocks: one per picture.
        text: the heading.
        line: the line below it.

    Returns:
        An RGB picture.
    """
    bold, small = ImageFont.load_default(22), ImageFont.load_default(13)
    shapes = [_shape(block) for block in blocks]
    width = 3 * _GAP + max((min(shape.columns, shape.panels) + 1) * shape.pitch for shape in shapes)
    heading = _wrapped(text, bold, width - 4 * _GAP)
    below = _wrapped(line, small, width - 4 * _GAP)
    head = 2 * _GAP + 30 * len(heading) + 18 * len(below) + 16
    sheet = Image.new("RGB", (width, head + sum(shape.height for shape in shapes) + _GAP), PAPER)
    draw = ImageDraw.Draw(sheet)
    for number, row in enumerate(heading):
        draw.text((2 * _GAP, 2 * _GAP + 30 * number), row, INK, bold)
    for number, row in enumerate(below):
        draw.text((2 * _GAP, 2 * _GAP + 30 * len(heading) + 18 * number + 2), row, FAINT, small)
    top = head
    for block, shape in zip(blocks, shapes):
        _draw_block(sheet, draw, block, shape, top)
        top += shape.height
    return sheet


class _Shape(NamedTuple):
    """How a block is laid out: panels beside the picture, columns of them, pixels from one to the next, heights."""

    panels: int
    columns: int
    pitch: int
    panel_height: int
    height: int


def _shape(block: WordPanels) -> _Shape:
    assert isinstance(block.picture, Image.Image)
    width, height = fitted(block.picture, EDGE).size
    pitch = max(width, NARROW) + _GAP
    panels = len(block.rows[0][1])
    # Bands of equal length instead of one word alone in the last.
    bands = -(-panels // max(1, WIDE // pitch - 1))
    band = 2 * (height + _NOTE) + _LABEL + _GAP
    return _Shape(panels, -(-panels // bands), pitch, height, bands * band)


def _draw_block(sheet: Image.Image, draw: ImageDraw.ImageDraw, block: WordPanels, shape: _Shape, top: int) -> None:
    label, small = ImageFont.load_default(16), ImageFont.load_default(12)
    left = 2 * _GAP
    assert isinstance(block.picture, Image.Image)
    draw.text((left, top + _LABEL / 2), block.title or "picture", INK, label, anchor="lm")
    sheet.paste(fitted(block.picture, EDGE), (left, top + _LABEL))
    for first in range(0, shape.panels, shape.columns):
        for kind, panels in block.rows:
            named = kind == ATTENTION
            y = top + (_LABEL if named else 0)
            for column, panel in enumerate(panels[first : first + shape.columns], start=1):
                assert isinstance(panel.picture, Image.Image)
                x = left + column * shape.pitch
                if named:
                    colour = ACCENT if first + column == 1 else INK  # the whole text, not a word
                    name = _short(panel.label, label, shape.pitch - _GAP)
                    draw.text((x, top + _LABEL / 2), name, colour, label, anchor="lm")
                sheet.paste(fitted(panel.picture, EDGE), (x, y))
                note = f"{kind.split()[0]} {panel.note}" if panel.note else kind
                draw.text((x, y + shape.panel_height + _NOTE / 2), note, FAINT, small, anchor="lm")
            top = y + shape.panel_height + _NOTE + (0 if named else _GAP)


def _wrapped(text: str, font: ImageFont.ImageFont | ImageFont.FreeTypeFont, width: float) -> list[str]:
    rows: list[str] = []
    for word in text.split():
        longer = f"{rows[-1]} {word}" if rows else word
        if rows and font.getlength(longer) <= width:
            rows[-1] = longer
        else:
            rows.append(word)
    return rows or [""]


def _short(text: str, font: ImageFont.ImageFont | ImageFont.FreeTypeFont, width: float) -> str:
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "..") > width:
        text = text[:-1]
    return text + ".."


def _sides(maps: WordMaps) -> Iterator[WordMaps]:
    yield maps
    if maps.second is not None:
        yield maps.second


def _blocks(maps: WordMaps, pictures: Sequence[Image.Image]) -> Iterator[WordPanels]:
    titles = ("left picture", "right picture") if maps.second is not None else ("",)
    for one, picture, title in zip(_sides(maps), pictures, titles):
        yield word_panels(one, picture, title)
