"""What every reader does the same way: find pictures, count what is left out, gather what is broken."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from soho.data.images import ImageStore
from soho.data.readers.files import a_type, describe, read_raw_lines
from soho.data.schema import ImageRef
from soho.errors import SohoError

OnMissing = Literal["error", "skip"]
_NAMES_KEPT = 20
_ROWS_SHOWN = 10


@dataclass(slots=True)
class LoadNotes:
    """What happened while one annotation file was read.

    Attributes:
        source: name of the data set.
        file: the annotation file.
        rows: images (captions) or questions that the file holds in the chosen split.
        used: examples returned.
        texts: captions or questions in them.
        missing: distinct images that were not found.
        missing_names: the first 20 of them.
        dropped: reason -> how many rows or captions were left out for it (missing images not among them).
        dropped_names: reason -> the first 20 of them, as the file names them.
        lacking: those reasons of `dropped` that are an error unless `on_missing` is "skip".
        remarks: what a user may want to know about this file; no fault.
    """

    source: str
    file: str
    rows: int = 0
    used: int = 0
    texts: int = 0
    missing: int = 0
    missing_names: list[str] = field(default_factory=list)
    dropped: dict[str, int] = field(default_factory=dict)
    dropped_names: dict[str, list[str]] = field(default_factory=dict)
    lacking: set[str] = field(default_factory=set)
    remarks: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """Return the notes as sentences for a log; empty where nothing was left out."""
        lines = []
        if self.missing:
            lines.append(f"{plural(self.missing, 'image')} not found: {shorten(self.missing_names, self.missing)}")
        for reason, count in self.dropped.items():
            lines.append(f"{count:,} left out, {reason}: {shorten(self.dropped_names[reason], count)}")
        return [f"{self.source} ({self.file}): {line}" for line in [*lines, *self.remarks]]


class Reading:
    """One pass over one annotation file.

    Broken rows are gathered, so that a user sees them together and mends them in one go. Something that is absent
    (an image, a caption's text) is an error or is left out and counted, as `on_missing` says.

    Args:
        source: name of the data set.
        path: the annotation file, for messages.
        images: where pictures are looked up.
        on_missing: "error" or "skip".
    """

    def __init__(self, source: str, path: Path, images: ImageStore, on_missing: OnMissing = "error") -> None:
        self.notes = LoadNotes(source=source, file=str(path))
        self._path = path
        self._images = images
        self._strict = on_missing == "error"
        self._broken = 0
        self._messages: list[str] = []
        self._refs: dict[str, ImageRef | None] = {}

    def broken(self, where: int | str, message: str) -> None:
        """Note a broken row; `where` is its line number, or a place like `annotations[3]`."""
        self._broken += 1
        if len(self._messages) < _ROWS_SHOWN:
            place = f"{self._path}:{where}" if isinstance(where, int) else f"{self._path}, {where}"
            self._messages.append(f"{place}: {message}")

    def drop(self, reason: str, name: str) -> None:
        """Count a row that is rightly left out."""
        self.notes.dropped[reason] = self.notes.dropped.get(reason, 0) + 1
        names = self.notes.dropped_names.setdefault(reason, [])
        if len(names) < _NAMES_KEPT:
            names.append(name)

    def absent(self, where: int | str, reason: str, name: str) -> None:
        """Note something that should be there and is not: broken if `on_missing` is "error", else counted."""
        if self._strict:
            self.broken(where, f"{name}: {reason} (on_missing: skip leaves such rows out)")
        else:
            self.notes.lacking.add(reason)
            self.drop(reason, name)

    def find(self, *names: str, where: int | None = None) -> ImageRef | None:
        """Return the picture under the first of several names that is there, or None (noted).

        Args:
            *names: names to try; the first one is the one that messages use.
            where: line number, where a missing picture is to be listed as a broken row.
        """
        if names[0] in self._refs:
            return self._refs[names[0]]
        ref = next((ref for name in names if (ref := self._images.find(name)) is not None), None)
        self._refs[names[0]] = ref
        if ref is None:
            self.notes.missing += 1
            if len(self.notes.missing_names) < _NAMES_KEPT:
                self.notes.missing_names.append(names[0])
            if self._strict and where is not None:
                similar = self._images.similar(names[0])
                advice = f'; there is "{similar}"' if similar else ""
                self.broken(where, f'the image "{names[0]}" is not in {self._images}{advice}')
        return ref

    def finish(self, used: int, texts: int, why_empty: str = "") -> LoadNotes:
        """Close the pass.

        Args:
            used: examples that are returned.
            texts: captions or questions in them.
            why_empty: what to say of a file that gives nothing although no row of it is broken or left out.

        Raises:
            SohoError: rows are broken, images are missing under "error", or nothing is left.
        """
        notes = self.notes
        notes.used, notes.texts = used, texts
        if self._broken == 1:
            raise SohoError(self._messages[0])
        if self._broken:
            shown = "" if self._broken <= _ROWS_SHOWN else f", the first {_ROWS_SHOWN}"
            raise SohoError("\n  ".join([f"{self._path}: {self._broken:,} broken rows{shown}:", *self._messages]))
        if notes.missing and (self._strict or not used):
            raise SohoError(
                f"{notes.source}: {plural(notes.missing, 'image')} that {self._path} names "
                f"{'is' if notes.missing == 1 else 'are'} not in {self._images}: "
                f"{shorten(notes.missing_names[:5], notes.missing)}"
                + (" (on_missing: skip leaves them out)" if used else "")
            )
        if not used:
            why = "; ".join(f"{count:,} left out, {reason}" for reason, count in notes.dropped.items()) or why_empty
            raise SohoError(f"{notes.source}: {self._path} gives no rows" + (f" ({why})" if why else ""))
        return notes


def section(content: Any, key: str, path: Path, expected: str, inner: str) -> list[Any]:
    """Return the list under `key` of an upstream file, or say what the file is instead.

    Args:
        content: the parsed file.
        key: the list's key.
        path: the file, for the message.
        expected: what it should be.
        inner: a key that its records must have, which tells files with the same outer form apart.

    Raises:
        SohoError: the file is something else.
    """
    rows = content.get(key) if isinstance(content, Mapping) else None
    if not isinstance(rows, list) or (rows and isinstance(rows[0], Mapping) and inner not in rows[0]):
        raise SohoError(f"{path} is {describe(content)}, but {expected} was expected")
    return rows


def json_lines(path: Path, expected: str, reading: Reading) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Yield (line number, record) of an upstream JSON Lines file and note lines that are no object as broken.

    Args:
        path: the file; empty lines are passed over.
        expected: what it should be, for the message where it is something else.
        reading: notes the broken lines.

    Raises:
        SohoError: the file is one JSON value over many lines, or cannot be opened.
    """
    first = True
    for number, raw in read_raw_lines(path):
        if not raw.strip():
            continue
        if first and raw.strip() in (b"[", b"{"):
            raise SohoError(f"{path} is one JSON value over many lines, but {expected} was expected")
        first = False
        try:
            content = json.loads(raw.decode("utf-8"))
        except UnicodeDecodeError:
            reading.broken(number, "not UTF-8 text; save the file as UTF-8")
            continue
        except json.JSONDecodeError as error:
            reading.broken(number, f"not JSON ({error.msg} at column {error.colno})")
            continue
        if isinstance(content, Mapping):
            yield number, content
        else:
            reading.broken(number, f"an object was expected, found {a_type(content)}")


def objects(rows: Sequence[Any], place: str, reading: Reading) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield (where, record) of the rows that are objects and note the others as broken."""
    for index, row in enumerate(rows):
        where = f"{place}[{index}]"
        if isinstance(row, Mapping):
            yield where, row
        else:
            reading.broken(where, f"an object was expected, found {a_type(row)}")


def identifier(row: Mapping[str, Any], keys: Sequence[str], where: int | str, reading: Reading) -> str | None:
    """Return the number or string under the first of `keys` that is there, as a string; None if broken (noted)."""
    for key in keys:
        if key in row:
            value = row[key]
            if isinstance(value, (int, str)) and not isinstance(value, bool) and str(value).strip():
                return str(value)
            reading.broken(where, f'"{key}" must be a number or a string, found {shown(value)}')
            return None
    reading.broken(where, f'the key "{keys[0]}" is missing')
    return None


def text_of(row: Mapping[str, Any], key: str, where: int | str, name: str, reading: Reading) -> str | None:
    """Return a text with its white space made single; None where it is broken or empty (noted)."""
    value = row.get(key)
    if not isinstance(value, str):
        found = f"found {shown(value)}" if key in row else "the key is missing"
        reading.broken(where, f'"{key}" must be a string, {found}')
        return None
    text = " ".join(value.split())
    if not text:
        reading.absent(where, f"empty {key}", name)
        return None
    return text


def pixels(row: Mapping[str, Any], key: str) -> int:
    """Return a width or height, 0 where the record has none."""
    value = row.get(key)
    return value if isinstance(value, int) and value > 0 else 0


def shown(value: Any) -> str:
    """Return a value for a message: its JSON type and its beginning."""
    if value is None:
        return "null"
    text = repr(value)
    return f"{a_type(value)}: {text if len(text) <= 40 else text[:37] + '...'}"


def plural(count: int, noun: str) -> str:
    """Return `1 image`, `2 images`."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def shorten(names: Sequence[str], total: int, most: int = 5) -> str:
    """Return the first names of a longer list as text."""
    listed = ", ".join(names[:most])
    rest = total - min(len(names), most)
    return f"{listed} and {rest:,} more" if rest > 0 else listed


def in_split(names: Collection[str] | None, *candidates: str) -> bool:
    """Say whether a split list names the image under any of its names, with or without file extension."""
    return names is None or any(name in names or without_extension(name) in names for name in candidates)


def without_extension(file_name: str) -> str:
    """Return the name without `.jpg` or `.png`; any other ending belongs to the name."""
    stem, dot, extension = file_name.rpartition(".")
    return stem if dot and extension.lower() in ("jpg", "jpeg", "png") else file_name
