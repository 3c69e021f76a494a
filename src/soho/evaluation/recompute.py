"""Retrieval figures from a score matrix that lies on disk: other folds, another question, no model.

`soho evaluate` leaves a folder with the matrix (`scores.npy`, or one part for each process), the record of its
progress, and `gallery.json`: what its rows and columns are. Nothing else is needed to compute any figure again. A
shortlist's folder also holds the first stage, which can be measured against the exact scores of another folder.
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
from soho.evaluation.score_matrix import FIRST_STAGE, SCORES, matrix_files, shard_rows
from soho.evaluation.shortlist import kept_share

GALLERY = "gallery.json"

# Lengths of a shortlist whose recall against exact is told beside that of the run's own.
SHORTLISTS = (5, 10, 20, 50, 100, 200)


@dataclass(frozen=True)
class ScoredGallery:
    """A score matrix and what it is about.

    Attributes:
        images: (N,) names of the pictures, in the order of the rows.
        texts: (T,) captions, in the order of the columns.
        text_image: (T,) row of each caption's picture.
        scores: (N, T) float32, higher = better match; a read-only memory map where it is one file.
        shortlist: how many texts of each picture and pictures of each text have exact scores; None = all.
        content: names the model, the data and the precision of the scores.
    """

    images: list[str]
    texts: list[str]
    text_image: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float32]
    shortlist: int | None = None
    content: str = ""


def write_gallery(
    folder: Path,
    images: Sequence[str],
    texts: Sequence[str],
    text_image: npt.ArrayLike,
    world_size: int = 1,
    shortlist: int | None = None,
) -> None:
    """Write down what the rows and columns of the score matrix in `folder` are.

    Args:
        folder: where the matrix lies.
        images: (N,) names of the pictures.
        texts: (T,) captions.
        text_image: (T,) row of each caption's picture.
        world_size: number of processes, each of which has written one part of the matrix.
        shortlist: how many texts of each picture and pictures of each text have exact scores; None = all.
    """
    fields = {
        "processes": world_size,
        "shortlist": shortlist,
        "images": list(images),
        "texts": list(texts),
        "text_image": np.asarray(text_image).tolist(),
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / GALLERY).write_text(json.dumps(fields, ensure_ascii=False, indent=0) + "\n", encoding="utf-8")


def read_scores(folder: Path, stem: str = SCORES) -> ScoredGallery:
    """Read the score matrix that `soho evaluate` left in a folder.

    Args:
        folder: `scores-<split>` of a run, or `shortlist-<k>` in it.
        stem: "scores", or "first_stage" for the inner products that a shortlist was made from.

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
    lists = all(isinstance(fields[key], list) for key in ("images", "texts", "text_image"))
    if not lists or not isinstance(world, int) or world < 1 or len(texts) != len(fields["text_image"]):
        raise SohoError(
            f"{path} is damaged: expected lists images, texts and text_image (one entry a text), and processes as a "
            "whole number; run `soho evaluate` again"
        )
    parts = [
        _part(*matrix_files(folder, stem, rank, world), (len(shard_rows(len(images), rank, world)), len(texts)))
        for rank in range(world)
    ]
    contents = {content for _, content in parts}
    if len(contents) > 1:
        raise SohoError(f"the parts of {stem} in {folder} are of different models or data; run `soho evaluate` again")
    if world == 1:
        scores = parts[0][0]
    else:
        scores = np.empty((len(images), len(texts)), dtype=np.float32)
        for rank, (part, _) in enumerate(parts):
            scores[shard_rows(len(images), rank, world)] = part
    owners = np.array(fields["text_image"], dtype=np.int64)
    return ScoredGallery(images, texts, owners, scores, fields.get("shortlist"), contents.pop())


def recompute(folder: Path, folds: int | None = None, exact: Path | None = None) -> dict[str, float]:
    """Return the retrieval figures of the score matrix in a folder; see `retrieval_figures`.

    Args:
        folder: `scores-<split>` of a run, or `shortlist-<k>` in it.
        folds: also report the mean over this many folds (5 for COCO 1K).
        exact: a folder with the exact scores of the same model and data: adds the figures of `shortlist_recall`.

    Raises:
        SohoError: the folder holds no finished score matrix, the gallery has no such folds, or see `shortlist_recall`.
    """
    found = read_scores(folder)
    figures = retrieval_figures(found.scores, found.text_image, folds)
    return figures if exact is None else figures | shortlist_recall(folder, exact)


def shortlist_recall(folder: Path, exact: Path) -> dict[str, float]:
    """Return what share of the exact top ten a shortlist keeps, for its own length and for several others.

    Args:
        folder: `shortlist-<k>`, with the first stage in it.
        exact: a folder with the exact scores of the same model, data and precision.

    Returns:
        `shortlist_<k>/kept_tr`, `kept_ir` and `pairs` of each k; see `soho.evaluation.shortlist.kept_share`.

    Raises:
        SohoError: a folder is not what it should be, or they are of different models or data.
    """
    gallery = read_scores(folder)
    if gallery.shortlist is None:
        raise SohoError(f"{folder} holds exact scores and no shortlist; expected a folder shortlist-<k>")
    first, wanted = read_scores(folder, FIRST_STAGE), read_scores(exact)
    if wanted.shortlist is not None:
        raise SohoError(f"{exact} holds a shortlist of {wanted.shortlist}; expected a folder with exact scores")
    contents = {gallery.content, first.content, wanted.content}
    if len(contents) > 1 or not wanted.content:
        raise SohoError(
            f"the scores in {exact} are of another model, data or precision than those in {folder}; run "
            "`soho evaluate` again without evaluation.shortlist"
        )
    longest = max(first.scores.shape)
    lengths = sorted({gallery.shortlist, *(k for k in SHORTLISTS if k < longest)})
    return {
        f"shortlist_{k}/{name}": share
        for k in lengths
        for name, share in kept_share(wanted.scores, first.scores, k).items()
    }


def _part(path: Path, record: Path, shape: tuple[int, int]) -> tuple[npt.NDArray[np.float32], str]:
    """Return one process's matrix and its content."""
    if not path.is_file() or not record.is_file():
        raise SohoError(f"{path if record.is_file() else record} does not exist; run `soho evaluate` again")
    progress = _json(record)
    if not progress.get("complete"):
        raise SohoError(f"{path} is not finished; `soho evaluate` goes on where it stopped")
    try:
        scores: npt.NDArray[np.float32] = np.load(path, mmap_mode="r" if shape[0] * shape[1] else None)
    except (OSError, ValueError, EOFError):
        raise SohoError(f"{path} is damaged: expected a NumPy matrix; run `soho evaluate` again") from None
    if scores.shape != shape:
        raise SohoError(f"{path} has the shape {scores.shape}, but {path.parent / GALLERY} says {shape}")
    return scores, str(progress.get("content", ""))


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise SohoError(f"{path} is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise SohoError(f"{path} must hold a JSON object")
    return content
