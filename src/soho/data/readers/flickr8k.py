"""Flickr8k: `Flickr8k.token.txt` with `Flickr_8k.trainImages.txt` and its siblings (Hodosh et al., 2013).

Two known faults of the published files: the token file has five captions for `2258277193_586949ec62.jpg.1`, a
picture that does not exist, and some copies of the photos lack one picture of the train list. With
`on_missing="skip"` both are left out, counted and named.
"""

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
    name: str = "flickr8k",
    limit: int | None = None,
    on_missing: OnMissing = "error",
) -> tuple[list[CaptionedImage], LoadNotes]:
    """Read Flickr8k captions.

    Args:
        annotations: `Flickr8k.token.txt`.
        images: where the photos are.
        names: the split, from `Flickr_8k.trainImages.txt`, `.devImages.txt` or `.testImages.txt`.
        name: data-set name for messages.
        limit: only the first n images.
        on_missing: what to do with images that are not found, captions that are empty and names without caption.

    Raises:
        SohoError: rows are broken, or something is missing under "error".
    """
    return read_token_file(annotations, images, name=name, names=names, limit=limit, on_missing=on_missing)
