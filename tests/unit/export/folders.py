"""Small models of every kind that can be exported, with their processors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from transformers import BertTokenizer

from soho.models import (
    SohoForImageTextRetrieval,
    SohoForPreTraining,
    SohoForQuestionAnswering,
    SohoForVisualEntailment,
    SohoForVisualReasoning,
    SohoPreTrainedModel,
)
from soho.processing import SohoImageProcessor, SohoProcessor
from tests.unit.models.released import released_model
from tests.unit.models.tiny import stirred, tiny_config

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "dog", "run", "##s", "red", "ball", "on", "the", "beach"]
TEXT_LENGTH = 8


def _match() -> SohoPreTrainedModel:
    """A retrieval model with everything that is optional: summary, layers before fusion, similarity in the score."""
    fields = {"visual_summary": True, "fusion_start": 1, "itc_weight": 1.0, "itc_pooling": "dual_encoder"}
    return SohoForImageTextRetrieval(tiny_config(visual_input="features", match_adds_contrast=True, **fields))


MODELS: dict[str, Callable[[], SohoPreTrainedModel]] = {
    "match": _match,
    "alone": lambda: SohoForImageTextRetrieval(
        tiny_config(visual_input="features", match_adds_contrast=True, itc_weight=1.0, itc_pooling="fusion")
    ),
    "codes": lambda: SohoForPreTraining(tiny_config()),
    "vqa": lambda: SohoForQuestionAnswering(tiny_config(visual_input="features", answers=["yes", "no", "zwölf"])),
    "nlvr2": lambda: SohoForVisualReasoning(tiny_config(visual_input="features")),
    "snli_ve": lambda: SohoForVisualEntailment(tiny_config(visual_input="features")),
    "released": lambda: released_model("pretraining"),
    "released_vqa": lambda: released_model("vqa"),
}


def save_model(kind: str, folder: Path) -> Path:
    """Write a model folder of a kind; the released ones pad pictures to multiples of 32 pixels, the others of 64."""
    torch.manual_seed(0)
    model = MODELS[kind]()
    if not kind.startswith("released"):
        stirred(model)
    model.save_pretrained(folder)
    divisor = 32 if kind.startswith("released") else 64
    images = SohoImageProcessor(shorter_edge=100, longer_edge=150, size_divisor=divisor, smallest_padded_edge=64)
    tokenizer = BertTokenizer(vocab={word: number for number, word in enumerate(WORDS)})
    SohoProcessor(images, tokenizer, text_length=TEXT_LENGTH).save_pretrained(folder)
    return folder
