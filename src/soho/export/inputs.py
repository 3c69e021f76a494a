"""Random inputs of many shapes, and how far two models that read them are apart."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from soho.models.configuration_soho import SohoConfig

Answers = Callable[[dict[str, Tensor]], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Case:
    """Numbers and sizes of random inputs.

    Attributes:
        pictures: B.
        rows: height in steps of 64 (or 32) pixels.
        columns: width likewise.
        texts: T.
        length: L, tokens.
    """

    pictures: int
    rows: int
    columns: int
    texts: int
    length: int


# One of everything; portrait and landscape; more texts than pictures and fewer; short and long texts.
CASES = (
    Case(pictures=1, rows=1, columns=1, texts=1, length=3),
    Case(pictures=1, rows=3, columns=4, texts=6, length=20),
    Case(pictures=2, rows=6, columns=2, texts=5, length=9),
    Case(pictures=3, rows=2, columns=5, texts=2, length=12),
    Case(pictures=1, rows=5, columns=7, texts=1, length=30),
    Case(pictures=4, rows=4, columns=4, texts=4, length=16),
)


def random_inputs(case: Case, names: Sequence[str], step: int, config: SohoConfig, seed: int) -> dict[str, Tensor]:
    """Draw inputs: noise for pictures, a part of each masked as padding, random tokens for texts.

    Args:
        case: the shapes; `rows` and `columns` are doubled where `step` is 32, less one, so that cells are left over.
        names: the inputs wanted, in this order.
        step: pixels that edges of pictures are multiples of.
        config: of the model; knows vocabulary and longest text.
        seed: of the draws.

    Returns:
        Name -> tensor; see `soho.export.graph`. Right pictures are one step lower and one wider than left ones.
    """
    draw = torch.Generator().manual_seed(seed)
    length = min(case.length, config.max_position_embeddings)
    ids = torch.randint(1, config.vocab_size, (case.texts, length), generator=draw)
    attention = torch.ones_like(ids)
    for row in range(case.texts):
        attention[row, max(2, length - row) :] = 0
    inputs = {
        "input_ids": ids,
        "attention_mask": attention,
        "pair_image_index": torch.randint(0, case.pictures, (case.texts,), generator=draw),
    }
    for suffix, rows, columns in (("", case.rows, case.columns), ("_2", max(1, case.rows - 1), case.columns + 1)):
        height, width = (step * (edge if step == 64 else max(2, 2 * edge - 1)) for edge in (rows, columns))
        mask = torch.ones(case.pictures, height, width, dtype=torch.bool)
        for row in range(case.pictures):  # the first picture lacks a strip on the right, the second one below, ...
            mask[row, :, max(40, width - 70) :] = row % 2 == 1
            mask[row, max(40, height - 70 * row) :] = False
        pixels = torch.randn(case.pictures, 3, height, width, generator=draw)
        inputs |= {f"pixel_values{suffix}": pixels * mask.unsqueeze(1), f"pixel_mask{suffix}": mask}
    return {name: inputs[name] for name in names}


@dataclass(frozen=True)
class Agreement:
    """The largest differences over all cases.

    Attributes:
        logits: as a share of the largest logit, where that is above 1.
        probabilities: absolute.
        cases: how many shapes were compared.
    """

    logits: float
    probabilities: float
    cases: int


@torch.no_grad()
def agreement(
    left: Answers, right: Answers, names: Sequence[str], step: int, config: SohoConfig, cases: Sequence[Case] = CASES
) -> Agreement:
    """Compare two models on random inputs of several shapes.

    Args:
        left: maps inputs to logits and probabilities; a logit that is not a number is an infinite difference.
        right: likewise.
        names: see `random_inputs`, like the following two.
        step: see there.
        config: see there.
        cases: the shapes.
    """
    worst = [0.0, 0.0]
    for seed, case in enumerate(cases, start=1):
        inputs = random_inputs(case, names, step, config, seed)
        (logits, shares), (other_logits, other_shares) = left(inputs), right(inputs)
        scale = max(1.0, float(logits.abs().max()))
        for place, value in enumerate(((logits - other_logits) / scale, shares - other_shares)):
            found = float(value.abs().max())
            worst[place] = max(worst[place], found if found == found else float("inf"))
    return Agreement(worst[0], worst[1], len(cases))
