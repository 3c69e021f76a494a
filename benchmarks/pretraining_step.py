"""One optimizer step of pre-training: pictures of 600 x 800 pixels with four texts each, the CNN trainable.

Sides: `ours`, the trainer's own step (bfloat16 autocast, channels-last) on the paper's wiring, all of the CNN learning;
`release order`, the released wiring in its order of work (`benchmarks.release_order`), stem and first stage frozen as
it has them, which favours it. Both clip, update SGD and AdamW, and move the dictionary. Texts have 8 to 16 tokens; the
release pads them to 16.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from benchmarks.options import Options
from benchmarks.release_order import ReleaseOptimizers, ReleaseOrderPreTraining, padded_batch
from benchmarks.report import Check, Outcome
from benchmarks.subjects import Scale, on, pretraining_batch, scales
from benchmarks.timing import Clock, Side, interleave, peak_bytes
from soho.memory import keep_freed_memory
from soho.models import SohoForPreTraining
from soho.training.optimizer_step import OptimizerStep
from soho.training.processes import make_accelerator
from soho.training.recipe import Precision, TrainingSection

OURS, RELEASE = "ours", "release order"
BOUNDS = {"R18+3": 4.0, "R101+12": 3.5}


def run(options: Options) -> Outcome:
    """Time all networks and batch sizes; memory is kept as the trainer keeps it, on both sides."""
    keep_freed_memory()
    outcome = Outcome("pre-training step")
    for scale in scales(options):
        for images in (2,) if options.quick else (2, 8):
            case = f"{scale.name}, {images} x 4 texts"
            if options.wants_case(case):
                _case(outcome, options, scale, images, case)
                options.after_case(outcome)
    return outcome


def our_step(scale: Scale, batch: dict[str, Tensor], options: Options) -> Callable[[Clock], float]:
    """Return one step of ours; it returns the loss."""
    precision: Precision = "bf16" if options.dtype == torch.bfloat16 else "fp32"
    model = SohoForPreTraining(scale.config())
    settings = TrainingSection(precision=precision)  # channels-last, both optimizers, clipping: the defaults
    step = OptimizerStep(model, settings, make_accelerator(precision))
    step.training_mode(frozen=False)
    return lambda _: step.run([batch], 1.0, "the benchmark").loss


def release_step(scale: Scale, batch: dict[str, Tensor], options: Options) -> Callable[[Clock], float]:
    """Return one step in the release's order; it returns the loss."""
    model = ReleaseOrderPreTraining(scale.config(released=True)).to(options.device).train().arrange()
    optimizers = ReleaseOptimizers(model)
    batch = on(options.device, padded_batch(batch))

    def run_step(_: Clock) -> float:
        loss = model(**batch).loss
        loss.backward()
        optimizers.step()
        return float(loss.detach())

    return run_step


def _case(outcome: Outcome, options: Options, scale: Scale, images: int, case: str) -> None:
    names = options.chosen([OURS, RELEASE])
    height, width = (96, 128) if options.quick else (600, 800)
    batch = pretraining_batch(images, height, width, scale.config().vocab_size)
    torch.manual_seed(0)
    makers = {OURS: our_step, RELEASE: release_step}
    sides = [Side(name, makers[name](scale, batch, options), 4 * images) for name in names]
    timings = interleave(sides, options.device, options.rounds, case, options.seconds)
    clock = Clock(options.device)
    peaks = {side.name: float(peak_bytes(partial(side.run, clock), options.device)) for side in sides}
    outcome.add(case, timings, "pairs", OURS, peaks)
    for name, timing in timings.items():
        outcome.remarks.append(f"{case}, {name}: {images / timing.median:.2f} pictures/s")
    if len(timings) == 2 and scale.name in BOUNDS:
        ratio = timings[RELEASE].median / timings[OURS].median
        bound = BOUNDS[scale.name]
        outcome.checks.append(Check(f"{case}: release order takes {bound} times as long as ours", ratio, bound))
