"""Batch normalisation over the cells that hold picture, by all processes together."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn


class ValidBatchNorm(nn.Module):
    """Scales every channel to zero mean and unit variance over the valid cells of a batch.

    Two things differ from `nn.BatchNorm1d`: padding cells never enter the statistics, and in training the statistics
    are those of all processes (on CPUs too, where `nn.SyncBatchNorm` does not run). There is no learned scale: features
    keep the length of the N(0, 1) codes of the visual dictionary they are compared with.

    Args:
        channels: C.
        momentum: weight of the newest batch in the running statistics.
        eps: added to the variance.

    Buffers: `running_mean` and `running_var` (C,), used in evaluation.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, momentum: float = 0.1, eps: float = 1e-5) -> None:
        super().__init__()
        self.momentum, self.eps = momentum, eps
        self.register_buffer("running_mean", torch.empty(channels))
        self.register_buffer("running_var", torch.empty(channels))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Forget all statistics."""
        nn.init.zeros_(self.running_mean)
        nn.init.ones_(self.running_var)

    def forward(self, features: Tensor, mask: Tensor) -> Tensor:
        """Normalise features (B, N, C) under a (B, N) bool mask; padding cells come out as zero."""
        with torch.autocast(features.device.type, enabled=False):
            values = features.float()
            if self.training:
                mean, variance = self._batch_statistics(values, mask)
            else:
                mean, variance = self.running_mean, self.running_var
            scaled = (values - mean) * torch.rsqrt(variance + self.eps)
            return (scaled * mask.unsqueeze(-1)).to(features.dtype)

    def _batch_statistics(self, values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        weights = mask.unsqueeze(-1).float()
        count = weights.sum().reshape(1)
        totals = _sum_over_processes(torch.cat(((values * weights).sum((0, 1)), count)))
        count = totals[-1].clamp(min=1.0)
        mean = totals[:-1] / count
        # The second pass spares the cancellation of E[x^2] - E[x]^2.
        variance = _sum_over_processes(((values - mean) ** 2 * weights).sum((0, 1))) / count
        if totals[-1] > 1:
            with torch.no_grad():
                unbiased = variance * count / (count - 1)
                self.running_mean.lerp_(mean, self.momentum)
                self.running_var.lerp_(unbiased, self.momentum)
        return mean, variance


def _sum_over_processes(values: Tensor) -> Tensor:
    """Add up over processes, with gradients flowing back to each."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return values
    from torch.distributed.nn.functional import all_reduce

    return all_reduce(values)
