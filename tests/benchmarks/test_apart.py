"""Benchmarks in processes of their own: results come back, also those of one that is killed."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from benchmarks.__main__ import main
from benchmarks.apart import run_apart
from benchmarks.options import Options
from benchmarks.report import Check, Outcome
from soho.errors import SohoError


def told(number: float) -> Outcome:
    return Outcome("toy", checks=[Check("a claim", number, 1.0)])


def whole(options: Options) -> Outcome:
    options.after_case(told(1.0))
    return told(os.getpid())


def killed(options: Options) -> Outcome:
    options.after_case(told(2.0))
    os.kill(os.getpid(), signal.SIGKILL)
    return told(3.0)


def wrong(options: Options) -> Outcome:
    raise SohoError(f"{options.rounds} rounds are wrong")


def test_what_a_process_finds_comes_back() -> None:
    seen: list[Outcome] = []
    found = run_apart("toy", whole, Options(after_case=seen.append))
    assert [outcome.checks[0].value for outcome in seen] == [1.0, found.checks[0].value]
    assert found.checks[0].value != os.getpid()  # it was another process


def test_a_killed_process_leaves_what_it_had() -> None:
    seen: list[Outcome] = []
    with pytest.raises(SohoError, match=r"ended with code -9 \(-9: killed, .* memory ran out\)"):
        run_apart("toy", killed, Options(after_case=seen.append))
    assert [outcome.checks[0].value for outcome in seen] == [2.0]


def test_an_error_comes_back() -> None:
    with pytest.raises(SohoError, match=r"^7 rounds are wrong$"):
        run_apart("toy", wrong, Options(rounds=7))


def test_one_that_fails_does_not_stop_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["dictionary", "inference", "--quick", "--cases", "batch 1; K = 8", "--out", str(tmp_path)]
    assert main([*arguments, "--sides", "picture"]) == 1
    said = capsys.readouterr()
    assert "dictionary: --sides picture names no side of this benchmark" in said.err
    assert "| tiny, batch 1 | picture |" in said.out
