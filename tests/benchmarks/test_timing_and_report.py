"""Interleaving, medians, ratios, and the files that are written."""

from __future__ import annotations

import csv
import subprocess
import sys
import xml.dom.minidom
from pathlib import Path

import pytest
import torch

from benchmarks import timing
from benchmarks.machine import count_flops, matmul_side
from benchmarks.options import Options
from benchmarks.report import Check, Outcome, number, write
from benchmarks.timing import Clock, Side, Timing, interleave
from soho.errors import SohoError
from tests.support import ROOT

CPU = torch.device("cpu")


def test_sides_take_turns_and_begin_in_turn() -> None:
    calls: list[str] = []
    sides = [Side(name, lambda _, name=name: calls.append(name)) for name in "abc"]
    found = interleave(sides, CPU, 4, "test")
    assert "".join(calls) == "abc" + "abc" + "bca" + "cab" + "abc"
    assert [len(found[name].seconds) for name in "abc"] == [4, 4, 4]


def test_no_round_begins_after_the_time_is_up() -> None:
    found = interleave([Side("a", lambda _: None)], CPU, 50, "test", seconds=0.0)
    assert len(found["a"].seconds) == timing.LEAST_ROUNDS


def test_parts_are_timed_by_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([0.0, 1.0, 3.0, 4.0])
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(now))
    clock = Clock(CPU)
    clock.start()
    for part in ("first", "second", "first"):
        clock.lap(part)
    assert clock.laps == {"first": 2.0, "second": 2.0}


def test_ratios_compare_cost_per_unit_of_work(tmp_path: Path) -> None:
    ours = Timing(Side("ours", lambda _: None, work=100), [0.3, 0.1, 0.2], {"cnn": [0.1, 0.1, 0.05]})
    other = Timing(Side("other <slow>", lambda _: None, work=4, note="runs whole"), [0.1, 0.08, 0.07])
    outcome = Outcome("speed", remarks=["a remark"])
    outcome.add("R18", {"ours": ours, "other <slow>": other}, "pairs", "ours", {"ours": 3 * 2**20})
    outcome.checks = [Check("at least 5", 10.0, 5.0), Check("at most 5", 10.0, 5.0, at_most=True)]
    first, part, second = outcome.rows
    assert (first.milliseconds, first.fastest, first.slowest, first.calls) == (200.0, 100.0, 300.0, 3)
    assert (first.rate, first.ratio, first.peak_megabytes) == (500.0, 1.0, 3.0)
    assert (part.part, part.milliseconds, part.rate) == ("cnn", 100.0, None)
    assert second.ratio == pytest.approx(10.0)  # 20 ms a pair against 2 ms

    table, checks, page, plot = write(tmp_path / "out", [outcome], ["a machine"])
    rows = list(csv.DictReader(table.open()))
    assert [row["side"] for row in rows] == ["ours", "ours", "other <slow>"]
    assert float(rows[2]["ratio"]) == pytest.approx(10.0)
    assert [row["holds"] for row in csv.DictReader(checks.open())] == ["True", "False"]
    text = page.read_text()
    assert "| R18 | other <slow> |  | 80 (70 to 100) | 50 pairs/s | 10.00 |  |" in text
    assert "| at most 5 | 10 | NO |" in text
    assert "a machine" in text
    assert "- a remark" in text
    picture = xml.dom.minidom.parse(str(plot))
    assert len(picture.getElementsByTagName("rect")) == 3  # the ground and two bars
    assert "other <slow>" in [node.firstChild.data for node in picture.getElementsByTagName("text")]


PEAK = """
import torch
from benchmarks.timing import peak_bytes

kept = torch.ones(4 * 2**20)  # held before, so it does not count

def hold():
    for _ in range(3):
        torch.ones(16 * 2**20).sum()

print(peak_bytes(hold, torch.device("cpu")))
"""


def test_the_peak_of_a_call_is_what_it_held_at_once() -> None:
    # In a process of its own: one that has trained keeps freed memory (soho.memory).
    run = subprocess.run([sys.executable, "-c", PEAK], cwd=ROOT, capture_output=True, text=True, check=True)
    size = 64 * 2**20
    assert 0.9 * size < int(run.stdout) < 1.6 * size


def test_flops_of_a_product_by_hand() -> None:
    left, right = torch.ones(3, 4), torch.ones(4, 5)
    assert count_flops(lambda: left @ right) == 2 * 3 * 4 * 5
    assert matmul_side(torch.float32, Options(quick=True)).work == 2 * 64**3


def test_sides_are_chosen_by_name() -> None:
    assert Options().chosen(["a", "b"]) == ["a", "b"]
    assert Options(sides=("b", "c")).chosen(["a", "b"]) == ["b"]
    with pytest.raises(SohoError, match="names no side of this benchmark; it has a; b"):
        Options(sides=("c",)).chosen(["a", "b"])
    assert Options(cases=("r18",)).wants_case("R18+3, batch 1")
    assert not Options(cases=("R101",)).wants_case("R18+3, batch 1")


@pytest.mark.parametrize(("value", "text"), [(12345.6, "12,346"), (3.14159, "3.14"), (0.0001234, "0.000123"), (0, "0")])
def test_figures_have_three_digits(value: float, text: str) -> None:
    assert number(value) == text
