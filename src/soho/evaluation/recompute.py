"""Retrieval figures from a score matrix that lies on disk: other folds, another question, no model.

`soho evaluate` leaves a folder with the matrix (`scores.npy`, or one part for each process), the record of its
progress, and `gallery.json`: what its rows and columns are. Nothing else is needed to compute any figure again.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from soho.errors import SohoError
from soho.evaluation.retrieval_protocols import retrieval_figures
from soho.evaluation.score_matrix import named, shard_rows

GALLERY = "gallery.json"


@dataclass(frozen=True)
class ScoredGallery:
    """A score matrix and what it is about.

    Attributes:
        images: (N,) names of the pictures, in the order of the rows.
        texts: (T,) captions, in the order of the columns.
        text_image: (T,) row of each caption's picture.
        scores: (N, T) float32, higher = better match; a read-only memory map where it is one file.
    """

    images: list[str]
    texts: list[str]
    text_image: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float32]


def write_gallery(
    folder: Path, images: Sequence[str], texts: Sequence[str], text_image: npt.ArrayLike, world_size: int = 1
) -> None:
    """Write down what the rows and columns of the score matrix in `folder` are.

    Args:
        folder: where the matrix lies.
        images: (N,) names of the pictures.
        texts: (T,) captions.
        text_image: (T,) row of each caption's picture.
        world_size: number of processes, each of which has written one part of the matrix.
    """
    fields = {
        "processes": world_size,
        "images": list(images),
        "texts": list(texts),
        "text_image": np.asarray(text_image).tolist(),
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / GALLERY).write_text(json.dumps(fields, ensure_ascii=False, indent=0) + "\n", encoding="utf-8")


def read_scores(folder: Path) -> ScoredGallery:
    """Read the score matrix that `soho evaluate` left in a folder.

    Raises:
        SohoError: the folder holds no finished score matrix, or its parts do not belong together.
    """
    path = folder / GALLERY
    if not path.is_file():
        raise SohoError(f"{path} does not exist; expected a folder scores-<split> that `soho evaluate` has written")
    fields = _json(path)
    missing = [key for key in ("processes", "images", "texts", "text_image") if key not in fields]
    if missing:
        raise SohoError(f'{path}: the key "{missing[0]}" is missing')
    images, texts, world = fields["images"], fields["texts"], fields["processes"]
    parts = [
        _part(folder, rank, world, (len(shard_rows(len(images), rank, world)), len(texts))) for rank in range(world)
    ]
    if world == 1:
        scores = parts[0]
    else:
        scores = np.empty((len(images), len(texts)), dtype=np.float32)
        for rank, part in enumerate(parts):
            scores[shard_rows(len(images), rank, world)] = part
    return ScoredGallery(images, texts, np.array(fields["text_image"], dtype=np.int64), scores)


def recompute(folder: Path, folds: int | None = None) -> dict[str, float]:
    """Return the retrieval figures of the score matrix in a folder; see `retrieval_figures`.

    Args:
        folder: `scores-<split>` of a run.
        folds: also report the mean over this many folds (5 for COCO 1K).

    Raises:
        SohoError: the folder holds no finished score matrix, or the gallery has no such folds.
    """
    found = read_scores(folder)
    return retrieval_figures(found.scores, found.text_image, folds)


def _part(folder: Path, rank: int, world: int, shape: tuple[int, int]) -> npt.NDArray[np.float32]:
    path = folder / f"{named('scores', rank, world)}.npy"
    record = folder / f"{named('progress', rank, world)}.json"
    if not path.is_file() or not record.is_file():
        raise SohoError(f"{path if record.is_file() else record} does not exist; run `soho evaluate` again")
    if not _json(record).get("complete"):
        raise SohoError(f"{path} is not finished; `soho evaluate` goes on where it stopped")
    scores: npt.NDArray[np.float32] = np.load(path, mmap_mode="r" if shape[0] * shape[1] else None)
    if scores.shape != shape:
        raise SohoError(f"{path} has the shape {scores.shape}, but {folder / GALLERY} says {shape}")
    return scores


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise SohoError(f"{path} is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise SohoError(f"{path} must hold a JSON object")
    return content
