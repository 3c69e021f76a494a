"""Pictures that somebody sends: looked at from outside first, decoded only when they are small enough."""

from __future__ import annotations

import io

from PIL import Image, UnidentifiedImageError

from soho.data.images import ImageDecodeError, upright_rgb
from soho.serving.limits import MEBI, Limits, Refusal

# What browsers show and cameras write. Every other decoder of Pillow stays out of a stranger's reach.
FORMATS = ("JPEG", "PNG", "WEBP")
# A picture of one row and a million columns has no shape that a model could read.
MOST_OBLONG = 50


def check_picture(data: bytes, name: str, limits: Limits) -> None:
    """Refuse what is no picture, or one that is too large, from its first bytes; decodes nothing.

    Args:
        data: the whole file.
        name: what the sentence calls it.
        limits: of the server.

    Raises:
        Refusal: 413 where the file or the picture is too large, 415 where it is no JPEG, PNG or WebP picture, 422
            where it is empty or too oblong.
    """
    if not data:
        raise Refusal(422, f"{name} is empty; expected a JPEG, PNG or WebP picture")
    if len(data) > limits.upload_bytes:
        raise Refusal(
            413, f"{name} has {len(data) / MEBI:.1f} MiB; expected at most {limits.upload_bytes / MEBI:g} MiB"
        )
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
            width, height = picture.size
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):  # the latter under `-W error`
        raise Refusal(
            413, f"{name} has more than {_millions(limits.pixels)} million pixels, the most allowed"
        ) from None
    except UnidentifiedImageError:
        raise Refusal(415, f"{name} is not a JPEG, PNG or WebP picture, whatever its name says") from None
    except Exception:  # decoders raise nearly anything on damaged bytes
        raise Refusal(415, f"{name} is damaged; expected a JPEG, PNG or WebP picture") from None
    if width * height > limits.pixels:
        raise Refusal(
            413,
            f"{name} has {width} x {height} pixels; expected at most {_millions(limits.pixels)} million of them",
        )
    if max(width, height) > MOST_OBLONG * min(width, height):
        raise Refusal(422, f"{name} has {width} x {height} pixels; expected sides of at most {MOST_OBLONG} to 1")


def decode_picture(data: bytes, name: str) -> Image.Image:
    """Decode a picture that `check_picture` has let in, upright and as RGB.

    Raises:
        Refusal: 422, it is cut off or damaged.
    """
    try:
        # The same decoders as above: by all of Pillow's a file can be another picture, of a size that nobody checked.
        with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
            return upright_rgb(picture, name)
    except ImageDecodeError as error:
        raise Refusal(422, str(error)) from None
    except Exception:  # decoders raise nearly anything on damaged bytes
        raise Refusal(422, f"{name} is damaged; expected a JPEG, PNG or WebP picture") from None


def as_jpeg(picture: Image.Image, edge: int, quality: int = 88) -> bytes:
    """Return a picture as a JPEG file without any of its metadata, its longer side at most `edge` pixels."""
    shown = picture.convert("RGB")
    shown.thumbnail((edge, edge), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    shown.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def _millions(pixels: int) -> str:
    return f"{pixels / 1e6:g}"
