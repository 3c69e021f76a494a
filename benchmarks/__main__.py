"""Command line: `python -m benchmarks [names] [options]`."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from benchmarks import dictionary, inference, input_pipeline, pretraining_step, retrieval_scoring
from benchmarks.apart import run_apart
from benchmarks.machine import describe
from benchmarks.options import Options
from benchmarks.report import Outcome, write
from soho.errors import SohoError

BENCHMARKS: dict[str, Callable[[Options], Outcome]] = {
    "inference": inference.run,
    "pretraining": pretraining_step.run,
    "retrieval": retrieval_scoring.run,
    "input": input_pipeline.run,
    "dictionary": dictionary.run,
}


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    found = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Time this project and its rivals side by side, interleaved, in one run.",
    )
    found.add_argument("names", nargs="*", metavar="NAME", help=f"which to run: {', '.join(BENCHMARKS)} (default: all)")
    found.add_argument(
        "--out", type=Path, default=Path("runs/bench"), help="folder of the results (default: %(default)s)"
    )
    found.add_argument("--quick", action="store_true", help="tiny sizes, seconds in all; the figures mean nothing")
    found.add_argument("--sides", default="", help="sides to run, e.g. 'ours; cached, padded' (default: all)")
    found.add_argument("--cases", default="", help="parts of names of cases to run, e.g. 'R101+12, batch 1; R18'")
    found.add_argument("--rounds", type=int, default=10, help="measured calls of each side (default: %(default)s)")
    found.add_argument(
        "--seconds", type=float, default=120, help="for a case, at least 3 rounds (default: %(default)s)"
    )
    found.add_argument("--threads", type=int, help="of torch (default: its own choice)")
    found.add_argument(
        "--device", default="cuda" if torch.cuda.is_available() else "cpu", help="(default: %(default)s)"
    )
    found.add_argument("--eager", action="store_true", help="compile nothing")
    found.add_argument("--long", action="store_true", help="also 1000 x 5000 pairs of the retrieval benchmark")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmarks that the command line names; returns the exit code."""
    given = parser().parse_args(arguments)
    unknown = [name for name in given.names if name not in BENCHMARKS]
    if unknown:
        print(f"there is no benchmark {unknown[0]!r}; expected some of {', '.join(BENCHMARKS)}", file=sys.stderr)
        return 2
    if given.threads:
        torch.set_num_threads(given.threads)
    options = Options(
        quick=given.quick,
        rounds=3 if given.quick else given.rounds,
        seconds=given.seconds,
        device=torch.device(given.device),
        sides=_list(given.sides),
        cases=_list(given.cases),
        compiled=not (given.eager or given.quick),
        long=given.long,
    )
    head = describe(options)
    if given.quick:
        head.append("QUICK: tiny sizes, to see that everything runs; these figures mean nothing.")
    outcomes: dict[str, Outcome] = {}

    def save(outcome: Outcome) -> list[Path]:
        outcomes[outcome.name] = outcome
        return write(given.out, list(outcomes.values()), head)

    options.after_case = save
    names = given.names or list(BENCHMARKS)
    paths: list[Path] = []
    failed = False
    for name in names:
        begun = time.monotonic()
        try:
            # A single one needs no process of its own.
            found = BENCHMARKS[name](options) if len(names) == 1 else run_apart(name, BENCHMARKS[name], options)
        except SohoError as error:
            print(f"{name}: {error}", file=sys.stderr)
            failed = True  # the others may still find something
            continue
        paths = save(found)
        print(f"{name}: {time.monotonic() - begun:.0f} s", file=sys.stderr)
    if paths:
        print(paths[2].read_text())
        print("written: " + ", ".join(map(str, paths)), file=sys.stderr)
    return int(failed)


def _list(text: str) -> tuple[str, ...]:
    # Not by commas, which are part of the names.
    return tuple(part.strip() for part in text.split(";") if part.strip())


if __name__ == "__main__":
    sys.exit(main())
