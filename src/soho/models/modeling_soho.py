"""The SOHO network by transformers conventions: what all models share, and the trunk `SohoModel`.

The models with a head stand in `modeling_pretraining`, `modeling_retrieval`, `modeling_question_answering`,
`modeling_visual_reasoning` and `modeling_visual_entailment`. They take their trunk from `build_trunk`, and the heads
that depend on the wiring from the trunk, so that each of them sits on the paper's wiring and on that of the 2021
release (`soho.models.released`) alike.

Shapes: B pictures, T texts, P pairs of them, L text tokens, N visual tokens, C hidden size, K codes.
`pair_image_index` and `pair_text_index` say which picture and which text a pair joins, so that a picture goes through
the CNN once however many texts are read against it. Without them B = T = P and row i belongs to row i.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import MODEL_MAPPING, PreTrainedModel

from soho.errors import SohoError
from soho.models.configuration_soho import SohoConfig, wiring_of
from soho.models.contrast import ContrastHead, ContrastShare, reads_alone
from soho.models.fusion import FusionTransformer, TextEmbedding, not_empty
from soho.models.heads import mlp_head
from soho.models.outputs import SohoModelOutput
from soho.models.position_embedding import sine_position_embedding
from soho.models.visual_dictionary import VisualDictionary
from soho.models.visual_encoder import FACTORY_ALLOWED, FeatureMemory, VisualEncoder


class ImageEncoding(NamedTuple):
    """A picture before fusion. With `config.visual_summary` the first of the N tokens is the summary, else a cell.

    Attributes:
        features: (B, N, C) output of the visual encoder, before the dictionary.
        tokens: (B, N, C) what fusion reads by `config.visual_input`, without position.
        mask: (B, N) bool valid cells.
        position: (B, N, C) 2-D sine code.
        indices: (B, N) code indices, -1 at padding and summary; None where the dictionary was not asked.
    """

    features: Tensor
    tokens: Tensor
    mask: Tensor
    position: Tensor
    indices: Tensor | None


def with_summary(image: ImageEncoding, summary: Tensor) -> ImageEncoding:
    """Put a summary token (B, C) before the cells: valid, without position and without code."""
    first = summary.unsqueeze(1)

    def before(rows: Tensor, value: float) -> Tensor:
        return F.pad(rows, (0, 0, 1, 0) if rows.ndim == 3 else (1, 0), value=value)

    return ImageEncoding(
        torch.cat((first.to(image.features.dtype), image.features), dim=1),
        torch.cat((first.to(image.tokens.dtype), image.tokens), dim=1),
        before(image.mask, True),
        before(image.position, 0.0),
        None if image.indices is None else before(image.indices, -1),
    )


# Attribute of a linear layer: what its biases start at, where that is not zero.
INITIAL_BIAS = "initial_bias"


class SohoPreTrainedModel(PreTrainedModel):
    """Weights, saving and the verbs that the trainer uses; see `SohoModel` for the network."""

    config_class: type[SohoConfig] = SohoConfig
    base_model_prefix = "soho"
    main_input_name = "pixel_values"
    supports_gradient_checkpointing = True
    _keep_in_fp32_modules_strict = ["visual_dictionary"]  # noqa: RUF012
    _supports_sdpa = True
    _no_split_modules = ["FusionLayer"]  # noqa: RUF012  # gathered one by one where training shares weights out

    @classmethod
    def from_pretrained(cls, *args: Any, trust_remote_code: bool = False, **kwargs: Any) -> Any:
        """Load a model folder or hub id; as in transformers.

        The model gets the class that this one has in the wiring of the folder (see `class_for`). A folder whose CNN
        is built by a Python factory outside this package is refused unless `trust_remote_code=True`, because loading
        it would run that code.

        Raises:
            SohoError: the factory is not trusted or cannot be imported.
        """
        chosen = cls.class_for(_config_class(*args, **kwargs))
        if chosen is not cls:
            return chosen.from_pretrained(*args, trust_remote_code=trust_remote_code, **kwargs)
        token = FACTORY_ALLOWED.set(trust_remote_code)
        try:
            result = super().from_pretrained(*args, **kwargs)
        finally:
            FACTORY_ALLOWED.reset(token)
        if trust_remote_code:
            model = result[0] if isinstance(result, tuple) else result
            model.config.trust_remote_code = True  # so that the same CNN can be built again from it
        return result

    @classmethod
    def class_for(cls, config_class: type[SohoConfig]) -> type[SohoPreTrainedModel]:
        """Return the class that does this one's work in the wiring of a configuration: itself or a subclass."""
        return cls

    def _init_weights(self, module: nn.Module) -> None:
        """Initialise as BERT does: N(0, 0.02) weights, biases 0 or `initial_bias`; the dictionary from N(0, 1)."""
        std = self.config.initializer_range
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=std)
            if module.bias is not None:
                nn.init.constant_(module.bias, getattr(module, INITIAL_BIAS, 0.0))
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
        elif isinstance(module, VisualDictionary | ContrastHead | ContrastShare):
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

    def remember_frozen_features(self, megabytes: int) -> None:
        """Let a frozen CNN see every picture only once: its feature maps are kept, up to this much memory.

        Numbers may differ in the last bits, because a picture is computed among other batch mates than it would be
        without the memory. 0 = keep nothing.
        """
        self.trunk.visual_encoder.memory = FeatureMemory(megabytes) if megabytes else None

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
    """The trunk (Figure 2): visual encoder, visual dictionary, position, text embedding, fusion Transformer.

    Attributes:
        dictionary_parts: names of the submodules that a model without dictionary lacks.
    """

    dictionary_parts: ClassVar[tuple[str, ...]] = ("visual_dictionary",)

    def __init__(self, config: SohoConfig) -> None:
        super().__init__(config)
        self.build_visual_parts(config)
        self.embeddings = TextEmbedding(config)
        self.visual_norm = nn.LayerNorm(config.hidden_size)
        self.fusion = FusionTransformer(config)
        self.post_init()

    @classmethod
    def class_for(cls, config_class: type[SohoConfig]) -> type[SohoPreTrainedModel]:
        """Return the trunk of a configuration's wiring."""
        return trunk_class(config_class)

    def build_visual_parts(self, config: SohoConfig) -> None:
        """Make `visual_encoder` and `visual_dictionary`, what a wiring has of its own."""
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

    def new_match_head(self) -> nn.Linear:
        """Make the head that maps [CLS] (P, C) to no match / match (P, 2)."""
        return nn.Linear(self.config.hidden_size, 2)

    def new_answer_head(self) -> nn.Module:
        """Make the head that maps [CLS] (P, C) to one logit an answer (P, A) (section 4.2.2).

        Every answer starts at a probability of about 1 / A. From a half, the first hundred steps of a small set
        would do nothing but learn that most answers are wrong.
        """
        head = mlp_head(self.config, self.config.hidden_size, len(self.config.answers))
        setattr(head[-1], INITIAL_BIAS, -math.log(len(self.config.answers)))
        return head

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
        features, mask, grid, summary = self.visual_encoder(pixel_values, pixel_mask)
        position = sine_position_embedding(mask.unflatten(1, grid), self.config.hidden_size).flatten(1, 2)
        tokens, indices = features, None
        if self.config.visual_input == "dictionary":
            assert self.visual_dictionary is not None
            tokens, indices = self.visual_dictionary(features, mask)
        encoding = ImageEncoding(features, tokens, mask, position.to(features.dtype), indices)
        return encoding if summary is None else with_summary(encoding, summary)

    def encode_text(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, words: Tensor | None = None
    ) -> Tensor:
        """Return the text's part of a pair.

        Args:
            input_ids: (T, L) with [CLS] first.
            attention_mask: (T, L) 1 at tokens; asked only by the layers before `config.fusion_start`.
            words: (T, L, C) word vectors of the ids, where they were looked up before.

        Returns:
            (T, L, C) embedded tokens, read by the layers that come before the picture, if there are any.
        """
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        return self.fusion.read_text(self.embeddings(input_ids, words), mask)

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
        places: Tensor | None = None,
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
            places: (P, Q) positions among the L + N to return alone, likewise.

        Returns:
            (P, L + N, C), (P, 1, C) or (P, Q, C); all hidden states or None; all attention weights or None.
        """
        sequence = torch.cat((text, visual.to(text.dtype)), dim=1)
        mask = torch.cat((text_mask.bool(), visual_mask), dim=1)
        return self.fusion(sequence, mask, cls_only, output_attentions, output_hidden_states, places)

    def contrastive_states(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Return the states of one side that the optional contrastive head averages (`config.itc_pooling`).

        Args:
            tokens: (B, S, C) what fusion reads of a picture (see `place`) or of a text (see `encode_text`).
            mask: (B, S) bool or 0/1.

        Returns:
            (B, S, C): the tokens themselves, or what the fusing layers make of them without the other side.
        """
        if not reads_alone(self.config):
            return tokens
        return self.fusion(tokens, not_empty(mask.bool()))[0]

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
        text = self.encode_text(input_ids, attention_mask)
        text_mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        rows, texts = pair_rows(len(visual), len(text), pair_image_index, pair_text_index)
        hidden, states, attentions = self.fuse(
            take(text, texts),
            take(text_mask, texts),
            take(visual, rows),
            take(image.mask, rows),
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


def trunk_class(config_class: type[SohoConfig]) -> type[SohoModel]:
    """Return the trunk that is registered for a configuration class; `SohoModel` for the paper's wiring."""
    chosen: type[SohoModel] = MODEL_MAPPING[config_class]
    return chosen


def build_trunk(config: SohoConfig) -> SohoModel:
    """Make the trunk of a configuration's wiring with random weights; every task model stands on one."""
    return trunk_class(type(config))(config)


def _config_class(*args: Any, config: Any = None, **kwargs: Any) -> type[SohoConfig]:
    """Return the configuration class that `from_pretrained` called with these arguments will use."""
    if isinstance(config, SohoConfig):
        return type(config)
    source = config if config is not None else (args[0] if args else kwargs["pretrained_model_name_or_path"])
    return wiring_of(source, **kwargs)


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


def take(rows: Tensor, index: Tensor | None) -> Tensor:
    """Return the rows of an index of `pair_rows`."""
    return rows if index is None else rows[index]
