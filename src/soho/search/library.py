"""A library of pictures on the disk: which files it has, what they hold, and reading them ready for the model."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from soho.data.images import ImageDecodeError, decode_bytes, image_size, read_bytes
from soho.data.schema import ImageRef
from soho.errors import SohoError
from soho.processing.image_processing_soho import Size, SohoImageProcessor

SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp")

CHANGED = "was changed while it was indexed; the next `soho index` reads it again"


@dataclass(frozen=True, slots=True)
class PictureFile:
    """A file of the library, as the folder shows it.

    Attributes:
        path: below the library's folder, with forward slashes.
        size: bytes.
        mtime: of its last change, nanoseconds.
    """

    path: str
    size: int
    mtime: int


def walk(folder: Path) -> Iterator[PictureFile]:
    """Yield the JPEG, PNG and WebP files below a folder, by their suffix, in no particular order.

    Names that begin with a dot are left out. Links to files are followed, links to folders are not: they could lead
    back up.

    Raises:
        SohoError: the folder is not there, or a folder below it cannot be listed.
    """
    if not folder.is_dir():
        raise SohoError(f"{folder} is not a folder; expected one with pictures")

    def refuse(error: OSError) -> None:
        # Going on would drop everything below that folder from the index.
        raise SohoError(f"{error.filename} cannot be listed ({error.strerror}); the index was left as it is")

    for place, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if name.startswith(".") or not name.lower().endswith(SUFFIXES):
                continue
            path = os.path.join(place, name)
            try:
                found = os.stat(path)
            except OSError:  # removed meanwhile, or a link to nothing
                continue
            yield PictureFile(Path(path).relative_to(folder).as_posix(), found.st_size, found.st_mtime_ns)


def content_of(data: bytes) -> str:
    """Return the name of a file's content: 32 hexadecimal digits that depend on its bytes alone."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def read_content(folder: Path, path: str) -> str:
    """Return the content of a file of the library; see `content_of`.

    Raises:
        ImageDecodeError: it cannot be read.
    """
    return content_of(read_bytes(_ref(folder, path)))


def padded_size(folder: Path, path: str, processor: SohoImageProcessor) -> Size:
    """Return (width, height) of the tensor that a file of the library becomes, from its header alone.

    Raises:
        ImageDecodeError: it is no picture.
    """
    return processor.padded_size(*image_size(_ref(folder, path)))


def read_picture(folder: Path, path: str, content: str, processor: SohoImageProcessor, canvas: Size) -> np.ndarray:
    """Decode a file of the library, upright and in the size in which the model reads it.

    Args:
        folder: the library.
        path: below it.
        content: what the file is known to hold.
        processor: of the model.
        canvas: (width, height) of the tensor.

    Returns:
        (h, w, 3) uint8.

    Raises:
        ImageDecodeError: it cannot be decoded, or holds something else by now.
    """
    data = read_bytes(_ref(folder, path))
    if content_of(data) != content:
        raise ImageDecodeError(f"{folder / path}: {CHANGED}")
    return processor.resized(decode_bytes(data, str(folder / path)), canvas)


def reason_of(error: ImageDecodeError, folder: Path, path: str) -> str:
    """Return what is wrong with a file, without its name."""
    return str(error).removeprefix(f"{folder / path}: ")


def _ref(folder: Path, path: str) -> ImageRef:
    return ImageRef(str(folder / path))
