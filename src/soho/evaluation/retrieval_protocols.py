"""What is reported of a score matrix: the whole gallery, the mean over folds of it, and what chance reaches.

COCO's Karpathy test split is reported in two ways (section 4.2.1): 5K ranks all 5,000 photographs and their captions;
1K cuts them in the order of the file into five folds of 1,000 photographs with their captions, ranks each fold on its
own and averages the five recalls.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from soho.errors import SohoError
from soho.evaluation.metrics import chance_recalls, retrieval_recalls

Figures = dict[str, float]
Owners = npt.NDArray[np.int64]


def retrieval_figures(scores: npt.NDArray[np.float32], text_image: npt.ArrayLike, folds: int | None = None) -> Figures:
    """Return every figure of a score matrix.

    Args:
        scores: (images, texts), higher = better match; may be a memory map.
        text_image: (texts,) index of each text's image, -1 = none of them.
        folds: also report the mean over this many folds.

    Returns:
        `tr_r1` .. `ir_median_rank`, `recall_mean` of all; with folds the same names behind `fold_name`, for instance
        `1k/tr_r1`; each one's chance level behind `chance/`; and `images`, `texts`, `folds`.

    Raises:
        SohoError: shapes that do not fit, a score that is not a number, or folds that the gallery does not have.
    """
    owners = np.asarray(text_image, dtype=np.int64)
    images = len(scores)
    found: Figures = dict(retrieval_recalls(scores, owners))
    chance: Figures = dict(chance_recalls(images, owners))
    sizes: Figures = {"images": float(images), "texts": float(len(owners))}
    if folds is not None:
        name = fold_name(images, folds)

        def recalls(rows: slice, columns: Owners, own: Owners) -> Figures:
            return retrieval_recalls(scores[rows][:, columns], own)

        found |= _behind(name, _mean_over_folds(images, owners, folds, recalls))
        chance |= _behind(name, _mean_over_folds(images, owners, folds, _chance))
        sizes["folds"] = float(folds)
    return {**found, **_behind("chance", chance), **sizes}


def fold_bounds(images: int, text_image: npt.ArrayLike, folds: int) -> list[tuple[int, int]]:
    """Cut a gallery into consecutive folds whose numbers of images differ by at most one, the larger ones first.

    Args:
        images: number of images.
        text_image: (texts,) index of each text's image.
        folds: how many.

    Returns:
        (first image, image after the last) of each fold.

    Raises:
        SohoError: there are fewer images than folds, or a fold without a caption, which would have no recall.
    """
    if images < folds:
        raise SohoError(f"evaluation.folds={folds} is more than the {images} images of the gallery")
    small, larger = divmod(images, folds)
    ends = np.cumsum([small + (fold < larger) for fold in range(folds)])
    bounds = [(int(start), int(end)) for start, end in zip([0, *ends[:-1]], ends)]
    owners = np.asarray(text_image, dtype=np.int64)
    for number, (start, end) in enumerate(bounds, start=1):
        if not ((owners >= start) & (owners < end)).any():
            raise SohoError(
                f"fold {number} of evaluation.folds={folds} (images {start:,} to {end - 1:,}) has no caption; raise "
                "evaluation.max_texts, or leave folds out"
            )
    return bounds


def fold_name(images: int, folds: int) -> str:
    """Return what stands before the figures of a fold mean: its images, `1k` for 5,000 images in five folds.

    Folds of unequal size are not the published protocol, and the name shows it: `999_or_1000_images`.
    """
    small, larger = divmod(images, folds)
    if larger:
        return f"{small}_or_{small + 1}_images"
    return f"{small // 1000}k" if small and small % 1000 == 0 else f"{small}_images"


def _mean_over_folds(
    images: int, owners: Owners, folds: int, measure: Callable[[slice, Owners, Owners], Figures]
) -> Figures:
    """Average what `measure(rows, columns, owners within the fold)` returns; each fold has only its own captions."""
    found = []
    for start, end in fold_bounds(images, owners, folds):
        columns = np.flatnonzero((owners >= start) & (owners < end))
        found.append(measure(slice(start, end), columns, owners[columns] - start))
    return {name: sum(figures[name] for figures in found) / folds for name in found[0]}


def _chance(rows: slice, columns: Owners, own: Owners) -> Figures:
    return chance_recalls(rows.stop - rows.start, own)


def _behind(prefix: str, figures: Figures) -> Figures:
    return {f"{prefix}/{name}": value for name, value in figures.items()}
