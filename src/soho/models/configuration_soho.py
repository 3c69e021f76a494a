"""The configuration of a SOHO model: every size and every choice of wiring, nothing about data or training."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

from transformers import CONFIG_MAPPING, PretrainedConfig

from soho.errors import SohoError

# The CNN that a configuration without any wish gets: ResNet-101 as the paper's main experiments (section 4.1).
RESNET_101: dict[str, Any] = {
    "model_type": "resnet",
    "depths": [3, 4, 23, 3],
    "hidden_sizes": [256, 512, 1024, 2048],
    "layer_type": "bottleneck",
}


COUNTS = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "max_position_embeddings",
    "type_vocab_size",
    "dictionary_size",
    "answer_head_width",
)
ITC_POOLINGS = ("embeddings", "fusion", "dual_encoder")
SHARES = (
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "dictionary_momentum",
    "mvm_max_masked_share",
    "answer_head_dropout",
)


class SohoConfig(PretrainedConfig):
    """Configuration of all SOHO models; the defaults are the paper's R101 + 12 layers.

    Args:
        vocab_size: number of WordPiece tokens.
        hidden_size: C, shared by word embeddings, visual dictionary and fusion Transformer (section 3.3).
        num_hidden_layers: layers of the fusion Transformer (12; 3 in the ablations of section 4.3).
        fusion_start: number of layers that read the text alone before the picture joins it; 0 = the paper: both are
            read together from the first layer.
        num_attention_heads: attention heads; must divide `hidden_size`.
        intermediate_size: width of the feed-forward blocks.
        hidden_dropout_prob: dropout after embeddings and blocks.
        attention_probs_dropout_prob: dropout on attention weights.
        layer_norm_eps: epsilon of every layer norm in text embedding and Transformer (BERT: 1e-12).
        max_position_embeddings: learned text positions.
        type_vocab_size: token types of the text embedding, as in BERT; only type 0 is used.
        initializer_range: standard deviation of newly initialised weights.
        pad_token_id: id of `[PAD]`.
        mask_token_id: id of `[MASK]`; its word embedding also replaces masked visual tokens (section 3.3).
        visual_backbone: a transformers backbone configuration as a dict with `model_type` (None: ResNet-101).
        backbone_factory: `package.module:function` that builds the CNN instead; see `soho.models.visual_encoder`.
        backbone_factory_args: keyword arguments of that function.
        visual_feature_norm: "layer" gives every visual feature zero mean and unit variance over its channels before
            the dictionary, "none" is the literal paper; see docs/deviations.md.
        visual_summary: True puts one more visual token before the cells: the mean of the projected cells before
            max-pooling and normalisation, weighted by a learned attention over the CNN's last feature map; it has no
            position, no code and is never masked. False = the paper.
        use_dictionary: False removes the visual dictionary and MVM (the baseline of Table 7).
        dictionary_size: K, number of codes (section 4.3: 2048 is best).
        dictionary_momentum: gamma of Eq. 4.
        dictionary_ramp_steps: over the first updates gamma is min(gamma, (1 + t) / (ramp + t)); 0 = no ramp.
        dictionary_revive_after: a code not hit for this many updates becomes a feature of the current batch;
            None = never, the literal Eq. 4.
        dictionary_dead_after: a code not hit for this many updates counts as dead in the health figures.
        visual_input: what the Transformer reads: "dictionary" (pre-training) or "features", the vectors before the
            dictionary (section 4.2: better for downstream tasks).
        mvm_max_masked_share: an index that covers more than this share of an image's cells is not masked.
        mlm_weight: weight of the MLM loss (Eq. 9: equal weights).
        mvm_weight: weight of the MVM loss.
        itm_weight: weight of the ITM loss.
        itc_weight: weight of the optional image-text contrastive loss; 0 = no such head, as in the paper.
        itc_pooling: what that head averages: "embeddings" (visual features and words as they enter fusion), "fusion"
            (both after the fusing layers have read each alone) or "dual_encoder" (the text as it leaves the layers
            before `fusion_start`, and of the picture its summary token alone; needs both).
        match_adds_contrast: retrieval: the match score is what fusion finds plus the contrastive similarity; fusion
            is trained by itself. False = fusion alone, as in the paper.
        match_hard_negatives: retrieval: how many unaligned texts per picture, and pictures per text, go through
            fusion beside the aligned pair, drawn from the batch by contrastive similarity (fusion then learns what
            that leaves open: see `match_adds_contrast`); 0 = all pairs of the batch, as in section 4.2.1.
        answer_head_width: hidden width of the answer head (VQA) and of the reasoning head (NLVR2) as a multiple of
            `hidden_size`.
        answer_head_dropout: dropout inside these two heads.
        answers: the answer vocabulary of a question-answering model, in index order.
        **kwargs: everything `PretrainedConfig` takes.

    Raises:
        SohoError: a value outside its range, or a combination that cannot work.
    """

    model_type = "soho"
    # May a factory from outside this package run? A configuration made in Python is its author's own word; one that
    # was read from a file is not (see `from_dict`). Never written to a file.
    trust_remote_code = True

    def __init__(
        self,
        vocab_size: int = 30522,
        hidden_size: int = 768,
        num_hidden_layers: int = 12,
        fusion_start: int = 0,
        num_attention_heads: int = 12,
        intermediate_size: int = 3072,
        hidden_dropout_prob: float = 0.1,
        attention_probs_dropout_prob: float = 0.1,
        layer_norm_eps: float = 1e-12,
        max_position_embeddings: int = 512,
        type_vocab_size: int = 2,
        initializer_range: float = 0.02,
        pad_token_id: int = 0,
        mask_token_id: int = 103,
        visual_backbone: dict[str, Any] | None = None,
        backbone_factory: str | None = None,
        backbone_factory_args: dict[str, Any] | None = None,
        visual_feature_norm: str = "layer",
        visual_summary: bool = False,
        use_dictionary: bool = True,
        dictionary_size: int = 2048,
        dictionary_momentum: float = 0.99,
        dictionary_ramp_steps: int = 10,
        dictionary_revive_after: int | None = None,
        dictionary_dead_after: int = 100,
        visual_input: str = "dictionary",
        mvm_max_masked_share: float = 0.5,
        mlm_weight: float = 1.0,
        mvm_weight: float = 1.0,
        itm_weight: float = 1.0,
        itc_weight: float = 0.0,
        itc_pooling: str = "embeddings",
        match_adds_contrast: bool = False,
        match_hard_negatives: int = 0,
        answer_head_width: int = 2,
        answer_head_dropout: float = 0.1,
        answers: list[str] | None = None,
        **kwargs: Any,
    ) -> None:
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.fusion_start = fusion_start
        self.num_attention_heads = num_attention_heads
        self.intermediate_size = intermediate_size
        self.hidden_dropout_prob = hidden_dropout_prob
        self.attention_probs_dropout_prob = attention_probs_dropout_prob
        self.layer_norm_eps = layer_norm_eps
        self.max_position_embeddings = max_position_embeddings
        self.type_vocab_size = type_vocab_size
        self.initializer_range = initializer_range
        self.mask_token_id = mask_token_id
        self.visual_backbone = None if backbone_factory else (visual_backbone or dict(RESNET_101))
        self.backbone_factory = backbone_factory
        self.backbone_factory_args = backbone_factory_args or {}
        self.visual_feature_norm = visual_feature_norm
        self.visual_summary = visual_summary
        self.use_dictionary = use_dictionary
        self.dictionary_size = dictionary_size
        self.dictionary_momentum = dictionary_momentum
        self.dictionary_ramp_steps = dictionary_ramp_steps
        self.dictionary_revive_after = dictionary_revive_after
        self.dictionary_dead_after = dictionary_dead_after
        self.visual_input = visual_input
        self.mvm_max_masked_share = mvm_max_masked_share
        self.mlm_weight = mlm_weight
        self.mvm_weight = mvm_weight
        self.itm_weight = itm_weight
        self.itc_weight = itc_weight
        self.itc_pooling = itc_pooling
        self.match_adds_contrast = match_adds_contrast
        self.match_hard_negatives = match_hard_negatives
        self.answer_head_width = answer_head_width
        self.answer_head_dropout = answer_head_dropout
        self.answers = list(answers or [])
        kwargs.pop("tie_word_embeddings", None)
        super().__init__(pad_token_id=pad_token_id, tie_word_embeddings=True, **kwargs)
        self._check()

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> Any:
        """Read the configuration of a folder or hub id; the class is that of the wiring its file names.

        Raises:
            SohoError: it is that of another kind of model.
        """
        chosen = wiring_of(pretrained_model_name_or_path, **kwargs)
        if chosen is not cls and issubclass(chosen, cls):
            return chosen.from_pretrained(pretrained_model_name_or_path, **kwargs)
        if chosen is not cls:
            raise SohoError(
                f"{str(pretrained_model_name_or_path)!r} is a {chosen.model_type!r} model; expected {cls.model_type!r}"
            )
        return super().from_pretrained(pretrained_model_name_or_path, **kwargs)

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Make a configuration from what a file says; as in transformers.

        Every way of reading a file comes through here. A backbone factory from outside this package is then not run
        unless the model is loaded with `trust_remote_code=True`, or `config.trust_remote_code = True` is set.
        """
        fields = {key: value for key, value in config_dict.items() if key != "trust_remote_code"}
        result = super().from_dict(fields, **kwargs)
        config = result[0] if isinstance(result, tuple) else result
        if is_foreign_factory(config.backbone_factory):
            config.trust_remote_code = False
        return result

    def to_dict(self) -> dict[str, Any]:
        """Return the fields that are saved."""
        fields: dict[str, Any] = super().to_dict()
        fields.pop("trust_remote_code", None)
        return fields

    def _check(self) -> None:
        for name in COUNTS:
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise SohoError(f"{name}={value!r} must be a whole number of at least 1")
        for name in SHARES:
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or not 0.0 <= value <= 1.0:
                raise SohoError(f"{name}={value!r} must be a number in [0, 1]")
        if not isinstance(self.fusion_start, int) or not 0 <= self.fusion_start < self.num_hidden_layers:
            raise SohoError(
                f"fusion_start={self.fusion_start!r} must be a whole number of at least 0 and below "
                f"num_hidden_layers={self.num_hidden_layers}: at least one layer reads text and picture together"
            )
        if not 0 <= self.mask_token_id < self.vocab_size:
            raise SohoError(
                f"mask_token_id={self.mask_token_id} must lie below vocab_size={self.vocab_size}: its word embedding "
                "replaces masked visual tokens"
            )
        if self.hidden_size % self.num_attention_heads:
            raise SohoError(
                f"num_attention_heads={self.num_attention_heads} must divide hidden_size={self.hidden_size}"
            )
        if self.hidden_size % 4:
            raise SohoError(
                f"hidden_size={self.hidden_size} must be a multiple of 4: the 2-D sine position embedding holds a "
                "sine and a cosine for each of two axes"
            )
        _one_of("visual_feature_norm", self.visual_feature_norm, ("layer", "none"))
        _one_of("itc_pooling", self.itc_pooling, ITC_POOLINGS)
        if self.itc_pooling == "dual_encoder" and not self.visual_summary:
            raise SohoError("itc_pooling='dual_encoder' needs visual_summary=true, the token it compares")
        if self.itc_pooling == "dual_encoder" and not self.fusion_start:
            raise SohoError(
                "itc_pooling='dual_encoder' needs fusion_start above 0: layers that read the text it compares"
            )
        if not isinstance(self.match_hard_negatives, int) or self.match_hard_negatives < 0:
            raise SohoError(f"match_hard_negatives={self.match_hard_negatives!r} must be a whole number, 0 or more")
        for name in ("match_hard_negatives", "match_adds_contrast"):
            if getattr(self, name) and self.itc_weight <= 0:
                raise SohoError(
                    f"{name}={getattr(self, name)} needs itc_weight above 0: it uses the contrastive similarity"
                )
        _one_of("visual_input", self.visual_input, ("dictionary", "features"))
        if self.visual_input == "dictionary" and not self.use_dictionary:
            self.visual_input = "features"


