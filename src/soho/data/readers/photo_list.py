"""A list of photographs without texts: what `data.exclude` leaves out of training.

Two forms. A plain list has one name or number a line, as the split lists of Flickr30k and SNLI-VE have. A table has a
line of column names and tab-separated columns, one of which names the photographs; another may tell splits, for
instance of a file that says which photographs of Flickr8k are in which split of SNLI-VE.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from soho.data.readers.files import read_lines
from soho.data.readers.photo_names import flickr_key
from soho.errors import SohoError

Collection = Literal["coco", "flickr"]

_COCO = re.compile(r"^(?:COCO_\w+_)?0*(\d+)(?:\.\w+)?$")
_ROWS_SHOWN = 5


def read_photo_keys(
    path: Path,
    collection: Collection,
    *,
    column: str | None = None,
    split_column: str | None = None,
    split: str | None = None,
) -> frozenset[str]:
    """Read the photo keys of a list.

    Args:
        path: the file.
        collection: whose numbers they are: "coco" or "flickr" (Flickr8k and Flickr30k are named by Flickr's numbers).
        column: the column of names or numbers; None = a plain list.
        split_column: the column of splits.
        split: only these, for instance "dev+test"; None = all rows.

    Returns:
        Keys like `flickr:1000092795`, see `soho.data.readers.photo_names`.

    Raises:
        SohoError: a column or split that the file does not have, or a row that names no photograph.
    """
    keys: set[str] = set()
    seen: set[str] = set()
    wanted = None if split is None else set(split.split("+"))
    broken: list[str] = []
    for number, name, part in _rows(path, column, split_column):
        seen.add(part)
        if wanted is not None and part not in wanted:
            continue
        key = _key(name, collection)
        if key is None:
            broken.append(f"{path}:{number}: no photograph of {collection}: {name[:40]!r}")
        else:
            keys.add(key)
    if broken:
        more = f" (and {len(broken) - 1:,} more such rows)" if len(broken) > 1 else ""
        raise SohoError(broken[0] + more)
    unknown = sorted((wanted or set()) - seen)
    if unknown:
        raise SohoError(
            f"{path} has no row whose {split_column} is {unknown[0]!r}; it has {', '.join(sorted(seen)[:_ROWS_SHOWN])}"
        )
    if not keys:
        raise SohoError(f"{path} names no photograph")
    return frozenset(keys)


def _rows(path: Path, column: str | None, split_column: str | None) -> Iterator[tuple[int, str, str]]:
    """Yield (line number, name, split) of every row."""
    places: tuple[int, int | None] | None = None if column is not None else (0, None)
    for number, line in read_lines(path):
        if not line.strip():
            continue
        fields = [field.strip() for field in line.split("\t")]
        if places is None:
            assert column is not None
            place = _place(path, fields, column)
            places = (place, None if split_column is None else _place(path, fields, split_column))
            continue
        if max(places[0], places[1] or 0) >= len(fields):
            raise SohoError(f"{path}:{number}: {len(fields)} tab-separated columns, fewer than the first line names")
        yield number, fields[places[0]], "" if places[1] is None else fields[places[1]]


def _place(path: Path, header: list[str], column: str) -> int:
    if column not in header:
        raise SohoError(f"{path} has no column {column!r}; its first line names {', '.join(header)[:200]}")
    return header.index(column)


def _key(name: str, collection: Collection) -> str | None:
    if collection == "flickr":
        key = f"flickr:{name}" if name.isdecimal() else flickr_key(name, "")
        return key if key.startswith("flickr:") else None
    match = _COCO.match(name.rsplit("/", 1)[-1])
    return None if match is None else f"coco:{match.group(1)}"
