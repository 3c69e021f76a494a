from __future__ import annotations

import json
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from soho.errors import SohoError
from soho.training.checkpoint import save_checkpoint
from soho.training.processes import make_accelerator
from soho.training.recipe import Recipe, load_recipe
from soho.training.run_info import save_run_info
from soho.training.tracking import Tracker, WindowAverages, read_log


def test_a_window_weighs_by_counts() -> None:
    window = WindowAverages()
    window.add("mlm", 6.0, 3)
    window.add("mlm", 2.0, 1)
    window.add("never", 0.0, 0)
    assert window.averages() == {"mlm": 2.0}
    continued = WindowAverages()
    continued.load_state_dict(json.loads(json.dumps(window.state_dict())))
    continued.add("mlm", 2.0, 4)
    assert continued.averages() == {"mlm": 1.25}
    window.clear()
    assert window.averages() == {}


def test_log_lines_after_the_checkpoint_are_cut(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Tracker(tmp_path, 10, enabled=True) as tracker:
        tracker.open(0, 0)
        tracker.training({"step": 1, "epoch": 0.1, "loss": 2.0, "loss/mlm": 1.5, "health/x": float("nan")}, 12.5, 2.0)
        length = tracker.sync()
        tracker.training({"step": 2, "epoch": 0.2, "loss": 1.0}, 1.0, 1.0)
    assert [record["step"] for record in read_log(tmp_path)] == [1, 2]
    out = capsys.readouterr().out
    assert "step 1/10  epoch 0.10  loss 2.0000  mlm 1.5000  12.5 images/s  0:00:18 left" in out

    with Tracker(tmp_path, 10, enabled=True) as tracker:
        tracker.open(1, length)
        tracker.evaluation({"step": 1, "epoch": 0.1, "accuracy": 0.5})
    records = read_log(tmp_path)
    assert records == [
        {"kind": "train", "step": 1, "epoch": 0.1, "loss": 2.0, "loss/mlm": 1.5, "health/x": None},
        {"kind": "evaluation", "step": 1, "epoch": 0.1, "accuracy": 0.5},
    ]


def test_tensorboard_forgets_what_the_resumed_run_does_again(tmp_path: Path) -> None:
    for resumed_at in (0, 2):
        with Tracker(tmp_path, 4, enabled=True) as tracker:
            tracker.open(resumed_at, 0)
            for step in range(resumed_at + 1, 5):
                tracker.training({"step": step, "epoch": 0.0, "loss": float(resumed_at)}, 1.0, 1.0)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload().Scalars("train/loss")
    assert [(event.step, event.value) for event in events] == [(1, 0.0), (2, 0.0), (3, 2.0), (4, 2.0)]


def test_an_unfinished_last_line_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text('{"step": 1}\n{"st')
    assert read_log(tmp_path) == [{"step": 1}]
    assert read_log(tmp_path / "nothing") == []


def test_other_processes_write_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Tracker(tmp_path / "run", 10, enabled=False) as tracker:
        tracker.open(0, 0)
        tracker.training({"step": 1, "epoch": 0.1, "loss": 1.0}, 1.0, 1.0)
        tracker.evaluation({"step": 1, "epoch": 0.1})
        tracker.say("hello")
        assert tracker.sync() == 0
    assert not (tmp_path / "run").exists()
    assert capsys.readouterr().out == ""


def make_recipe(output: Path, **training: object) -> Recipe:
    return Recipe.model_validate({"task": "vqa", "output": str(output), "training": training})


def test_run_info_is_saved_and_guards_a_run(tmp_path: Path) -> None:
    output, accelerator = tmp_path / "run", make_accelerator()
    save_run_info(output, make_recipe(output, epochs=3), accelerator)
    assert load_recipe(output / "recipe.yaml") == make_recipe(output, epochs=3)
    # Without a checkpoint there is nothing to continue: any recipe may start here.
    save_run_info(output, make_recipe(output, epochs=3, batch_size=2), accelerator)
    versions = json.loads((output / "versions.json").read_text())
    assert len(versions) == 1
    assert versions[0]["world_size"] == 1
    assert versions[0]["torch"].startswith("2.")
    assert {"python", "transformers", "accelerate", "soho", "git_commit", "command", "started"} <= set(versions[0])

    save_checkpoint(output, 1, {}, {}, 1)
    save_run_info(output, make_recipe(output, epochs=5, batch_size=2), accelerator)
    assert load_recipe(output / "recipe.yaml").training.epochs == 5
    assert len(json.loads((output / "versions.json").read_text())) == 2
    with pytest.raises(SohoError, match=r"other values of training.batch_size, training.clip_norm; take these back"):
        save_run_info(output, make_recipe(output, batch_size=3, clip_norm=1.0), accelerator)
