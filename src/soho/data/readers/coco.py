"""COCO captions: `captions_train2014.json` and the like (https://cocodataset.org/#format-data, "Image Captioning")."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from soho.data.images import ImageStore
from soho.data.readers.files import read_json
from soho.data.readers.photo_names import coco_file_names, coco_key
from soho.data.readers.reading import (
    LoadNotes,
    OnMissing,
    Reading,
    identifier,
    in_split,
    objects,
    pixels,
    section,
    text_of,
)
from soho.data.schema import CaptionedImage

_EXPECTED = "a COCO captions file ({images: [...], annotations: [{image_id, id, caption}, ...]})"


def read_captions(
    annotations: Path,
    images: ImageStore,
    *,
    name: str = "coco",
    names: Collection[str] | None = None,
    limit: int | None = None,
    on_missing: OnMissing = "error",
) -> tuple[list[CaptionedImage], LoadNotes]:
    """Read a COCO captions file; images in its order, captions in its order.

    Args:
        annotations: the file; its `images` give file name, width and height, its `annotations` the captions.
        images: where the photos are; the names of the 2014 and of the 2017 release are both tried.
        name: data-set name for messages and for keys of images without numeric id.
        names: only these images, by id or file name.
        limit: only the first n images.
        on_missing: what to do with images that are not found, empty captions, and captions of unlisted images.

    Raises:
        SohoError: the file is something else, rows are broken, or something is missing under "error".
    """
    content = read_json(annotations)
    caption_rows = section(content, "annotations", annotations, _EXPECTED, inner="caption")
    image_rows = section(content, "images", annotations, _EXPECTED, inner="file_name")
    reading = Reading(name, annotations, images, on_missing)
    captions = _captions_by_image(caption_rows, image_rows, reading)
    result: list[CaptionedImage] = []
    seen: set[str] = set()
    for where, row in objects(image_rows, "images", reading):
        image_id = identifier(row, ("id",), where, reading)
        file_name = text_of(row, "file_name", where, str(image_id), reading)
        if image_id is None or file_name is None or not in_split(names, image_id, file_name):
            continue
        if image_id in seen:
            reading.broken(where, f"the image id {image_id} was used before")
            continue
        seen.add(image_id)
        if limit is not None and len(result) >= limit:
            continue
        reading.notes.rows += 1
        own = captions.get(image_id)
        if not own:
            reading.drop("image without captions", file_name)
            continue
        if (ref := reading.find(*coco_file_names(file_name))) is not None:
            ids, texts = zip(*own)
            key = coco_key(image_id, name)
            result.append(CaptionedImage(image_id, key, ref, texts, ids, pixels(row, "width"), pixels(row, "height")))
    return result, reading.finish(len(result), sum(len(item.captions) for item in result))


def _captions_by_image(
    caption_rows: list[object], image_rows: list[object], reading: Reading
) -> dict[str, list[tuple[str, str]]]:
    """Return image id -> (caption id, caption) pairs in file order."""
    listed = {str(row.get("id")) for row in image_rows if isinstance(row, dict)}
    captions: dict[str, list[tuple[str, str]]] = {}
    seen: set[str] = set()
    for where, row in objects(caption_rows, "annotations", reading):
        image_id = identifier(row, ("image_id",), where, reading)
        caption_id = identifier(row, ("id",), where, reading)
        if image_id is None or caption_id is None:
            continue
        if caption_id in seen:
            reading.broken(where, f"the caption id {caption_id} was used before")
            continue
        seen.add(caption_id)
        caption = text_of(row, "caption", where, f"caption {caption_id}", reading)
        if caption is None:
            continue
        if image_id not in listed:
            reading.absent(where, "caption of an image that the file does not list", f"caption {caption_id}")
            continue
        captions.setdefault(image_id, []).append((caption_id, caption))
    return captions
