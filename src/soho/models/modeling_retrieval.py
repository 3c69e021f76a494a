"""Image-text retrieval: a binary classifier on [CLS], and the verbs that score all pairs (section 4.2.1)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from soho.models.configuration_soho import SohoConfig
from soho.models.contrast import ContrastHead, contrastive_loss
from soho.models.losses import IGNORE, accuracy, classification_loss
from soho.models.modeling_soho import SohoPreTrainedModel, build_trunk, pair_rows
from soho.models.outputs import SohoTaskOutput, with_loss


class SohoForImageTextRetrieval(SohoPreTrainedModel):
    """Does this text describe this picture? Binary classification from [CLS] (section 4.2.1)."""

    def __init__(self, config: SohoConfig) -> None:
        super().__init__(config)
        self.soho = build_trunk(config)
        self.match_head = self.soho.new_match_head()
        self.contrast_head = ContrastHead(config) if config.itc_weight > 0 else None
        self.post_init()

    def loss_counts(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Count the labelled pairs of a micro-batch, and the aligned ones where the contrastive loss is on."""
        counts = {"match": (batch["labels"] != IGNORE).sum().float()}
        if self.contrast_head is not None:
            counts["itc"] = (batch["labels"] == 1).sum().float()
        return counts

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
        """Score P pairs.

        Args:
            pixel_values: (B, 3, H, W).
            input_ids: (T, L).
            pixel_mask: (B, H, W) bool.
            attention_mask: (T, L).
            pair_image_index: (P,).
            pair_text_index: (P,).
            labels: (P,) 1 aligned, 0 unaligned, -100 ignored.
            loss_denominators: counts of the whole optimizer-step batch.
            **kwargs: `output_attentions`, `output_hidden_states`.

        Returns:
            `logits` (P, 2), class 1 = match.
        """
        text_mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        result = self.soho(
            pixel_values,
            input_ids,
            pixel_mask,
            text_mask,
            pair_image_index,
            pair_text_index,
            cls_only=True,
            **kwargs,
        )
        logits = self.match_head(result.last_hidden_state[:, 0]).float()
        output = SohoTaskOutput(logits=logits, hidden_states=result.hidden_states, attentions=result.attentions)
        if labels is None:
            return output
        parts = {"match": classification_loss(logits, labels)}
        metrics = {"accuracy": accuracy(logits, labels)}
        if self.contrast_head is not None:
            rows, texts = pair_rows(len(pixel_values), len(input_ids), pair_image_index, pair_text_index)
            pairs = torch.arange(len(labels), device=labels.device)
            rows, texts = (pairs if index is None else index for index in (rows, texts))
            aligned = labels == 1
            text = self.soho.encode_text(input_ids[texts[aligned]])
            similarities = self.contrast_head(
                result.visual_features, result.visual_mask, text, text_mask[texts[aligned]]
            )
            parts["itc"] = contrastive_loss(similarities, rows[aligned], _ignored_pairs(labels, rows, texts, aligned))
            metrics["itc_accuracy"] = accuracy(similarities.t(), rows[aligned])
        return with_loss(output, parts, metrics, loss_denominators, {"itc": self.config.itc_weight})

    def image_tokens(self, pixel_values: Tensor, pixel_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return placed visual tokens (B, N, C) and their mask (B, N): the picture's part of a pair."""
        image = self.soho.encode_image(pixel_values, pixel_mask)
        return self.soho.place(image.tokens, image.position), image.mask

    def text_tokens(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return embedded text tokens (T, L, C) and their mask (T, L)."""
        return self.soho.encode_text(input_ids), attention_mask.bool()

    def score_pairs(self, text: Tensor, text_mask: Tensor, visual: Tensor, visual_mask: Tensor) -> Tensor:
        """Return the log-odds (P,) that each text (P, L, C) matches its picture (P, N, C)."""
        hidden, _, _ = self.soho.fuse(text, text_mask, visual, visual_mask, cls_only=True)
        logits = self.match_head(hidden[:, 0]).float()
        return logits[:, 1] - logits[:, 0]

    def pair_flops(self, text_tokens: int, visual_tokens: int) -> float:
        """Return the multiply-adds times two of fusing one pair, the last layer for [CLS] alone."""
        length, width, inner = text_tokens + visual_tokens, self.config.hidden_size, self.config.intermediate_size
        layer = 2 * (4 * length * width**2 + 2 * length * width * inner + 2 * length**2 * width)
        last = 2 * (2 * length * width**2 + 2 * width**2 + 2 * width * inner + 2 * length * width)
        return float((self.config.num_hidden_layers - 1) * layer + last)


def _ignored_pairs(labels: Tensor, rows: Tensor, texts: Tensor, aligned: Tensor) -> Tensor:
    """Return (B, T) bool over pictures and the texts of aligned pairs: True where the batch ignores the pair."""
    table = torch.zeros(int(rows.max()) + 1, int(texts.max()) + 1, dtype=torch.bool, device=labels.device)
    table[rows, texts] = labels == IGNORE
    return table[:, texts[aligned]]
