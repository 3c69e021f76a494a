"""Pre-training: masked language modelling, masked visual modelling, image-text matching (section 3.3)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import MODEL_FOR_PRETRAINING_MAPPING

from soho.models.configuration_soho import SohoConfig
from soho.models.contrast import ContrastHead, contrastive_loss
from soho.models.losses import IGNORE, SumAndCount, accuracy, classification_loss, masked_visual_loss
from soho.models.modeling_soho import SohoPreTrainedModel, build_trunk, pair_rows, take
from soho.models.outputs import Metrics, SohoForPreTrainingOutput, with_loss
from soho.models.visual_masking import choose_masked_cells
from soho.models.word_table import look_up


class PredictionHead(nn.Module):
    """BERT's masked-prediction head: dense, GELU, layer norm, linear with bias."""

    def __init__(self, config: SohoConfig, classes: int) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.decoder = nn.Linear(config.hidden_size, classes)

    def forward(self, hidden: Tensor, weight: Tensor | None = None) -> Tensor:
        """Map (M, C) to (M, classes), with the decoder's weight (classes, C) from `look_up` where it is tied."""
        weight = self.decoder.weight if weight is None else weight
        return F.linear(self.norm(F.gelu(self.dense(hidden))), weight, self.decoder.bias)


def places_of(read: Tensor) -> Tensor:
    """Return where in each pair rows are read: [CLS], then the marked ones in order, then fillers.

    Args:
        read: (P, S) bool marks.

    Returns:
        (P, Q) positions; Q is what the pair with the most of them needs.
    """
    read = read.clone()
    read[:, 0] = True
    return read.byte().argsort(dim=1, descending=True, stable=True)[:, : int(read.sum(1).max())]


def among(marks: Tensor, places: Tensor | None) -> Tensor:
    """Return the marks (P, S) of all positions as marks (P, Q) of those at `places`, or as they are without places."""
    return marks if places is None else marks.gather(1, places)


