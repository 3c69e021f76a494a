"""Visual reasoning: is a sentence true of two pictures? (section 4.2.3)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from soho.models.configuration_soho import SohoConfig
from soho.models.heads import mlp_head
from soho.models.losses import IGNORE, accuracy, classification_loss
from soho.models.modeling_soho import SohoPreTrainedModel, build_trunk
from soho.models.outputs import SohoTaskOutput, with_loss


class SohoForVisualReasoning(SohoPreTrainedModel):
    """True or false, from the [CLS] rows of two passes: sentence with left picture, sentence with right picture."""

    def __init__(self, config: SohoConfig) -> None:
        super().__init__(config)
        self.soho = build_trunk(config)
        # With a linear classifier the score would be a sum of one score a picture, and "in exactly one of the
        # images" could not be learned.
        self.reasoning_head = mlp_head(config, 2 * config.hidden_size, 2)
        self.post_init()

    def loss_counts(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Count the labelled examples of a micro-batch."""
        return {"reasoning": (batch["labels"] != IGNORE).sum().float()}

    def forward(
        self,
        pixel_values: Tensor,
        pixel_values_2: Tensor,
        input_ids: Tensor,
        pixel_mask: Tensor | None = None,
        pixel_mask_2: Tensor | None = None,
        attention_mask: Tensor | None = None,
        pair_image_index: Tensor | None = None,
        pair_text_index: Tensor | None = None,
        labels: Tensor | None = None,
        loss_denominators: dict[str, Tensor] | None = None,
        **kwargs: Any,
    ) -> SohoTaskOutput:
        """Judge P sentences about two pictures each.

        Left and right pictures are two stacks, each of one padded shape, so that neither is padded to the other.

        Args:
            pixel_values: (B, 3, H, W) left pictures.
            pixel_values_2: (B, 3, H2, W2) right pictures.
            input_ids: (T, L) sentences.
            pixel_mask: (B, H, W) bool.
            pixel_mask_2: (B, H2, W2) bool.
            attention_mask: (T, L).
            pair_image_index: (P,) rows of both stacks of pictures.
            pair_text_index: (P,) rows of `input_ids`.
            labels: (P,) 1 true, 0 false, -100 ignored.
            loss_denominators: counts of the whole optimizer-step batch.
            **kwargs: `output_attentions`, `output_hidden_states`.

        Returns:
            `logits` (P, 2), class 1 = true; hidden states and attentions of both passes one after the other.
        """
        passes = [
            self.soho(
                pixels, input_ids, mask, attention_mask, pair_image_index, pair_text_index, cls_only=True, **kwargs
            )
            for pixels, mask in ((pixel_values, pixel_mask), (pixel_values_2, pixel_mask_2))
        ]
        left, right = (result.last_hidden_state[:, 0] for result in passes)
        logits = self.reasoning_head(torch.cat((left, right), dim=-1)).float()
        output = SohoTaskOutput(
            logits=logits,
            hidden_states=_joined(*(result.hidden_states for result in passes)),
            attentions=_joined(*(result.attentions for result in passes)),
        )
        if labels is None:
            return output
        parts = {"reasoning": classification_loss(logits, labels)}
        return with_loss(output, parts, {"accuracy": accuracy(logits, labels)}, loss_denominators)


def _joined(left: tuple[Tensor, ...] | None, right: tuple[Tensor, ...] | None) -> tuple[Tensor, ...] | None:
    return None if left is None or right is None else (*left, *right)
