"""Small models in the released wiring, and checkpoints as the release writes them."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch

from soho.models import SohoForQuestionAnswering, SohoPreTrainedModel, SohoReleasedConfig, SohoReleasedForPreTraining
from soho.models.released.conversion import to_released
from tests.unit.models.tiny import MASK, RESNET, VOCABULARY, stirred

HEADS = 2


def released_config(**changes: Any) -> SohoReleasedConfig:
    fields: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": HEADS,
        "intermediate_size": 32,
        "max_position_embeddings": 24,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "answer_head_dropout": 0.0,
        "mask_token_id": MASK,
        "visual_backbone": dict(RESNET),
        "dictionary_size": 8,
        "initializer_range": 0.2,
    }
    return SohoReleasedConfig(**{**fields, **changes})


def released_model(kind: str, **changes: Any) -> SohoPreTrainedModel:
    """Return a "pretraining" or "vqa" model whose every tensor, running statistics included, is its own."""
    torch.manual_seed(0)
    model: SohoPreTrainedModel
    if kind == "pretraining":
        model = stirred(SohoReleasedForPreTraining(released_config(**changes)))
    else:
        answers = changes.pop("answers", ["yes", "no", "two"])
        model = stirred(SohoForQuestionAnswering(released_config(visual_input="features", answers=answers, **changes)))
    generator = torch.Generator().manual_seed(3)
    for name, buffer in model.named_buffers():
        if buffer.dtype == torch.int64:
            buffer.fill_(17)
        elif not name.endswith("codes"):
            buffer.copy_(torch.rand(buffer.shape, generator=generator) + 0.5)
    return model.eval()


def official_content(model: SohoPreTrainedModel, **top: Any) -> dict[str, Any]:
    """Return what the release's saver writes for a model."""
    settings = f"model = dict(language=dict(hidden_size=16, num_attention_heads={HEADS}, num_hidden_layers=2))"
    meta = {"epoch": 40, "iter": 12, "VLB_version": "0.1", "config": settings, "torch_version": "1.5", "time": "now"}
    return {"meta": meta, "state_dict": to_released(model), **top}


def optimizer_state() -> dict[str, Any]:
    """Return an optimizer's state in torch's form, one group a tensor."""
    states = {
        0: {"step": 3, "exp_avg": torch.ones(2), "exp_avg_sq": torch.ones(2)},
        1: {"momentum_buffer": torch.ones(3)},
    }
    return {"state": states, "param_groups": [{"params": [0], "lr": 1e-4, "betas": (0.9, 0.999)}, {"params": [1]}]}


def write(path: Path, content: Any, **options: Any) -> Path:
    torch.save(content, path, **options)
    return path


def prefixed(state: OrderedDict[str, torch.Tensor]) -> OrderedDict[str, torch.Tensor]:
    """Return a state as a wrapper for data parallelism would have saved it."""
    return OrderedDict((f"module.{key}", value) for key, value in state.items())
