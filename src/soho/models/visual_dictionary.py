"""The visual dictionary (section 3.2): nearest code, straight-through gradient, moving average.

`forward` looks up and, in training, adds what it saw to plain running sums. Nothing moves until
`after_optimizer_step` applies Eq. 4 once, on what all micro-batches and all processes saw.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

# Tokens whose distances to all codes are held at one time: 8192 x 2048 codes x 4 bytes = 64 MiB.
LOOKUP_CHUNK = 8192
# Features kept from a forward pass (a micro-batch of one process) as material for codes to be revived.
MAX_CANDIDATES = 4096


class DictionaryLookup(NamedTuple):
    """What the dictionary says of a batch of features.

    Attributes:
        embeddings: (B, N, C) codes with straight-through gradient (Eq. 5), zero at padding cells.
        indices: (B, N) index h of the nearest code (Eq. 2), -1 at padding cells.
    """

    embeddings: Tensor
    indices: Tensor


@contextmanager
def full_precision(device_type: str) -> Iterator[None]:
    """Run the body in true float32: no autocast, no reduced-precision matrix products."""
    # The switch of each backend, where torch has them (2.9): reading the old common one raises as soon as anybody
    # in the process has used a new one.
    switches: tuple[Any, ...] = ()
    if hasattr(torch.backends.cuda.matmul, "fp32_precision"):
        switches = (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)  # type: ignore[attr-defined]
    previous = [switch.fp32_precision for switch in switches] or [torch.get_float32_matmul_precision()]
    for switch in switches:
        switch.fp32_precision = "ieee"
    if not switches:
        torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast(device_type, enabled=False):
            yield
    finally:
        for switch, value in zip(switches, previous):
            switch.fp32_precision = value
        if not switches:
            torch.set_float32_matmul_precision(previous[0])


def nearest_code(features: Tensor, codes: Tensor) -> Tensor:
    """Return the index of the nearest code of every feature (Eq. 2).

    |v - d|^2 = |v|^2 - 2 v.d + |d|^2 and |v|^2 is the same for all codes, so one matrix product decides.

    Args:
        features: (M, C) float32.
        codes: (K, C) float32.

    Returns:
        (M,) int64; the lowest index where several codes are equally near.
    """
    half_square = 0.5 * (codes * codes).sum(dim=1)  # (K,)
    chunks = [
        torch.addmm(half_square, part, codes.t(), alpha=-1.0).argmin(dim=1) for part in features.split(LOOKUP_CHUNK)
    ]
    return torch.cat(chunks) if chunks else features.new_zeros(0, dtype=torch.long)


class VisualDictionary(nn.Module):
    """K code vectors that follow the means of the features they attract.

    Args:
        size: K, number of codes.
        dim: C, length of a code.
        momentum: gamma of Eq. 4.
        ramp_steps: gamma at update t is min(momentum, (1 + t) / (ramp_steps + t)); 0 = constant.
        revive_after: updates without a hit after which a code is replaced; None = never (the paper).
        dead_after: updates without a hit after which a code counts as dead in `health`.

    Buffers (all saved with the model): `codes` (K, C) float32; `idle` (K,) updates since the last hit; `usage` (K,)
    moving average of the share of hits; `updates` () number of updates so far.
    """

    codes: Tensor
    idle: Tensor
    usage: Tensor
    updates: Tensor

    def __init__(
        self,
        size: int,
        dim: int,
        momentum: float = 0.99,
        ramp_steps: int = 10,
        revive_after: int | None = None,
        dead_after: int = 100,
    ) -> None:
        super().__init__()
        self.size, self.dim = size, dim
        self.momentum, self.ramp_steps = momentum, ramp_steps
        self.revive_after, self.dead_after = revive_after, dead_after
        # Buffers, not parameters: no optimizer ever touches a code.
        self.register_buffer("codes", torch.empty(size, dim))
        self.register_buffer("idle", torch.empty(size, dtype=torch.long))
        self.register_buffer("usage", torch.empty(size))
        self.register_buffer("updates", torch.empty((), dtype=torch.long))
        # Running sums are not buffers: DistributedDataParallel would overwrite them with those of process 0.
        self._counts: Tensor | None = None
        self._sums: Tensor | None = None
        self._candidates: list[Tensor] = []
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise at random (section 3.2): codes from N(0, 1), counters at zero."""
        nn.init.normal_(self.codes)
        nn.init.zeros_(self.idle)
        nn.init.zeros_(self.usage)
        nn.init.zeros_(self.updates)

    def forward(self, features: Tensor, mask: Tensor) -> DictionaryLookup:
        """Replace every valid feature by its nearest code.

        Args:
            features: (B, N, C) visual features of any floating type.
            mask: (B, N) bool, True where a cell holds picture. Padding cells never reach the dictionary.

        Returns:
            The codes with straight-through gradient and their indices; see `DictionaryLookup`.
        """
        with full_precision(features.device.type), torch.no_grad():
            valid = features.detach()[mask].float()  # (M, C)
            index = nearest_code(valid, self.codes.float())  # (M,)
            if self.training:
                self._accumulate(valid, index)
        indices = torch.full(mask.shape, -1, dtype=torch.long, device=features.device)
        indices[mask] = index
        codes = self.codes[indices.clamp(min=0)].to(features.dtype)  # (B, N, C)
        # Eq. 5 with its terms ordered so that no rounding is left: the value is the code itself, also in bf16.
        embeddings = codes + (features - features.detach())
        return DictionaryLookup(embeddings * mask.unsqueeze(-1), indices)

    def _accumulate(self, valid: Tensor, index: Tensor) -> None:
        if self._counts is None or self._sums is None:
            self._counts = torch.zeros(self.size, device=valid.device)
            self._sums = torch.zeros(self.size, self.dim, device=valid.device)
        self._counts.index_add_(0, index, torch.ones_like(index, dtype=torch.float32))
        self._sums.index_add_(0, index, valid)
        if self.revive_after is not None and len(valid):
            # Evenly spread picks instead of random ones: no draw, so nothing to save for resuming.
            stride = max(1, -(-len(valid) // MAX_CANDIDATES))
            self._candidates.append(valid[::stride])

    @torch.no_grad()
    def after_optimizer_step(self) -> None:
        """Apply Eq. 4 once, on everything seen since the last call, by all processes together.

        Collective: where torch.distributed is initialised every process must call it.
        """
        device = self.codes.device
        counts = self._counts if self._counts is not None else torch.zeros(self.size, device=device)
        sums = self._sums if self._sums is not None else torch.zeros(self.size, self.dim, device=device)
        candidates = torch.cat(self._candidates) if self._candidates else sums.new_zeros(0, self.dim)
        self._counts, self._sums, self._candidates = None, None, []
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            dist.all_reduce(counts)
            dist.all_reduce(sums)
            if self.revive_after is not None:
                candidates = _gather_rows(candidates)
        if not counts.sum() > 0:
            return
        # Eq. 4 holds only for codes that were hit; an overflow in half precision must not stay in a code for ever.
        hit = (counts > 0) & sums.isfinite().all(dim=1)
        candidates = candidates[candidates.isfinite().all(dim=1)]
        gamma = self._gamma()
        mean = sums[hit] / counts[hit].unsqueeze(1)
        self.codes[hit] = gamma * self.codes[hit] + (1.0 - gamma) * mean
        self.idle += 1
        self.idle[hit] = 0
        share = counts / counts.sum()
        self.usage.copy_(share if int(self.updates) == 0 else 0.98 * self.usage + 0.02 * share)
        if self.revive_after is not None:
            self._revive(candidates)
        self.updates += 1

    def _gamma(self) -> float:
        if self.ramp_steps <= 0:
            return self.momentum
        done = int(self.updates)
        return min(self.momentum, (1 + done) / (self.ramp_steps + done))

    def _revive(self, candidates: Tensor) -> None:
        assert self.revive_after is not None
        # At the first update no code has a history: all that were not hit start on real features.
        limit = 1 if int(self.updates) == 0 else self.revive_after
        dead = (self.idle >= limit).nonzero().squeeze(1)
        if len(dead) == 0 or len(candidates) == 0:
            return
        # A permutation keyed by the update number is the same in every process and after a resume.
        order = torch.randperm(len(candidates), generator=torch.Generator().manual_seed(int(self.updates)))
        dead = dead[: len(order)]
        self.codes[dead] = candidates[order[: len(dead)].to(candidates.device)]
        self.idle[dead] = 0

    def health(self) -> dict[str, float]:
        """Return the health figures.

        `codes_used` were hit in the last `dead_after` updates, `dead_codes` were not for at least as many,
        `perplexity` is the exponential of the entropy of recent use.
        """
        # A code that was never hit has been idle for `updates` updates.
        used = int((self.idle < min(self.dead_after, int(self.updates))).sum())
        dead = int((self.idle >= self.dead_after).sum())
        share = self.usage[self.usage > 0].double()
        share = share / share.sum() if len(share) else share
        perplexity = float(torch.exp(-(share * share.log()).sum())) if len(share) else 0.0
        return {"codes_used": float(used), "dead_codes": float(dead), "perplexity": perplexity}


def _gather_rows(rows: Tensor) -> Tensor:
    """Concatenate (M_r, C) tensors of all processes in rank order, whatever their lengths."""
    world = dist.get_world_size()
    length = torch.tensor([len(rows)], device=rows.device)
    lengths = [torch.zeros_like(length) for _ in range(world)]
    dist.all_gather(lengths, length)
    longest = max(int(value) for value in lengths)
    padded = rows.new_zeros(longest, rows.shape[1])
    padded[: len(rows)] = rows
    parts = [torch.zeros_like(padded) for _ in range(world)]
    dist.all_gather(parts, padded)
    return torch.cat([part[: int(size)] for part, size in zip(parts, lengths)])
