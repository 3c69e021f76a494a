"""NLVR2: `train.json`, `dev.json`, `test1.json`, `test2.json` (Suhr et al., 2019; https://lil.nlp.cornell.edu/nlvr)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from soho.data.images import ImageStore
from soho.data.readers.files import read_lines
from soho.data.readers.reading import LoadNotes, OnMissing, Reading, identifier, json_lines, plural, shown, text_of
from soho.data.schema import ImageRef, VisualStatement
from soho.errors import SohoError

_IDENTIFIER = re.compile(r"^(\w+)-(\d+)-(\d+)-(\d+)$")
_LABELS = {"true": True, "false": False}
_EXPECTED = 'an NLVR2 file (one object a line: {"identifier", "sentence", "label", ...})'
_MENTION = re.compile(r'"identifier"\s*:\s*"([^"]+)"')


def read_statements(
    annotations: Path,
    images: ImageStore,
    *,
    subsets: Mapping[str, Path] | None = None,
    name: str = "nlvr2",
    limit: int | None = None,
    on_missing: OnMissing = "error",
) -> tuple[list[VisualStatement], LoadNotes]:
    """Read NLVR2 sentences about two pictures, in the order of the file.

    The pictures of `dev-850-2-0` are `dev-850-2-img0.png` (left) and `dev-850-2-img1.png` (right); those of the
    training set lie in numbered folders, which its rows name under `directory`.

    Args:
        annotations: JSON Lines, one example a line.
        images: where the pictures are.
        subsets: name -> an NLVR2 file of a part of the examples, for instance upstream's balanced list.
        name: data-set name for messages.
        limit: only the first n examples.
        on_missing: what to do with examples whose pictures are not found, and with empty sentences.

    Raises:
        SohoError: the file is something else, rows are broken, or something is missing under "error".
    """
    reading = Reading(name, annotations, images, on_missing)
    lists = {subset: _identifiers(path) for subset, path in (subsets or {}).items()}
    result: list[VisualStatement] = []
    lines: dict[str, int] = {}
    for line, row in json_lines(annotations, _EXPECTED, reading):
        if limit is not None and len(result) >= limit:
            break
        reading.notes.rows += 1
        known = _known(row, line, lines, reading)
        sentence = text_of(row, "sentence", line, f"example {known}", reading)
        label = _label(row, line, reading)
        if known is None or sentence is None or label is None:
            continue
        refs = _pictures(known, row, reading)
        if refs is None:
            reading.drop("example with a picture that was not found", known)
            continue
        stem = known.rsplit("-", 1)[0]
        result.append(
            VisualStatement(
                statement_id=known,
                sentence=sentence,
                label=label,
                image=refs[0],
                second_image=refs[1],
                photo_key=f"nlvr2:{stem}-img0",
                second_photo_key=f"nlvr2:{stem}-img1",
                subsets=tuple(subset for subset, members in lists.items() if known in members),
            )
        )
    if limit is None:
        for subset, members in lists.items():
            if foreign := len(members - set(lines)):
                reading.notes.remarks.append(f"not in this file: {plural(foreign, 'example')} of the {subset} list")
    return result, reading.finish(len(result), len(result))


def _known(row: Mapping[str, Any], line: int, lines: dict[str, int], reading: Reading) -> str | None:
    """Return the identifier of a row, None where it is broken or was used before (noted)."""
    value = identifier(row, ("identifier",), line, reading)
    if value is None:
        return None
    if not _IDENTIFIER.match(value):
        reading.broken(line, f'"identifier" must look like "dev-850-2-0", found {shown(value)}')
        return None
    if value in lines:
        reading.broken(line, f'the identifier "{value}" was used in line {lines[value]}')
        return None
    lines[value] = line
    return value


def _label(row: Mapping[str, Any], line: int, reading: Reading) -> bool | None:
    """Return the truth of a row; upstream writes it as text, "True" or "False"."""
    value = row.get("label")
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in _LABELS:
        return _LABELS[value.lower()]
    found = f"found {shown(value)}" if "label" in row else "the key is missing"
    reading.broken(line, f'"label" must be "True" or "False", {found}')
    return None


def _pictures(known: str, row: Mapping[str, Any], reading: Reading) -> tuple[ImageRef, ImageRef] | None:
    """Return the left and the right picture, None where one is missing; both are looked for, so that both are told."""
    stem = known.rsplit("-", 1)[0]
    folder = row.get("directory")
    refs = []
    for side in ("img0", "img1"):
        name = f"{stem}-{side}.png"
        refs.append(reading.find(*([name] if folder is None else [f"{folder}/{name}", name])))
    left, right = refs
    return None if left is None or right is None else (left, right)


def _identifiers(path: Path) -> frozenset[str]:
    """Return the identifiers that a file of a subset names.

    Raises:
        SohoError: it cannot be opened or names none.
    """
    found = {match.group(1) for _, line in read_lines(path) if (match := _MENTION.search(line))}
    if not found:
        raise SohoError(f"{path} names no example, but {_EXPECTED} was expected")
    return frozenset(found)
