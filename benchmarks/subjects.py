"""The models that are timed, with random weights, and batches for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.options import Options
from soho.models import SohoConfig, SohoReleasedConfig
from soho.models.configuration_soho import RESNET_101
from soho.models.losses import IGNORE

VOCABULARY, TEXT_LENGTH, ANSWERS = 30522, 16, 3129
CLS, SEP, MASK = 101, 102, 103

RESNET_18: dict[str, Any] = {
    "model_type": "resnet",
    "depths": [2, 2, 2, 2],
    "hidden_sizes": [64, 128, 256, 512],
    "layer_type": "basic",
}
TINY_RESNET: dict[str, Any] = {
    "model_type": "resnet",
    "embedding_size": 8,
    "depths": [1, 1, 1, 1],
    "hidden_sizes": [8, 16, 16, 32],
    "layer_type": "bottleneck",
}
TINY_SIZES: dict[str, Any] = {
    "vocab_size": 200,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "dictionary_size": 16,
    "initializer_range": 0.2,
}


@dataclass(frozen=True)
class Scale:
    """A size of network as the paper names it.

    Attributes:
        name: "R18+3" or "R101+12"; the tests' "tiny".
        backbone: the CNN.
        fields: of the configuration.
    """

    name: str
    backbone: dict[str, Any]
    fields: dict[str, Any]

    def config(self, *, released: bool = False, **changes: Any) -> SohoConfig:
        """Return a configuration in the paper's wiring or the released one."""
        kind = SohoReleasedConfig if released else SohoConfig
        return kind(**{"visual_backbone": dict(self.backbone), **self.fields, **changes})


R18 = Scale("R18+3", RESNET_18, {"num_hidden_layers": 3})
R101 = Scale("R101+12", RESNET_101, {"num_hidden_layers": 12})
# Of the size that recipes/flickr8k trains, with a CNN that needs no further package.
SMALL = Scale(
    "R18 + 3 layers of width 384",
    RESNET_18,
    {"num_hidden_layers": 3, "hidden_size": 384, "intermediate_size": 1536, "num_attention_heads": 12},
)
TINY = Scale("tiny", TINY_RESNET, TINY_SIZES)


def scales(options: Options) -> list[Scale]:
    """Return the networks of a run."""
    return [TINY] if options.quick else [R18, R101]


def answers(options: Options) -> list[str]:
    """Return an answer vocabulary of the size of VQA 2.0's."""
    return [f"answer {number}" for number in range(7 if options.quick else ANSWERS)]


def pictures(count: int, height: int, width: int, seed: int = 0) -> Tensor:
    """Return normalised noise (B, 3, H, W) float32, as the processor would hand it over."""
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(seed))


def texts(count: int, vocabulary: int, seed: int = 0, shortest: int = 8) -> tuple[Tensor, Tensor]:
    """Return texts of `shortest` to 16 tokens, padded to the longest: ids and attention mask (T, L)."""
    generator = torch.Generator().manual_seed(seed)
    first, last = (CLS, SEP) if vocabulary > SEP else (1, 2)
    lengths = torch.randint(shortest, TEXT_LENGTH + 1, (count,), generator=generator)
    width = int(lengths.max())
    ids = torch.randint(last + 2, vocabulary, (count, width), generator=generator)
    steps = torch.arange(width)
    mask = (steps < lengths[:, None]).long()
    ids[:, 0] = first
    ids[torch.arange(count), lengths - 1] = last
    return ids * mask, mask


def padded(ids: Tensor, mask: Tensor, length: int = TEXT_LENGTH) -> tuple[Tensor, Tensor]:
    """Pad texts to a fixed length, as the release does."""
    spare = length - ids.shape[1]
    return nn.functional.pad(ids, (0, spare)), nn.functional.pad(mask, (0, spare))


def pretraining_batch(images: int, height: int, width: int, vocabulary: int, seed: int = 0) -> dict[str, Tensor]:
    """Return pictures with four masked texts each, the first two of which match (section 4.1)."""
    generator = torch.Generator().manual_seed(seed)
    ids, mask = texts(4 * images, vocabulary, seed)
    hidden = (torch.rand(ids.shape, generator=generator) < 0.15) & mask.bool()
    hidden[:, 0] = False
    hidden[:, 1] = True  # no text without a masked token, so that all sides have the same number of terms
    labels = ids.masked_fill(~hidden, IGNORE)
    return {
        "pixel_values": pictures(images, height, width, seed),
        "pixel_mask": torch.ones(images, height, width, dtype=torch.bool),
        "input_ids": ids.masked_fill(hidden, MASK if vocabulary > MASK else 3),
        "attention_mask": mask,
        "pair_image_index": torch.arange(images).repeat_interleave(4),
        "pair_text_index": torch.arange(4 * images),
        "labels": labels,
        "itm_labels": torch.tensor([1, 1, 0, 0]).repeat(images),
        "mvm_draws": torch.rand(4 * images, generator=generator),
    }


def on(device: torch.device, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a batch on a device."""
    return {name: value.to(device) for name, value in batch.items()}
