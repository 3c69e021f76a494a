"""Image-text retrieval: a binary classifier on [CLS], and the verbs that score all pairs (section 4.2.1)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from soho.errors import SohoError
from soho.models.configuration_soho import SohoConfig
from soho.models.contrast import ContrastHead, ContrastShare, contrastive_loss
from soho.models.hard_negatives import hard_pair_count, hard_pairs, pair_table
from soho.models.losses import IGNORE, SumAndCount, accuracy, classification_loss
from soho.models.modeling_soho import SohoPreTrainedModel, build_trunk, pair_rows, take
from soho.models.outputs import Metrics, SohoTaskOutput, with_loss


class SohoForImageTextRetrieval(SohoPreTrainedModel):
    """Does this text describe this picture? Binary classification from [CLS] (section 4.2.1)."""

    def __init__(self, config: SohoConfig) -> None:
        super().__init__(config)
        self.soho = build_trunk(config)
        self.match_head = self.soho.new_match_head()
        self.contrast_head = ContrastHead(config) if config.itc_weight > 0 else None
        self.match_contrast = ContrastShare() if config.match_adds_contrast else None
        self.post_init()

    def loss_counts(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Count the labelled pairs of a micro-batch, and the aligned ones where the contrastive loss is on."""
        labels = batch["labels"]
        counts = {"match": (labels != IGNORE).sum().float()}
        if self.contrast_head is not None:
            counts["itc"] = (labels == 1).sum().float()
        if self.config.match_hard_negatives:
            table = _table(labels, batch)
            counts["match"] = hard_pair_count(table, self.config.match_hard_negatives)
        if self.match_contrast is not None:
            counts["share"] = counts["match"]
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
            `logits` (P, 2), class 1 = match; with `config.match_hard_negatives` and labels, of the chosen pairs.
        """
        text_mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        image = self.soho.encode_image(pixel_values, pixel_mask)
        text = self.soho.encode_text(input_ids, attention_mask)
        rows, texts = pair_rows(len(pixel_values), len(text), pair_image_index, pair_text_index)
        visual = self.soho.place(image.tokens, image.position)
        parts: dict[str, SumAndCount] = {}
        metrics: Metrics = {}
        similarities: Tensor | None = None
        if self.contrast_head is not None and (labels is not None or self.match_contrast is not None):
            similarities = self.contrast_head.scaled(
                self.image_vectors(visual, image.mask), self.text_vectors(text, text_mask)
            )  # (B, T)
        if labels is not None and similarities is not None:
            table = _table(labels, {"pixel_values": pixel_values, "input_ids": input_ids}, rows, texts)
            own_image, own_text = (table == 1).nonzero(as_tuple=True)
            ours = similarities[:, own_text]
            parts["itc"] = contrastive_loss(ours, own_image, table[:, own_text] == IGNORE)
            metrics["itc_accuracy"] = accuracy(ours.t(), own_image)
            if self.config.match_hard_negatives:
                rows, texts, labels = hard_pairs(
                    table, similarities, self.config.match_hard_negatives, draw=self.training
                )
        hidden, states, attentions = self.soho.fuse(
            take(text, texts),
            take(text_mask, texts),
            take(visual, rows),
            take(image.mask, rows),
            cls_only=True,
            output_attentions=bool(kwargs.get("output_attentions")),
            output_hidden_states=bool(kwargs.get("output_hidden_states")),
        )
        logits = fused = self.match_head(hidden[:, 0]).float()
        if self.match_contrast is not None and similarities is not None:
            pairs = torch.arange(len(logits), device=logits.device)
            rows, texts = (pairs if index is None else index for index in (rows, texts))
            # Fusion gets its gradient from its own loss. Beside a similarity that soon knows the training pairs by
            # heart nothing would be left for it to learn.
            logits = self.match_contrast(fused.detach(), similarities[rows, texts])
        output = SohoTaskOutput(logits=logits, hidden_states=states, attentions=attentions)
        if labels is None:
            return output
        parts["match"] = classification_loss(fused, labels)
        if logits is not fused:
            parts["share"] = classification_loss(logits, labels)
            metrics["fused_accuracy"] = accuracy(fused, labels)
        metrics["accuracy"] = accuracy(logits, labels)
        return with_loss(output, parts, metrics, loss_denominators, {"itc": self.config.itc_weight})

    def image_vectors(self, visual: Tensor, visual_mask: Tensor) -> Tensor:
        """Return the contrastive unit vectors (B, C) of placed visual tokens (B, N, C).

        Raises:
            SohoError: the model was trained without the contrastive objective.
        """
        return self.contrast.image_vectors(self.soho.contrastive_states(visual, visual_mask), visual_mask)

    def text_vectors(self, text: Tensor, text_mask: Tensor) -> Tensor:
        """Return the contrastive unit vectors (T, C) of embedded texts (T, L, C).

        Raises:
            SohoError: the model was trained without the contrastive objective.
        """
        return self.contrast.text_vectors(self.soho.contrastive_states(text, text_mask), text_mask)

    @property
    def contrast(self) -> ContrastHead:
        """The contrastive head.

        Raises:
            SohoError: the model was trained without the contrastive objective.
        """
        if self.contrast_head is None:
            raise SohoError("this model has no contrastive head; train it with model.config.itc_weight above 0")
        return self.contrast_head

    def image_tokens(self, pixel_values: Tensor, pixel_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return placed visual tokens (B, N, C) and their mask (B, N): the picture's part of a pair."""
        image = self.soho.encode_image(pixel_values, pixel_mask)
        return self.soho.place(image.tokens, image.position), image.mask

    def text_tokens(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return the text's part of a pair (T, L, C) and its mask (T, L)."""
        return self.soho.encode_text(input_ids, attention_mask), attention_mask.bool()

    def score_pairs(self, text: Tensor, text_mask: Tensor, visual: Tensor, visual_mask: Tensor) -> Tensor:
        """Return the log-odds (P,) that each text (P, L, C) matches its picture (P, N, C)."""
        hidden, _, _ = self.soho.fuse(text, text_mask, visual, visual_mask, cls_only=True)
        logits = self.match_head(hidden[:, 0]).float()
        if self.match_contrast is not None:
            vectors = self.image_vectors(visual, visual_mask), self.text_vectors(text, text_mask)
            logits = self.match_contrast(logits, self.contrast.scale() * (vectors[0] * vectors[1]).sum(-1))
        return logits[:, 1] - logits[:, 0]

    def pair_flops(self, text_tokens: int, visual_tokens: int) -> float:
        """Return the multiply-adds times two of fusing one pair, the last layer for [CLS] alone."""
        length, width, inner = text_tokens + visual_tokens, self.config.hidden_size, self.config.intermediate_size
        layer = 2 * (4 * length * width**2 + 2 * length * width * inner + 2 * length**2 * width)
        last = 2 * (2 * length * width**2 + 2 * width**2 + 2 * width * inner + 2 * length * width)
        return float((self.config.num_hidden_layers - self.config.fusion_start - 1) * layer + last)


def _table(
    labels: Tensor, batch: Mapping[str, Tensor], rows: Tensor | None = None, texts: Tensor | None = None
) -> Tensor:
    """Return the labels of a batch's pairs as a table (B, T)."""
    pairs = torch.arange(len(labels), device=labels.device)
    rows = batch.get("pair_image_index", pairs) if rows is None else rows
    texts = batch.get("pair_text_index", pairs) if texts is None else texts
    return pair_table(labels, rows, texts, len(batch["pixel_values"]), len(batch["input_ids"]), IGNORE)
