"""Tensors that processes share: whole, this process's part, and back."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor


def is_split(tensor: Tensor) -> bool:
    """Say whether a tensor is one that processes share."""
    return isinstance(tensor, DTensor)


def local_part(tensor: Tensor) -> Tensor:
    """Return this process's part of a tensor, in the same memory."""
    with torch.no_grad():
        return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def gathered(tensor: Tensor) -> Tensor:
    """Gather a tensor; every process calls it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def part_of(parameter: nn.Parameter) -> nn.Parameter:
    """Return this process's part of a parameter as a plain one in the same memory; a whole one as it is."""
    if not is_split(parameter):
        return parameter
    return nn.Parameter(local_part(parameter.detach()), requires_grad=parameter.requires_grad)


def shared_like(tensor: Tensor, part: Tensor) -> Tensor:
    """Return this process's `part` of something that is shared out as `tensor` is."""
    if not isinstance(tensor, DTensor):
        return part
    mesh, placements = tensor.device_mesh, tensor.placements
    return DTensor.from_local(part, mesh, placements, run_check=False, shape=tensor.shape, stride=tensor.stride())


def cut(tensor: Tensor, whole: Tensor) -> Tensor:
    """Cut out of a whole tensor what this process holds of `tensor`: rows, as `torch.chunk` deals them out."""
    if not isinstance(tensor, DTensor):
        return whole
    chunks = whole.chunk(tensor.device_mesh.size())
    rank = tensor.device_mesh.get_local_rank()
    return (chunks[rank] if rank < len(chunks) else whole[:0]).to(tensor.device)


def is_moment(value: Any, of: Tensor) -> bool:
    """Say whether a value of an optimizer's state belongs to the elements of a tensor, as a step count does not."""
    return isinstance(value, Tensor) and value.shape == of.shape
