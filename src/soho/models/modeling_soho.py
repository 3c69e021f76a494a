"""The SOHO models by transformers conventions: one trunk, one class per task, the loss inside `forward`.

Shapes: B pictures, T texts, P pairs of them, L text tokens, N visual tokens, C hidden size, K codes.
`pair_image_index` and `pair_text_index` say which picture and which text a pair joins, so that a picture goes through
the CNN once however many texts are read against it. Without them B = T = P and row i belongs to row i.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from soho.errors import SohoError
from soho.models.configuration_soho import SohoConfig
from soho.models.fusion import FusionTransformer, TextEmbedding
from soho.models.losses import (
    IGNORE,
    SumAndCount,
    answer_loss,
    classification_loss,
    masked_visual_loss,
    normalise,
)
from soho.models.outputs import Metrics, SohoForPreTrainingOutput, SohoModelOutput, SohoTaskOutput
from soho.models.position_embedding import sine_position_embedding
from soho.models.visual_dictionary import VisualDictionary
from soho.models.visual_encoder import FACTORY_ALLOWED, VisualEncoder
from soho.models.visual_masking import choose_masked_cells


class ImageEncoding(NamedTuple):
    """A picture before fusion.

    Attributes:
        features: (B, N, C) output of the visual encoder, before the dictionary.
        tokens: (B, N, C) what fusion reads by `config.visual_input`, without position.
        mask: (B, N) bool valid cells.
        position: (B, N, C) 2-D sine code.
        indices: (B, N) code indices, -1 at padding; None where the dictionary was not asked.
    """

    features: Tensor
    tokens: Tensor
    mask: Tensor
    position: Tensor
    indices: Tensor | None


class SohoPreTrainedModel(PreTrainedModel):
    """Weights, saving and the verbs that the trainer uses; see `SohoModel` for the network."""

    config_class = SohoConfig
    base_model_prefix = "soho"
    main_input_name = "pixel_values"
    supports_gradient_checkpointing = True
    _keep_in_fp32_modules_strict = ["visual_dictionary"]  # noqa: RUF012
    _supports_sdpa = True

    @classmethod
    def from_pretrained(cls, *args: Any, trust_remote_code: bool = False, **kwargs: Any) -> Any:
        """Load a model folder or hub id; as in transformers.

        A folder whose CNN is built by a Python factory outside this package is refused unless
        `trust_remote_code=True`, because loading it would run that code.

        Raises:
            SohoError: the factory is not trusted or cannot be imported.
        """
        token = FACTORY_ALLOWED.set(trust_remote_code)
        try:
            return super().from_pretrained(*args, **kwargs)
        finally:
            FACTORY_ALLOWED.reset(token)

    def _init_weights(self, module: nn.Module) -> None:
        """Initialise as BERT does: N(0, 0.02) weights, zero biases; the dictionary from N(0, 1)."""
        std = self.config.initializer_range
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=std)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Conv2d):
            # The 1x1 projection; a normalisation follows, so the usual variance-keeping scale is used.
            nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=std)
        elif isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, VisualDictionary):
            module.reset_parameters()

    @property
    def trunk(self) -> SohoModel:
        """The `SohoModel` inside."""
        return self if isinstance(self, SohoModel) else getattr(self, self.base_model_prefix)

    def visual_backbone(self) -> nn.Module:
        """Return the CNN, which gets its own optimizer (section 4.1)."""
        return self.trunk.visual_encoder.backbone

    def freeze_visual_backbone(self, frozen: bool) -> None:
        """Freeze or thaw the CNN and its batch-norm statistics (section 3.2)."""
        self.trunk.visual_encoder.freeze(frozen)

    def after_optimizer_step(self) -> None:
        """Move the visual dictionary (Eq. 4); collective over processes. Call once per optimizer step."""
        dictionary = self.trunk.visual_dictionary
        if dictionary is not None and self.config.visual_input == "dictionary":
            dictionary.after_optimizer_step()

    def health(self) -> dict[str, float]:
        """Return the dictionary's health figures, empty where the model does not use one."""
        dictionary = self.trunk.visual_dictionary
        if dictionary is None or self.config.visual_input != "dictionary":
            return {}
        return dictionary.health()

    def loss_counts(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the number of terms of every loss part of a micro-batch, known before the forward pass.

        Summed over micro-batches and processes they become `loss_denominators` of `forward`.
        """
        raise NotImplementedError


class SohoModel(SohoPreTrainedModel):
    """The trunk (Figure 2): visual encoder, visual dictionary, position, text embedding, fusion Transformer."""

    def __init__(self, config: SohoConfig) -> None:
        super().__init__(config)
        self.visual_encoder = VisualEncoder(config)
        self.visual_dictionary: VisualDictionary | None = None
        if config.use_dictionary:
            self.visual_dictionary = VisualDictionary(
                config.dictionary_size,
                config.hidden_size,
                config.dictionary_momentum,
                config.dictionary_ramp_steps,
                config.dictionary_revive_after,
                config.dictionary_dead_after,
            )
        self.embeddings = TextEmbedding(config)
        self.visual_norm = nn.LayerNorm(config.hidden_size)
        self.fusion = FusionTransformer(config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Embedding:
        """Return the word embedding."""
        return self.embeddings.word_embeddings

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        """Replace the word embedding."""
        self.embeddings.word_embeddings = value

    def encode_image(self, pixel_values: Tensor, pixel_mask: Tensor | None = None) -> ImageEncoding:
        """Encode whole pictures once, whatever number of texts will be read against them.

        Args:
            pixel_values: (B, 3, H, W).
            pixel_mask: (B, H, W) bool; None means that every pixel belongs to the picture.

        Returns:
            Features, tokens for fusion, mask, position and indices; see `ImageEncoding`.
        """
        if pixel_mask is None:
            pixel_mask = torch.ones_like(pixel_values[:, 0], dtype=torch.bool)
        features, mask, grid = self.visual_encoder(pixel_values, pixel_mask)
        position = sine_position_embedding(mask.unflatten(1, grid), self.config.hidden_size).flatten(1, 2)
        tokens, indices = features, None
        if self.config.visual_input == "dictionary":
            assert self.visual_dictionary is not None
            tokens, indices = self.visual_dictionary(features, mask)
        return ImageEncoding(features, tokens, mask, position.to(features.dtype), indices)

    def encode_text(self, input_ids: Tensor) -> Tensor:
        """Embed token ids (T, L) with [CLS] first; returns (T, L, C)."""
        return self.embeddings(input_ids)

    def place(self, tokens: Tensor, position: Tensor) -> Tensor:
        """Add the position code to visual tokens (.., N, C) and normalise: what the Transformer reads."""
        return self.visual_norm(tokens + position)

    def fuse(
        self,
        text: Tensor,
        text_mask: Tensor,
        visual: Tensor,
        visual_mask: Tensor,
        cls_only: bool = False,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
    ) -> tuple[Tensor, tuple[Tensor, ...] | None, tuple[Tensor, ...] | None]:
        """Read text and picture together.

        Args:
            text: (P, L, C) embedded texts.
            text_mask: (P, L) bool or 0/1.
            visual: (P, N, C) placed visual tokens.
            visual_mask: (P, N) bool.
            cls_only: return the [CLS] row alone, at less cost.
            output_attentions: also return attention weights.
            output_hidden_states: also return every layer's states.

        Returns:
            (P, L + N, C) or (P, 1, C); all hidden states or None; all attention weights or None.
        """
        sequence = torch.cat((text, visual.to(text.dtype)), dim=1)
        mask = torch.cat((text_mask.bool(), visual_mask), dim=1)
        return self.fusion(sequence, mask, cls_only, output_attentions, output_hidden_states)

    def forward(
        self,
        pixel_values: Tensor,
        input_ids: Tensor,
        pixel_mask: Tensor | None = None,
        attention_mask: Tensor | None = None,
        pair_image_index: Tensor | None = None,
        pair_text_index: Tensor | None = None,
        cls_only: bool = False,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        **_: Any,
    ) -> SohoModelOutput:
        """Encode B pictures and T texts and fuse P pairs of them.

        Args:
            pixel_values: (B, 3, H, W).
            input_ids: (T, L).
            pixel_mask: (B, H, W) bool.
            attention_mask: (T, L) 1 at tokens.
            pair_image_index: (P,) rows of `pixel_values`.
            pair_text_index: (P,) rows of `input_ids`.
            cls_only: compute only the [CLS] row of the last layer.
            output_attentions: also return attention weights.
            output_hidden_states: also return every layer's states.

        Returns:
            See `SohoModelOutput`.

        Raises:
            SohoError: numbers of pictures and texts differ and no pairs are given.
        """
        image = self.encode_image(pixel_values, pixel_mask)
        visual = self.place(image.tokens, image.position)
        text = self.encode_text(input_ids)
        text_mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        rows, texts = pair_rows(len(visual), len(text), pair_image_index, pair_text_index)
        hidden, states, attentions = self.fuse(
            _take(text, texts),
            _take(text_mask, texts),
            _take(visual, rows),
            _take(image.mask, rows),
            cls_only,
            bool(output_attentions),
            bool(output_hidden_states),
        )
        return SohoModelOutput(
            last_hidden_state=hidden,
            visual_features=image.features,
            visual_mask=image.mask,
            visual_indices=image.indices,
            hidden_states=states,
            attentions=attentions,
        )


def pair_rows(
    images: int, texts: int, image_index: Tensor | None, text_index: Tensor | None
) -> tuple[Tensor | None, Tensor | None]:
    """Check that the pairing makes sense; None means "row i with row i"."""
    left = images if image_index is None else len(image_index)
    right = texts if text_index is None else len(text_index)
    if left != right:
        raise SohoError(
            f"{left} pictures cannot be paired with {right} texts; give pair_image_index and pair_text_index"
        )
    return image_index, text_index


def _take(rows: Tensor, index: Tensor | None) -> Tensor:
    return rows if index is None else rows[index]


def _accuracy(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    kept = labels != IGNORE
    return ((logits.argmax(-1) == labels) & kept).sum().float().detach(), kept.sum().float()


class PredictionHead(nn.Module):
    """BERT's masked-prediction head: dense, GELU, layer norm, linear with bias."""

    def __init__(self, config: SohoConfig, classes: int) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.decoder = nn.Linear(config.hidden_size, classes)

    def forward(self, hidden: Tensor) -> Tensor:
        """Map (M, C) to (M, classes)."""
        return self.decoder(self.norm(F.gelu(self.dense(hidden))))


class SohoForPreTraining(SohoPreTrainedModel):
    """MLM + MVM + ITM with equal weights (Eq. 9)."""

    _tied_weights_keys = {"mlm_head.decoder.weight": "soho.embeddings.word_embeddings.weight"}  # noqa: RUF012

    def __init__(self, config: SohoConfig) -> None:
        super().__init__(config)
        self.soho = SohoModel(config)
        self.mlm_head = PredictionHead(config, config.vocab_size)
        self.mvm_head = PredictionHead(config, config.dictionary_size) if config.use_dictionary else None
        self.match_head = nn.Linear(config.hidden_size, 2)
        self.post_init()

    def get_output_embeddings(self) -> nn.Linear:
        """Return the linear map whose weight is the word embedding."""
        return self.mlm_head.decoder

    def set_output_embeddings(self, new_embeddings: nn.Linear) -> None:
        """Replace the MLM decoder."""
        self.mlm_head.decoder = new_embeddings

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
            loss_denominators: counts of the whole optimizer-step batch; default: this batch's own.
            output_attentions: also return attention weights.
            output_hidden_states: also return every layer's states.

        Returns:
            See `SohoForPreTrainingOutput`; `loss` is None unless `itm_labels` is given.
        """
        image = self.soho.encode_image(pixel_values, pixel_mask)
        text = self.soho.encode_text(input_ids)
        text_mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        rows, texts = pair_rows(len(pixel_values), len(text), pair_image_index, pair_text_index)
        tokens, mask = _take(image.tokens, rows), _take(image.mask, rows)
        masked: Tensor | None = None
        indices = None if image.indices is None else _take(image.indices, rows)  # (P, N)
        if indices is not None and mvm_draws is not None:
            masked = choose_masked_cells(indices, mvm_draws, self.config.mvm_max_masked_share)
            mask_vector = self.soho.embeddings.word_embeddings.weight[self.config.mask_token_id]
            tokens = torch.where(masked.unsqueeze(-1), mask_vector.to(tokens.dtype), tokens)
        visual = self.soho.place(tokens, _take(image.position, rows))
        hidden, states, attentions = self.soho.fuse(
            _take(text, texts),
            _take(text_mask, texts),
            visual,
            mask,
            output_attentions=bool(output_attentions),
            output_hidden_states=bool(output_hidden_states),
        )
        match_logits = self.match_head(hidden[:, 0]).float()  # (P, 2)
        output = SohoForPreTrainingOutput(
            logits=match_logits, visual_indices=image.indices, hidden_states=states, attentions=attentions
        )
        if itm_labels is None:
            return output
        positive = (itm_labels == 1).unsqueeze(1)
        parts: dict[str, SumAndCount] = {"itm": classification_loss(match_logits, itm_labels)}
        metrics: Metrics = {"itm_accuracy": _accuracy(match_logits, itm_labels)}
        length = input_ids.shape[1]
        if labels is not None:
            places = (labels != IGNORE) & positive  # (P, L)
            output.mlm_logits = self.mlm_head(hidden[:, :length][places])  # logits only at masked places
            output.mlm_labels = labels[places]
            parts["mlm"] = classification_loss(output.mlm_logits, output.mlm_labels)
            metrics["mlm_accuracy"] = _accuracy(output.mlm_logits, output.mlm_labels)
        if masked is not None and indices is not None and self.mvm_head is not None:
            cells = masked & positive  # (P, N)
            output.mvm_logits = self.mvm_head(hidden[:, length:][cells])
            output.mvm_labels = indices[cells]
            pair = cells.nonzero()[:, 0]
            parts["mvm"] = masked_visual_loss(output.mvm_logits, output.mvm_labels, pair, positive.sum())
            metrics["mvm_accuracy"] = _accuracy(output.mvm_logits, output.mvm_labels)
        weights = {"mlm": self.config.mlm_weight, "mvm": self.config.mvm_weight, "itm": self.config.itm_weight}
        return _with_loss(output, parts, metrics, loss_denominators, weights)


def _with_loss(
    output: Any,
    parts: dict[str, SumAndCount],
    metrics: Metrics,
    denominators: dict[str, Tensor] | None,
    weights: Mapping[str, float] | None = None,
) -> Any:
    """Fill loss, parts and metrics of an output."""
    means = normalise(parts, denominators)
    output.loss = torch.stack([(weights or {}).get(name, 1.0) * value for name, value in means.items()]).sum()
    output.loss_parts = {name: value.detach() for name, value in means.items()}
    output.metrics = metrics
    return output


class SohoForImageTextRetrieval(SohoPreTrainedModel):
    """Does this text describe this picture? Binary classification from [CLS] (section 4.2.1)."""

    def __init__(self, config: SohoConfig) -> None:
        super().__init__(config)
        self.soho = SohoModel(config)
        self.match_head = nn.Linear(config.hidden_size, 2)
        self.post_init()

    def loss_counts(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Count the labelled pairs of a micro-batch."""
        return {"match": (batch["labels"] != IGNORE).sum().float()}

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
        logits = self.match_head(result.last_hidden_state[:, 0]).float()
        output = SohoTaskOutput(logits=logits, hidden_states=result.hidden_states, attentions=result.attentions)
        if labels is None:
            return output
        parts = {"match": classification_loss(logits, labels)}
        return _with_loss(output, parts, {"accuracy": _accuracy(logits, labels)}, loss_denominators)

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


class SohoForQuestionAnswering(SohoPreTrainedModel):
    """Choose an answer from a vocabulary by a multi-layer perceptron on [CLS] (section 4.2.2)."""

    def __init__(self, config: SohoConfig) -> None:
        super().__init__(config)
        if not config.answers:
            raise SohoError("a question-answering model needs config.answers, the list of answers it may give")
        self.soho = SohoModel(config)
        inner = config.answer_head_width * config.hidden_size
        self.answer_head = nn.Sequential(
            nn.Linear(config.hidden_size, inner),
            nn.GELU(),
            nn.LayerNorm(inner, eps=config.layer_norm_eps),
            nn.Dropout(config.answer_head_dropout),
            nn.Linear(inner, len(config.answers)),
        )
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
        return _with_loss(output, parts, {"vqa_score": (score.sum().detach(), kept.sum().float())}, loss_denominators)
