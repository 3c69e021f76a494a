"""The visual dictionary: nearest code of N = 40,960 vectors and the update of K = 1,024 to 8,192 codes, 768 channels.

Sides: `ours` (lookup, straight-through vectors, sums, Eq. 4); `vector-quantize-pytorch`, its Euclidean codebook with
moving average, without dead-code replacement, k-means or the losses around it; `release order`, one-hot matrices.
All in float32 and in training mode, without gradients.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.options import Options
from benchmarks.release_order import OneHotDictionary
from benchmarks.report import Check, Outcome
from benchmarks.timing import Clock, Side, interleave
from soho.errors import SohoError
from soho.models.visual_dictionary import VisualDictionary

OURS, OTHER, RELEASE = "ours", "vector-quantize-pytorch", "release order"
MOMENTUM = 0.99


def run(options: Options) -> Outcome:
    """Time all sizes of the dictionary."""
    outcome = Outcome("dictionary")
    vectors, channels = (96, 16) if options.quick else (40_960, 768)
    for size in (8, 16) if options.quick else (1024, 2048, 4096, 8192):
        case = f"K = {size:,}, N = {vectors:,}"
        if options.wants_case(case):
            _case(outcome, options, vectors, channels, size, case)
            options.after_case(outcome)
    return outcome


def our_step(features: Tensor, codes: Tensor) -> Callable[[Clock], Tensor]:
    """Return lookup and update; it returns the indices (N,)."""
    dictionary = (
        VisualDictionary(len(codes), codes.shape[1], momentum=MOMENTUM, ramp_steps=0).to(features.device).train()
    )
    dictionary.codes.copy_(codes)
    mask = torch.ones(features.shape[:2], dtype=torch.bool, device=features.device)

    def step(_: Clock) -> Tensor:
        with torch.no_grad():
            found = dictionary(features, mask)
            dictionary.after_optimizer_step()
        return found.indices.flatten()

    return step


def available() -> bool:
    """Say whether vector-quantize-pytorch is installed."""
    return importlib.util.find_spec("vector_quantize_pytorch") is not None


def other_step(features: Tensor, codes: Tensor) -> Callable[[Clock], Tensor]:
    """Return the same by vector-quantize-pytorch.

    Raises:
        SohoError: it is not installed.
    """
    try:
        from vector_quantize_pytorch import VectorQuantize
    except ImportError:
        raise SohoError("the benchmark 'dictionary' needs vector-quantize-pytorch: pip install '.[bench]'") from None
    codebook = VectorQuantize(
        dim=codes.shape[1], codebook_size=len(codes), decay=MOMENTUM, threshold_ema_dead_code=0, kmeans_init=False
    )._codebook
    codebook = codebook.to(features.device).train()
    codebook.embed.data.copy_(codes[None])
    codebook.embed_avg.data.copy_(codes[None])

    def step(_: Clock) -> Tensor:
        with torch.no_grad():
            indices: Tensor = codebook(features)[1]
        return indices.flatten()

    return step


def release_step(features: Tensor, codes: Tensor) -> Callable[[Clock], Tensor]:
    """Return the same by one-hot matrices."""
    dictionary = (
        OneHotDictionary(len(codes), codes.shape[1], momentum=MOMENTUM, epsilon=1e-5).to(features.device).train()
    )
    dictionary.codes.copy_(codes)
    # Starting at zero, as in the release, would empty all codes that the first batch does not hit.
    dictionary.counts.fill_(1.0)
    dictionary.sums.copy_(codes)

    def step(_: Clock) -> Tensor:
        with torch.no_grad():
            return dictionary(features).indices.flatten()

    return step


def _case(outcome: Outcome, options: Options, vectors: int, channels: int, size: int, case: str) -> None:
    generator = torch.Generator().manual_seed(0)
    codes = torch.randn(size, channels, generator=generator).to(options.device)
    # 256 pictures of 160 cells, scattered around the codes.
    near = torch.randint(0, size, (vectors,), generator=generator)
    noise = torch.randn(vectors, channels, generator=generator).to(options.device)
    features = (codes[near.to(options.device)] + noise).view(-1, 160 if vectors % 160 == 0 else 8, channels)
    makers = {OURS: our_step, OTHER: other_step, RELEASE: release_step}
    if not options.sides and not available():
        del makers[OTHER]
        outcome.remarks.append(f"{OTHER} is not installed, so its side is missing: pip install '.[bench]'")
    sides = [Side(name, makers[name](features, codes), vectors / 1000) for name in options.chosen(list(makers))]
    timings = interleave(sides, options.device, options.rounds, case, options.seconds)
    outcome.add(case, timings, "thousand vectors", OURS)
    if OURS in timings and OTHER in timings:
        ratio = timings[OTHER].median / timings[OURS].median
        outcome.checks.append(Check(f"{case}: {OTHER} takes more time than ours", ratio, 1.0))
