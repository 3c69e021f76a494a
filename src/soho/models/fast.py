"""A trained model in the fastest settings of its device, for inference: the same class, the same verbs.

bfloat16 weights where the device computes in it, channels-last convolutions, batch norm folded into them, and on
request compiled graphs. Whatever is not possible is left out; `FastReport` says what was done.
"""

from __future__ import annotations

import copy
import logging
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from soho.models.folding import folded
from soho.models.modeling_soho import SohoPreTrainedModel

logger = logging.getLogger(__name__)
AnyModel = TypeVar("AnyModel", bound=SohoPreTrainedModel)

# What stays in float32: codes are compared in it, and these small parts exponentiate.
FULL_PRECISION = ("visual_dictionary", "contrast_head", "match_contrast")


@dataclass
class FastReport:
    """What was done to a model.

    Attributes:
        dtype: of the weights.
        folded_norms: batch norms that went into convolutions.
        compiled: whether CNN and fusion Transformer are compiled (at their first use).
        notes: what was not possible, one sentence each.
    """

    dtype: torch.dtype
    folded_norms: int = 0
    compiled: bool = False
    notes: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """Return the report for a console."""
        done = f"weights in {str(self.dtype).removeprefix('torch.')}, {self.folded_norms} batch norms folded"
        return [done + (", compiled" if self.compiled else ""), *self.notes]


def fast_dtype(device: torch.device | str) -> torch.dtype:
    """Return bfloat16 where the device multiplies matrices in it at more than the speed of float32, else float32."""
    kind = torch.device(device).type
    if kind == "cuda":
        # Emulated on cards before compute capability 8.0.
        return torch.bfloat16 if torch.cuda.get_device_capability(device)[0] >= 8 else torch.float32
    if kind == "cpu":
        checks = [getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")]
        return torch.bfloat16 if any(check is not None and check() for check in checks) else torch.float32
    return torch.float32


def fast_copy(
    model: AnyModel,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    compiled: bool = False,
) -> tuple[AnyModel, FastReport]:
    """Return a copy of a model for inference in the fastest settings of a device.

    The copy takes the same inputs (float32 pixels) and gives the same outputs, up to the rounding of its type. It is
    for inference: save the model that it was made from.

    Args:
        model: a trained model with float32 weights; it is not changed.
        device: where the copy computes; None: where the model is.
        dtype: of the weights; None: `fast_dtype` of the device.
        compiled: compile CNN and fusion Transformer with torch.compile. Pays where many pictures and texts of few
            shapes come: every new shape of a picture, and every new length and number of texts, costs up to a minute
            once, and torch runs what comes after its limit of shapes as it is. Falls back to eager execution where
            compiling fails.

    Returns:
        The copy and what was done.
    """
    device = torch.device(device) if device is not None else next(model.parameters()).device
    report = FastReport(dtype or fast_dtype(device))
    fast = copy.deepcopy(model).eval().requires_grad_(False)
    encoder: Any = fast.trunk.visual_encoder
    encoder.memory = None
    try:
        # On the CPU, in full float32: the reduced precision of a card would look like a changed output.
        encoder.backbone, report.folded_norms = folded(encoder.backbone.cpu())
        norms = sum(isinstance(part, nn.BatchNorm2d) for part in encoder.backbone.modules())
        if norms and not report.folded_norms:
            report.notes.append(f"{norms} batch norms were not folded: the CNN's output would change")
    except (RuntimeError, ValueError, AttributeError, TypeError) as error:  # a user's CNN may do anything
        report.notes.append(f"batch norms were not folded: {str(error).splitlines()[0] if str(error) else error!r}")
    fast.to(device)
    _cast(fast, report.dtype)
    for name in ("backbone", "projection"):
        getattr(encoder, name).to(memory_format=torch.channels_last)
    backbone, fusion = encoder.backbone, fast.trunk.fusion
    if compiled:
        backbone, fusion = Compiled(backbone, report), Compiled(fusion, report)
        report.compiled = True
    encoder.backbone = PixelGate(backbone, report.dtype)
    fast.trunk.fusion = fusion
    return fast, report


def _cast(model: nn.Module, dtype: torch.dtype) -> None:
    """Bring floating-point parameters and buffers into a type, those of `FULL_PRECISION` excepted."""
    for name, part in model.named_modules():
        if any(piece in FULL_PRECISION for piece in name.split(".")):
            continue
        for table in (part._parameters, part._buffers):
            for tensor in table.values():
                if tensor is not None and tensor.is_floating_point():
                    tensor.data = tensor.data.to(dtype)


class PixelGate(nn.Module):
    """Brings float32 pixels into the type and layout of the CNN behind it."""

    def __init__(self, backbone: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.backbone, self.dtype = backbone, dtype

    def forward(self, pixel_values: Tensor) -> Any:
        """Map (B, 3, H, W) to what the CNN returns."""
        return self.backbone(pixel_values.to(self.dtype, memory_format=torch.channels_last))


class Compiled(nn.Module):
    """A module that is compiled at its first call, and runs as it is from then on where that fails.

    Attributes that it does not have are those of the module behind it.
    """

    def __init__(self, module: nn.Module, report: FastReport) -> None:
        super().__init__()
        self.module, self.report = module, report
        self._graph: Any = None
        self._failed = False

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("module"), name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the module."""
        if self._failed:
            return self.module(*args, **kwargs)
        try:
            if self._graph is None:
                self._graph = torch.compile(self.module, dynamic=False)
            # Freezing makes the weights constants of the graph, so that they are laid out for it once.
            with torch.no_grad(), _freezing():
                return self._graph(*args, **kwargs)
        except Exception as error:  # no compiler, no space, an operation it does not know: all end alike
            first = " ".join(str(error).split())[:150]
            self._failed, self._graph = True, None
            self.report.compiled = False
            self.report.notes.append(f"{type(self.module).__name__} is not compiled: {type(error).__name__}: {first}")
            logger.warning("%s", self.report.notes[-1])
            return self.module(*args, **kwargs)


def _freezing() -> Any:
    try:
        from torch._inductor import config

        return config.patch(freezing=True)
    except (ImportError, AttributeError):  # a private place, which may move
        return nullcontext()
