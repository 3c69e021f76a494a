"""The release's visual dictionary: count-weighted moving average with Laplace smoothing, at every training forward."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn

from soho.models.visual_dictionary import DictionaryLookup, full_precision, nearest_code


class ReleasedDictionary(nn.Module):
    """K codes, each the smoothed mean of the features it has attracted lately.

    Args:
        size: K, number of codes.
        dim: C, length of a code.
        momentum: weight of the old counts and sums in an update.
        epsilon: added to every count before the counts are scaled back to their sum.

    Buffers (all saved with the model): `codes` (K, C); `counts` (K,) and `sums` (K, C), moving averages of the hits of
    a code and of the features that hit it; `hits` (K,) hits in all, never read by the model.
    """

    codes: Tensor
    counts: Tensor
    sums: Tensor
    hits: Tensor

    def __init__(self, size: int, dim: int, momentum: float, epsilon: float) -> None:
        super().__init__()
        self.size, self.momentum, self.epsilon = size, momentum, epsilon
        self.register_buffer("codes", torch.empty(size, dim))
        self.register_buffer("counts", torch.empty(size))
        self.register_buffer("hits", torch.empty(size))
        self.register_buffer("sums", torch.empty(size, dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw codes from N(0, 1), everything else zero: the first update forgets the drawn codes."""
        nn.init.normal_(self.codes)
        for buffer in (self.counts, self.hits, self.sums):
            nn.init.zeros_(buffer)

    def forward(self, features: Tensor, mask: Tensor | None = None) -> DictionaryLookup:
        """Replace every feature, padding cells included, by its nearest code.

        In training the codes move first: the indices are those of the old codes, the vectors rows of the new ones.

        Args:
            features: (B, N, C).
            mask: (B, N) bool valid cells; a picture without any (a filler) does not move the codes.

        Returns:
            Codes with straight-through gradient and their indices, both for all cells.
        """
        with full_precision(features.device.type), torch.no_grad():
            rows = features.detach().flatten(0, 1).float()  # (B * N, C)
            indices = nearest_code(rows, self.codes.float()).view(features.shape[:2])  # (B, N)
            if self.training:
                real = torch.ones_like(indices[:, 0], dtype=torch.bool) if mask is None else mask.any(1)  # (B,)
                self._update(features.detach()[real].flatten(0, 1).float(), indices[real].flatten())
        codes = self.codes[indices].to(features.dtype)
        return DictionaryLookup(codes + (features - features.detach()), indices)

    def _update(self, features: Tensor, index: Tensor) -> None:
        """Move counts, sums and codes; collective over processes."""
        counts = torch.zeros_like(self.counts).index_add_(0, index, torch.ones_like(index, dtype=torch.float32))
        sums = torch.zeros_like(self.sums).index_add_(0, index, features)
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            dist.all_reduce(counts)
            dist.all_reduce(sums)
        if not counts.sum() > 0 or not sums.isfinite().all():
            return  # nothing but fillers, or an overflow that would stay for ever
        self.hits += counts
        self.counts.mul_(self.momentum).add_(counts, alpha=1.0 - self.momentum)
        self.sums.mul_(self.momentum).add_(sums, alpha=1.0 - self.momentum)
        total = self.counts.sum()
        smoothed = (self.counts + self.epsilon) / (total + self.size * self.epsilon) * total
        self.codes.copy_(self.sums / smoothed.unsqueeze(1))

    def after_optimizer_step(self) -> None:
        """Do nothing: the codes moved in the forward pass."""

    def health(self) -> dict[str, float]:
        """Return the health figures: codes whose moving count is above the smoothing, the others, the perplexity."""
        share = self.counts.double() / self.counts.double().sum().clamp(min=1e-12)
        used = self.counts > self.epsilon
        kept = share[used]
        perplexity = float(torch.exp(-(kept * kept.log()).sum())) if len(kept) else 0.0
        return {
            "codes_used": float(used.sum()),
            "dead_codes": float((~used).sum()),
            "perplexity": perplexity,
        }
