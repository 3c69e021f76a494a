"""SNLI-VE: `snli_ve_{train,dev,test}.jsonl` (Xie et al., 2019), and e-SNLI-VE: CSV files (Kayser et al., 2021)."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from soho.data.images import ImageStore
from soho.data.readers.files import read_lines
from soho.data.readers.photo_names import flickr_number
from soho.data.readers.reading import LoadNotes, OnMissing, Reading, json_lines, shown, text_of
from soho.data.schema import ENTAILMENT_LABELS, VisualHypothesis
from soho.errors import SohoError

# What the annotators could not agree on; SNLI's own rule is to leave such rows out.
_NO_LABEL = "-"
_EXPECTED = (
    'an SNLI-VE file (one object a line: {"Flickr30K_ID", "sentence2", "gold_label", ...}) or an e-SNLI-VE CSV file '
    "(columns Flickr30kID, hypothesis, gold_label)"
)
_JSON_KEYS = {"photo": "Flickr30K_ID", "text": "sentence2"}
_CSV_KEYS = {"photo": "Flickr30kID", "text": "hypothesis"}


def read_hypotheses(
    annotations: Path,
    images: ImageStore,
    *,
    name: str = "snli_ve",
    limit: int | None = None,
    on_missing: OnMissing = "error",
) -> tuple[list[VisualHypothesis], LoadNotes]:
    """Read hypotheses about Flickr photographs, in the order of the file; the premise is the picture.

    A photograph is found as `<number>.jpg` (Flickr30k) or `<number>_<hash>.jpg` (Flickr8k). Rows with the gold label
    "-" are left out and counted.

    Args:
        annotations: JSON Lines or CSV; which of them is seen from the first line.
        images: where the photographs are.
        name: data-set name for messages.
        limit: only the first n hypotheses.
        on_missing: what to do with photographs that are not found and with empty hypotheses.

    Raises:
        SohoError: the file is something else, rows are broken, or something is missing under "error".
    """
    reading = Reading(name, annotations, images, on_missing)
    photographs = _Photographs(images)
    table = _is_table(annotations)
    keys = _CSV_KEYS if table else _JSON_KEYS
    rows = _csv_rows(annotations, reading) if table else json_lines(annotations, _EXPECTED, reading)
    result: list[VisualHypothesis] = []
    for line, row in rows:
        if limit is not None and len(result) >= limit:
            break
        reading.notes.rows += 1
        number = _number(row, keys["photo"], line, reading)
        known = str(row.get("pairID") or f"{number}#{line}")
        label = _label(row, line, reading)
        if number is None or label is None:
            continue
        if label == _NO_LABEL:
            reading.drop('gold label "-"', known)
            continue
        text = text_of(row, keys["text"], line, f"pair {known}", reading)
        if text is None:
            continue
        ref = reading.find(*photographs.names(number))
        if ref is None:
            reading.drop("pair whose photograph was not found", known)
            continue
        result.append(VisualHypothesis(known, number, f"flickr:{number}", ref, text, label))
    return result, reading.finish(len(result), len(result))


class _Photographs:
    """Under which names a Flickr photograph may lie."""

    def __init__(self, images: ImageStore) -> None:
        self._images = images

    def names(self, number: str) -> tuple[str, ...]:
        """Return Flickr30k's name, and Flickr8k's where the store has such a file."""
        official = f"{number}.jpg"
        other = self._flickr8k.get(number)
        return (official,) if other is None or other == official else (official, other)

    @cached_property
    def _flickr8k(self) -> dict[str, str]:
        return {number: name for name in self._images.base_names() if (number := flickr_number(name)) is not None}


def _is_table(path: Path) -> bool:
    """Say whether a file is CSV: its first line is a header with the columns that are needed.

    Raises:
        SohoError: it is neither that nor JSON.
    """
    first = next((line for _, line in read_lines(path) if line.strip()), "")
    if first.lstrip().startswith(("{", "[")):
        return False
    columns = next(csv.reader([first]), [])
    if missing := [key for key in (*_CSV_KEYS.values(), "gold_label") if key not in columns]:
        raise SohoError(f"{path} has no column {missing[0]}, but {_EXPECTED} was expected")
    return True


def _csv_rows(path: Path, reading: Reading) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Yield (line number of its end, row) and note rows with another number of columns as broken."""
    table = csv.DictReader((f"{line}\n" for _, line in read_lines(path)), strict=True)
    try:
        for row in table:
            if None in row or None in row.values():
                columns = len(table.fieldnames or ())
                reading.broken(table.line_num, f"another number of columns than the header's {columns}")
            else:
                yield table.line_num, row
    except csv.Error as error:
        raise SohoError(f"{path}:{table.reader.line_num}: not CSV ({error})") from None


def _number(row: Mapping[str, Any], key: str, line: int, reading: Reading) -> str | None:
    """Return the Flickr number of a row's photograph, written `391` or `391.jpg`; None where it is broken (noted)."""
    value = row.get(key)
    text = str(value) if isinstance(value, (str, int)) and not isinstance(value, bool) else ""
    number = text if text.isdecimal() else flickr_number(text)
    if number is None:
        found = f"found {shown(value)}" if key in row else "the key is missing"
        reading.broken(line, f'"{key}" must be the number of a Flickr photograph, {found}')
    return number


def _label(row: Mapping[str, Any], line: int, reading: Reading) -> str | None:
    value = row.get("gold_label")
    if value in (*ENTAILMENT_LABELS, _NO_LABEL):
        return str(value)
    found = f"found {shown(value)}" if "gold_label" in row else "the key is missing"
    reading.broken(line, f'"gold_label" must be one of {", ".join(ENTAILMENT_LABELS)} or "-", {found}')
    return None
