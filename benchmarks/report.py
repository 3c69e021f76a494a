"""Results: rows of figures, claims held against them, written as CSV, Markdown and a plot."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from benchmarks.plot import Bar, Panel, draw
from benchmarks.timing import Timing


@dataclass(frozen=True)
class Row:
    """One line of the tables.

    Attributes:
        benchmark: which.
        case: sizes.
        side: who.
        part: stage of the work, "" = all of it.
        milliseconds: median of a call.
        fastest: shortest call, milliseconds.
        slowest: longest call, milliseconds.
        calls: measured calls.
        rate: `unit` a second, at the median; None where nothing is counted.
        unit: what `rate` counts.
        ratio: milliseconds per unit of work divided by those of our side in the same case; None where there is none.
        peak_megabytes: memory at the peak of a call beyond what was held before; None = not measured.
        note: what a reader must know.
    """

    benchmark: str
    case: str
    side: str
    part: str
    milliseconds: float
    fastest: float
    slowest: float
    calls: int
    rate: float | None = None
    unit: str = ""
    ratio: float | None = None
    peak_megabytes: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Check:
    """A claim and what was measured.

    Attributes:
        claim: in words, with its bound.
        value: measured.
        bound: to be reached.
        at_most: the bound is an upper one.
    """

    claim: str
    value: float
    bound: float
    at_most: bool = False

    @property
    def holds(self) -> bool:
        """Whether the claim holds."""
        return self.value <= self.bound if self.at_most else self.value >= self.bound


@dataclass
class Outcome:
    """What a benchmark found."""

    name: str
    rows: list[Row] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def add(
        self,
        case: str,
        timings: dict[str, Timing],
        unit: str = "",
        ours: str | None = None,
        peaks: dict[str, float] | None = None,
        scale: float = 1.0,
    ) -> None:
        """Add the rows of a case, parts after their side.

        Args:
            case: sizes.
            timings: of the sides.
            unit: what the sides' work counts; "" = nothing.
            ours: the side that ratios refer to.
            peaks: side -> bytes.
            scale: what rates are divided by (1e9 for giga).
        """
        base = timings[ours] if ours in timings and ours is not None else None
        for name, timing in timings.items():
            calls = timing.seconds
            self.rows.append(
                Row(
                    self.name,
                    case,
                    name,
                    "",
                    1e3 * timing.median,
                    1e3 * min(calls),
                    1e3 * max(calls),
                    len(calls),
                    timing.rate / scale if unit else None,
                    unit,
                    base.rate / timing.rate if base is not None else None,
                    peaks[name] / 2**20 if peaks and name in peaks else None,
                    timing.side.note,
                )
            )
            for part, laps in timing.laps.items():
                middle = 1e3 * timing.part(part)
                self.rows.append(Row(self.name, case, name, part, middle, 1e3 * min(laps), 1e3 * max(laps), len(laps)))


def write(folder: Path, outcomes: Sequence[Outcome], head: Sequence[str]) -> list[Path]:
    """Write `results.csv`, `checks.csv`, `results.md` and `results.svg`; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / name for name in ("results.csv", "checks.csv", "results.md", "results.svg")]
    with paths[0].open("w", newline="") as file:
        table = csv.DictWriter(file, [one.name for one in fields(Row)])
        table.writeheader()
        table.writerows(asdict(row) for outcome in outcomes for row in outcome.rows)
    with paths[1].open("w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(["benchmark", "claim", "value", "bound", "at_most", "holds"])
        for outcome in outcomes:
            for check in outcome.checks:
                cells = (check.claim, check.value, check.bound, check.at_most, check.holds)
                lines.writerow([outcome.name, *cells])
    paths[2].write_text(markdown(outcomes, head))
    paths[3].write_text(draw([panel for outcome in outcomes for panel in panels(outcome)]))
    return paths


def markdown(outcomes: Sequence[Outcome], head: Sequence[str]) -> str:
    """Return all results as one page."""
    lines = ["# Benchmarks", "", *(f"{sentence}  " for sentence in head)]
    for outcome in outcomes:
        lines += ["", f"## {outcome.name}", ""]
        lines += ["| case | side | part | ms (fastest to slowest) | rate | times ours | peak MB |", "|" + "---|" * 7]
        for row in outcome.rows:
            span = f"{number(row.milliseconds)} ({number(row.fastest)} to {number(row.slowest)})"
            rate = "" if row.rate is None else f"{number(row.rate)} {row.unit}/s"
            ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
            peak = "" if row.peak_megabytes is None else f"{row.peak_megabytes:.0f}"
            lines.append(f"| {row.case} | {row.side} | {row.part} | {span} | {rate} | {ratio} | {peak} |")
        notes = {f"{row.side}: {row.note}" for row in outcome.rows if row.note}
        lines += ["", *(f"- {text}" for text in [*sorted(notes), *outcome.remarks])]
        if outcome.checks:
            lines += ["", "| claim | measured | holds |", "|---|---|---|"]
            lines += [
                f"| {check.claim} | {check.value:.3g} | {'yes' if check.holds else 'NO'} |" for check in outcome.checks
            ]
    return "\n".join(lines) + "\n"


def panels(outcome: Outcome) -> list[Panel]:
    """Return one panel of bars a case: milliseconds of each side's whole call, or of a unit of its work."""
    found: dict[str, list[Bar]] = {}
    for row in outcome.rows:
        if not row.part and not row.side.startswith("matmul"):
            cost = row.milliseconds if row.rate is None else 1e3 / row.rate
            told = number(cost) + (f" ({row.ratio:.2f} times ours)" if row.ratio is not None else "")
            found.setdefault(case_title(outcome, row), []).append(Bar(row.side, cost, told))
    return [Panel(title, bars) for title, bars in found.items()]


def case_title(outcome: Outcome, row: Row) -> str:
    """Return the heading of a panel."""
    what = "ms" if row.rate is None else f"ms per {row.unit.rstrip('s')}"
    return f"{outcome.name}, {row.case}: {what}"


def number(value: float) -> str:
    """Write a figure with three significant digits, never with an exponent."""
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if value >= 0.001 or value == 0 else f"{value:.6f}"
