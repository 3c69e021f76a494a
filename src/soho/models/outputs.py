"""What the models return."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor
from transformers.utils import ModelOutput

from soho.models.losses import SumAndCount, normalise

Metrics = dict[str, tuple[Tensor, Tensor]]


@dataclass
class SohoModelOutput(ModelOutput):
    """Output of `SohoModel`.

    Attributes:
        last_hidden_state: (P, L + N, C) fused tokens, text first; (P, 1, C) with `cls_only`.
        visual_features: (B, N, C) before the dictionary.
        visual_mask: (B, N) bool.
        visual_indices: (B, N) code indices, -1 at padding; None without dictionary.
        hidden_states: one (P, L + N, C) per layer and the embedding, on request.
        attentions: one (P, heads, L + N, L + N) per layer, on request.
    """

    last_hidden_state: Tensor | None = None
    visual_features: Tensor | None = None
    visual_mask: Tensor | None = None
    visual_indices: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclass
class SohoTaskOutput(ModelOutput):
    """What every model with a loss returns.

    Attributes:
        loss: () weighted sum of the parts; None without labels.
        logits: the task's main scores.
        loss_parts: name -> () detached part, as it enters `loss`.
        metrics: name -> (sum, count), detached.
        hidden_states: on request, as in `SohoModelOutput`.
        attentions: on request, as in `SohoModelOutput`.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    loss_parts: dict[str, Tensor] | None = None
    metrics: Metrics | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclass
class SohoForPreTrainingOutput(SohoTaskOutput):
    """Output of `SohoForPreTraining`; `logits` (P, 2) are those of image-text matching.

    Attributes:
        mlm_logits: (M, vocabulary) at the M masked text places of positive pairs.
        mlm_labels: (M,) the hidden tokens.
        mvm_logits: (V, K) at the V masked cells of positive pairs.
        mvm_labels: (V,) the hidden indices.
        visual_indices: (B, N) code indices, -1 at padding.
    """

    mlm_logits: Tensor | None = None
    mlm_labels: Tensor | None = None
    mvm_logits: Tensor | None = None
    mvm_labels: Tensor | None = None
    visual_indices: Tensor | None = None


Output = TypeVar("Output", bound=SohoTaskOutput)


def with_loss(
    output: Output,
    parts: dict[str, SumAndCount],
    metrics: Metrics,
    denominators: dict[str, Tensor] | None,
    weights: Mapping[str, float] | None = None,
) -> Output:
    """Fill loss, parts and metrics of an output.

    Args:
        output: what the model returns.
        parts: loss part -> sum and number of terms.
        metrics: name -> sum and count.
        denominators: counts of the whole optimizer-step batch; None: this batch's own.
        weights: loss part -> weight in the loss, 1 where not named.
    """
    means = normalise(parts, denominators)
    output.loss = torch.stack([(weights or {}).get(name, 1.0) * value for name, value in means.items()]).sum()
    output.loss_parts = {name: value.detach() for name, value in means.items()}
    output.metrics = metrics
    return output
