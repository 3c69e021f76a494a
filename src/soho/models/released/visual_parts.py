"""Visual parts that only the released wiring has: pooling before the convolution, its norm, the mask, the code gate."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from soho.errors import SohoError
from soho.models.released.configuration_released import SohoReleasedConfig
from soho.models.visual_encoder import FeatureMemory, build_backbone


class ReleasedVisualEncoder(nn.Module):
    """CNN, 2x2 max-pooling with floor, 1x1 convolution without bias, batch norm.

    Stem and first stages stay as they are: no gradient, running statistics untouched in training.
    """

    def __init__(self, config: SohoReleasedConfig) -> None:
        super().__init__()
        self.backbone, channels = build_backbone(config)
        self.projection = nn.Conv2d(channels, config.hidden_size, kernel_size=1, bias=False)
        self.norm = nn.BatchNorm2d(config.hidden_size)
        self.frozen_stages = config.frozen_stages
        self.frozen = False
        self.memory: FeatureMemory | None = None
        self.train(self.training)

    def _fixed(self) -> list[nn.Module]:
        if self.frozen_stages < 0:
            return []
        return [self.backbone.embedder, *self.backbone.encoder.stages[: self.frozen_stages]]  # type: ignore[union-attr, index, list-item]

    def freeze(self, frozen: bool) -> None:
        """Freeze or thaw the rest of the CNN too; see `VisualEncoder.freeze`."""
        self.frozen = frozen
        if self.memory is not None and not frozen:
            self.memory = FeatureMemory(0)  # as in `VisualEncoder.freeze`
        self.train(self.training)

    def train(self, mode: bool = True) -> ReleasedVisualEncoder:
        """Set the training mode; what is frozen stays in evaluation mode."""
        super().train(mode)
        if self.frozen:
            self.backbone.eval()
        for module in self._fixed():
            # Here too, because `from_pretrained` makes new parameters, and then calls `eval()`.
            module.eval().requires_grad_(False)
        return self

    def _backbone_maps(self, pixel_values: Tensor) -> Tensor:
        maps: Tensor = self.backbone(pixel_values).feature_maps[-1]
        return maps

    def forward(self, pixel_values: Tensor, rows: Tensor | None = None) -> Tensor:
        """Encode whole pictures.

        Args:
            pixel_values: (B, 3, H, W), zero where padded.
            rows: (P,) pictures to go on with after the CNN, one a pair; None: each once.

        Returns:
            (B or P, C, rows, columns) features of all cells, padding included.

        Raises:
            SohoError: a training batch has a single cell, so that there is nothing to normalise over.
        """
        with torch.no_grad() if self.frozen else nullcontext():
            if self.memory is not None and self.frozen:
                maps = self.memory.recall(pixel_values, self._backbone_maps)
            else:
                maps = self._backbone_maps(pixel_values)  # (B, C', h, w)
        if rows is not None:
            maps = maps[rows]
        maps = self.projection(F.max_pool2d(maps, 2))
        if self.norm.training and maps.numel() == maps.shape[1]:
            raise SohoError(
                "a training batch of the released wiring needs more than one cell of 64 x 64 pixels for its batch "
                "norm; take larger pictures or batches"
            )
        return self.norm(maps)


def sampled_mask(pixel_mask: Tensor, grid: tuple[int, int], width_defect: bool) -> Tensor:
    """Say which cells hold picture: the pixel mask, sampled at the upper left pixel of every cell.

    Args:
        pixel_mask: (B, H, W) bool, True on picture.
        grid: (rows, columns) of the cells.
        width_defect: sample a canvas of H x H pixels instead of H x W, as the release does.

    Returns:
        (B, rows, columns) bool.
    """
    canvas = pixel_mask.float().unsqueeze(1)
    if width_defect:
        height, width = pixel_mask.shape[1:]
        canvas = F.pad(canvas, (0, max(0, height - width)))[..., :height]
    return F.interpolate(canvas, size=grid, mode="nearest").squeeze(1) > 0


class CodeGate(nn.Module):
    """Maps codes linearly and mixes them with the features; two weights per cell, which sum to 1."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mapping = nn.Linear(width, width)
        self.projection = nn.Conv2d(2 * width, 2, kernel_size=1, bias=False)
        self.norm = nn.BatchNorm2d(2)

    def forward(self, codes: Tensor, features: Tensor) -> Tensor:
        """Mix codes (B, N, C) with a feature map (B, C, rows, columns); returns (B, N, C)."""
        mapped = self.mapping(codes).transpose(1, 2).unflatten(2, features.shape[-2:])  # (B, C, rows, columns)
        weights = self.norm(self.projection(torch.cat((mapped, features), dim=1))).softmax(dim=1)
        return (weights[:, :1] * mapped + weights[:, 1:] * features).flatten(2).transpose(1, 2)


class MaskVector(nn.Module):
    """The learned vector that stands for a hidden visual cell."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(1, width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw from N(0, 1)."""
        nn.init.normal_(self.weight)

    def forward(self, tokens: Tensor, masked: Tensor) -> Tensor:
        """Replace the tokens (P, N, C) where `masked` (P, N) is True."""
        return torch.where(masked.unsqueeze(-1), self.weight.to(tokens.dtype), tokens)
