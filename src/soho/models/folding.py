"""Batch norm folded into the convolution before it, for inference: a quarter of a CNN's memory traffic less.

Which norm follows which convolution is watched during one forward pass instead of read off attribute names, so every
CNN will do: those of transformers, EfficientNet-lite0, one from a user's factory.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

# Height and width of the random picture on which a CNN is watched and compared: small, and a multiple of 64.
PROBE = (2, 3, 128, 128)
# Largest difference of the folded CNN, as a share of the largest output. float32 rounding stays far below; a
# convolution whose output somebody else reads too does not.
TOLERANCE = 1e-3

Pair = tuple[str, str]


def folded(module: nn.Module) -> tuple[nn.Module, int]:
    """Return a copy of a CNN in evaluation mode in which batch norms are part of their convolutions.

    Args:
        module: maps pictures (B, 3, H, W); float32 parameters. It is not changed.

    Returns:
        The copy and the number of norms that were folded: 0, and a plain copy, where folding would change the output.
    """
    plain = copy.deepcopy(module).eval().requires_grad_(False)
    work = copy.deepcopy(plain)
    device = next(iter(work.parameters()), torch.zeros(())).device
    probe = torch.randn(PROBE, generator=torch.Generator().manual_seed(0)).to(device)
    with torch.inference_mode(False), torch.no_grad(), torch.autocast(device.type, enabled=False):
        pairs = watched_pairs(work, probe)
        for names in pairs:
            convolution, norm = (work.get_submodule(name) for name in names)
            assert isinstance(convolution, nn.Conv2d)
            assert isinstance(norm, nn.BatchNorm2d)
            work.set_submodule(names[0], fuse_conv_bn_eval(convolution, norm))
            work.set_submodule(names[1], nn.Identity())
        before, after = _maps(plain(probe)), _maps(work(probe))
    same = len(before) == len(after) and all(_close(a, b) for a, b in zip(before, after))
    return (work, len(pairs)) if same else (plain, 0)


def watched_pairs(module: nn.Module, probe: Tensor) -> list[Pair]:
    """Run a module and return the names of each convolution and the batch norm that reads its output.

    Modules that ran more than once are left out: their norms could not go into one set of weights.
    """
    names = {id(part): name for name, part in module.named_modules()}
    made: dict[int, tuple[str, Tensor]] = {}  # by the identity of the output, which is kept so that no other takes it
    runs: dict[str, int] = {}
    pairs: list[Pair] = []

    def convolved(part: nn.Module, _: object, output: Tensor) -> None:
        runs[names[id(part)]] = runs.get(names[id(part)], 0) + 1
        made[id(output)] = (names[id(part)], output)

    def normalised(part: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        runs[names[id(part)]] = runs.get(names[id(part)], 0) + 1
        if id(inputs[0]) in made:
            pairs.append((made[id(inputs[0])][0], names[id(part)]))

    with _hooks(module, convolved, normalised):
        module(probe)
    return [(a, b) for a, b in pairs if runs[a] == 1 and runs[b] == 1]


@contextmanager
def _hooks(module: nn.Module, convolved: object, normalised: object) -> Iterator[None]:
    handles = []
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            handles.append(part.register_forward_hook(convolved))  # type: ignore[arg-type]
        elif isinstance(part, nn.BatchNorm2d) and part.running_mean is not None:
            handles.append(part.register_forward_pre_hook(normalised))  # type: ignore[arg-type]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _maps(output: object) -> list[Tensor]:
    if isinstance(output, Tensor):
        return [output]
    return list(getattr(output, "feature_maps"))  # noqa: B009  # transformers' backbone output


def _close(before: Tensor, after: Tensor) -> bool:
    if before.shape != after.shape or not bool(after.isfinite().all()):
        return False
    scale = float(before.abs().max())
    return float((before - after).abs().max()) <= TOLERANCE * max(scale, 1e-6)
