"""Bars as one self-contained SVG; no plotting library is needed for that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from soho.inspection.markup import Html, tag

WIDTH, LEFT, RIGHT = 760, 210, 190
BAR, GAP, TITLE, SPACE = 18, 6, 26, 22
OURS, OTHER, TEXT = "#2a6f97", "#b8c4cc", "#222222"


@dataclass(frozen=True)
class Bar:
    """A bar.

    Attributes:
        name: left of it.
        value: its length.
        told: right of it.
    """

    name: str
    value: float
    told: str


@dataclass(frozen=True)
class Panel:
    """Bars on one scale under a title."""

    title: str
    bars: Sequence[Bar]


def draw(panels: Sequence[Panel]) -> str:
    """Return an SVG document with one panel below the other; bars whose name begins with "ours" are coloured."""
    parts: list[Html] = []
    down = SPACE
    for panel in panels:
        parts.append(tag("text", panel.title, x=12, y=down, font_weight="bold", fill=TEXT))
        down += TITLE - 12
        longest = max((bar.value for bar in panel.bars), default=0.0) or 1.0
        for bar in panel.bars:
            length = max(1.0, bar.value / longest * (WIDTH - LEFT - RIGHT))
            middle = down + BAR - 5
            colour = OURS if bar.name.startswith("ours") else OTHER
            parts.append(tag("text", bar.name, x=LEFT - 8, y=middle, text_anchor="end", fill=TEXT))
            parts.append(tag("rect", x=LEFT, y=down, width=round(length, 1), height=BAR, fill=colour))
            parts.append(tag("text", bar.told, x=round(LEFT + length + 6, 1), y=middle, fill=TEXT))
            down += BAR + GAP
        down += SPACE
    background = tag("rect", width=WIDTH, height=down, fill="#ffffff")
    return tag(
        "svg",
        background,
        *parts,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {WIDTH} {down}",
        font_family="sans-serif",
        font_size=12,
    )
