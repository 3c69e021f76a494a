"""The training loop. It knows a loss, named parts of it, and nothing about tasks.

Read `Trainer.fit` first, then `optimizer_step.OptimizerStep.run`; the rest is bookkeeping around them.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object, set_seed
from torch import Tensor, nn

from soho.errors import SohoError
from soho.training.checkpoint import (
    list_checkpoints,
    load_progress,
    load_state,
    random_state,
    remove_partial,
    save_checkpoint,
    set_random_state,
    write_text_atomically,
)
from soho.training.optimization import backbone_is_frozen, learning_rate_factor
from soho.training.optimizer_step import OptimizerStep, StepResult
from soho.training.processes import StopSignals, TrainingStopped, check_accelerator, make_accelerator
from soho.training.protocols import TrainData, TrainingSummary
from soho.training.recipe import TrainingSection, resume_differences
from soho.training.run_info import different_settings
from soho.training.tracking import Tracker, WindowAverages

FINISHED_NAME = "finished.json"
MODEL_NAME = "model"


class Trainer:
    """Trains a model and can be stopped at any moment.

    Args:
        model: an `nn.Module` that is a `protocols.TrainableModel`.
        data: this process's batches.
        settings: the recipe's `training` section.
        output: folder of the run: `checkpoints/`, `model/`, `log.jsonl`, `tensorboard/`, `finished.json`.
        seed: seeds everything that is not keyed by the data, such as dropout.
        evaluate: `evaluate(model, step)` returns figures to log; every process calls it.
        accelerator: from `make_accelerator`; made here when None.

    Raises:
        SohoError: there is nothing to train on, or the precision does not work on this device.
    """

    def __init__(
        self,
        model: nn.Module,
        data: TrainData,
        settings: TrainingSection,
        output: Path,
        seed: int,
        evaluate: Callable[[nn.Module, int], dict[str, float]] | None = None,
        accelerator: Accelerator | None = None,
    ) -> None:
        if data.batches_per_epoch < 1:
            raise SohoError("there is nothing to train on: the training data make no batch")
        self.model: Any = model
        self.data = data
        self.settings = settings
        self.output = Path(output)
        self.seed = seed
        self.evaluate = evaluate
        self.accelerator = accelerator or make_accelerator(settings.precision)
        check_accelerator(self.accelerator, settings.precision)

        self.steps_per_epoch = math.ceil(data.batches_per_epoch / settings.accumulation)
        planned = settings.epochs * self.steps_per_epoch
        self.total_steps = min(planned, settings.max_steps or planned)
        self.tracker = Tracker(self.output, self.total_steps, enabled=self.accelerator.is_main_process)

        # All that changes during training; with the random states it makes up a checkpoint's `progress.json`.
        self.step = 0
        self.evaluated_at = 0
        self.images = 0
        self.seconds = 0.0
        self.skipped_steps = 0
        self.rates: dict[str, float] = {}
        self.window = WindowAverages()
        self.last_record: dict[str, Any] = {}
        self.last_evaluation: dict[str, float] = {}
        self._last_log = (0, 0, 0.0)  # step, images and seconds at the last log line, for the speed

    # -- The loop ------------------------------------------------------------------------------------------------

    def check_continuation(self) -> None:
        """Refuse what `fit` would refuse of the run in `output`, before anything is written there.

        Raises:
            SohoError: `output` holds a run that these settings, data or processes do not continue.
        """
        self._checkpoint_to_continue()

    def fit(self) -> TrainingSummary:
        """Train to the last step, from the first or from the newest checkpoint in `output`.

        Returns:
            What was reached. A folder with a finished run is left alone and its summary returned.

        Raises:
            SohoError: a loss that is not finite, or a run in `output` that these settings do not continue.
            TrainingStopped: SIGTERM or SIGINT arrived and the state was saved (a `SystemExit`, code 143 or 130).
        """
        checkpoint = self._checkpoint_to_continue()
        finished = self._finished_summary(checkpoint)
        if finished is not None:
            return finished

        set_seed(self.seed, device_specific=True)
        self.optimizer_step = OptimizerStep(self.model, self.settings, self.accelerator)
        with StopSignals() as stop, self.tracker:
            self._start_from(checkpoint)
            if self.settings.fsdp and self.accelerator.num_processes == 1:
                self.tracker.say("training.fsdp: there is one process, so it holds the whole model")
            if self._evaluation_is_due():
                self._evaluate()
            for micro_batches in self._remaining_steps(stop):
                if self._any_process(stop.received is not None):
                    self._save_and_stop(stop)
                self._train(micro_batches)
                if self.step % self.settings.log_every == 0 or self.step == self.total_steps:
                    self._log()
                if self._checkpoint_is_due():
                    self._save_checkpoint()
                if self._evaluation_is_due() and not self._any_process(stop.received is not None):
                    self._evaluate()
            if self._evaluation_is_due():  # a signal came during the last step
                self._save_and_stop(stop)
            return self._finish()

    def _remaining_steps(self, stop: StopSignals) -> Iterator[list[dict[str, Tensor]]]:
        """Yield the micro-batches of one optimizer step after the other, from the current position to the end.

        The list is empty where a signal has arrived.
        """
        accumulation = self.settings.accumulation
        while self.step < self.total_steps:
            epoch, steps_done = divmod(self.step, self.steps_per_epoch)
            self._training_mode()
            batches = iter(self.data.epoch(epoch, start=steps_done * accumulation))
            for _ in range(min(self.steps_per_epoch - steps_done, self.total_steps - self.step)):
                yield self._fetch(batches, stop)

    def _fetch(self, batches: Iterator[dict[str, Tensor]], stop: StopSignals) -> list[dict[str, Tensor]]:
        clock = time.perf_counter()
        try:
            fetched = [] if stop.received is not None else list(islice(batches, self.settings.accumulation))
        except (RuntimeError, SohoError):
            # A signal to the whole process group may have ended the data workers before us.
            if stop.received is None:
                raise
            fetched = []
        if not fetched and stop.received is None:
            epoch, done = divmod(self.step, self.steps_per_epoch)
            raise SohoError(f"the data of epoch {epoch} end after {done} of {self.steps_per_epoch} optimizer steps")
        self.seconds += time.perf_counter() - clock
        return fetched

    def _train(self, micro_batches: list[dict[str, Tensor]]) -> None:
        clock = time.perf_counter()
        factor = learning_rate_factor(self.step, self.settings.schedule, self.steps_per_epoch, self.total_steps)
        result = self.optimizer_step.run(micro_batches, factor, name=f"step {self.step + 1}")
        self.step += 1
        self.images += result.images
        self.skipped_steps += result.skipped
        self._add_to_window(result)
        self.rates = result.learning_rates
        self.seconds += time.perf_counter() - clock
        self.tracker.advance()

    def _training_mode(self) -> None:
        epoch = self.step // self.steps_per_epoch
        self.optimizer_step.training_mode(backbone_is_frozen(epoch, self.settings.freeze_backbone_epochs))

    def _any_process(self, condition: bool) -> bool:
        """Say whether the condition holds on any process, so that all of them act alike."""
        if self.accelerator.num_processes == 1:
            return condition
        flag = torch.tensor(float(condition), device=self.accelerator.device)
        return bool(self.accelerator.reduce(flag, "sum") > 0)

    # -- Logging and evaluation ----------------------------------------------------------------------------------

    def _add_to_window(self, result: StepResult) -> None:
        self.window.add("loss", result.loss, 1)
        for name, (mean, terms) in result.parts.items():
            self.window.add(f"loss/{name}", mean * terms, terms)
        for name, (total, count) in result.metrics.items():
            self.window.add(f"metric/{name}", total, count)
        if not result.skipped:
            self.window.add("gradient_norm", result.gradient_norm, 1)

    def _log(self) -> None:
        """Log the averages since the last time, and begin a new window."""
        record: dict[str, Any] = {"step": self.step, "epoch": self._epochs_done(), **self.window.averages()}
        record |= {f"learning_rate/{name}": rate for name, rate in self.rates.items()}
        if self.settings.precision == "fp16":
            record["skipped_steps"] = self.skipped_steps
        record |= {f"health/{name}": float(value) for name, value in self.model.health().items()}
        steps, images, seconds = self._last_log
        elapsed = max(self.seconds - seconds, 1e-9)
        self.tracker.training(record, (self.images - images) / elapsed, elapsed / (self.step - steps))
        self._last_log = (self.step, self.images, self.seconds)
        self.last_record = record
        self.window.clear()

    def _evaluation_is_due(self) -> bool:
        if self.evaluate is None or self.settings.evaluate_every is None or self.step in (0, self.evaluated_at):
            return False
        every = max(1, round(self.settings.evaluate_every * self.steps_per_epoch))
        return self.step % every == 0 or self.step == self.total_steps

    def _evaluate(self) -> None:
        """Evaluate, leaving no trace in the random states, so that it cannot change training."""
        assert self.evaluate is not None
        before = random_state()
        with self.optimizer_step.whole_model() as model, torch.no_grad():
            model.eval()
            figures = self.evaluate(model, self.step)
        self._training_mode()
        set_random_state(before)
        self.evaluated_at, self.last_evaluation = self.step, dict(figures)
        self.tracker.evaluation({"step": self.step, "epoch": self._epochs_done(), **figures})

    def _epochs_done(self) -> float:
        return round(self.step / self.steps_per_epoch, 6)

    # -- Start, save, finish -------------------------------------------------------------------------------------

    def _run_settings(self) -> dict[str, Any]:
        """Return what must be equal for a run to continue."""
        return {
            "seed": self.seed,
            "training": self.settings.model_dump(mode="json"),
            "the number of processes": self.accelerator.num_processes,
            "the number of training batches": self.data.batches_per_epoch,
        }

    def _checkpoint_to_continue(self) -> Path | None:
        """Return the newest checkpoint, after checking that these settings continue its run."""
        found = list_checkpoints(self.output)
        # The main process decides for all, since it alone writes.
        newest: Path | None = broadcast_object_list([found[-1] if found else None])[0]
        if newest is None:
            return None
        if not newest.exists():
            raise SohoError(f"process {self.accelerator.process_index} does not see {newest}: all nodes must share it")
        if not self.settings.resume:
            raise SohoError(f"{self.output} holds checkpoints and training.resume is false; choose another output")
        differing = resume_differences(load_progress(newest)["run"], self._run_settings())
        if differing:
            raise different_settings(self.output, differing)
        return newest

    def _finished_summary(self, checkpoint: Path | None) -> TrainingSummary | None:
        """Return the summary of a finished run; None where there are steps left to do."""
        path = self.output / FINISHED_NAME
        if checkpoint is None or not path.exists():
            return None
        summary = json.loads(path.read_text(encoding="utf-8"))
        if summary["steps"] < self.total_steps:
            return None
        self.tracker.say(f"{self.output} holds a finished run of {summary['steps']} steps; there is nothing to do")
        return TrainingSummary(**{**summary, "model_path": self.output / MODEL_NAME, "already_finished": True})

    def _start_from(self, checkpoint: Path | None) -> None:
        """Restore everything from a checkpoint, or begin anew; in both cases clear away what came after."""
        log_bytes = 0
        if self.accelerator.is_main_process:
            remove_partial(self.output)
            (self.output / FINISHED_NAME).unlink(missing_ok=True)
        if checkpoint is not None:
            state, progress = load_state(checkpoint), load_progress(checkpoint)
            self.optimizer_step.load_state_dict(state)
            set_random_state(state["random"][self.accelerator.process_index])
            self.step, self.evaluated_at = progress["step"], progress["evaluated_at"]
            self.images, self.seconds = progress["images"], progress["seconds"]
            self.skipped_steps = progress["skipped_steps"]
            self.window.load_state_dict(progress["window"])
            self.last_record, self.last_evaluation = progress["last_record"], progress["last_evaluation"]
            log_bytes = progress["log_bytes"]
        self._last_log = (self.step, self.images, self.seconds)
        self.tracker.open(self.step, log_bytes)
        if checkpoint is not None:
            self.tracker.say(f"continuing {self.output} at step {self.step} of {self.total_steps}")

    def _checkpoint_is_due(self) -> bool:
        every = self.settings.checkpoint_every
        return self.step == self.total_steps or (every is not None and self.step % every == 0)

    def _save_checkpoint(self) -> None:
        """Write all that an exact continuation needs; the other processes wait for the main one."""
        random_states = gather_object([random_state()])
        state = {**self.optimizer_step.state_dict(), "random": random_states}
        if self.accelerator.is_main_process:
            progress = {
                "step": self.step,
                "epoch": self._epochs_done(),
                "evaluated_at": self.evaluated_at,
                "images": self.images,
                "seconds": self.seconds,
                "skipped_steps": self.skipped_steps,
                "window": self.window.state_dict(),
                "last_record": self.last_record,
                "last_evaluation": self.last_evaluation,
                "log_bytes": self.tracker.sync(),
                "run": self._run_settings(),
            }
            save_checkpoint(self.output, self.step, state, progress, self.settings.keep_checkpoints)
        self.accelerator.wait_for_everyone()

    def _save_and_stop(self, stop: StopSignals) -> None:
        """Save, say so, and leave with the signal's exit code."""
        self._save_checkpoint()
        self.tracker.say(f"stopped at step {self.step}; the same command continues")
        raise TrainingStopped(self.step, stop)

    def _finish(self) -> TrainingSummary:
        """Save the model folder and mark the run as finished."""
        summary = TrainingSummary(
            steps=self.step,
            epochs=self._epochs_done(),
            images=self.images,
            seconds=self.seconds,
            model_path=self.output / MODEL_NAME,
            training=self.last_record,
            evaluation=self.last_evaluation,
        )
        with self.optimizer_step.whole_model() as model:
            if self.accelerator.is_main_process:
                model.save_pretrained(summary.model_path)
        if self.accelerator.is_main_process:
            marker = {**asdict(summary), "model_path": MODEL_NAME}
            write_text_atomically(self.output / FINISHED_NAME, json.dumps(marker, indent=1) + "\n")
        self.accelerator.wait_for_everyone()
        return summary