class SohoForPreTraining(SohoPreTrainedModel):
    """MLM + MVM + ITM with equal weights (Eq. 9)."""

    _tied_weights_keys = {"mlm_head.decoder.weight": "soho.embeddings.word_embeddings.weight"}  # noqa: RUF012

    def __init__(self, config: SohoConfig) -> None:
        super().__init__(config)
        self.soho = build_trunk(config)
        self.build_heads(config)
        self.post_init()

    @classmethod
    def class_for(cls, config_class: type[SohoConfig]) -> type[SohoPreTrainedModel]:
        """Return the pre-training model of a configuration's wiring."""
        chosen: type[SohoPreTrainedModel] = MODEL_FOR_PRETRAINING_MAPPING[config_class]
        return chosen

    def build_heads(self, config: SohoConfig) -> None:
        """Make the heads of the pre-training tasks, what a wiring has of its own."""
        self.mlm_head = PredictionHead(config, config.vocab_size)
        self.mvm_head = PredictionHead(config, config.dictionary_size) if config.use_dictionary else None
        self.match_head = self.soho.new_match_head()
        self.contrast_head = ContrastHead(config) if config.itc_weight > 0 else None

    def get_output_embeddings(self) -> nn.Linear:
        """Return the linear map whose weight is the word embedding."""
        return self.mlm_head.decoder

    def set_output_embeddings(self, new_embeddings: nn.Linear) -> None:
        """Replace the MLM decoder."""
        self.mlm_head.decoder = new_embeddings

    def read_words(self, input_ids: Tensor, attention_mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Look up everything that the pass needs of the word table.

        Args:
            input_ids: (T, L).
            attention_mask: (T, L).

        Returns:
            The texts' part of a pair (T, L, C), the vector (C,) of [MASK], and the table (V, C) for the MLM decoder.
        """
        ids = torch.cat((input_ids.flatten(), input_ids.new_full((1,), self.config.mask_token_id)))
        rows, table = look_up(self.soho.embeddings.word_embeddings, ids)
        words = rows[:-1].unflatten(0, input_ids.shape)
        return self.soho.encode_text(input_ids, attention_mask, words), rows[-1], table

    def loss_counts(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Count masked tokens and positive pairs (MVM) and labelled pairs (ITM) of a micro-batch."""
        match = batch["itm_labels"]
        positive = (match == 1).unsqueeze(1)
        counts = {
            "mlm": ((batch["labels"] != IGNORE) & positive).sum().float(),
            "itm": (match != IGNORE).sum().float(),
        }
        if self.mvm_head is not None and "mvm_draws" in batch and self.config.visual_input == "dictionary":
            counts["mvm"] = (match == 1).sum().float()
        if self.contrast_head is not None:
            counts["itc"] = (match == 1).sum().float()
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
        itm_labels: Tensor | None = None,
        mvm_draws: Tensor | None = None,
        photos: Tensor | None = None,
        loss_denominators: dict[str, Tensor] | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        **_: Any,
    ) -> SohoForPreTrainingOutput:
        """Run the three pre-training tasks.

        Texts are masked in the batch; visual cells are masked here, because only the model knows their indices.
        Negative pairs are masked as positive ones are, or a [MASK] would give the match away, but only positive
        pairs carry MLM and MVM losses (section 4.1).

        Args:
            pixel_values: (B, 3, H, W).
            input_ids: (T, L) with [MASK] tokens.
            pixel_mask: (B, H, W) bool.
            attention_mask: (T, L).
            pair_image_index: (P,).
            pair_text_index: (P,).
            labels: (P, L) hidden token or -100.
            itm_labels: (P,) 1 match, 0 no match, -100 ignored.
            mvm_draws: (P,) uniform draws from [0, 1); without them no cell is masked.
            photos: (B,) equal numbers for equal photographs, which are no negatives of each other (contrastive only).
            loss_denominators: counts of the whole optimizer-step batch; default: this batch's own.
            output_attentions: also return attention weights.
            output_hidden_states: also return every layer's states.

        Returns:
            See `SohoForPreTrainingOutput`; `loss` is None unless `itm_labels` is given.
        """
        image = self.soho.encode_image(pixel_values, pixel_mask)
        text, mask_vector, table = self.read_words(input_ids, attention_mask)
        text_mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        rows, texts = pair_rows(len(pixel_values), len(text), pair_image_index, pair_text_index)
        tokens, mask = take(image.tokens, rows), take(image.mask, rows)
        if self.config.visual_summary and mvm_draws is not None:
            # It was pooled from all cells and would show what MVM hides.
            mask = torch.cat((torch.zeros_like(mask[:, :1]), mask[:, 1:]), dim=1)
        masked: Tensor | None = None
        indices = None if image.indices is None else take(image.indices, rows)  # (P, N)
        if indices is not None and mvm_draws is not None:
            masked = choose_masked_cells(indices, mvm_draws, self.config.mvm_max_masked_share)
            tokens = torch.where(masked.unsqueeze(-1), mask_vector.to(tokens.dtype), tokens)
        visual = self.soho.place(tokens, take(image.position, rows))
        # The last layer computes the rows that are read: [CLS], masked words and masked cells.
        read = torch.zeros(len(visual), input_ids.shape[1] + visual.shape[1], dtype=torch.bool, device=visual.device)
        length = input_ids.shape[1]
        if itm_labels is not None:
            positive = (itm_labels == 1).unsqueeze(1)
            if labels is not None:
                read[:, :length] = (labels != IGNORE) & positive
            if masked is not None:
                read[:, length:] = masked & positive
        places = None if output_attentions or output_hidden_states else places_of(read)
        hidden, states, attentions = self.soho.fuse(
            take(text, texts),
            take(text_mask, texts),
            visual,
            mask,
            output_attentions=bool(output_attentions),
            output_hidden_states=bool(output_hidden_states),
            places=places,
        )
        match_logits = self.match_head(hidden[:, 0]).float()  # (P, 2)
        output = SohoForPreTrainingOutput(
            logits=match_logits, visual_indices=image.indices, hidden_states=states, attentions=attentions
        )
        if itm_labels is None:
            return output
        parts: dict[str, SumAndCount] = {"itm": classification_loss(match_logits, itm_labels)}
        metrics: Metrics = {"itm_accuracy": accuracy(match_logits, itm_labels)}
        if labels is not None:
            words = read.clone()
            words[:, length:] = False
            output.mlm_logits = self.mlm_head(hidden[among(words, places)], table)  # logits only at masked places
            output.mlm_labels = labels[words[:, :length]]
            parts["mlm"] = classification_loss(output.mlm_logits, output.mlm_labels)
            metrics["mlm_accuracy"] = accuracy(output.mlm_logits, output.mlm_labels)
        if masked is not None and indices is not None and self.mvm_head is not None:
            cells = read.clone()
            cells[:, :length] = False
            output.mvm_logits = self.mvm_head(hidden[among(cells, places)])
            cells = cells[:, length:]  # (P, N)
            output.mvm_labels = indices[cells]
            pair = cells.nonzero()[:, 0]
            parts["mvm"] = masked_visual_loss(output.mvm_logits, output.mvm_labels, pair, positive.sum())
            metrics["mvm_accuracy"] = accuracy(output.mvm_logits, output.mvm_labels)
            # A dictionary that collapses leaves nothing to hide: the loss then falls for the wrong reason.
            metrics["masked_pairs"] = (cells.any(1).sum().float(), positive.sum().float())
        if self.contrast_head is not None:
            pairs = torch.arange(len(itm_labels), device=itm_labels.device)[itm_labels == 1]
            own_text = pairs if texts is None else texts[pairs]
            own_image = pairs if rows is None else rows[pairs]
            placed = self.soho.place(image.features, image.position)  # what the dictionary has not touched
            similarities = self.contrast_head(
                self.soho.contrastive_states(placed, image.mask),
                image.mask,
                self.soho.contrastive_states(text[own_text], text_mask[own_text]),
                text_mask[own_text],
            )
            same_photo = None if photos is None else photos.unsqueeze(1) == photos[own_image].unsqueeze(0)
            parts["itc"] = contrastive_loss(similarities, own_image, same_photo)
            metrics["itc_accuracy"] = accuracy(similarities.t(), own_image)
        weights = {
            "mlm": self.config.mlm_weight,
            "mvm": self.config.mvm_weight,
            "itm": self.config.itm_weight,
            "itc": self.config.itc_weight,
        }
        return with_loss(output, parts, metrics, loss_denominators, weights)
