"""The configuration of a model in the wiring of the 2021 release."""

from __future__ import annotations

from typing import Any

from soho.errors import SohoError
from soho.models.configuration_soho import SohoConfig

# Fields of `SohoConfig` whose mechanism does not exist in this wiring.
PAPER_ONLY = (
    "backbone_factory",
    "visual_feature_norm",
    "dictionary_ramp_steps",
    "dictionary_revive_after",
    "dictionary_dead_after",
    "mvm_max_masked_share",
)


class SohoReleasedConfig(SohoConfig):
    """Configuration of the released wiring; sizes and dropouts are those of `SohoConfig`.

    Args:
        mask_width_defect: take the width of the padding mask's canvas from its height, as the release does. Off by
            default: portrait pictures would lose columns, and padding beside narrow ones would count as picture.
        frozen_stages: the stem and this many stages of the CNN are never trained, and their batch norms keep their
            running statistics (-1: all of the CNN is free).
        dictionary_momentum: weight of the old counts and sums in every update of the dictionary.
        dictionary_epsilon: of the Laplace smoothing of the dictionary's counts.
        mvm_mask_probability: share of the pairs whose cells MVM hides.
        visual_input: "dictionary" mixes features with codes (pre-training); "features" has no dictionary at all.
        answer_head_width: hidden width of the answer head as a multiple of `hidden_size`.
        answer_head_dropout: dropout inside the answer head.
        **kwargs: as `SohoConfig`.

    Raises:
        SohoError: a value outside its range, or a field of the paper's wiring that means nothing here.
    """

    model_type = "soho-released"

    def __init__(
        self,
        mask_width_defect: bool = False,
        frozen_stages: int = 1,
        dictionary_momentum: float = 0.4,
        dictionary_epsilon: float = 1e-5,
        mvm_mask_probability: float = 0.015,
        visual_input: str = "dictionary",
        answer_head_width: int = 4,
        answer_head_dropout: float = 0.5,
        **kwargs: Any,
    ) -> None:
        self.mask_width_defect = mask_width_defect
        self.frozen_stages = frozen_stages
        self.dictionary_epsilon = dictionary_epsilon
        self.mvm_mask_probability = mvm_mask_probability
        # A model that reads the features has neither codes nor gate, so one field says both.
        kwargs["use_dictionary"] = kwargs.get("use_dictionary", True) and visual_input == "dictionary"
        super().__init__(
            dictionary_momentum=dictionary_momentum,
            visual_input=visual_input,
            answer_head_width=answer_head_width,
            answer_head_dropout=answer_head_dropout,
            **kwargs,
        )

    def _check(self) -> None:
        super()._check()
        if not isinstance(self.mask_width_defect, bool):
            raise SohoError(f"mask_width_defect={self.mask_width_defect!r} must be true or false")
        if not isinstance(self.frozen_stages, int) or self.frozen_stages < -1:
            raise SohoError(f"frozen_stages={self.frozen_stages!r} must be a whole number of at least -1")
        if not self.dictionary_epsilon > 0:
            raise SohoError(f"dictionary_epsilon={self.dictionary_epsilon!r} must be above 0")
        if not 0 <= self.mvm_mask_probability <= 1:
            raise SohoError(f"mvm_mask_probability={self.mvm_mask_probability!r} must be a number in [0, 1]")
        paper = SohoConfig()
        for name in PAPER_ONLY:
            value = getattr(self, name)
            if value != getattr(paper, name):
                raise SohoError(f"{name}={value!r} belongs to the paper's wiring; the released one has no such thing")
        if (self.visual_backbone or {}).get("model_type") != "resnet":
            raise SohoError(
                f"visual_backbone={self.visual_backbone!r} must be a resnet; the released wiring knows no other"
            )
