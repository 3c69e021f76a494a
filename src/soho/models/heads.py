"""The multi-layer perceptron on [CLS] that question answering and visual reasoning share."""

from __future__ import annotations

from torch import nn

from soho.models.configuration_soho import SohoConfig
from soho.models.dropout import Dropout


def mlp_head(config: SohoConfig, inputs: int, classes: int) -> nn.Sequential:
    """Return linear, GELU, layer norm, dropout, linear (section 4.2.2: "multi-layer perception").

    Args:
        config: `answer_head_width` and `answer_head_dropout` decide the inner width and the dropout.
        inputs: channels that are read.
        classes: number of scores.
    """
    inner = config.answer_head_width * config.hidden_size
    return nn.Sequential(
        nn.Linear(inputs, inner),
        nn.GELU(),
        nn.LayerNorm(inner, eps=config.layer_norm_eps),
        Dropout(config.answer_head_dropout),
        nn.Linear(inner, classes),
    )
