from __future__ import annotations

import math
import re

import numpy as np
import pytest

from soho.inspection.curves import Curve, Series, draw_curve, format_tick, format_value, moving_average, thin, ticks


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.0, 8.0, [0, 2, 4, 6, 8]),
        (0.0, 1.0, [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (0.13, 0.31, [0.15, 0.2, 0.25, 0.3]),
        (-3.0, 3.0, [-2, 0, 2]),
        (0.0, 3990.0, [0, 1000, 2000, 3000]),
        (5.0, 5.0, [5.0]),
    ],
)
def test_ticks_are_round(low: float, high: float, expected: list[float]) -> None:
    assert ticks(low, high, 4 if high in (8.0, 3.0) else 5) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("value", "percent", "text"),
    [
        (0.3124, True, "31.2%"),
        (2.0449, False, "2.04"),
        (0, False, "0"),
        (903.4, False, "903"),
        (2048, False, "2,048"),
        (0.00001, False, "1.0e-05"),
        (999.7, False, "1000"),
        (math.nan, False, "–"),
    ],
)
def test_values_are_written_as_a_reader_wants_them(value: float, percent: bool, text: str) -> None:
    assert format_value(value, percent) == text


def test_axis_marks() -> None:
    assert [format_tick(v) for v in (0.25, 40, 1500, 20_000, 3e6, 0)] == ["0.25", "40", "1,500", "20k", "3M", "0"]


def test_thinning_averages_neighbours() -> None:
    x, y = thin(np.arange(6.0), np.array([1.0, 3, 5, 7, 9, 11]), most=3)
    assert x.tolist() == [0.5, 2.5, 4.5]
    assert y.tolist() == [2, 6, 10]
    assert thin(x, y, most=3)[0] is x


def test_moving_average_keeps_the_ends_in_place() -> None:
    straight = np.arange(100.0)
    smooth = moving_average(straight)
    assert smooth[:90] == pytest.approx(straight[:90])
    assert smooth[0] == 0.0
    assert moving_average(np.array([0.0, 3, 0, 3, 0, 3]), share=0.4) == pytest.approx([0, 1, 2, 1, 2, 1.5])


def test_a_chart_places_its_points() -> None:
    curve = Curve("Loss", [Series("a", [0, 10], [0.0, 1.0]), Series("b", [0, 10], [1.0, 1.0], baseline=True)])
    drawn = draw_curve(curve)
    lines = re.findall(r'<polyline points="([^"]*)" class="([^"]*)"', drawn)
    # x from 46 to 440 - 18, y from 232 - 36 up to 10
    assert lines == [("46.0,196.0 422.0,10.0", "line s0"), ("46.0,10.0 422.0,10.0", "line s1 dashed")]
    assert drawn.count("<circle") == 2  # baselines have no points to look at
    assert "<title>a: 1 at 10</title>" in drawn
    assert "a from 0 to 1; b from 1 to 1" in drawn


def test_long_lines_get_a_moving_average() -> None:
    x = np.arange(1000)
    drawn = draw_curve(Curve("Loss", [Series("a", x, np.sin(x))]))
    assert re.findall(r'class="(line[^"]*)"', drawn) == ["line s0 faint", "line s0"]
    assert all(len(points.split()) == 240 for points in re.findall(r'points="([^"]*)"', drawn))
    plain = draw_curve(Curve("Loss", [Series("a", x, np.sin(x))], smooth=False))
    assert re.findall(r'class="(line[^"]*)"', plain) == ["line s0"]


def test_gaps_constants_and_nothing_at_all_are_drawn() -> None:
    drawn = draw_curve(Curve("x", [Series("a", [0, 1, 2], [1.0, math.nan, 1.0])]))
    assert "nan" not in drawn
    assert '<polyline points="46.0,103.0 422.0,103.0"' in drawn
    assert "No measurements." in draw_curve(Curve("x", [Series("a", [0], [math.inf])]))


def test_names_are_escaped() -> None:
    drawn = draw_curve(Curve("<b>", [Series("a & b", [0, 1], [0, 1])], note="<i>"))
    assert "<figcaption>&lt;b&gt;</figcaption>" in drawn
    assert "<span>a &amp; b</span>" in drawn
    assert "<i>" not in drawn
