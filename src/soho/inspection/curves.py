"""Line charts as small inline SVG that follow the colours of the page around them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from soho.inspection.markup import Html, join, tag

WIDTH, HEIGHT = 440, 232
LEFT, RIGHT, TOP, BOTTOM = 46, 18, 10, 36
# More points than this are averaged in groups: the eye sees no more, and the file stays small.
MOST_POINTS = 240
# From this many points on a noisy line is drawn faint, with its moving average over it.
SMOOTH_FROM = 60
COLOURS = 6


@dataclass(frozen=True)
class Series:
    """One line.

    Attributes:
        name: for the legend.
        x: where it was measured; rising.
        y: what was measured; values that are not finite are left out.
        baseline: drawn dashed, as something to compare with.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    baseline: bool = False


@dataclass(frozen=True)
class Curve:
    """One chart.

    Attributes:
        title: what is shown.
        series: the lines; all share one axis.
        x_label: for instance "optimizer step".
        note: a sentence below the chart.
        percent: whether values are fractions to be written as percent.
        from_zero: whether the axis must begin at zero.
        smooth: whether long lines get a moving average.
    """

    title: str
    series: Sequence[Series]
    x_label: str = "optimizer step"
    note: str = ""
    percent: bool = False
    from_zero: bool = False
    smooth: bool = True


def draw_curve(curve: Curve) -> Html:
    """Return a figure with title, legend (with the last value of every line), chart and note."""
    lines = [_finite(series) for series in curve.series]
    kept = [(series, x, y) for series, (x, y) in zip(curve.series, lines) if len(x)]
    if not kept:
        return tag(
            "figure", tag("figcaption", curve.title), tag("p", "No measurements.", class_="note"), class_="curve"
        )
    legend = tag(
        "ul",
        (
            tag(
                "li",
                tag("span", class_=f"key s{number % COLOURS}" + (" dashed" if series.baseline else "")),
                tag("span", series.name),
                tag("b", format_value(float(y[-1]), curve.percent)),
            )
            for number, (series, _, y) in enumerate(kept)
        ),
        class_="legend",
    )
    return tag(
        "figure",
        tag("figcaption", curve.title),
        legend,
        _chart(curve, kept),
        tag("p", curve.note, class_="note") if curve.note else None,
        class_="curve",
    )


def format_value(value: float, percent: bool = False) -> str:
    """Write a number as a reader wants it: percent with one decimal, else about three significant digits."""
    if not math.isfinite(value):
        return "–"
    if percent:
        return f"{100 * value:.1f}%"
    if value == 0 or 0.001 <= abs(value) < 1000:
        text = f"{value:.3g}"
        return f"{value:.0f}" if "e" in text else text
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.1e}"


def ticks(low: float, high: float, number: int = 5) -> list[float]:
    """Return round values (1, 2 or 5 times a power of ten apart) between two ends."""
    span = high - low
    if not span > 0:
        return [low]
    rough = span / max(1, number)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(place * step, 12) for place in range(first, last + 1)]


Points = npt.NDArray[np.float64]


def _chart(curve: Curve, kept: Sequence[tuple[Series, Points, Points]]) -> Html:
    smooth = [curve.smooth and not series.baseline and len(x) >= SMOOTH_FROM for series, x, _ in kept]
    drawn = [(*thin(x, y), wanted) for (_, x, y), wanted in zip(kept, smooth)]
    x_low, x_high = _ends([x for x, _, _ in drawn])
    y_low, y_high = _ends([y for _, y, _ in drawn], curve.from_zero)

    def place(x: Points, y: Points) -> list[tuple[float, float]]:
        across = LEFT + (x - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT)
        down = HEIGHT - BOTTOM - (y - y_low) / (y_high - y_low) * (HEIGHT - TOP - BOTTOM)
        return [(round(float(a), 1), round(float(b), 1)) for a, b in zip(across, down)]

    marks = []
    for number, ((series, _, _), (x, y, wanted)) in enumerate(zip(kept, drawn)):
        colour = f"s{number % COLOURS}"
        style = f"line {colour}" + (" dashed" if series.baseline else "")
        points = place(x, y)
        if wanted:
            marks.append(_line(points, f"line {colour} faint"))
            marks.append(_line(place(x, moving_average(y)), style))
        else:
            marks.append(_line(points, style))
        if len(points) <= SMOOTH_FROM and not series.baseline:
            marks += [
                tag(
                    "circle",
                    tag("title", f"{series.name}: {format_value(b, curve.percent)} at {format_value(a)}"),
                    cx=across,
                    cy=down,
                    r=2.2,
                    class_=f"dot {colour}",
                )
                for (across, down), a, b in zip(points, x.tolist(), y.tolist())
            ]
    return tag(
        "svg",
        tag("title", f"{curve.title}: " + "; ".join(_told(s.name, y, curve.percent) for s, _, y in kept)),
        _grid(curve, (x_low, x_high), (y_low, y_high)),
        *marks,
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        role="img",
    )


