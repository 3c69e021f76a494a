"""Pictures on disk: reading their bytes, their size, and decoding them to RGB; finding them is `image_store`."""

from __future__ import annotations

import io
import os
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from soho.data.image_store import ImageStore
from soho.data.schema import ImageRef
from soho.data.spans import SpanError, read_span
from soho.errors import SohoError

__all__ = [
    "ImageDecodeError",
    "ImageStore",
    "decode",
    "decode_bytes",
    "image_format",
    "image_size",
    "orientation_of",
    "read_bytes",
    "size_of_bytes",
    "upright_rgb",
]

_ORIENTATION_TAG = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class ImageDecodeError(SohoError):
    """A picture that is not there, is cut off, or cannot be read; the message names the file."""


def read_bytes(ref: ImageRef) -> bytes:
    """Return the bytes of a picture file.

    Raises:
        ImageDecodeError: the file, the zip member or its part of a shard is not there or cannot be read.
        SohoError: the server of a shard does not answer.
    """
    try:
        if ref.archive is None:
            return Path(ref.path).read_bytes()
        if ref.span is not None:
            return read_span(ref.archive, ref.span)
        with _member(ref) as stream:
            return stream.read()
    except (OSError, KeyError, zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError) as error:
        raise ImageDecodeError(f"{ref}: {_reason(error)}") from error


def decode(ref: ImageRef) -> Image.Image:
    """Decode a picture to 8-bit RGB, upright by its EXIF orientation.

    Transparent parts become white; 16-bit grey is scaled to 8 bits (Pillow alone would clip it).

    Raises:
        ImageDecodeError: the file is missing, cut off, or not a picture that Pillow can read.
    """
    return decode_bytes(read_bytes(ref), str(ref))


def decode_bytes(data: bytes, name: str, *, smallest: bool = False) -> Image.Image:
    """Decode the bytes of a picture file; see `decode`.

    Args:
        data: the whole file.
        name: what an error message calls the picture.
        smallest: let JPEG decode at an eighth of the size. It still reads every byte, so it finds what is cut
            off; for checking only.

    Raises:
        ImageDecodeError: the bytes are cut off, or not a picture that Pillow can read.
    """
    with _naming(name), Image.open(io.BytesIO(data)) as picture:
        orientation = orientation_of(picture)
        if smallest:
            picture.draft("RGB", (1, 1))
        picture.load()
        return _upright_rgb(picture, orientation)


def upright_rgb(picture: Image.Image, name: str) -> Image.Image:
    """Return a Pillow picture as `decode` returns that of a file: 8-bit RGB, upright, without transparent parts.

    Args:
        picture: of any mode; not changed, but read where it was only opened.
        name: what an error message calls it.

    Raises:
        ImageDecodeError: its file is cut off or closed.
    """
    with _naming(name):
        orientation = orientation_of(picture)
        picture.load()
        own = picture.mode != "RGB" or picture.format == "TIFF"  # these are copied below
        return _upright_rgb(picture if own else picture.copy(), orientation)


def _upright_rgb(picture: Image.Image, orientation: int) -> Image.Image:
    if picture.format == "TIFF":  # newer Pillow turns TIFF itself and then removes the tag
        upright = ImageOps.exif_transpose(picture)
    elif orientation in _UPRIGHT:
        upright = picture.transpose(_UPRIGHT[orientation])
    else:
        upright = picture
    result = _to_rgb(upright)
    result.info = {}  # a second reader of the EXIF orientation would turn the picture again
    return result


def image_size(ref: ImageRef) -> tuple[int, int]:
    """Return (width, height) in pixels of the decoded, upright picture, read from the file header alone.

    Raises:
        ImageDecodeError: the file is missing or its header cannot be read.
    """
    if ref.span is not None:
        return size_of_bytes(read_bytes(ref), str(ref))
    with _naming(str(ref)):
        if ref.archive is None:
            with open(ref.path, "rb") as stream:
                size = _header_size(stream)
        else:
            with _member(ref) as stream:
                size = _header_size(stream)
    return size or decode(ref).size


