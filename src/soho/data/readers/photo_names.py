"""Keys and file names of photographs that several data sets share."""

from __future__ import annotations

import re

_FLICKR = re.compile(r"^(\d+)(?:_\w+)?\.\w+")
_COCO_2014 = re.compile(r"^COCO_(?:train|val|test)\d{4}_(\d{12}\.\w+)$")


def coco_key(image_id: str, source: str) -> str:
    """Return `coco:391895` for an official (numeric) COCO id, else a key inside `source`."""
    return f"coco:{int(image_id)}" if image_id.isdecimal() else f"{source}:{image_id}"


def flickr_key(file_name: str, source: str) -> str:
    """Return `flickr:1000092795` for `1000092795.jpg` or `1000092795_693b08cb0e.jpg`, else a key in `source`."""
    number = flickr_number(file_name)
    return f"{source}:{file_name}" if number is None else f"flickr:{number}"


def flickr_number(file_name: str) -> str | None:
    """Return `1000092795` for a Flickr photograph's file name, None for any other name."""
    match = _FLICKR.match(file_name.rsplit("/", 1)[-1])
    return match.group(1) if match else None


def coco_file_names(file_name: str) -> tuple[str, ...]:
    """Return the names a COCO photo may have on disk: as written, and as the 2017 release renamed it."""
    match = _COCO_2014.match(file_name.rsplit("/", 1)[-1])
    return (file_name, match.group(1)) if match else (file_name,)