def _grid(curve: Curve, x_ends: tuple[float, float], y_ends: tuple[float, float]) -> Html:
    (x_low, x_high), (y_low, y_high) = x_ends, y_ends
    floor, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    parts = []
    for value in ticks(y_low, y_high, 4):
        down = round(floor - (value - y_low) / (y_high - y_low) * (floor - TOP), 1)
        parts.append(tag("line", x1=LEFT, x2=right, y1=down, y2=down, class_="grid"))
        text = f"{100 * value:g}%" if curve.percent else format_tick(value)
        parts.append(tag("text", text, x=LEFT - 7, y=down + 3.5, text_anchor="end"))
    for value in ticks(x_low, x_high, 5):
        across = round(LEFT + (value - x_low) / (x_high - x_low) * (right - LEFT), 1)
        parts.append(tag("text", format_tick(value), x=across, y=floor + 15, text_anchor="middle"))
    parts.append(tag("line", x1=LEFT, x2=right, y1=floor, y2=floor, class_="axis"))
    parts.append(tag("text", curve.x_label, x=right, y=HEIGHT - 4, text_anchor="end", class_="axis-label"))
    return join(parts)


def format_tick(value: float) -> str:
    """Write the value of an axis mark: 0.25, 40, 1,500, 20k, 3M."""
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= max(size, 10_000 if letter == "k" else size):
            return f"{value / size:g}{letter}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:g}"


def thin(x: Points, y: Points, most: int = MOST_POINTS) -> tuple[Points, Points]:
    """Average neighbours until no more than `most` points are left."""
    if len(x) <= most:
        return x, y
    groups = np.array_split(np.arange(len(x)), most)
    return np.array([x[group].mean() for group in groups]), np.array([y[group].mean() for group in groups])


def moving_average(y: Points, share: float = 0.06) -> Points:
    """Average over a centred window of a share of the line.

    At the steep beginning the window stays symmetric and gets short, or it would drag the line down; at the flat end
    only its right half gets short, or the last noise would be drawn as a hook.
    """
    half = max(1, round(len(y) * share / 2))
    total = np.concatenate(([0.0], np.cumsum(y)))
    index = np.arange(len(y))
    left = np.minimum(half, index)
    right = np.minimum(left, len(y) - 1 - index)
    return (total[index + right + 1] - total[index - left]) / (left + right + 1)


def _finite(series: Series) -> tuple[Points, Points]:
    x, y = np.asarray(series.x, dtype=np.float64), np.asarray(series.y, dtype=np.float64)
    kept = np.isfinite(x) & np.isfinite(y)
    return x[kept], y[kept]


def _ends(values: Sequence[Points], from_zero: bool = False) -> tuple[float, float]:
    low, high = min(float(v.min()) for v in values), max(float(v.max()) for v in values)
    if from_zero:
        low, high = min(low, 0.0), max(high, 0.0)
    if high <= low:
        return low - 0.5, high + 0.5
    return low, high


def _line(points: Sequence[tuple[float, float]], class_: str) -> Html:
    return tag("polyline", points=" ".join(f"{a},{b}" for a, b in points), class_=class_)


def _told(name: str, y: Points, percent: bool) -> str:
    return f"{name} from {format_value(float(y[0]), percent)} to {format_value(float(y[-1]), percent)}"
