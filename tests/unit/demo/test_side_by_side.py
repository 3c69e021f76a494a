"""Stages as child processes: results reach the parent, errors become one sentence, nothing is left running."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from soho.demo import side_by_side
from soho.demo.result import DemoResult, StageResult
from soho.demo.side_by_side import Stage, run_side_by_side
from soho.errors import SohoError
from tests.support import ROOT


@pytest.fixture(autouse=True)
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(side_by_side, "CHILD", "tests.unit.demo.fake_child")


def run(out: Path, *names: str) -> tuple[dict[str, StageResult], str]:
    """Run stages by name; returns what was kept and what was printed."""
    kept: dict[str, StageResult] = {}
    said = io.StringIO()
    stages = [Stage(name, "vqa.yaml", ["a=b"], out, 3) for name in names]
    run_side_by_side(stages, threads=3, keep=kept.__setitem__, console=Console(file=said, width=300))
    return kept, said.getvalue()


def test_a_stage_survives_the_command_line(tmp_path: Path) -> None:
    stage = Stage("vqa", "vqa.yaml", ["model.start=null", 'x="y z"'], tmp_path / "a b", 3)
    assert Stage.from_json(stage.to_json()) == stage


def test_every_result_reaches_the_parent_and_output_goes_into_log_files(tmp_path: Path) -> None:
    kept, said = run(tmp_path, "good-1", "good-2", "good-3")
    assert kept == {f"good-{number}": StageResult({"accuracy": 0.5}, 3.0, 2, 1.0) for number in (1, 2, 3)}
    for name in kept:
        log = tmp_path / name / "output.log"
        assert log.read_text() == f"this is {name} with 3 threads\n"
        assert f"{name}: started, prints into {log}" in said
        assert f"{name}: finished after" in said
    assert "this is" not in said


def test_the_error_of_a_child_is_its_own_sentence(tmp_path: Path) -> None:
    with pytest.raises(SohoError, match=r"^the recipe has no data$"):
        run(tmp_path, "wrong")


def test_a_child_that_is_killed_fails_the_demonstration_and_the_other_one_is_stopped(tmp_path: Path) -> None:
    with pytest.raises(SohoError, match=r"^the run killed was killed by signal 9 before .*; see .*killed/output\.log$"):
        run(tmp_path, "sleeper", "killed", "good")
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)
    assert not (tmp_path / "good").exists()


def test_a_result_beside_a_failure_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(side_by_side, "_POLL", 15.0)  # both have ended at the first look
    kept: dict[str, StageResult] = {}
    stages = [Stage(name, "vqa.yaml", [], tmp_path, 3) for name in ("wrong", "good-1", "good-2")]
    with pytest.raises(SohoError, match=r"^the recipe has no data$"):
        run_side_by_side(stages, threads=1, keep=kept.__setitem__, console=Console(file=io.StringIO()))
    assert list(kept) == ["good-1"]


def test_a_child_without_a_result_fails_even_where_an_earlier_one_left_one(tmp_path: Path) -> None:
    (tmp_path / "silent").mkdir()
    (tmp_path / "silent" / "stage.json").write_text('{"metrics": {}, "seconds": 1, "steps": 1, "train_seconds": 1}')
    with pytest.raises(SohoError, match=r"^the run silent ended with exit code 0 before it had a result; see "):
        run(tmp_path, "silent")


def test_two_processes_take_all_runs(tmp_path: Path) -> None:
    run(tmp_path, *(f"good-{number}" for number in range(5)))
    assert len({(tmp_path / f"good-{number}" / "process").read_text() for number in range(5)}) == 2


CHILD = """
import sys, time
from soho.demo import child
def run_stage(recipe, split):
    print("at work", flush=True)
    time.sleep(600 if recipe == "long" else 0)
    return child_result
from soho.demo.result import StageResult
child_result = StageResult({"accuracy": 0.5}, 3.0, 2, 1.0)
child.run_stage, child.stage_recipe = run_stage, lambda stage: stage.run
sys.exit(child.main())
"""


@pytest.mark.parametrize(("name", "code"), [("long", -signal.SIGTERM), ("short", 0)])
def test_a_child_ends_with_its_parent(tmp_path: Path, name: str, code: int) -> None:
    stage = Stage(name, "vqa.yaml", [], tmp_path, 3)
    stage.folder.mkdir()
    child = subprocess.Popen([sys.executable, "-c", CHILD], stdin=subprocess.PIPE)
    assert child.stdin is not None
    child.stdin.write(f"{stage.to_json()}\n".encode())
    child.stdin.flush()
    awaited = stage.log if name == "long" else stage.folder / "stage.json"
    for _ in range(1200):
        if awaited.is_file() and awaited.stat().st_size:
            break
        time.sleep(0.05)
    assert stage.log.read_text() == "at work\n"
    assert child.poll() is None
    child.stdin.close()
    assert child.wait(timeout=60) == code


def test_the_bar_of_a_run_follows_the_last_line_of_its_output(tmp_path: Path) -> None:
    log = tmp_path / "output.log"
    log.write_text("text encoder: new\n")
    assert side_by_side._position(log) == {}
    log.write_text("step 1/650  epoch 0.0\n" + "x" * 5000 + "\rstep 20/650  epoch 0.1\nstep 40/650  epoch 0.2  loss 1")
    assert side_by_side._position(log) == {"completed": 40, "total": 650, "note": "training"}
    assert side_by_side._position(log, before=log.stat().st_size) == {}  # of an earlier start
    log.write_text("step 650/650  epoch 3.0\nmodel: there\n")
    assert side_by_side._position(log) == {"completed": 650, "total": 650, "note": "measuring"}


def test_results_survive_the_disk(tmp_path: Path) -> None:
    result = DemoResult(tmp_path, wall_seconds=7.5)
    result.add("vqa", StageResult({"accuracy": 0.5}, 3.0, 2, 1.0))
    result.save()
    assert DemoResult.load(tmp_path) == result
    assert DemoResult.load(tmp_path / "none") == DemoResult(tmp_path / "none")
