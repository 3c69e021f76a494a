"""The trainable visual encoder (section 3.1): CNN, 1x1 convolution, 2x2 max-pooling.

The CNN is any transformers backbone, named by its configuration, or whatever a Python factory builds. A factory is
called as `factory(pretrained=bool, **backbone_factory_args)` and returns an `nn.Module` with an attribute
`out_channels: int` whose forward maps (B, 3, H, W) to (B, out_channels, ceil(H/32), ceil(W/32)).
"""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Callable
from contextlib import nullcontext
from contextvars import ContextVar
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoBackbone, AutoConfig

from soho.errors import SohoError
from soho.models.configuration_soho import SohoConfig, is_foreign_factory
from soho.models.dropout import Dropout

# Set while `from_pretrained` runs, to its `trust_remote_code`: a model folder alone must never make us import code.
# None: the configuration itself says whether it was made in Python or read from a file.
FACTORY_ALLOWED: ContextVar[bool | None] = ContextVar("soho_factory_allowed", default=None)


class VisualFeatures(NamedTuple):
    """Output of the visual encoder.

    Attributes:
        features: (B, N, C) one vector per cell, row by row; zero at padding cells.
        mask: (B, N) bool, True where a cell holds picture.
        grid: (rows, columns) with rows * columns = N.
        summary: (B, C) the picture as a whole (`config.visual_summary`), or None.
    """

    features: Tensor
    mask: Tensor
    grid: tuple[int, int]
    summary: Tensor | None = None


def call_factory(config: SohoConfig, *, pretrained: bool) -> nn.Module:
    """Build the CNN named by `config.backbone_factory`.

    Raises:
        SohoError: the name is not `package.module:function`, cannot be imported, or builds something else than
            a module with `out_channels`; or the factory comes from a model folder that was not trusted.
    """
    name = str(config.backbone_factory)
    module_name, _, function_name = name.partition(":")
    if not module_name or not function_name:
        raise SohoError(f"backbone_factory={name!r} must read package.module:function")
    allowed = FACTORY_ALLOWED.get()
    if is_foreign_factory(name) and not (config.trust_remote_code if allowed is None else allowed):
        raise SohoError(
            f"this model folder wants to run the code of {name!r} to build its CNN; pass trust_remote_code=True "
            "if you trust whoever made it"
        )
    try:
        factory = getattr(importlib.import_module(module_name), function_name)
    except (ImportError, AttributeError) as error:
        raise SohoError(f"backbone_factory={name!r} cannot be imported: {error}") from None
    try:
        backbone = factory(pretrained=pretrained, **config.backbone_factory_args)
    except TypeError as error:
        raise SohoError(f"backbone_factory={name!r} does not take these arguments: {error}") from error
    if not isinstance(backbone, nn.Module) or not isinstance(getattr(backbone, "out_channels", None), int):
        raise SohoError(f"backbone_factory={name!r} must return an nn.Module with an integer out_channels")
    for module in backbone.modules():
        # A model folder must hold every buffer: `from_pretrained` fills those that it does not find with garbage.
        module._non_persistent_buffers_set.clear()
    return backbone


def build_backbone(config: SohoConfig) -> tuple[nn.Module, int]:
    """Build the CNN of a configuration with random weights.

    Returns:
        The module and its number of output channels.
    """
    if config.backbone_factory:
        backbone = call_factory(config, pretrained=False)
        for module in backbone.modules():
            module._is_hf_initialized = True  # type: ignore[assignment]  # the factory has done its own initialisation
        return backbone, int(backbone.out_channels)  # type: ignore[arg-type]
    fields = dict(config.visual_backbone or {})
    model_type = fields.pop("model_type", "resnet")
    backbone_config = AutoConfig.for_model(model_type, **fields)
    backbone_config.out_features = [backbone_config.stage_names[-1]]  # last stage only
    backbone = AutoBackbone.from_config(backbone_config)
    return backbone, int(backbone.channels[-1])


