"""Texts read against their pictures, in batches that no result depends on."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from soho.errors import SohoError
from soho.models.modeling_soho import SohoPreTrainedModel
from soho.pipelines.pictures import Picture, Pictures, is_many, shape_batches
from soho.processing.processing_soho import SohoProcessor

# Pictures that go through the CNN together, and pairs that go through the fusion Transformer together.
BATCH_SIZE = 8
PAIRS = 64


@torch.inference_mode()
def read_pairs(
    model: SohoPreTrainedModel,
    processor: SohoProcessor,
    images: Sequence[Picture],
    texts: Sequence[str],
    batch_size: int,
    seconds: Sequence[Picture] | None = None,
) -> Tensor:
    """Return what a model makes of T texts, each read against its picture, or all against a single one.

    Args:
        model: a task model.
        processor: turns pictures and texts into tensors.
        images: T pictures, or one; of pairs the left ones.
        texts: T of them.
        batch_size: pictures that go through the CNN together.
        seconds: as many right pictures.

    Returns:
        Logits (T, A) float32 on the CPU, A the labels of the head; (0, 2) where nothing was given.

    Raises:
        SohoError: a picture cannot be read, or `batch_size` is below 1.
    """
    sides = [images] if seconds is None else [images, seconds]
    shared = len(images) == 1
    found: dict[int, Tensor] = {}
    for rows in shape_batches(sides, processor.image_processor, batch_size):
        asked = list(range(len(texts))) if shared else rows.places
        pixels: dict[str, Tensor] = {}
        for suffix, pictures, shape in zip(("", "_2"), rows.pictures, rows.shapes):
            stack = processor(images=pictures, canvas=shape, return_tensors="pt").to(model.device)
            pixels |= {f"{name}{suffix}": value for name, value in stack.items()}
        # Of several pictures each has one text, so only a single picture has more texts than fit.
        step = PAIRS if shared else len(asked)
        for low in range(0, len(asked), step):
            part = asked[low : low + step]
            words = processor(text=[texts[row] for row in part], return_tensors="pt").to(model.device)
            pairs = torch.arange(len(part), device=model.device) * (not shared)
            found |= zip(part, model(**pixels, **words, pair_image_index=pairs).logits.float().cpu())
    return torch.stack([found[row] for row in range(len(texts))]) if found else torch.zeros(0, 2)


def as_many(left: Pictures, right: Pictures) -> bool:
    """Say whether lists of pictures were given on both sides, and not one picture on each.

    Raises:
        SohoError: the sides have different numbers of pictures.
    """
    if is_many(left) != is_many(right):
        raise SohoError("a list of pictures and a single picture were given; expected a list on both sides or on none")
    if isinstance(left, (list, tuple)) and isinstance(right, (list, tuple)) and len(left) != len(right):
        raise SohoError(f"{len(left)} left and {len(right)} right pictures were given; expected as many")
    return is_many(left)
