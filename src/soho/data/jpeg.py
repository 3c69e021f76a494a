"""Faster reading of JPEG photographs: libjpeg-turbo through simplejpeg, at the size that is needed.

JPEG stores blocks of 8 x 8 pixels, which can be decoded as 1 x 1 to 8 x 8. A photograph of 12 megapixels that the model
reads at half a megapixel is then never computed in full. Pixels differ a little from decoding all and resizing.
"""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
from PIL import Image

from soho.data.images import decode_bytes, orientation_of, read_bytes
from soho.data.schema import ImageRef
from soho.errors import SohoError

_START = b"\xff\xd8\xff"
# EXIF orientations that turn a picture on its side.
_ON_ITS_SIDE = 5


def require_simplejpeg() -> None:
    """Look for the package.

    Raises:
        SohoError: it is not installed.
    """
    try:
        import simplejpeg  # noqa: F401
    except ImportError:
        raise SohoError("data.decoder=simplejpeg needs the package simplejpeg: pip install 'soho-vlp[fast]'") from None


def decode_at_least(ref: ImageRef, size_of: Callable[[int, int], tuple[int, int]]) -> np.ndarray:
    """Decode a picture to 8-bit RGB, upright, a JPEG at the smallest size that is not below what is wanted.

    Whatever is not a plain JPEG (other formats, CMYK, damaged files) goes the way of `soho.data.images.decode`, and so
    do its messages.

    Args:
        ref: the picture.
        size_of: (width, height) of the upright picture -> (width, height) that it will be resized to.

    Returns:
        (H, W, 3) uint8.

    Raises:
        ImageDecodeError: the file is missing, cut off, or not a picture that Pillow can read.
    """
    data = read_bytes(ref)
    found = _turbo(data, size_of) if data.startswith(_START) else None
    return np.asarray(decode_bytes(data, str(ref))) if found is None else found


def _turbo(data: bytes, size_of: Callable[[int, int], tuple[int, int]]) -> np.ndarray | None:
    import simplejpeg

    try:
        with Image.open(io.BytesIO(data)) as header:
            orientation, mode, (width, height) = orientation_of(header), header.mode, header.size
        if mode not in ("RGB", "L"):
            return None
        turned = orientation >= _ON_ITS_SIDE
        wanted = size_of(height, width)[::-1] if turned else size_of(width, height)
        pixels = simplejpeg.decode_jpeg(data, "RGB", min_width=min(width, wanted[0]), min_height=min(height, wanted[1]))
    except (ValueError, OSError, Image.DecompressionBombError):
        return None  # Pillow says what is wrong, or reads it all the same
    if orientation == 1:
        return pixels
    return np.ascontiguousarray(_upright(pixels, orientation))


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Undo an EXIF orientation 2..8 on (H, W, 3)."""
    if orientation >= _ON_ITS_SIDE:
        pixels = pixels.transpose(1, 0, 2)
    down, across = {2: (1, -1), 3: (-1, -1), 4: (-1, 1), 5: (1, 1), 6: (1, -1), 7: (-1, -1), 8: (-1, 1)}[orientation]
    return pixels[::down, ::across]
