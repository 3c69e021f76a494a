"""Mergeable metrics. They know numbers, not models, tasks or data sets.

Every share (recall, accuracy) is a fraction in [0, 1]; whoever prints it makes a percentage of it.
Every metric can be filled in parts and merged: `a.merge(b)` equals one metric that saw both.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import torch.distributed as dist

from soho.errors import SohoError

# Scores looked at in one go by the retrieval metrics: 4 Mi scores, some 40 MiB with temporaries.
BLOCK_SCORES = 1 << 22

KS = (1, 5, 10)


class Mergeable(Protocol):
    """A metric that can take in another one of its kind."""

    def merge(self, other: Any) -> Any:
        """Add what `other` saw; returns self."""


M = TypeVar("M", bound=Mergeable)


def merge_processes(metric: M) -> M:
    """Merge a metric over all processes of torch.distributed, in rank order.

    Args:
        metric: this process's part.

    Returns:
        The merged metric, equal in every process; `metric` itself where there is only one process.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return metric
    parts: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(parts, metric)
    for part in parts[1:]:
        parts[0].merge(part)
    return parts[0]


@dataclass
class Mean:
    """A mean that is kept as sum and count.

    Attributes:
        sum: sum of all values.
        count: number of values (or sum of weights).
    """

    sum: float = 0.0
    count: float = 0.0

    def update(self, total: float, count: float = 1.0) -> None:
        """Add `count` values whose sum is `total`."""
        self.sum += float(total)
        self.count += float(count)

    def merge(self, other: Mean) -> Mean:
        """Add what `other` saw; returns self."""
        self.update(other.sum, other.count)
        return self

    def result(self) -> float:
        """Return the mean, NaN where nothing was seen."""
        return self.sum / self.count if self.count else math.nan


def perplexity(counts: npt.ArrayLike) -> float:
    """Return exp(entropy) of counts or shares: how many equally used labels they are worth; 0 where all are zero."""
    hits = np.asarray(counts, dtype=np.float64)
    if not hits.sum() > 0:
        return 0.0
    share = hits[hits > 0] / hits.sum()
    return float(np.exp(-(share * np.log(share)).sum()))


class CodeHistogram:
    """How often each label (for instance each code of the visual dictionary) occurs.

    Args:
        size: number of possible labels, K.
    """

    def __init__(self, size: int) -> None:
        self.counts: npt.NDArray[np.int64] = np.zeros(size, dtype=np.int64)

    def update(self, labels: npt.ArrayLike) -> None:
        """Count labels of any shape; negative ones (padding, ignored) are left out.

        Raises:
            SohoError: a label that is not below `size`.
        """
        flat = np.asarray(labels).reshape(-1)
        flat = flat[flat >= 0]
        if flat.size and int(flat.max()) >= len(self.counts):
            raise SohoError(f"label {int(flat.max())} is outside a histogram of {len(self.counts)} labels")
        self.counts += np.bincount(flat.astype(np.int64), minlength=len(self.counts))

    def merge(self, other: CodeHistogram) -> CodeHistogram:
        """Add what `other` saw; returns self."""
        if len(other.counts) != len(self.counts):
            raise SohoError(f"histograms of {len(self.counts)} and {len(other.counts)} labels cannot be merged")
        self.counts += other.counts
        return self

    @property
    def total(self) -> int:
        """Number of labels counted."""
        return int(self.counts.sum())

    @property
    def used(self) -> int:
        """Number of different labels seen."""
        return int((self.counts > 0).sum())

    def majority_share(self) -> float:
        """Return the accuracy of always guessing the most frequent label (0 where nothing was counted)."""
        return float(self.counts.max()) / self.total if self.total else 0.0

    def perplexity(self) -> float:
        """Return exp(entropy) of the use; see `perplexity`."""
        return perplexity(self.counts)

    def result(self) -> dict[str, float]:
        """Return `codes_used`, `perplexity` and `majority_share`."""
        return {
            "codes_used": float(self.used),
            "perplexity": self.perplexity(),
            "majority_share": self.majority_share(),
        }


