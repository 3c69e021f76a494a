"""Visual question answering as classification over an answer vocabulary (section 4.2.2)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from soho.errors import SohoError
from soho.models.configuration_soho import SohoConfig
from soho.models.losses import IGNORE, answer_loss
from soho.models.modeling_soho import SohoPreTrainedModel, build_trunk
from soho.models.outputs import SohoTaskOutput, with_loss


class SohoForQuestionAnswering(SohoPreTrainedModel):
    """Choose an answer from a vocabulary by a multi-layer perceptron on [CLS] (section 4.2.2)."""

    def __init__(self, config: SohoConfig) -> None:
        super().__init__(config)
        if not config.answers:
            raise SohoError("a question-answering model needs config.answers, the list of answers it may give")
        self.soho = build_trunk(config)
        self.answer_head = self.soho.new_answer_head()
        self.post_init()

    def loss_counts(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Count the labelled questions of a micro-batch."""
        return {"answer": (batch["labels"][:, 0] != IGNORE).sum().float()}

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
        """Answer P questions.

        Args:
            pixel_values: (B, 3, H, W).
            input_ids: (T, L) questions.
            pixel_mask: (B, H, W) bool.
            attention_mask: (T, L).
            pair_image_index: (P,).
            pair_text_index: (P,).
            labels: (P, A) soft scores in [0, 1]; a row of -100 is ignored.
            loss_denominators: counts of the whole optimizer-step batch.
            **kwargs: `output_attentions`, `output_hidden_states`.

        Returns:
            `logits` (P, A); `metrics["vqa_score"]` is the soft score of the best-scored answer.
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
        logits = self.answer_head(result.last_hidden_state[:, 0]).float()
        output = SohoTaskOutput(logits=logits, hidden_states=result.hidden_states, attentions=result.attentions)
        if labels is None:
            return output
        parts = {"answer": answer_loss(logits, labels)}
        kept = labels[:, 0] != IGNORE
        score = labels.gather(1, logits.argmax(1, keepdim=True)).squeeze(1) * kept
        return with_loss(output, parts, {"vqa_score": (score.sum().detach(), kept.sum().float())}, loss_denominators)
