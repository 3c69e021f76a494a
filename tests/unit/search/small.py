"""A tiny model with contrastive heads, in a folder as a run leaves it, and libraries of small pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from soho import SohoForImageTextRetrieval, SohoProcessor
from soho.processing.image_processing_soho import SohoImageProcessor
from soho.processing.vocabulary import train_wordpiece
from tests.unit.models.tiny import stirred, tiny_config

WORDS = ["a red ball on the beach", "two dogs in the snow", "green hills and a blue house", "snow on a red house"]
LANDSCAPE, PORTRAIT = (180, 120), (120, 180)


def make_model(folder: Path, seed: int = 0, **fields: object) -> Path:
    """Write a retrieval model with random weights and its processor."""
    torch.manual_seed(seed)
    tokenizer = train_wordpiece(WORDS, 60)
    images = SohoImageProcessor(shorter_edge=128, longer_edge=192)
    changes = {"visual_input": "features", "itc_weight": 1.0, "match_adds_contrast": True, **fields}
    config = tiny_config(vocab_size=len(tokenizer), **changes)
    stirred(SohoForImageTextRetrieval(config), seed).save_pretrained(folder)
    SohoProcessor(images, tokenizer, text_length=12).save_pretrained(folder)
    return folder


def draw(path: Path, seed: int, size: tuple[int, int] = LANDSCAPE) -> Path:
    """Write a picture of random patches that no other seed gives."""
    patches = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    options = {"lossless": True} if path.suffix == ".webp" else {}
    Image.fromarray(patches).resize(size, Image.Resampling.NEAREST).save(path, **options)
    return path


def fill(folder: Path) -> Path:
    """Draw a library: 11 pictures in three formats, two shapes and three folders."""
    for seed in range(11):
        suffix = (".jpg", ".png", ".webp", ".JPEG")[seed % 4]
        size = PORTRAIT if seed % 3 == 0 else LANDSCAPE
        draw(folder / ("", "b", "b/c")[seed % 3] / f"p{seed:02}{suffix}", seed, size)
    (folder / "notes.txt").write_text("no picture")
    draw(folder / ".hidden" / "x.png", 99)
    return folder
