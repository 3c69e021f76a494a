from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from soho.errors import SohoError
from soho.training import checkpoint as checkpoint_module
from soho.training.checkpoint import list_checkpoints, load_state
from soho.training.processes import TrainingStopped
from soho.training.tracking import read_log
from soho.training.trainer import Trainer
from tests.support import ROOT
from tests.unit.training.toy import ToyData, ToyModel, evaluation, settings


def make(output: Path, data: ToyData | None = None, seed: int = 5, **changes: Any) -> Trainer:
    chosen = settings(**{"evaluate_every": 1, **changes})
    return Trainer(ToyModel(), data or ToyData(), chosen, output, seed, evaluation)


def final_weights(output: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = load_state(list_checkpoints(output)[-1])["model"]
    return state


def assert_same_run(one: Path, other: Path) -> None:
    """Bit for bit: the log as bytes, weights and buffers as tensors."""
    assert (one / "log.jsonl").read_bytes() == (other / "log.jsonl").read_bytes()
    first, second = final_weights(one), final_weights(other)
    assert all(torch.equal(value, second[name]) for name, value in first.items())


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("runs") / "uninterrupted"
    make(output).fit()
    return output


def test_what_a_run_leaves_and_says(uninterrupted: Path) -> None:
    records = read_log(uninterrupted)
    train = [record for record in records if record["kind"] == "train"]
    # 8 micro-batches, 3 per optimizer step: 3 steps an epoch, 4 epochs.
    assert [record["step"] for record in train] == [2, 4, 6, 8, 10, 12]
    assert [record["epoch"] for record in train] == [0.666667, 1.333333, 2.0, 2.666667, 3.333333, 4.0]
    assert [record["step"] for record in records if record["kind"] == "evaluation"] == [3, 6, 9, 12]
    # Warm-up over two steps, decay at epochs 2 and 3; the backbone rests in the first epoch.
    assert [record["learning_rate/rest"] for record in train] == pytest.approx([1e-4, 1e-4, 1e-4, 1e-5, 1e-6, 1e-6])
    assert [record["learning_rate/backbone"] for record in train] == pytest.approx([0, 1e-2, 1e-2, 1e-3, 1e-4, 1e-4])
    assert set(train[0]) == {
        *("kind", "step", "epoch", "loss", "loss/value", "loss/class", "metric/accuracy", "gradient_norm"),
        *("learning_rate/backbone", "learning_rate/rest", "health/ema"),
    }
    assert sorted(path.name for path in uninterrupted.iterdir()) == [
        *("checkpoints", "finished.json", "log.jsonl", "model", "tensorboard")
    ]
    assert [path.name for path in list_checkpoints(uninterrupted)] == ["step-00000010", "step-00000012"]


def test_a_window_is_averaged_over_its_terms(tmp_path: Path) -> None:
    every = make(tmp_path / "a", log_every=1, evaluate_every=None, epochs=1)
    every.fit()
    one = make(tmp_path / "b", log_every=3, evaluate_every=None, epochs=1)
    one.fit()
    steps, (window,) = read_log(tmp_path / "a"), read_log(tmp_path / "b")
    order = list(ToyData().epoch(0))
    terms = [sum(int((batch["values"] != -100).sum()) for batch in order[i : i + 3]) for i in (0, 3, 6)]
    assert len(set(terms)) > 1
    expected = sum(step["loss/value"] * count for step, count in zip(steps, terms)) / sum(terms)
    assert window["loss/value"] == pytest.approx(expected, rel=1e-6)
    assert window["metric/accuracy"] == pytest.approx(
        (steps[0]["metric/accuracy"] * 9 + steps[1]["metric/accuracy"] * 9 + steps[2]["metric/accuracy"] * 6) / 24
    )
    assert window["loss"] == pytest.approx(sum(step["loss"] for step in steps) / 3)


def test_one_process_says_that_it_shares_with_nobody(
    uninterrupted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make(tmp_path / "run", fsdp=True).fit()
    assert "training.fsdp: there is one process, so it holds the whole model" in capsys.readouterr().out
    assert_same_run(tmp_path / "run", uninterrupted)


@pytest.mark.slow
def test_killed_at_an_arbitrary_step_and_resumed_equals_uninterrupted(uninterrupted: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    command = [sys.executable, "-m", "tests.unit.training.toy", str(output)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    # The 21st batch belongs to step 8; the newest checkpoint is of step 5, within an epoch and a logging window.
    killed = subprocess.run(
        [*command, "--signal-at", "20"], cwd=ROOT, env=environment, capture_output=True, timeout=120
    )
    assert killed.returncode == -signal.SIGKILL
    assert [path.name for path in list_checkpoints(output)] == ["step-00000005"]
    assert read_log(output)[-1]["step"] == 6
    resumed = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert resumed.returncode == 0, resumed.stderr
    assert f"continuing {output} at step 5 of 12" in resumed.stdout
    assert_same_run(output, uninterrupted)


def test_killed_before_the_first_checkpoint_starts_anew(uninterrupted: Path, tmp_path: Path) -> None:
    class Killed(BaseException):
        pass

    class Dying(ToyData):
        def epoch(self, epoch: int, start: int = 0) -> Any:
            for number, batch in enumerate(super().epoch(epoch, start)):
                if epoch == 1 and number == 3:
                    raise Killed
                yield batch

    with pytest.raises(Killed):
        make(tmp_path / "run", Dying()).fit()
    assert [record["step"] for record in read_log(tmp_path / "run")] == [2, 3, 4]
    make(tmp_path / "run").fit()
    assert_same_run(tmp_path / "run", uninterrupted)


def signal_in_forward(trainer: Trainer, call: int, number: int) -> Trainer:
    """Let a signal arrive in the middle of a step: within the n-th forward pass, counted from 0."""
    calls: list[int] = []

    def hook(*arguments: object) -> None:
        if len(calls) == call:
            os.kill(os.getpid(), number)
        calls.append(1)

    trainer.model.register_forward_pre_hook(hook)
    return trainer


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
# An epoch's steps have 3, 3 and 2 forwards. Step 3 is followed by an evaluation, step 5 by a regular checkpoint.
@pytest.mark.parametrize(("call", "step"), [(0, 1), (4, 2), (7, 3), (12, 5), (16, 7)])
def test_stopped_by_a_signal_and_resumed_equals_uninterrupted(
    uninterrupted: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    number: int,
    code: int,
    call: int,
    step: int,
) -> None:
    output = tmp_path / "run"
    with pytest.raises(TrainingStopped) as stopped:
        signal_in_forward(make(output), call, number).fit()
    assert (stopped.value.code, stopped.value.step) == (code, step)
    assert capsys.readouterr().out.splitlines()[-1] == f"stopped at step {step}; the same command continues"
    assert not (output / "finished.json").exists()
    make(output).fit()
    assert_same_run(output, uninterrupted)


@pytest.mark.parametrize(("batch", "step"), [(0, 0), (8, 3), (12, 4)])  # step 3 has been evaluated by then
def test_a_signal_while_waiting_for_data_stops_before_the_step(
    uninterrupted: Path, tmp_path: Path, batch: int, step: int
) -> None:
    with pytest.raises(TrainingStopped) as stopped:
        make(tmp_path / "run", ToyData(signal_at=batch, number=signal.SIGTERM)).fit()
    assert stopped.value.step == step
    make(tmp_path / "run").fit()
    assert_same_run(tmp_path / "run", uninterrupted)


def test_a_signal_in_the_last_step_leaves_the_last_evaluation_for_later(uninterrupted: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingStopped) as stopped:
        signal_in_forward(make(tmp_path / "run"), 31, signal.SIGTERM).fit()
    assert stopped.value.step == 12
    summary = make(tmp_path / "run").fit()
    assert summary.evaluation == {"noise": 12.0}
    assert not summary.already_finished
    assert_same_run(tmp_path / "run", uninterrupted)


def test_data_workers_that_die_of_the_same_signal_do_not_lose_the_state(uninterrupted: Path, tmp_path: Path) -> None:
    class Workers(ToyData):
        def epoch(self, epoch: int, start: int = 0) -> Any:
            for number, batch in enumerate(super().epoch(epoch, start)):
                if epoch == 1 and number == 3:
                    os.kill(os.getpid(), signal.SIGTERM)
                    raise RuntimeError("DataLoader worker (pid 1) is killed by signal: Terminated.")
                yield batch

    with pytest.raises(TrainingStopped) as stopped:
        make(tmp_path / "run", Workers()).fit()
    assert stopped.value.step == 4
    make(tmp_path / "run").fit()
    assert_same_run(tmp_path / "run", uninterrupted)


def test_an_error_of_the_data_is_not_swallowed(tmp_path: Path) -> None:
    class Broken(ToyData):
        def epoch(self, epoch: int, start: int = 0) -> Any:
            raise RuntimeError("the disk is gone")

    with pytest.raises(RuntimeError, match="the disk is gone"):
        make(tmp_path / "run", Broken()).fit()


def test_a_crash_while_writing_a_checkpoint(
    uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def half_written(state: Any, file: Any) -> None:
        if list_checkpoints(tmp_path / "run"):
            file.write(b"half")
            raise Killed
        save(state, file)

    save = torch.save
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_module.torch, "save", half_written)
        with pytest.raises(Killed):
            make(tmp_path / "run").fit()
    assert sorted(os.listdir(tmp_path / "run" / "checkpoints")) == [".partial-step-00000010", "step-00000005"]
    make(tmp_path / "run").fit()
    assert sorted(os.listdir(tmp_path / "run" / "checkpoints")) == ["step-00000010", "step-00000012"]
    assert_same_run(tmp_path / "run", uninterrupted)


def test_killed_after_training_and_before_the_mark(uninterrupted: Path, tmp_path: Path) -> None:
    shutil.copytree(uninterrupted, tmp_path / "run")
    (tmp_path / "run" / "finished.json").unlink()
    shutil.rmtree(tmp_path / "run" / "model")
    summary = make(tmp_path / "run").fit()
    assert (summary.steps, summary.already_finished) == (12, False)
    assert summary.model_path.is_dir()
    assert_same_run(tmp_path / "run", uninterrupted)


def test_a_finished_run_says_so_and_does_nothing(
    uninterrupted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "run"
    shutil.copytree(uninterrupted, output)
    before = {path: path.stat().st_mtime_ns for path in output.rglob("*")}
    summary = make(output).fit()
    assert summary.already_finished
    assert (summary.steps, summary.images, summary.epochs) == (12, 96, 4.0)
    assert summary.training["step"] == 12
    assert summary.evaluation == {"noise": 12.0}
    assert capsys.readouterr().out == f"{output} holds a finished run of 12 steps; there is nothing to do\n"
    assert {path: path.stat().st_mtime_ns for path in output.rglob("*")} == before


def test_more_epochs_continue_a_finished_run_as_if_planned(uninterrupted: Path, tmp_path: Path) -> None:
    make(tmp_path / "run", epochs=2).fit()
    summary = make(tmp_path / "run", epochs=4).fit()
    assert (summary.steps, summary.already_finished) == (12, False)
    assert_same_run(tmp_path / "run", uninterrupted)


def test_log_settings_may_change_and_training_settings_may_not(uninterrupted: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    with pytest.raises(TrainingStopped):
        make(output, ToyData(signal_at=12, number=signal.SIGTERM)).fit()
    with pytest.raises(SohoError, match=r"other values of training.clip_norm, training.optimizer.lr; take these back"):
        make(output, clip_norm=2.0, optimizer={"lr": 1e-3}).fit()
    with pytest.raises(SohoError, match="other values of seed"):
        make(output, seed=6).fit()
    with pytest.raises(SohoError, match="other values of the number of training batches"):
        make(output, ToyData(batch_size=2)).fit()
    with pytest.raises(SohoError, match=r"training\.resume is false"):
        make(output, resume=False).fit()
    assert make(output, log_every=1, checkpoint_every=None, keep_checkpoints=1).fit().steps == 12
    weights = final_weights(uninterrupted)
    assert all(torch.equal(value, weights[name]) for name, value in final_weights(output).items())


def test_max_steps_ends_early_with_a_checkpoint(tmp_path: Path) -> None:
    summary = make(tmp_path / "run", max_steps=4, evaluate_every=None, checkpoint_every=None).fit()
    assert (summary.steps, summary.images) == (4, 8 * 3 + 3 * 3)
    assert [path.name for path in list_checkpoints(tmp_path / "run")] == ["step-00000004"]
    assert [record["step"] for record in read_log(tmp_path / "run")] == [2, 4]


def test_evaluating_does_not_change_training(uninterrupted: Path, tmp_path: Path) -> None:
    modes: list[bool] = []

    def careless(model: nn.Module, step: int) -> dict[str, float]:
        modes.append(model.training)
        return {"noise": float(torch.rand(3).sum())}

    Trainer(ToyModel(), ToyData(), settings(evaluate_every=0.34), tmp_path / "run", 5, careless).fit()
    assert modes == [False] * 12
    weights = final_weights(uninterrupted)
    assert all(torch.equal(value, weights[name]) for name, value in final_weights(tmp_path / "run").items())


def test_a_loss_that_is_not_finite_names_the_step(tmp_path: Path) -> None:
    class Poisoned(ToyData):
        def epoch(self, epoch: int, start: int = 0) -> Any:
            for number, batch in enumerate(super().epoch(epoch, start)):
                values = torch.full((3,), float("nan")) if (epoch, number) == (1, 4) else batch["values"]
                yield {**batch, "values": values}

    with pytest.raises(SohoError, match="the loss part 'value' is nan at step 5; the checkpoints are sound"):
        make(tmp_path / "run", Poisoned(), checkpoint_every=2).fit()
    state = load_state(list_checkpoints(tmp_path / "run")[-1])["model"]
    assert all(torch.isfinite(value).all() for value in state.values())


def test_data_that_promise_too_much_or_nothing(tmp_path: Path) -> None:
    class Short(ToyData):
        @property
        def batches_per_epoch(self) -> int:
            return 12

        def epoch(self, epoch: int, start: int = 0) -> Any:
            return iter(list(ToyData().epoch(epoch, start))[: max(0, 8 - start)])

    with pytest.raises(SohoError, match="the data of epoch 0 end after 3 of 4 optimizer steps"):
        make(tmp_path / "a", Short()).fit()
    with pytest.raises(SohoError, match="there is nothing to train on"):
        make(tmp_path / "b", ToyData(batch_size=25))


def test_training_learns(tmp_path: Path) -> None:
    fast = {"optimizer": {"lr": 1e-2}, "schedule": {"kind": "constant"}, "freeze_backbone_epochs": 0}
    make(tmp_path / "run", epochs=30, log_every=9, evaluate_every=None, **fast).fit()
    train = read_log(tmp_path / "run")
    assert train[-1]["loss/class"] < 0.5 * train[0]["loss/class"]
    assert train[-1]["loss/value"] < 0.5 * train[0]["loss/value"]
