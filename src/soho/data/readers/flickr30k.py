"""Flickr30k: `results_20130124.token` (Young et al., 2014)."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from soho.data.images import ImageStore
from soho.data.readers.reading import LoadNotes, OnMissing
from soho.data.readers.token_file import read_token_file
from soho.data.schema import CaptionedImage


def read_captions(
    annotations: Path,
    images: ImageStore,
    *,
    names: Collection[str] | None = None,
    name: str = "flickr30k",
    limit: int | None = None,
    on_missing: OnMissing = "error",
) -> tuple[list[CaptionedImage], LoadNotes]:
    """Read Flickr30k captions.

    Args:
        annotations: `results_20130124.token`.
        images: where `<number>.jpg` are.
        names: the split, for instance from Flickr30k Entities' `train.txt`; names with or without `.jpg`.
        name: data-set name for messages.
        limit: only the first n images.
        on_missing: what to do with images that are not found, captions that are empty and names without caption.

    Raises:
        SohoError: rows are broken, or something is missing under "error".
    """
    return read_token_file(annotations, images, name=name, names=names, limit=limit, on_missing=on_missing)