@dataclass
class RetrievalMetrics:
    """Ranks of the right answers in both directions of retrieval (section 4.2.1).

    TR, text retrieval, goes from an image to its captions; IR, image retrieval, from a caption to its image.

    Attributes:
        tr_ranks: one rank per image with captions: the place of its best-ranked caption among all texts, 1 = first.
        ir_ranks: one rank per text with an image: the place of that image among all images, 1 = first.
    """

    tr_ranks: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    ir_ranks: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))

    @classmethod
    def from_scores(cls, scores: npt.NDArray[Any], text_image: npt.ArrayLike) -> RetrievalMetrics:
        """Rank a whole score matrix, a block of rows at a time.

        A tie is broken against the model: a wrong candidate with the same score ranks before the right one, so a
        constant score gets the last rank and not a perfect one.

        Args:
            scores: (images, texts) float, higher = better match; may be a memory map.
            text_image: (texts,) index of each text's image, -1 = a distractor text that belongs to none of them.

        Returns:
            The ranks; images without a caption are candidates but no queries.

        Raises:
            SohoError: shapes that do not fit, an image index that does not exist, or a score that is NaN.
        """
        owner = _owners(scores.shape, text_image)
        images, texts = scores.shape
        queries = np.flatnonzero(owner >= 0)
        # Scores of the right pairs first: every other score is compared with them.
        right = np.full(texts, np.inf, dtype=np.result_type(scores.dtype, np.float16))
        for row, columns in _columns_by_row(owner):
            right[columns] = scores[row, columns]
        has_caption = np.bincount(owner[queries], minlength=images) > 0
        tr, ir = np.zeros(images, dtype=np.int64), np.zeros(texts, dtype=np.int64)
        step = max(1, BLOCK_SCORES // max(1, texts))
        for start in range(0, images, step):
            block = np.asarray(scores[start : start + step])
            _no_nan(block, start)
            rows = np.arange(start, start + len(block))
            ir += (block >= right).sum(axis=0)  # counts the right image itself once: a rank from 1
            own = owner == rows[:, None]
            best = np.where(own, block, -np.inf).max(axis=1, initial=-np.inf)
            tr[rows] = 1 + ((block >= best[:, None]) & ~own).sum(axis=1)
        return cls(tr[has_caption], ir[queries])

    def merge(self, other: RetrievalMetrics) -> RetrievalMetrics:
        """Add the queries of another gallery (for instance a fold); returns self."""
        self.tr_ranks = np.concatenate((self.tr_ranks, other.tr_ranks))
        self.ir_ranks = np.concatenate((self.ir_ranks, other.ir_ranks))
        return self

    def result(self, ks: Sequence[int] = KS) -> dict[str, float]:
        """Return `tr_r1`, `tr_r5`, .., `tr_median_rank`, `ir_r1`, .., `ir_median_rank` and `recall_mean` of all."""
        named: dict[str, float] = {}
        recalls: list[float] = []
        for name, ranks in (("tr", self.tr_ranks), ("ir", self.ir_ranks)):
            for k in ks:
                named[f"{name}_r{k}"] = float((ranks <= k).mean()) if len(ranks) else math.nan
                recalls.append(named[f"{name}_r{k}"])
            named[f"{name}_median_rank"] = float(np.median(ranks)) if len(ranks) else math.nan
        named["recall_mean"] = sum(recalls) / len(recalls) if recalls else math.nan
        return named


def retrieval_recalls(scores: npt.NDArray[Any], text_image: npt.ArrayLike, ks: Sequence[int] = KS) -> dict[str, float]:
    """Return recalls and median ranks of a score matrix; see `RetrievalMetrics`.

    Args:
        scores: (images, texts) float, higher = better match; may be a memory map.
        text_image: (texts,) index of each text's image, -1 = none of them.
        ks: the cut-offs.

    Returns:
        Recalls as fractions and 1-based median ranks by name; `tr_r1` is the share of images with a caption of
        theirs in first place.

    Raises:
        SohoError: see `RetrievalMetrics.from_scores`.
    """
    return RetrievalMetrics.from_scores(scores, text_image).result(ks)


def chance_recalls(images: int, text_image: npt.ArrayLike, ks: Sequence[int] = KS) -> dict[str, float]:
    """Return what a random ranking reaches, exactly, under the names of `retrieval_recalls`.

    An image with m of the T texts misses the first k places with probability C(T - m, k) / C(T, k); a text finds
    its image among N with probability k / N. A median rank is the lowest rank that is reached with probability 1/2.

    Args:
        images: number of candidate images, N.
        text_image: (T,) index of each text's image, -1 = none of them.
        ks: the cut-offs.

    Returns:
        Recalls as fractions and median ranks.

    Raises:
        SohoError: an image index that does not exist.
    """
    length = int(np.asarray(text_image).size)
    owner = _owners((images, length), text_image)
    captions = np.bincount(owner[owner >= 0], minlength=images)
    captions = captions[captions > 0]
    tr = np.zeros(length)  # P(rank <= r) at r = 1 .. T
    for number, times in zip(*np.unique(captions, return_counts=True)):
        left = np.clip(length - number - np.arange(length), 0, None) / (length - np.arange(length))
        tr += (1.0 - np.cumprod(left)) * times / len(captions)
    ir = np.arange(1, images + 1) / max(1, images)
    named: dict[str, float] = {}
    recalls: list[float] = []
    for name, reached in (("tr", tr), ("ir", ir)):
        for k in ks:
            named[f"{name}_r{k}"] = float(reached[min(k, len(reached)) - 1]) if len(captions) else math.nan
            recalls.append(named[f"{name}_r{k}"])
        half = np.flatnonzero(reached >= 0.5 - 1e-12)
        named[f"{name}_median_rank"] = float(half[0] + 1) if len(half) else math.nan
    named["recall_mean"] = sum(recalls) / len(recalls) if recalls else math.nan
    return named


def _owners(shape: tuple[int, ...], text_image: npt.ArrayLike) -> npt.NDArray[np.int64]:
    if len(shape) != 2:
        raise SohoError(f"retrieval scores must be (images, texts), not {shape}")
    owner = np.asarray(text_image)
    if owner.shape != (shape[1],):
        raise SohoError(f"text_image must name the image of each of {shape[1]} texts, but has the shape {owner.shape}")
    owner = owner.astype(np.int64)
    wrong = np.flatnonzero((owner >= shape[0]) | (owner < -1))
    if len(wrong):
        raise SohoError(f"text {wrong[0]} belongs to image {owner[wrong[0]]}, but there are {shape[0]} images")
    return owner


def _columns_by_row(owner: npt.NDArray[np.int64]) -> Iterable[tuple[int, npt.NDArray[np.int64]]]:
    """Yield each image that has captions with the columns of these."""
    order = np.argsort(owner, kind="stable")
    order = order[owner[order] >= 0]
    starts = np.flatnonzero(np.diff(owner[order], prepend=-1))
    for columns in np.split(order, starts[1:]):
        if len(columns):
            yield int(owner[columns[0]]), columns


def _no_nan(block: npt.NDArray[Any], start: int) -> None:
    wrong = np.argwhere(np.isnan(block))
    if len(wrong):
        raise SohoError(f"the score of image {start + int(wrong[0][0])} and text {int(wrong[0][1])} is not a number")