def wiring_of(source: Any, **kwargs: Any) -> type[SohoConfig]:
    """Return the configuration class of a folder or hub id, by the model type that its file names.

    Args:
        source: what `from_pretrained` takes.
        **kwargs: its options; those that say where to look are used.

    Raises:
        SohoError: it is that of another kind of model.
    """
    fields, _ = SohoConfig.get_config_dict(source, **kwargs)
    kind = fields.get("model_type", SohoConfig.model_type)
    try:
        chosen: type[SohoConfig] = CONFIG_MAPPING[kind]
    except KeyError:
        chosen = PretrainedConfig
    if not issubclass(chosen, SohoConfig):
        raise SohoError(f"{str(source)!r} is a {kind!r} model; expected a SOHO model")
    return chosen


def is_foreign_factory(name: str | None) -> bool:
    """Say whether a backbone factory is code from outside this package."""
    return name is not None and not str(name).startswith("soho.")


def _one_of(name: str, value: str, allowed: Iterable[str]) -> None:
    choices = tuple(allowed)
    if value not in choices:
        raise SohoError(f"{name}={value!r} is not known; expected one of {', '.join(choices)}")


def check_config_fields(fields: Iterable[str], config_class: type[SohoConfig] = SohoConfig) -> None:
    """Refuse names that are no field of a configuration class.

    Raises:
        SohoError: names the unknown field and the nearest valid one.
    """
    known = [name for name in config_class().to_dict() if not name.startswith("_")]
    for field in fields:
        if field not in known:
            near = difflib.get_close_matches(field, known, 1, 0.0)
            raise SohoError(f"unknown model field 'model.config.{field}'; did you mean 'model.config.{near[0]}'?")
