"""The trunk in the wiring of the 2021 release."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from soho.errors import SohoError
from soho.models.modeling_soho import ImageEncoding, SohoModel
from soho.models.position_embedding import sine_position_embedding
from soho.models.released.configuration_released import SohoReleasedConfig
from soho.models.released.dictionary import ReleasedDictionary
from soho.models.released.visual_parts import CodeGate, MaskVector, ReleasedVisualEncoder, sampled_mask


class SohoReleasedModel(SohoModel):
    """Text embedding, fusion and verbs of `SohoModel` behind the visual parts of the release."""

    config_class = SohoReleasedConfig
    dictionary_parts: ClassVar[tuple[str, ...]] = ("visual_dictionary", "code_gate")

    def build_visual_parts(self, config: SohoReleasedConfig) -> None:  # type: ignore[override]
        """Make `visual_encoder` and, where the model reads codes, `visual_dictionary` and `code_gate`."""
        if config.visual_summary:
            raise SohoError("visual_summary has no place in the released wiring; set it to false")
        self.visual_encoder = ReleasedVisualEncoder(config)  # type: ignore[assignment]
        self.visual_dictionary: ReleasedDictionary | None = None  # type: ignore[assignment]
        self.code_gate: CodeGate | None = None
        if config.use_dictionary:
            self.visual_dictionary = ReleasedDictionary(
                config.dictionary_size, config.hidden_size, config.dictionary_momentum, config.dictionary_epsilon
            )
            self.code_gate = CodeGate(config.hidden_size)

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, ReleasedDictionary | MaskVector):
            module.reset_parameters()
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)

    def new_match_head(self) -> nn.Linear:
        """Make the head that maps [CLS] (P, C) to no match / match (P, 2), without bias."""
        return nn.Linear(self.config.hidden_size, 2, bias=False)

    def new_answer_head(self) -> nn.Module:
        """Make the head that maps [CLS] (P, C) to one logit an answer (P, A): linear, ReLU, dropout, linear."""
        config = self.config
        inner = config.answer_head_width * config.hidden_size
        return nn.Sequential(
            nn.Linear(config.hidden_size, inner),
            nn.ReLU(),
            nn.Dropout(config.answer_head_dropout),
            nn.Linear(inner, len(config.answers)),
        )

    def encode_image(
        self, pixel_values: Tensor, pixel_mask: Tensor | None = None, rows: Tensor | None = None
    ) -> ImageEncoding:
        """Encode whole pictures.

        Args:
            pixel_values: (B, 3, H, W).
            pixel_mask: (B, H, W) bool; None means that every pixel belongs to the picture.
            rows: (P,) pictures to go on with after the CNN. The release repeats a picture for each of its captions
                there, which in training weighs batch norms and dictionary.

        Returns:
            As `SohoModel.encode_image`, B or P rows; features and tokens of padding cells are not zero.
        """
        if pixel_mask is None:
            pixel_mask = torch.ones_like(pixel_values[:, 0], dtype=torch.bool)
        maps = self.visual_encoder(pixel_values, rows)  # (B, C, h, w)
        cells = sampled_mask(pixel_mask, (maps.shape[-2], maps.shape[-1]), self.config.mask_width_defect)
        if rows is not None:
            cells = cells[rows]
        position = sine_position_embedding(cells, self.config.hidden_size).flatten(1, 2)
        mask = cells.flatten(1)
        tokens = features = maps.flatten(2).transpose(1, 2)  # (B, N, C)
        indices: Tensor | None = None
        if self.visual_dictionary is not None and self.code_gate is not None:
            codes, indices = self.visual_dictionary(features, mask)
            tokens = self.code_gate(codes, maps)
            indices = indices.masked_fill(~mask, -1)
        return ImageEncoding(features, tokens, mask, position.to(features.dtype), indices)
