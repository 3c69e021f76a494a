"""The caption files of Flickr8k and Flickr30k: one `<image>#<k>TAB<caption>` a line."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from soho.data.images import ImageStore
from soho.data.readers.files import read_lines
from soho.data.readers.photo_names import flickr_key
from soho.data.readers.reading import LoadNotes, OnMissing, Reading, in_split, without_extension
from soho.data.schema import CaptionedImage


def read_token_file(
    annotations: Path,
    images: ImageStore,
    *,
    name: str,
    names: Collection[str] | None,
    limit: int | None,
    on_missing: OnMissing,
) -> tuple[list[CaptionedImage], LoadNotes]:
    """Read a token file; images in the order of `names`, or of the file where that is None.

    Args:
        annotations: the token file.
        images: where the photos are.
        name: data-set name for messages.
        names: the split: image names with or without `.jpg`; None takes every image.
        limit: only the first n images.
        on_missing: what to do with images that are not found, captions that are empty and names without caption.

    Raises:
        SohoError: rows are broken, or something is missing under "error".
    """
    reading = Reading(name, annotations, images, on_missing)
    wanted = None if names is None else frozenset(names)
    captions: dict[str, list[tuple[str, str]]] = {}
    seen: set[str] = set()
    for number, line in read_lines(annotations):
        if not line.strip():
            continue
        caption_id, tab, text = line.partition("\t")
        file_name, mark, index = caption_id.strip().rpartition("#")
        if not (tab and mark and file_name and index.isdecimal()):
            reading.broken(number, f'expected "<image>#<number><TAB><caption>", found {line[:40]!r}')
            continue
        if caption_id in seen:
            reading.broken(number, f"the caption id {caption_id} was used before")
            continue
        seen.add(caption_id)
        if not in_split(wanted, file_name):
            continue
        own = captions.setdefault(file_name, [])
        if caption := " ".join(text.split()):
            own.append((caption_id.strip(), caption))
        else:
            reading.absent(number, "empty caption", caption_id)
    result: list[CaptionedImage] = []
    for file_name in _in_order(captions, names, reading):
        if limit is not None and len(result) >= limit:
            break
        reading.notes.rows += 1
        if not captions[file_name]:
            reading.drop("image without captions", file_name)
        elif (ref := reading.find(file_name)) is not None:
            ids, texts = zip(*captions[file_name])
            result.append(CaptionedImage(file_name, flickr_key(file_name, name), ref, texts, ids))
    return result, reading.finish(len(result), sum(len(item.captions) for item in result))


def _in_order(captions: dict[str, list[tuple[str, str]]], names: Collection[str] | None, reading: Reading) -> list[str]:
    if names is None:
        return list(captions)
    by_stem = {without_extension(file_name): file_name for file_name in captions}
    ordered: dict[str, None] = {}
    for name in names:
        file_name = name if name in captions else by_stem.get(name)
        if file_name is None:
            reading.absent("split list", "in the split list, but without captions", name)
        else:
            ordered[file_name] = None
    return list(ordered)
