"""Pipelines of small random models, and pictures whose codes are known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from soho.models import SohoForPreTraining, SohoPreTrainedModel
from soho.pipelines import SohoPipeline
from soho.processing import SohoImageProcessor, SohoProcessor
from soho.processing.vocabulary import train_wordpiece
from tests.unit.models.tiny import stirred, tiny_config

TEXTS = ["a red ball and two green stars", "the ball is on a blue beach", "is there a red star?", "yes no two"] * 3
ANSWERS = ["yes", "no", "two"]
COLOURS = {0: (210, 30, 30), 1: (30, 200, 30), 2: (30, 30, 210)}


def tiny_processor(**image: Any) -> SohoProcessor:
    """Read pictures in 128 to 192 pixels and texts of at most 12 tokens."""
    tokenizer = train_wordpiece(TEXTS, 60)
    return SohoProcessor(SohoImageProcessor(**{"shorter_edge": 128, "longer_edge": 192, **image}), tokenizer, 12)


def tiny_pipeline(kind: type[SohoPreTrainedModel], **changes: Any) -> SohoPipeline:
    """Return a pipeline of a random model of three layers."""
    torch.manual_seed(0)
    processor = tiny_processor()
    fields = {"vocab_size": len(processor.tokenizer), "num_hidden_layers": 3, "answers": ANSWERS, **changes}
    return SohoPipeline(stirred(kind(tiny_config(**fields))), processor)


def colour_pipeline(**changes: Any) -> SohoPipeline:
    """Return a pre-training model that gives a cell of one of `COLOURS` the code of this colour."""
    fields = {
        "hidden_size": 4,
        "num_attention_heads": 1,
        "backbone_factory": "tests.unit.models.tiny:block_mean",
        "visual_feature_norm": "none",
        "dictionary_size": 5,
    }
    pipeline = tiny_pipeline(SohoForPreTraining, **{**fields, **changes})
    trunk, scale = pipeline.model.trunk, pipeline.processor.image_processor
    assert trunk.visual_dictionary is not None
    with torch.no_grad():
        trunk.visual_encoder.backbone.scale.fill_(1.0)
        trunk.visual_encoder.projection.weight.copy_(torch.eye(4, 3).reshape(4, 3, 1, 1))
        trunk.visual_encoder.projection.bias.zero_()
        trunk.visual_dictionary.codes.fill_(100.0)  # codes 3 and 4 are near nothing
        for code, colour in COLOURS.items():
            normal = (np.array(colour) / 255 - scale.image_mean) / scale.image_std
            trunk.visual_dictionary.codes[code] = torch.tensor([*normal, 0.0])
    return pipeline


def painted(grid: list[list[int]], size: tuple[int, int], cell: float) -> Image.Image:
    """Return a picture of `size` whose cells of `cell` pixels have the colours of codes."""
    columns, rows = ((np.arange(edge) / cell).astype(int) for edge in size)
    codes = np.array(grid)[np.ix_(rows, columns)]
    return Image.fromarray(np.array([COLOURS[code] for code in range(3)], dtype=np.uint8)[codes])


def save(pipeline: SohoPipeline, folder: Path) -> Path:
    """Write a model folder."""
    pipeline.model.save_pretrained(folder)
    pipeline.processor.save_pretrained(folder)
    return folder
