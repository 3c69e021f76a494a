"""Models and batches small enough for a test, shared by the tests of this folder and the two-process tests."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from soho.models import SohoConfig

AnyModule = TypeVar("AnyModule", bound=nn.Module)
PAD, UNK, CLS, SEP, MASK = range(5)
VOCABULARY = 40
RESNET: dict[str, Any] = {
    "model_type": "resnet",
    "embedding_size": 8,
    "hidden_sizes": [8, 8, 16, 16],
    "depths": [1, 1, 1, 1],
    "layer_type": "basic",
}


def tiny_config(**changes: Any) -> SohoConfig:
    """Return a configuration of two layers of width 16 without dropout."""
    fields: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "max_position_embeddings": 12,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "answer_head_dropout": 0.0,
        "mask_token_id": MASK,
        "visual_backbone": dict(RESNET),
        "dictionary_size": 8,
        "initializer_range": 0.2,
    }
    return SohoConfig(**{**fields, **changes})


def stirred(module: AnyModule, seed: int = 0) -> AnyModule:
    """Give every parameter a value of its own: ones and zeros of fresh norms and biases hide mistakes."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.dim() < 2:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return module


def picture_batch(count: int, height: int = 128, width: int = 192, seed: int = 0) -> dict[str, Tensor]:
    """Return `count` pictures with texts of different lengths; the last picture fills only a part of its canvas."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randn(count, 3, height, width, generator=generator)
    mask = torch.ones(count, height, width, dtype=torch.bool)
    mask[-1, 60:] = False  # of two rows of tokens one is left
    pixels = pixels * mask.unsqueeze(1)
    ids = torch.randint(5, VOCABULARY, (count, 6), generator=generator)
    ids[:, 0] = CLS
    attention = torch.ones_like(ids)
    for row in range(count):
        length = 6 - row % 3
        ids[row, length - 1] = SEP
        ids[row, length:] = PAD
        attention[row, length:] = 0
    return {"pixel_values": pixels, "pixel_mask": mask, "input_ids": ids, "attention_mask": attention}


def second_pictures(count: int, height: int = 192, width: int = 64, seed: int = 5) -> dict[str, Tensor]:
    """Return the right pictures of `count` pairs, of another shape than those of `picture_batch`."""
    batch = picture_batch(count, height, width, seed)
    return {"pixel_values_2": batch["pixel_values"], "pixel_mask_2": batch["pixel_mask"]}


def pretraining_batch(images: int = 4, seed: int = 0) -> dict[str, Tensor]:
    """Return pictures with two texts each, the first of which matches; the texts have masked places."""
    generator = torch.Generator().manual_seed(seed + 1)
    batch = picture_batch(images, seed=seed)
    pairs = 2 * images
    texts = picture_batch(pairs, 64, 64, seed=seed + 7)
    ids = texts["input_ids"]
    labels = torch.full_like(ids, -100)
    for row in range(pairs):
        for place in range(1, 2 + row % 3):  # one, two or three masked places
            labels[row, place] = ids[row, place]
            ids[row, place] = MASK
    return {
        "pixel_values": batch["pixel_values"],
        "pixel_mask": batch["pixel_mask"],
        "input_ids": ids,
        "attention_mask": texts["attention_mask"],
        "pair_image_index": torch.arange(images).repeat_interleave(2),
        "pair_text_index": torch.arange(pairs),
        "labels": labels,
        "itm_labels": torch.tensor([1, 0]).repeat(images),
        "mvm_draws": torch.rand(pairs, generator=generator),
    }


def half_of(batch: dict[str, Tensor], which: int) -> dict[str, Tensor]:
    """Return the first (0) or second (1) half of a pre-training batch."""
    images = len(batch["pixel_values"]) // 2
    pictures = slice(which * images, (which + 1) * images)
    pairs = slice(2 * which * images, 2 * (which + 1) * images)
    part = {}
    for key, value in batch.items():
        part[key] = value[pictures] if key in ("pixel_values", "pixel_mask") else value[pairs]
    part["pair_image_index"] = part["pair_image_index"] - which * images
    part["pair_text_index"] = part["pair_text_index"] - 2 * which * images
    return part


def filler_of(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a batch of the same shapes that must count for nothing."""
    part = dict(batch)
    part["pixel_values"] = torch.zeros_like(batch["pixel_values"])
    part["pixel_mask"] = torch.zeros_like(batch["pixel_mask"])
    part["labels"] = torch.full_like(batch["labels"], -100)
    part["itm_labels"] = torch.full_like(batch["itm_labels"], -100)
    return part


class BlockMean(nn.Module):
    """A CNN of stride 32 whose output is known by hand: the mean of every 32 x 32 block."""

    out_channels = 3

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.scale * F.avg_pool2d(pixel_values, 32, ceil_mode=True)


def block_mean(pretrained: bool = False) -> nn.Module:
    """Build `BlockMean`; named as a backbone factory."""
    return BlockMean()


def blocks(values: list[list[list[float]]]) -> Tensor:
    """Return a picture (1, 3, 32 h, 32 w) whose `BlockMean` map is `values` (3 x h x w)."""
    return torch.tensor(values).repeat_interleave(32, 1).repeat_interleave(32, 2).unsqueeze(0)


def layer_normed(values: list[float]) -> list[float]:
    """Return (x - mean) / sqrt(variance + 1e-5)."""
    mean = sum(values) / len(values)
    variance = sum((value - mean) ** 2 for value in values) / len(values)
    return [(value - mean) / math.sqrt(variance + 1e-5) for value in values]


def change_weights(folder: Path, *, without: str | None = None, plus: dict[str, Tensor] | None = None) -> None:
    """Take a tensor out of the safetensors file of a saved model, or put others into it."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    if without is not None:
        del tensors[without]
    tensors.update(plus or {})
    save_file(tensors, path, metadata={"format": "pt"})


def gradients(model: nn.Module) -> dict[str, Tensor]:
    """Return a copy of all gradients."""
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
