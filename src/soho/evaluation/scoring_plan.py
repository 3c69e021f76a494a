"""Which pairs are scored together, in which order, and what it costs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
from torch import Tensor

Indices = npt.NDArray[np.int64]

# Images in a block, where the pair batch allows: more of them means fewer texts, which then differ less in length.
IMAGES_PER_BLOCK = 8

# Tokens in a block on a CPU, where it holds more than one pair. Larger blocks were no faster (docs/performance.md)
# and need memory in proportion: 512 pairs of 600 x 1000 pixels in 768 channels took 5.6 GB, 93 take 1.1.
CPU_TOKENS_PER_BLOCK = 16_384


class PairScorer(Protocol):
    """What the engine asks of a model.

    A scorer may also offer `pair_flops(text_tokens, visual_tokens) -> float`, the work of one pair, for the plan;
    `score_grid`, which maps (b, L, C), (b, L), (a, N, C), (a, N) to (a, b) scores and is then used for `score_pairs`;
    and `score_chosen`, which takes in addition (P,) places among the images and (P,) among the texts and returns (P,).
    A shortlist needs `image_vectors`, which maps (a, N, C), (a, N) to unit vectors (a, D), and `text_vectors`, which
    maps (b, L, C), (b, L) to (b, D). Tokens that the mask leaves out are dropped, so a score must not depend on them.
    """

    def image_tokens(self, pixel_values: Tensor, pixel_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Map (B, 3, H, W) and (B, H, W) to tokens (B, N, C) and mask (B, N)."""

    def text_tokens(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Map (T, L) and (T, L) to tokens (T, L, C) and mask (T, L)."""

    def score_pairs(self, text: Tensor, text_mask: Tensor, visual: Tensor, visual_mask: Tensor) -> Tensor:
        """Map (P, L, C), (P, L), (P, N, C), (P, N) to (P,) scores, higher = better match."""


class Block(NamedTuple):
    """A rectangle of pairs, as ranges in the plan's order of images and of texts."""

    image_start: int
    image_end: int
    text_start: int
    text_end: int


@dataclass(frozen=True)
class ScoringPlan:
    """The order in which pairs are scored: the longest first, so that too little memory shows at once.

    Attributes:
        images: positions of the images by falling number of tokens.
        texts: positions of the texts by falling number of tokens.
        image_lengths: tokens of the images in that order.
        text_lengths: tokens of the texts in that order.
        pair_batch: most pairs in a block.
    """

    images: Indices
    texts: Indices
    image_lengths: Indices
    text_lengths: Indices
    pair_batch: int

    @classmethod
    def of(
        cls, image_lengths: Sequence[int], text_lengths: Sequence[int], pair_batch: int, tokens: int | None = None
    ) -> ScoringPlan:
        """Plan for images and texts of these numbers of tokens.

        Args:
            image_lengths: tokens of the images.
            text_lengths: tokens of the texts.
            pair_batch: most pairs in a block.
            tokens: most tokens in a block of more than one pair; the longest pair decides for all. None = no bound.
        """
        if tokens is not None:
            longest = max(1, max(image_lengths, default=0) + max(text_lengths, default=0))
            pair_batch = min(pair_batch, max(1, tokens // longest))
        image, text = np.asarray(image_lengths, dtype=np.int64), np.asarray(text_lengths, dtype=np.int64)
        images, texts = np.argsort(-image, kind="stable"), np.argsort(-text, kind="stable")
        return cls(images, texts, image[images], text[texts], pair_batch)

    def blocks(self, image: int = 0, text: int = 0) -> Iterator[Block]:
        """Yield the blocks from a place that an earlier run has reached.

        A block's images have one number of tokens, and all texts meet them before the next images come.
        """
        total = len(self.texts)
        while image < len(self.images) and total:
            end = self.tile_end(image)
            step = max(1, self.pair_batch // (end - image))
            for start in range(text, total, step):
                yield Block(image, end, start, min(start + step, total))
            image, text = end, 0

    def tile_end(self, image: int) -> int:
        """Return where the block of images that begins at `image` ends."""
        size = max(IMAGES_PER_BLOCK, self.pair_batch // len(self.texts))
        return self.same_length_end(image, max(1, min(size, self.pair_batch)))

    def same_length_end(self, image: int, size: int) -> int:
        """Return where a run of at most `size` images with one number of tokens that begins at `image` ends."""
        same = int(np.searchsorted(-self.image_lengths, -self.image_lengths[image], side="right"))
        return min(same, image + size)

    def cost(self, scorer: PairScorer, images: slice = slice(None), texts: slice = slice(None)) -> float:
        """Return FLOPs of all pairs of a part of the plan, or tokens where the scorer cannot tell FLOPs."""
        measure = _measure(scorer)
        visual = zip(*np.unique(self.image_lengths[images], return_counts=True))
        text = list(zip(*np.unique(self.text_lengths[texts], return_counts=True)))
        return float(sum(n * m * measure(int(b), int(a)) for a, n in visual for b, m in text))

    def text_costs(self, scorer: PairScorer, visual_tokens: int) -> npt.NDArray[np.float64]:
        """Return (texts,) what a pair with each text costs, in the order of the plan; see `cost`."""
        lengths, places = np.unique(self.text_lengths, return_inverse=True)
        measure = _measure(scorer)
        return np.array([measure(int(length), visual_tokens) for length in lengths], dtype=np.float64)[places]

    def padding(self) -> float:
        """Return the share of text tokens in the first images' blocks that are padding."""
        if not len(self.images) or not len(self.texts):
            return 0.0
        starts = np.arange(0, len(self.texts), max(1, self.pair_batch // self.tile_end(0)))
        sizes = np.diff(np.append(starts, len(self.texts)))
        padded = int((self.text_lengths[starts] * sizes).sum())  # falling lengths: the first is the longest
        return 1.0 - float(self.text_lengths.sum()) / max(1, padded)

    def lines(self, scorer: PairScorer) -> list[str]:
        """Say what is about to be done."""
        pairs = len(self.images) * len(self.texts)
        if not pairs:
            return ["pair scoring: no pairs"]
        said = [
            f"pair scoring: {len(self.images):,} images x {len(self.texts):,} texts = {pairs:,} pairs, on average "
            f"{self.image_lengths.mean():.1f} visual and {self.text_lengths.mean():.1f} text tokens "
            f"({self.padding():.1%} of text is padding), at most {self.pair_batch} pairs at once"
        ]
        if hasattr(scorer, "pair_flops"):
            work = self.cost(scorer) / 1e9
            said.append(f"pair scoring: {work:,.1f} GFLOP in all, {work / pairs:.3f} per pair")
        return said


def _measure(scorer: PairScorer) -> Callable[[int, int], float]:
    """Return what tells the work of a pair: the scorer's FLOPs, else its tokens."""
    measure: Callable[[int, int], float] = getattr(scorer, "pair_flops", lambda text, visual: text + visual)
    return measure