def size_of_bytes(data: bytes, name: str) -> tuple[int, int]:
    """Return what `image_size` returns, of the bytes of a picture file.

    Args:
        data: the whole file.
        name: what an error message calls the picture.

    Raises:
        ImageDecodeError: the header cannot be read.
    """
    with _naming(name):
        size = _header_size(io.BytesIO(data))
    return size or decode_bytes(data, name).size


def image_format(data: bytes, name: str) -> str:
    """Return Pillow's name of the format of a picture file ("JPEG", "PNG", ...), whatever the file is called.

    Raises:
        ImageDecodeError: it is not a picture that Pillow can read.
    """
    with _naming(name), Image.open(io.BytesIO(data)) as picture:
        return picture.format or ""


def _header_size(stream: io.BufferedIOBase | zipfile.ZipExtFile) -> tuple[int, int] | None:
    """Return the upright size, or None for TIFF, where Pillow versions differ in who turns the picture."""
    with Image.open(stream) as picture:  # type: ignore[arg-type]
        if picture.format == "TIFF":
            return None
        width, height = picture.size
        return (height, width) if orientation_of(picture) >= 5 else (width, height)


def orientation_of(picture: Image.Image) -> int:
    """Return the EXIF orientation 1..8 from what stands before the pixels; 1 where there is none."""
    if picture.format == "TIFF" or (picture.format == "PNG" and "exif" not in picture.info):
        return 1  # without the second condition Pillow would decode the whole PNG to look behind the pixels
    try:
        value = picture.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:  # damaged EXIF is no reason to lose a picture
        return 1
    return value if isinstance(value, int) and value in _UPRIGHT else 1


def _to_rgb(picture: Image.Image) -> Image.Image:
    if picture.mode == "RGB":
        picture.load()
        return picture.copy() if picture.readonly else picture
    if picture.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in picture.info:
        layer = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    if picture.mode.startswith("I"):
        values = np.asarray(picture).astype(np.float64) / 257.0  # 65535 -> 255
    elif picture.mode == "F":
        values = np.nan_to_num(np.asarray(picture).astype(np.float64))
        values = values * 255.0 if values.max(initial=0.0) <= 1.0 else values
    else:
        return picture.convert("RGB")
    return Image.fromarray(np.rint(values).clip(0, 255).astype(np.uint8)).convert("RGB")


@contextmanager
def _naming(name: str) -> Iterator[None]:
    """Turn whatever a decoder raises into one `ImageDecodeError` that names the picture.

    Decoders raise nearly anything on damaged bytes (OSError, SyntaxError, struct.error, IndexError, ...).
    """
    try:
        yield
    except (SohoError, MemoryError):
        raise
    except Exception as error:
        raise ImageDecodeError(f"{name}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    if isinstance(error, SpanError):
        return str(error)
    if isinstance(error, FileNotFoundError):
        return "the file is not there"
    if isinstance(error, IsADirectoryError):
        return "is a folder, not a picture"
    if isinstance(error, UnidentifiedImageError):
        return "is not a picture in any format that Pillow reads"
    if isinstance(error, KeyError):
        return "the archive has no such member"
    if isinstance(error, OSError) and error.strerror:
        return f"cannot be read ({error.strerror})"
    detail = " ".join(str(error).split())
    return f"cannot be decoded ({detail or type(error).__name__})"


# Open archives of this process. One lock covers reading, not decoding: members are read in far less time than
# they are decoded in, and a second handle would hold a second copy of the archive's directory.
_archives: dict[str, zipfile.ZipFile] = {}
_archives_lock = threading.Lock()


@contextmanager
def _member(ref: ImageRef) -> Iterator[zipfile.ZipExtFile]:
    assert ref.archive is not None
    with _archives_lock:
        archive = _archives.get(ref.archive)
        if archive is None:
            archive = _archives[ref.archive] = zipfile.ZipFile(ref.archive)
        with archive.open(ref.path) as stream:
            yield stream  # type: ignore[misc]


def _forget_archives() -> None:
    """Give a forked child its own handles: a shared one would share the file position with its parent."""
    global _archives, _archives_lock
    _archives = {}
    _archives_lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_archives)
