"""Inference: one question about each picture, 600 x 1000 pixels, from pixels to answer scores, stage by stage.

Sides: `ours` in the settings of `soho.load(compiled=True)`; `release order`, the released wiring in its own order of
work (float32, channels first, eager); `ViLT-B/32` of transformers at its own resolution, in our type and with its
encoder compiled; two region-based pipelines (`benchmarks.region_pipeline`), in our type, folded and compiled.
All get the same pictures, without padding, and texts of 16 tokens; ViLT gets its 384 x 640 pixels and 40 tokens.
`picture` is what every side needs before: decoding a JPEG of 1333 x 800 pixels, resizing it, normalising it.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import ViltConfig, ViltForQuestionAnswering

from benchmarks import nms
from benchmarks.machine import count_flops, matmul_side
from benchmarks.options import Options
from benchmarks.region_pipeline import RegionPipeline, RegionSizes
from benchmarks.release_order import release_fusion, release_head, release_image
from benchmarks.report import Check, Outcome
from benchmarks.subjects import TEXT_LENGTH, Scale, answers, on, pictures, scales, texts
from benchmarks.timing import Clock, Side, Timing, interleave
from soho.data.images import decode_bytes
from soho.models import SohoForQuestionAnswering
from soho.models.fast import Compiled, FastReport, fast_copy
from soho.processing import SohoImageProcessor

OURS, RELEASE, VILT = "ours", "release order", "ViLT-B/32"
REGION_BATCHED, REGION_BY_CLASS = "regions, batched NMS", "regions, class-by-class NMS"
TINY_VILT: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "vocab_size": 200,
}
NAMES = [OURS, RELEASE, VILT, REGION_BATCHED, REGION_BY_CLASS, "picture"]


def run(options: Options) -> Outcome:
    """Time all networks and batch sizes."""
    outcome = Outcome("inference")
    for scale in scales(options):
        for size in (1, 2) if options.quick else (1, 8):
            case = f"{scale.name}, batch {size}"
            if options.wants_case(case):
                _case(outcome, options, scale, size, case)
                options.after_case(outcome)
    return outcome


def vqa_batch(size: int, options: Options, vocabulary: int) -> dict[str, Tensor]:
    """Return B pictures with a question of 16 tokens each."""
    height, width = (96, 160) if options.quick else (600, 1000)
    ids, mask = texts(size, vocabulary, shortest=TEXT_LENGTH)
    pixels = pictures(size, height, width)
    pixel_mask = torch.ones(size, height, width, dtype=torch.bool)
    batch = {"pixel_values": pixels, "pixel_mask": pixel_mask, "input_ids": ids, "attention_mask": mask}
    return on(options.device, batch)


def our_side(model: SohoForQuestionAnswering, batch: dict[str, Tensor]) -> Callable[[Clock], Tensor]:
    """Return our forward pass, with laps cnn, fusion, head."""

    def answer(clock: Clock) -> Tensor:
        with torch.inference_mode():
            image = model.soho.encode_image(batch["pixel_values"], batch["pixel_mask"])
            visual = model.soho.place(image.tokens, image.position)
            clock.lap("cnn")
            text = model.soho.encode_text(batch["input_ids"], batch["attention_mask"])
            hidden, _, _ = model.soho.fuse(text, batch["attention_mask"], visual, image.mask, cls_only=True)
            clock.lap("fusion")
            logits: Tensor = model.answer_head(hidden[:, 0]).float()
            clock.lap("head")
        return logits

    return answer


def release_side(model: SohoForQuestionAnswering, batch: dict[str, Tensor]) -> Callable[[Clock], Tensor]:
    """Return the release's forward pass, with laps cnn, fusion, head."""

    def answer(clock: Clock) -> Tensor:
        with torch.inference_mode():
            visual, mask = release_image(model, batch)
            clock.lap("cnn")
            hidden = release_fusion(model, batch, visual, mask)
            clock.lap("fusion")
            logits = release_head(model, hidden)
            clock.lap("head")
        return logits

    return answer


def vilt_side(options: Options, size: int) -> tuple[Callable[[Clock], Tensor], FastReport]:
    """Return ViLT's forward pass with random weights, at its own resolution, and in which settings it runs."""
    config = ViltConfig(num_labels=len(answers(options)), **(TINY_VILT if options.quick else {}))
    model: Any = ViltForQuestionAnswering(config).eval().to(options.device, options.dtype)
    report = FastReport(options.dtype, compiled=options.compiled)
    if options.compiled:
        model.vilt.encoder = Compiled(model.vilt.encoder, report)
    height, width = (64, 96) if options.quick else (384, 640)
    ids, mask = texts(size, config.vocab_size, shortest=TEXT_LENGTH)
    spare = config.max_position_embeddings - ids.shape[1]
    ids, mask = (torch.nn.functional.pad(one, (0, spare)) for one in (ids, mask))
    batch = on(
        options.device, {"input_ids": ids, "attention_mask": mask, "pixel_values": pictures(size, height, width)}
    )
    batch["pixel_values"] = batch["pixel_values"].to(options.dtype)
    batch["pixel_mask"] = torch.ones(size, height, width, dtype=torch.long, device=options.device)

    def answer(_: Clock) -> Tensor:
        with torch.inference_mode():
            logits: Tensor = model(**batch).logits
        return logits

    return answer, report


