"""Visual entailment: does the picture entail, contradict or leave open what a sentence says? (section 4.2.4)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from soho.models.configuration_soho import SohoConfig
from soho.models.losses import IGNORE, accuracy, classification_loss
from soho.models.modeling_soho import SohoPreTrainedModel, build_trunk
from soho.models.outputs import SohoTaskOutput, with_loss

# The classes in the order of the logits.
ENTAILMENT_CLASSES = ("entailment", "neutral", "contradiction")


class SohoForVisualEntailment(SohoPreTrainedModel):
    """Three-way classification by a fully connected layer on [CLS] (section 4.2.4)."""

    def __init__(self, config: SohoConfig) -> None:
        super().__init__(config)
        self.soho = build_trunk(config)
        self.entailment_head = nn.Linear(config.hidden_size, len(ENTAILMENT_CLASSES))
        self.post_init()

    def loss_counts(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Count the labelled pairs of a micro-batch."""
        return {"entailment": (batch["labels"] != IGNORE).sum().float()}

    def forward(
        self,
        pixel_values: Tensor,
        input_ids: Tensor,
        pixel_mask: Tensor | None = None,
        attention_mask: Tensor | None = None,
        pair_image_index: Tensor | None = None,
        pair_text_index: Tensor | None = None,
        labels: Tensor | None = None,
        loss_denominators: dict[str, Tensor] | None = None,
        **kwargs: Any,
    ) -> SohoTaskOutput:
        """Judge P pairs of a picture and a hypothesis.

        Args:
            pixel_values: (B, 3, H, W).
            input_ids: (T, L) hypotheses.
            pixel_mask: (B, H, W) bool.
            attention_mask: (T, L).
            pair_image_index: (P,).
            pair_text_index: (P,).
            labels: (P,) index into `ENTAILMENT_CLASSES`, -100 ignored.
            loss_denominators: counts of the whole optimizer-step batch.
            **kwargs: `output_attentions`, `output_hidden_states`.

        Returns:
            `logits` (P, 3) in the order of `ENTAILMENT_CLASSES`.
        """
        result = self.soho(
            pixel_values,
            input_ids,
            pixel_mask,
            attention_mask,
            pair_image_index,
            pair_text_index,
            cls_only=True,
            **kwargs,
        )
        logits = self.entailment_head(result.last_hidden_state[:, 0]).float()
        output = SohoTaskOutput(logits=logits, hidden_states=result.hidden_states, attentions=result.attentions)
        if labels is None:
            return output
        parts = {"entailment": classification_loss(logits, labels)}
        return with_loss(output, parts, {"accuracy": accuracy(logits, labels)}, loss_denominators)
