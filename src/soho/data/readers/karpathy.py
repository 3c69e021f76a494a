"""Karpathy split files: `dataset_coco.json`, `dataset_flickr8k.json`, `dataset_flickr30k.json`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from soho.data.images import ImageStore
from soho.data.readers.files import read_json
from soho.data.readers.photo_names import coco_file_names, coco_key, flickr_key
from soho.data.readers.reading import LoadNotes, OnMissing, Reading, identifier, objects, section, shown, text_of
from soho.data.schema import CaptionedImage
from soho.errors import SohoError

_EXPECTED = 'a Karpathy split file ({images: [{filename, split, sentences: [{raw}]}, ...], dataset: "coco"})'


def read_captions(
    annotations: Path,
    images: ImageStore,
    *,
    split: str | None,
    name: str = "karpathy",
    limit: int | None = None,
    on_missing: OnMissing = "error",
) -> tuple[list[CaptionedImage], LoadNotes]:
    """Read one or several splits of a Karpathy file, in its order.

    Args:
        annotations: the file.
        images: where the photos are; COCO photos may lie in `filepath/` or beside each other.
        split: "train", "restval", "val" or "test", or several joined: "train+restval".
        name: data-set name for messages.
        limit: only the first n images.
        on_missing: what to do with images that are not found and captions that are empty.

    Raises:
        SohoError: the file is something else, the split is not in it, rows are broken, or something is missing
            under "error".
    """
    content = read_json(annotations)
    rows = section(content, "images", annotations, _EXPECTED, inner="sentences")
    wanted = _wanted_splits(rows, split, annotations)
    data_set = str(content.get("dataset", ""))
    reading = Reading(name, annotations, images, on_missing)
    result: list[CaptionedImage] = []
    seen: set[str] = set()
    for where, row in objects(rows, "images", reading):
        if row.get("split") not in wanted:
            continue
        if limit is not None and len(result) >= limit:
            break
        reading.notes.rows += 1
        image_id = identifier(row, ("cocoid", "imgid"), where, reading)
        file_name = text_of(row, "filename", where, str(image_id), reading)
        if image_id is None or file_name is None:
            continue
        if image_id in seen:
            reading.broken(where, f"the image id {image_id} was used before")
            continue
        seen.add(image_id)
        sentences = _sentences(row, where, file_name, reading)
        if not sentences:
            continue
        folder = row.get("filepath")
        names = coco_file_names(file_name)
        if isinstance(folder, str) and folder:
            names = (file_name, f"{folder}/{file_name}", *names[1:])
        if (ref := reading.find(*names)) is not None:
            ids, texts = zip(*sentences)
            key = _photo_key(row, image_id, file_name, data_set, name)
            result.append(CaptionedImage(image_id, key, ref, texts, ids))
    return result, reading.finish(len(result), sum(len(item.captions) for item in result))


def _wanted_splits(rows: list[Any], split: str | None, path: Path) -> set[str]:
    held = Counter(str(row.get("split")) for row in rows if isinstance(row, Mapping))
    choices = ", ".join(f"{known} ({count:,})" for known, count in held.items())
    if split is None:
        raise SohoError(f"{path} holds several splits: {choices}; name one with split, for instance split: train")
    wanted = {part.strip() for part in split.split("+")}
    for part in sorted(wanted):
        if part not in held:
            raise SohoError(f"{path} has no split {part!r}; it holds {choices}")
    return wanted


def _sentences(row: Mapping[str, Any], where: str, file_name: str, reading: Reading) -> list[tuple[str, str]]:
    """Return (caption id, caption) pairs."""
    sentences = row.get("sentences")
    if not isinstance(sentences, list):
        reading.broken(where, f'"sentences" must be a list, found {shown(sentences)}')
        return []
    if not sentences:
        reading.drop("image without captions", file_name)
    pairs = []
    for inner, sentence in objects(sentences, f"{where}.sentences", reading):
        caption_id = identifier(sentence, ("sentid",), inner, reading)
        caption = text_of(sentence, "raw", inner, f"caption {caption_id}", reading)
        if caption_id is not None and caption is not None:
            pairs.append((caption_id, caption))
    return pairs


def _photo_key(row: Mapping[str, Any], image_id: str, file_name: str, data_set: str, name: str) -> str:
    if "cocoid" in row:
        return coco_key(image_id, name)
    if data_set.startswith("flickr"):
        return flickr_key(file_name, name)
    return f"{data_set or name}:{file_name}"