def picture_side(options: Options, size: int) -> Callable[[Clock], Any]:
    """Return the way from the bytes of a JPEG to normalised pixels, with laps decode and resize."""
    edges = (160, 96) if options.quick else (1333, 800)
    data = jpeg(*edges)
    processor = SohoImageProcessor(shorter_edge=96, longer_edge=160) if options.quick else SohoImageProcessor()

    def prepare(clock: Clock) -> Any:
        found = [decode_bytes(data, "a picture") for _ in range(size)]
        clock.lap("decode")
        batch = processor(found)
        clock.lap("resize")
        return batch

    return prepare


def jpeg(width: int, height: int, seed: int = 0) -> bytes:
    """Return a JPEG with the detail of a photograph: noise on several scales."""
    draws = np.random.default_rng(seed)
    total = np.zeros((height, width, 3))
    for step in (1, 4, 16, 64):
        coarse = draws.normal(size=(-(-height // step), -(-width // step), 3)) * step**0.5 * 6
        total += coarse.repeat(step, 0).repeat(step, 1)[:height, :width]
    stream = io.BytesIO()
    Image.fromarray((128 + total).clip(0, 255).astype(np.uint8)).save(stream, "JPEG", quality=90)
    return stream.getvalue()


def _case(outcome: Outcome, options: Options, scale: Scale, size: int, case: str) -> None:
    names = options.chosen(NAMES)
    device, words = options.device, answers(options)
    torch.manual_seed(0)
    batch = vqa_batch(size, options, scale.config().vocab_size)
    sides = []
    reports: dict[str, FastReport] = {}
    flops = 0.0
    if OURS in names:
        exact = SohoForQuestionAnswering(scale.config(visual_input="features", answers=words)).eval()
        plain, _ = fast_copy(exact, device, options.dtype)
        flops = count_flops(lambda: plain(**batch))
        fast, report = fast_copy(exact, device, options.dtype, compiled=options.compiled)
        sides.append(Side(OURS, our_side(fast, batch), size))
        reports[OURS] = report
    if RELEASE in names:
        config = scale.config(released=True, visual_input="features", answers=words)
        model = SohoForQuestionAnswering(config).eval().to(device)
        sides.append(Side(RELEASE, release_side(model, batch), size, "float32, channels first, eager"))
    if VILT in names:
        vilt, reports[VILT] = vilt_side(options, size)
        sides.append(Side(VILT, vilt, size))
    regional: RegionPipeline | None = None
    for name in (REGION_BATCHED, REGION_BY_CLASS):
        if name in names:
            if regional is None:
                config = scale.config(visual_input="features", answers=words)
                counts = RegionSizes(200, 20, 16, 5) if options.quick else RegionSizes()
                regional = RegionPipeline(config, counts, options.dtype, options.compiled).to(device)
            sides.append(
                Side(name, region_side(regional, batch, name == REGION_BY_CLASS), size, f"NMS in {nms.kind()}")
            )
    if "picture" in names:
        sides.append(Side("picture", picture_side(options, size), size, "before every side; Pillow, one thread"))
    peaks = [matmul_side(dtype, options) for dtype in {options.dtype: 0, torch.float32: 0}]
    timings = interleave([*sides, *peaks], device, options.rounds, case, options.seconds)
    for name, found in reports.items():  # now they also tell what could not be compiled
        timings[name].side.note = "; ".join(found.lines())
    main = {name: timings[name] for name in names if name != "picture"}
    outcome.add(case, main, "pictures", OURS)
    outcome.add(case, {name: timings[name] for name in names if name == "picture"}, "pictures")
    outcome.add(case, {side.name: timings[side.name] for side in peaks}, "GFLOP", scale=1e9)
    if regional is not None:
        outcome.remarks.append(f"{case}, regions of a picture: {regional.counts}; proposals by NMS in {nms.kind()}")
    if OURS in timings:
        _checks(outcome, scale, size, timings, flops, f"matmul {str(options.dtype).removeprefix('torch.')}")


def region_side(pipeline: RegionPipeline, batch: dict[str, Tensor], by_class: bool) -> Callable[[Clock], Tensor]:
    """Return the forward pass of a region-based pipeline, with its laps."""

    def answer(clock: Clock) -> Tensor:
        with torch.inference_mode():
            return pipeline.answer(batch, clock, by_class)

    return answer


def _checks(outcome: Outcome, scale: Scale, size: int, timings: dict[str, Timing], flops: float, peak: str) -> None:
    ours, main = timings[OURS], (scale.name, size) == ("R101+12", 1)
    share = flops / (ours.part("cnn") + ours.part("fusion")) / timings[peak].rate
    text = f"{scale.name}, batch {size}: CNN + fusion, {flops / 1e9:.1f} GFLOP, reach {share:.0%} of the peak of {peak}"
    outcome.remarks.append(text)
    if not main:
        return
    outcome.checks.append(Check("CNN + fusion reach 0.85 of the measured matmul peak", share, 0.85))
    bounds = {RELEASE: 3.7, REGION_BATCHED: 3.0, REGION_BY_CLASS: 10.0}
    for name, bound in bounds.items():
        if name in timings:
            claim = f"{name} takes {bound} times as long as ours" + (" (the paper's V100)" if bound == 10.0 else "")
            outcome.checks.append(Check(claim, timings[name].median / ours.median, bound))