class VisualEncoder(nn.Module):
    """E of Eq. 1: the last CNN stage, a 1x1 convolution to C channels, then 2x2 max-pooling with ceil.

    A 600 x 1000 picture gives ceil(600/64) x ceil(1000/64) = 10 x 16 = 160 tokens (section 4.5).
    """

    def __init__(self, config: SohoConfig) -> None:
        super().__init__()
        self.backbone, channels = build_backbone(config)
        self.projection = nn.Conv2d(channels, config.hidden_size, kernel_size=1)
        self.layer_norm = config.visual_feature_norm == "layer"
        self.summary = AttentionPool(channels, config) if config.visual_summary else None
        self.frozen = False
        self.memory: FeatureMemory | None = None

    def freeze(self, frozen: bool) -> None:
        """Freeze or thaw the CNN: no gradient reaches it and its batch-norm statistics stay (section 3.2)."""
        self.frozen = frozen
        if self.memory is not None and not frozen:
            self.memory = FeatureMemory(0)  # what it knows will soon be wrong, and must not come back
        self.train(self.training)

    def train(self, mode: bool = True) -> VisualEncoder:
        """Set the training mode; a frozen CNN stays in evaluation mode."""
        super().train(mode)
        if self.frozen:
            self.backbone.eval()
        return self

    def _backbone_maps(self, pixel_values: Tensor) -> Tensor:
        output = self.backbone(pixel_values)
        return output if isinstance(output, Tensor) else output.feature_maps[-1]  # (B, C', h, w)

    def forward(self, pixel_values: Tensor, pixel_mask: Tensor) -> VisualFeatures:
        """Encode whole pictures.

        Args:
            pixel_values: (B, 3, H, W) normalised pixels, zero where padded.
            pixel_mask: (B, H, W) bool, True on picture.

        Returns:
            (B, N, C) features with their mask and grid; see `VisualFeatures`.
        """
        with torch.no_grad() if self.frozen else nullcontext():
            if self.memory is not None and self.frozen:
                maps = self.memory.recall(pixel_values, self._backbone_maps)
            else:
                maps = self._backbone_maps(pixel_values)
        # A cell of the CNN's grid is valid where it covers any pixel of the picture. Padding cells are kept out of
        # the pooling, so that the result is that of pooling the picture alone.
        cells = F.adaptive_max_pool2d(pixel_mask.float().unsqueeze(1), maps.shape[-2:]) > 0  # (B, 1, h, w)
        projected = self.projection(maps)  # (B, C, h, w)
        summary = None if self.summary is None else self.summary(maps, projected, cells)
        maps = F.max_pool2d(projected.masked_fill(~cells, float("-inf")), 2, ceil_mode=True)
        mask = F.max_pool2d(cells.float(), 2, ceil_mode=True) > 0  # (B, 1, rows, columns)
        maps = maps.masked_fill(~mask, 0.0)
        grid = (maps.shape[-2], maps.shape[-1])
        features = maps.flatten(2).transpose(1, 2)  # (B, N, C)
        mask = mask.flatten(1)
        if self.layer_norm:
            # Without learned scale: features keep the length of the N(0, 1) codes they are compared with.
            features = F.layer_norm(features, features.shape[-1:])
        return VisualFeatures(features * mask.unsqueeze(-1), mask, grid, summary)


class AttentionPool(nn.Module):
    """The picture as one vector: the mean of its projected cells, weighted by what attention reads in the CNN's map.

    Cells and summary share the projection, so a loss on the summary brings every cell where it brings their mean.
    """

    def __init__(self, channels: int, config: SohoConfig) -> None:
        super().__init__()
        self.attention = nn.Linear(channels, 1)
        self.dropout = Dropout(config.attention_probs_dropout_prob)

    def forward(self, maps: Tensor, projected: Tensor, cells: Tensor) -> Tensor:
        """Pool projected maps (B, C, h, w) over their valid cells.

        Args:
            maps: (B, C', h, w) of the CNN.
            projected: (B, C, h, w).
            cells: (B, 1, h, w) bool, True on picture.

        Returns:
            (B, C).
        """
        scores = self.attention(maps.flatten(2).transpose(1, 2)).squeeze(-1)
        weights = self.dropout(scores.masked_fill(~cells.flatten(1), -1e4).softmax(dim=1))  # (B, h * w)
        return (projected.flatten(2) @ weights.to(projected.dtype).unsqueeze(-1)).squeeze(-1)


class FeatureMemory:
    """Feature maps that a frozen CNN has computed, so that it sees every picture only once.

    A picture is known by the digest of its pixels, so nothing has to be said about identity, and another size or
    another normalisation is another picture. Once the memory is full, new pictures are computed each time.

    Args:
        megabytes: bound of what is kept.
    """

    def __init__(self, megabytes: int) -> None:
        self.left = megabytes * 2**20
        self._maps: dict[bytes, Tensor] = {}

    def recall(self, pixel_values: Tensor, compute: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the (B, C', h, w) maps of (B, 3, H, W) pictures, computing those that are not known."""
        # As batches lie in memory: colours last.
        rows = pixel_values.detach().cpu().permute(0, 2, 3, 1).contiguous().numpy()
        keys = [hashlib.blake2b(row.tobytes() + str(row.shape).encode(), digest_size=16).digest() for row in rows]
        unknown = [place for place, key in enumerate(keys) if key not in self._maps]
        fresh: dict[int, Tensor] = {}
        if unknown:
            maps = compute(pixel_values[unknown] if len(unknown) < len(keys) else pixel_values)
            fresh = dict(zip(unknown, maps))
            for place, one in fresh.items():
                size = one.numel() * one.element_size()
                if size <= self.left and keys[place] not in self._maps:
                    self.left -= size
                    self._maps[keys[place]] = one.detach().clone()
        return torch.stack([fresh[place] if place in fresh else self._maps[key] for place, key in enumerate(keys)])
