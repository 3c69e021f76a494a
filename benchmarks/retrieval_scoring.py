"""Retrieval: scoring all pairs of pictures and texts, 600 x 1000 pixels, R18+3.

Sides, all counted in pairs: `ours`, the pair-scoring engine (`score_all_pairs` with `GridScorer`), pictures and texts
encoded within the time; `cached, padded`, pictures encoded once too, in the same type, but texts padded to 16 tokens
and every position of the last layer computed; `whole pair`, picture and text through the whole model for each pair, in
our type; the same in the release's order of work; `ViLT-B/32`, which can only run whole. The sides that run whole
score a few pairs, because each costs the same. `growth` scores 25 x 125, 50 x 250 and 100 x 500 by our side.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from benchmarks.inference import vilt_side
from benchmarks.options import Options
from benchmarks.report import Check, Outcome
from benchmarks.subjects import R18, SMALL, TINY, on, padded, pictures, texts
from benchmarks.timing import Clock, Side, interleave, peak_bytes
from soho.evaluation.pair_scoring import score_all_pairs
from soho.memory import keep_freed_memory
from soho.models import SohoForImageTextRetrieval
from soho.models.fast import fast_copy
from soho.models.pair_scorer import GridScorer

OURS, CACHED, WHOLE, RELEASE, VILT = "ours", "cached, padded", "whole pair", "release order, whole pair", "ViLT-B/32"
# Pictures that one call encodes, and pairs that go through the Transformer together.
IMAGES_AT_ONCE, PAIRS_AT_ONCE = 4, 512
# What an evaluation on COCO 5K scores, and what an H200 could do at its data sheet's dense bfloat16 rate.
COCO_IMAGES, COCO_TEXTS, H200_FLOPS = 5000, 25010, 989e12

Texts = tuple[Tensor, Tensor]


def run(options: Options) -> Outcome:
    """Compare the sides on one rectangle, then let ours grow; memory is kept as in `soho evaluate`, on all sides."""
    if options.device.type == "cpu":
        keep_freed_memory()
    outcome = Outcome("retrieval scoring")
    scale = TINY if options.quick else R18
    images, count = (2, 6) if options.quick else (25, 125)
    torch.manual_seed(0)
    exact = SohoForImageTextRetrieval(scale.config(visual_input="features")).eval()
    fast, _ = fast_copy(exact, options.device, options.dtype)
    case = f"{scale.name}, {images} x {count}"
    if options.wants_case(case):
        _compare(outcome, options, exact, fast, images, count, case)
        options.after_case(outcome)
    if options.wants_case("growth") and (not options.sides or OURS in options.sides):
        _grow(outcome, options, fast, scale.name)
    return outcome


def batches(images: int, options: Options, edge: int | None = None) -> Iterator[tuple[Tensor, Tensor, list[int]]]:
    """Yield pictures as the engine takes them, always the same few pixels, so that no memory is spent on them."""
    height, width = (64, 128) if options.quick else (edge or 600, edge or 1000)
    pixels = pictures(min(IMAGES_AT_ONCE, images), height, width)
    mask = torch.ones(len(pixels), *pixels.shape[2:], dtype=torch.bool)
    for start in range(0, images, IMAGES_AT_ONCE):
        rows = list(range(start, min(start + IMAGES_AT_ONCE, images)))
        yield pixels[: len(rows)], mask[: len(rows)], rows


def our_scores(
    model: SohoForImageTextRetrieval, images: int, words: Texts, options: Options, edge: int | None = None
) -> Any:
    """Return the scores (images, texts) by the engine; pictures are squares of `edge` pixels where it is given."""
    scorer = GridScorer(model, options.dtype)
    return score_all_pairs(
        scorer, batches(images, options, edge), *words, pair_batch=PAIRS_AT_ONCE, device=options.device, progress=False
    )


def cached_scores(model: SohoForImageTextRetrieval, images: int, words: Texts, options: Options) -> Tensor:
    """Return the scores (images, texts) with pictures encoded once, texts padded, all positions computed."""
    ids, mask = (one.to(options.device) for one in padded(*words))
    rows = []
    with torch.inference_mode():
        text, text_mask = model.text_tokens(ids, mask)
        for pixels, pixel_mask, numbers in batches(images, options):
            visual, visual_mask = model.image_tokens(pixels.to(options.device), pixel_mask.to(options.device))
            for place in range(len(numbers)):
                parts = []
                for some, some_mask in zip(text.split(PAIRS_AT_ONCE), text_mask.split(PAIRS_AT_ONCE)):
                    one = visual[place].expand(len(some), -1, -1)
                    hidden, _, _ = model.soho.fuse(some, some_mask, one, visual_mask[place].expand(len(some), -1))
                    logits = model.match_head(hidden[:, 0]).float()
                    parts.append(logits[:, 1] - logits[:, 0])
                rows.append(torch.cat(parts))
    return torch.stack(rows).cpu()


def whole_scores(model: SohoForImageTextRetrieval, pairs: int, words: Texts, options: Options) -> Tensor:
    """Return the scores (pairs,) of the first picture with the first texts, each pair through the whole model."""
    pixels, pixel_mask, _ = next(batches(1, options))
    batch = on(options.device, {"pixel_values": pixels, "pixel_mask": pixel_mask})
    scores = []
    with torch.inference_mode():
        for ids, mask in zip(*(one[:pairs].to(options.device).split(1) for one in words)):
            logits = model(**batch, input_ids=ids, attention_mask=mask).logits
            scores.append(logits[:, 1] - logits[:, 0])
    return torch.cat(scores).cpu()


def release_scores(model: SohoForImageTextRetrieval, pairs: int, words: Texts, options: Options) -> Tensor:
    """As `whole_scores` in float32, texts padded, every position of the last layer computed."""
    pixels, pixel_mask, _ = next(batches(1, options))
    pixels, pixel_mask = pixels.to(options.device), pixel_mask.to(options.device)
    ids, mask = (one.to(options.device) for one in padded(*words))
    scores = []
    with torch.inference_mode():
        for place in range(pairs):
            visual, visual_mask = model.image_tokens(pixels, pixel_mask)
            text, text_mask = model.text_tokens(ids[place : place + 1], mask[place : place + 1])
            hidden, _, _ = model.soho.fuse(text, text_mask, visual, visual_mask)
            logits = model.match_head(hidden[:, 0]).float()
            scores.append(logits[:, 1] - logits[:, 0])
    return torch.cat(scores).cpu()


def _compare(
    outcome: Outcome,
    options: Options,
    exact: SohoForImageTextRetrieval,
    fast: SohoForImageTextRetrieval,
    images: int,
    count: int,
    case: str,
) -> None:
    words = texts(count, exact.config.vocab_size)
    few = min(4, count)
    released = SohoForImageTextRetrieval(
        (TINY if options.quick else R18).config(released=True, visual_input="features")
    )
    released = released.eval().to(options.device)
    vilt_options = Options(quick=options.quick, device=options.device, compiled=False)
    makers: dict[str, Callable[[], Side]] = {
        OURS: lambda: Side(OURS, lambda _: our_scores(fast, images, words, options), images * count),
        CACHED: lambda: Side(CACHED, lambda _: cached_scores(fast, images, words, options), images * count),
        WHOLE: lambda: Side(WHOLE, lambda _: whole_scores(fast, few, words, options), few),
        RELEASE: lambda: Side(RELEASE, lambda _: release_scores(released, few, words, options), few, "float32"),
        VILT: lambda: Side(VILT, vilt_side(vilt_options, few)[0], few, f"{few} pairs in a batch, its own resolution"),
    }
    sides = [makers[name]() for name in options.chosen(list(makers))]
    timings = interleave(sides, options.device, options.rounds, case, options.seconds)
    outcome.add(case, timings, "pairs", OURS)
    if options.quick or OURS not in timings:
        return
    for name, bound in {WHOLE: 8.0, RELEASE: 20.0, CACHED: 1.35}.items():
        if name in timings:
            ratio = timings[OURS].rate / timings[name].rate
            outcome.checks.append(Check(f"ours scores {bound} times as many pairs a second as {name}", ratio, bound))


def _grow(outcome: Outcome, options: Options, fast: SohoForImageTextRetrieval, name: str) -> None:
    """Time rectangles of growing size; time must grow with the pairs, memory not at all beyond the scores."""
    steps = [(2, 4), (4, 8)] if options.quick else [(25, 125), (50, 250), (100, 500)]
    # The large ones take minutes, and a long call is its own average.
    rounds = [1 if images > 25 else 3 for images, _ in steps]
    seconds = [_rectangle(outcome, options, fast, f"growth, {name}", *step, n) for step, n in zip(steps, rounds)]
    pairs = [images * count for images, count in steps]
    slope = (seconds[-1] / pairs[-1]) / (seconds[0] / pairs[0])
    outcome.checks.append(Check("seconds a pair, largest rectangle to smallest: at most 1.1", slope, 1.1, at_most=True))
    peaks = [row.peak_megabytes or 0.0 for row in outcome.rows[-len(steps) :]]
    if not options.quick:
        more = peaks[-1] - peaks[0]
        outcome.checks.append(Check("more MB for 16 times the pairs: at most 64", more, 64.0, at_most=True))
        # A rectangle takes pictures * a + pairs * b; two rectangles tell both.
        a, b = two_costs((steps[0][0], pairs[0], seconds[0]), (steps[-1][0], pairs[-1], seconds[-1]))
        outcome.remarks += coco_remarks(a, b, fast.pair_flops(12, 160))
    if options.long:
        small = SMALL if not options.quick else TINY
        model = SohoForImageTextRetrieval(small.config(visual_input="features")).eval()
        short, _ = fast_copy(model, options.device, options.dtype)
        largest = (1000, 5000) if not options.quick else (4, 8)
        _rectangle(outcome, options, short, f"growth, {small.name} at 224 pixels", *largest, rounds=1, edge=224)


def _rectangle(
    outcome: Outcome,
    options: Options,
    model: SohoForImageTextRetrieval,
    title: str,
    images: int,
    count: int,
    rounds: int,
    edge: int | None = None,
) -> float:
    """Time ours on a rectangle, with its memory, and add its row; returns the median seconds."""
    words = texts(count, model.config.vocab_size)
    peaks: list[int] = []

    def score(_: Clock) -> None:
        peaks.append(peak_bytes(lambda: our_scores(model, images, words, options, edge), options.device))

    our_scores(model, 1, texts(8, model.config.vocab_size), options, edge)  # warms up, at less than the whole cost
    case, side = f"{title}, {images} x {count}", Side(OURS, score, images * count)
    timings = interleave([side], options.device, rounds, case, options.seconds, warm_up=False)
    outcome.add(case, timings, "pairs", OURS, {OURS: float(max(peaks))})
    options.after_case(outcome)
    return timings[OURS].median


def coco_remarks(picture: float, pair: float, pair_flops: float) -> list[str]:
    """Say what an evaluation on COCO would take, from seconds a picture and a pair, and the arithmetic of a pair."""
    pairs = COCO_IMAGES * COCO_TEXTS
    here, there = COCO_IMAGES * picture + pairs * pair, pairs * pair_flops / H200_FLOPS
    return [
        f"COCO 5K x 25K would take {here / 3600:.1f} h here, from {1e3 * picture:.0f} ms a picture and "
        f"{1e3 * pair:.3f} ms a pair",
        f"on one H200 its pairs ({pair_flops / 1e9:.2f} GFLOP each) would take {there / 60:.1f} min at the peak of the "
        f"data sheet, {there / 60 / 0.4:.1f} min at 40% of it: computed, not measured",
    ]


def two_costs(first: tuple[int, int, float], second: tuple[int, int, float]) -> tuple[float, float]:
    """Return seconds a picture and seconds a pair, from (pictures, pairs, seconds) of two rectangles."""
    (i1, p1, s1), (i2, p2, s2) = first, second
    pair = (s2 * i1 - s1 * i2) / (p2 * i1 - p1 * i2)
    return (s1 - p1 * pair) / i1, pair
