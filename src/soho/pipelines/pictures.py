"""What a pipeline is given: pictures as paths, bytes or Pillow pictures, one or many, and the texts beside them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from soho.data.images import decode, decode_bytes, upright_rgb
from soho.data.schema import ImageRef
from soho.errors import SohoError
from soho.processing.image_processing_soho import Size, SohoImageProcessor

Picture = Image.Image | str | Path | bytes
# One picture, or a list of them; likewise texts. Not any sequence: a path and bytes are sequences too.
Many = list[Any] | tuple[Any, ...]
Pictures = Picture | Many
Texts = str | list[str] | tuple[str, ...]

# Lists of at least this many pictures show their progress, where stderr is a terminal.
SHOW_PROGRESS = 100


def open_picture(image: Picture, name: str = "the picture") -> Image.Image:
    """Return a picture as 8-bit RGB, upright by its EXIF orientation, transparent parts white.

    Args:
        image: a path, the bytes of a picture file, or a Pillow picture of any mode.
        name: what an error message calls it where it has no path.

    Raises:
        SohoError: the file is missing or not a picture, or something else was given.
    """
    if isinstance(image, Image.Image):
        return upright_rgb(image, name)
    if isinstance(image, bytes):
        return decode_bytes(image, f"{name} ({len(image):,} bytes)")
    if not isinstance(image, (str, Path)):
        raise SohoError(f"{name} is of type {type(image).__name__}; expected a path, bytes or a Pillow picture")
    if not Path(image).is_file():
        raise SohoError(f"{image} is not a file; expected a picture")
    return decode(ImageRef(str(image)))


def is_many(given: Any) -> bool:
    """Say whether a list (or tuple) was given and not one picture or text."""
    return isinstance(given, (list, tuple))


def pair_up(images: Pictures, texts: Texts) -> tuple[list[Picture], list[str]]:
    """Return pictures and texts that belong together: row by row, or several texts to a single picture.

    Args:
        images: one picture or B.
        texts: one text for all of them, one each, or any number beside one picture.

    Returns:
        (B pictures, B texts), or (one picture, T texts).

    Raises:
        SohoError: a text is no text or empty, or the numbers do not agree.
    """
    pictures: list[Picture] = list(images) if isinstance(images, (list, tuple)) else [images]
    rows: list[str] = list(texts) if isinstance(texts, (list, tuple)) else [texts]
    for row in rows:
        if not isinstance(row, str):
            raise SohoError(f"a text is of type {type(row).__name__}; expected str")
        if not row.strip():
            raise SohoError("a text is empty; expected a question or a sentence")
    if not is_many(texts):
        return pictures, rows * len(pictures)
    if is_many(images) and len(rows) != len(pictures):
        raise SohoError(
            f"{len(pictures)} pictures and {len(rows)} texts were given; expected one text for all, or one for each"
        )
    return pictures, rows


@dataclass(frozen=True)
class ShapeBatch:
    """Pictures (or pairs of pictures) that go through the CNN together: all of one padded shape.

    Attributes:
        places: (B,) which rows of what was given.
        pictures: for each side (one, or left and right) B resized pictures, (h, w, 3) uint8.
        shapes: for each side (width, height) of its tensor.
    """

    places: list[int]
    pictures: tuple[list[np.ndarray], ...]
    shapes: tuple[Size, ...]


def shape_batches(
    sides: Sequence[Sequence[Picture]], reader: SohoImageProcessor, batch_size: int
) -> Iterator[ShapeBatch]:
    """Open pictures one after the other and yield them in batches of one padded shape.

    A picture is padded by its own shape alone, so that what a model makes of it does not depend on the others. At most
    `batch_size` pictures of each shape wait in memory, in the size that the model reads.

    Args:
        sides: one sequence of B pictures, or a left and a right one.
        reader: resizes.
        batch_size: rows of a batch.

    Raises:
        SohoError: a picture cannot be read, or `batch_size` is below 1.
    """
    if batch_size < 1:
        raise SohoError(f"batch_size={batch_size} must be at least 1")
    waiting: dict[tuple[Size, ...], list[tuple[int, list[np.ndarray]]]] = {}

    def batch(shapes: tuple[Size, ...]) -> ShapeBatch:
        places, rows = zip(*waiting.pop(shapes))
        return ShapeBatch(list(places), tuple(map(list, zip(*rows))), shapes)

    quiet = None if len(sides[0]) >= SHOW_PROGRESS else True  # None: where stderr is no terminal
    rows = tqdm(zip(*sides), total=len(sides[0]), desc="pictures", unit="picture", disable=quiet)
    for place, images in enumerate(rows):
        pictures = [open_picture(image, f"picture {place + 1}") for image in images]
        shapes = tuple(reader.padded_size(*picture.size) for picture in pictures)
        resized = [reader.resized(picture, shape) for picture, shape in zip(pictures, shapes)]
        waiting.setdefault(shapes, []).append((place, resized))
        if len(waiting[shapes]) == batch_size:
            yield batch(shapes)
    for shapes in list(waiting):
        yield batch(shapes)
