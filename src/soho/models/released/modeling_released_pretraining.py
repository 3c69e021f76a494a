"""Pre-training in the wiring of the 2021 release: its heads, its masking, its losses on all pairs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from soho.errors import SohoError
from soho.models.losses import IGNORE, SumAndCount, accuracy, classification_loss
from soho.models.modeling_pretraining import SohoForPreTraining
from soho.models.modeling_soho import pair_rows, take
from soho.models.outputs import Metrics, SohoForPreTrainingOutput, with_loss
from soho.models.released.configuration_released import SohoReleasedConfig
from soho.models.released.visual_parts import MaskVector


def choose_location(draws: Tensor, probability: float, cells: int) -> tuple[Tensor, Tensor]:
    """Turn one uniform draw a pair into the release's choice: one cell for the batch, a Bernoulli draw a pair.

    The first draw says both: whether it lies below `probability`, and where between its bounds. The second is again
    uniform and independent of the first.

    Args:
        draws: (P,) from [0, 1).
        probability: of a pair to be masked.
        cells: N, cells of the grid, padding included.

    Returns:
        The cell () and (P,) bool.
    """
    chosen = draws < probability
    first = draws[0].double()
    low, high = (0.0, probability) if bool(chosen[0]) else (probability, 1.0)
    place = (first - low) / max(high - low, 1e-12) * cells
    return place.long().clamp(0, cells - 1), chosen


def masked_cells(indices: Tensor, location: Tensor, chosen: Tensor) -> Tensor:
    """Mark, in every chosen pair, all valid cells that carry the index found at one place of the grid.

    Args:
        indices: (P, N) code index of every cell, -1 at padding.
        location: () the place. Where it is padding in a pair, nothing of that pair is masked.
        chosen: (P,) bool.

    Returns:
        (P, N) bool.
    """
    label = indices[:, location].unsqueeze(1)  # (P, 1)
    return (indices == label) & (label >= 0) & chosen.unsqueeze(1)


class SohoReleasedForPreTraining(SohoForPreTraining):
    """MLM + MVM + ITM as the release trains them: equal weights, MLM and MVM on mismatched pairs too."""

    config_class = SohoReleasedConfig
    _tied_weights_keys = {"mlm_head.weight": "soho.embeddings.word_embeddings.weight"}  # noqa: RUF012

    def build_heads(self, config: SohoReleasedConfig) -> None:  # type: ignore[override]
        """Make the bare word embedding for MLM, the mask vector, and the match head; MVM has no weights."""
        if config.itc_weight:
            raise SohoError("itc_weight has no head in the released wiring's pre-training; set it to 0")
        self.mlm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)  # type: ignore[assignment]
        self.mask_vector = MaskVector(config.hidden_size)
        self.match_head = self.soho.new_match_head()

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, MaskVector):
            module.reset_parameters()

    def get_output_embeddings(self) -> nn.Linear:
        """Return the linear map whose weight is the word embedding."""
        return self.mlm_head  # type: ignore[return-value]

    def set_output_embeddings(self, new_embeddings: nn.Linear) -> None:
        """Replace the MLM decoder."""
        self.mlm_head = new_embeddings  # type: ignore[assignment]

    def code_similarities(self, hidden: Tensor) -> Tensor:
        """Return the cosine (M, K) of fused cells (M, C) with all codes: the logits of MVM. Codes get no gradient."""
        dictionary = self.soho.visual_dictionary
        assert dictionary is not None
        return F.normalize(hidden.float(), dim=-1) @ F.normalize(dictionary.codes.float(), dim=-1).t()

    def loss_counts(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Count masked tokens and labelled pairs; MVM is a mean over a micro-batch, so it counts micro-batches."""
        match = batch["itm_labels"]
        counts = {"mlm": (batch["labels"] != IGNORE).sum().float(), "itm": (match != IGNORE).sum().float()}
        if self.config.use_dictionary and "mvm_draws" in batch:
            counts["mvm"] = (match != IGNORE).any().float()
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
        mvm_location: Tensor | None = None,
        mvm_chosen: Tensor | None = None,
        **_: Any,
    ) -> SohoForPreTrainingOutput:
        """Run the three pre-training tasks.

        Args:
            pixel_values: (B, 3, H, W).
            input_ids: (T, L) with [MASK] tokens.
            pixel_mask: (B, H, W) bool.
            attention_mask: (T, L).
            pair_image_index: (P,).
            pair_text_index: (P,).
            labels: (P, L) hidden token or -100.
            itm_labels: (P,) 1 match, 0 no match, -100 ignored.
            mvm_draws: (P,) uniform draws from [0, 1); see `choose_location`.
            photos: not used; there is no contrastive objective.
            loss_denominators: counts of the whole optimizer-step batch; default: this batch's own.
            output_attentions: also return attention weights.
            output_hidden_states: also return every layer's states.
            mvm_location: () the cell itself, with `mvm_chosen` instead of `mvm_draws`.
            mvm_chosen: (P,) bool, the pairs that are masked.

        Returns:
            See `SohoForPreTrainingOutput`, `visual_indices` one row a pair; `loss` is None unless `itm_labels` is
            given. Without draws and location no cell is masked.
        """
        text, _mask_vector, table = self.read_words(input_ids, attention_mask)
        text_mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        rows, texts = pair_rows(len(pixel_values), len(text), pair_image_index, pair_text_index)
        image = self.soho.encode_image(pixel_values, pixel_mask, rows)  # type: ignore[call-arg]
        tokens, indices = image.tokens, image.indices
        masked: Tensor | None = None
        if indices is not None:
            if mvm_draws is not None:
                mvm_location, mvm_chosen = choose_location(
                    mvm_draws, self.config.mvm_mask_probability, indices.shape[1]
                )
            if mvm_location is not None and mvm_chosen is not None:
                masked = masked_cells(indices, mvm_location, mvm_chosen)
                tokens = self.mask_vector(tokens, masked)
        hidden, states, attentions = self.soho.fuse(
            take(text, texts),
            take(text_mask, texts),
            self.soho.place(tokens, image.position),
            image.mask,
            output_attentions=bool(output_attentions),
            output_hidden_states=bool(output_hidden_states),
        )
        match_logits = self.match_head(hidden[:, 0]).float()
        output = SohoForPreTrainingOutput(
            logits=match_logits, visual_indices=indices, hidden_states=states, attentions=attentions
        )
        if itm_labels is None:
            return output
        parts: dict[str, SumAndCount] = {"itm": classification_loss(match_logits, itm_labels)}
        metrics: Metrics = {"itm_accuracy": accuracy(match_logits, itm_labels)}
        length = input_ids.shape[1]
        if labels is not None:
            places = labels != IGNORE
            output.mlm_logits = F.linear(hidden[:, :length][places], table)  # without a bias
            output.mlm_labels = labels[places]
            parts["mlm"] = classification_loss(output.mlm_logits, output.mlm_labels)
            metrics["mlm_accuracy"] = accuracy(output.mlm_logits, output.mlm_labels)
        if masked is not None and indices is not None:
            real = itm_labels != IGNORE
            cells = masked & real.unsqueeze(1)
            output.mvm_logits = self.code_similarities(hidden[:, length:][cells])
            output.mvm_labels = indices[cells]
            total, count = classification_loss(output.mvm_logits, output.mvm_labels)
            parts["mvm"] = (total / count.clamp(min=1.0), real.any().float())
            metrics["mvm_accuracy"] = accuracy(output.mvm_logits, output.mvm_labels)
            metrics["masked_pairs"] = (cells.any(1).sum().float(), real.sum().float())
        weights = {"mlm": self.config.mlm_weight, "mvm": self.config.mvm_weight, "itm": self.config.itm_weight}
        return with_loss(output, parts, metrics, loss_denominators, weights)
