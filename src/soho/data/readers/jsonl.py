"""A user's own pictures: JSON Lines, one object a line.

    {"image": "a.jpg", "captions": ["A red bicycle.", "A bike by the wall."]}
    {"image": "b.jpg", "caption": "Two cats on a sofa."}
    {"image": "a.jpg", "question": "What colour is the bicycle?", "answers": ["red", "red", "dark red"]}
    {"image": "b.jpg", "question": "How many cats are there?", "answer": "2"}

`image` is a file name as it stands in the folder or zip file. Rows of both kinds may stand in one file, and several
rows may be about one picture. `id` may name a row; it must then be the only one of its kind with that id. Empty lines
are allowed.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from soho.data.images import ImageStore
from soho.data.readers.files import a_type, read_raw_lines, recognise
from soho.data.readers.reading import LoadNotes, OnMissing, Reading, shown
from soho.data.schema import CaptionedImage, ImageRef, VisualQuestion
from soho.errors import SohoError

_KEYS = ("image", "captions", "caption", "question", "answers", "answer", "id")
_EXPECTED = 'JSON Lines (one object a line, like {"image": "a.jpg", "captions": ["..."]})'


@dataclass(frozen=True, slots=True)
class _Row:
    """One row whose form is right; it has captions, a question, or both."""

    line: int
    image: str
    name: str | None
    captions: tuple[str, ...]
    question: str | None
    answers: tuple[str, ...]


def read_captions(
    path: Path,
    images: ImageStore,
    *,
    name: str = "jsonl",
    limit: int | None = None,
    on_missing: OnMissing = "error",
) -> tuple[list[CaptionedImage], LoadNotes]:
    """Read the rows that have captions; rows about one picture become one example.

    Args:
        path: the JSONL file.
        images: where the pictures are.
        name: data-set name for messages.
        limit: only the first n images.
        on_missing: what to do with images that are not found.

    Returns:
        Examples with the photo keys of `photo_key`, so equal names in two folders are two photographs.

    Raises:
        SohoError: rows are broken (all are counted, the first ten are told), or something is missing under "error".
    """
    reading = Reading(name, path, images, on_missing)
    captions: dict[str, list[str]] = {}
    places: dict[str, tuple[str, ImageRef]] = {}
    other = 0
    for row in _rows(path, reading):
        if not row.captions:
            other += 1
            continue
        reading.notes.rows += 1
        if row.image not in captions and limit is not None and len(captions) >= limit:
            continue
        ref = _find(row, reading)
        if ref is not None:
            captions.setdefault(row.image, []).extend(row.captions)
            places.setdefault(row.image, (row.name or row.image, ref))
    result = []
    for image, texts in captions.items():
        image_id, ref = places[image]
        ids = tuple(f"{image_id}#{index}" for index in range(len(texts)))
        result.append(CaptionedImage(image_id, photo_key(ref), ref, tuple(texts), ids))
    why = f"it holds only questions ({other:,}), but captions are needed here" if other else ""
    return result, reading.finish(len(result), sum(len(item.captions) for item in result), why)


def read_questions(
    path: Path,
    images: ImageStore,
    *,
    name: str = "jsonl",
    limit: int | None = None,
    on_missing: OnMissing = "error",
) -> tuple[list[VisualQuestion], LoadNotes]:
    """Read the rows that have a question; `answers` has one answer per person asked and may be left out.

    Args:
        path: the JSONL file.
        images: where the pictures are.
        name: data-set name for messages.
        limit: only the first n questions.
        on_missing: what to do with images that are not found.

    Returns:
        Questions named by their `id`, else `<image>#<k>` for the k-th question about a picture.

    Raises:
        SohoError: rows are broken (all are counted, the first ten are told), or something is missing under "error".
    """
    reading = Reading(name, path, images, on_missing)
    result: list[VisualQuestion] = []
    asked: dict[str, int] = {}
    other = 0
    for row in _rows(path, reading):
        if row.question is None:
            other += 1
            continue
        reading.notes.rows += 1
        number = asked.get(row.image, 0)
        asked[row.image] = number + 1
        if limit is not None and len(result) >= limit:
            continue
        if (ref := _find(row, reading)) is not None:
            question_id = row.name or f"{row.image}#{number}"
            result.append(VisualQuestion(question_id, row.image, photo_key(ref), ref, row.question, row.answers))
    why = f"it holds only captions ({other:,}), but questions are needed here" if other else ""
    return result, reading.finish(len(result), len(result), why)


def photo_key(ref: ImageRef) -> str:
    """Return the photo key of a picture that nobody else knows: a digest of its place.

    Shards, which are passed on, hold the keys of their pictures. A digest tells no folder of this machine, and because
    files have it too, whatever is drawn by the key is drawn alike from both.
    """
    return f"file:{hashlib.sha256(os.fsencode(str(ref))).hexdigest()[:32]}"


def _find(row: _Row, reading: Reading) -> ImageRef | None:
    try:
        return reading.find(row.image, where=row.line)
    except SohoError as error:  # the name stands for several files
        reading.broken(row.line, str(error))
        return None


def _rows(path: Path, reading: Reading) -> Iterator[_Row]:
    """Yield the rows whose form is right and note the others as broken."""
    lines_of_ids: dict[tuple[str, str], int] = {}
    first = True
    for number, raw in read_raw_lines(path):
        if not raw.strip():
            continue
        if first and raw.strip() in (b"[", b"{"):
            raise SohoError(f"{path} is one JSON value over many lines, but {_EXPECTED} were expected")
        try:
            content = json.loads(raw.decode("utf-8"))
        except UnicodeDecodeError:
            reading.broken(number, "not UTF-8 text; save the file as UTF-8")
            continue
        except json.JSONDecodeError as error:
            reading.broken(number, f"not JSON ({error.msg} at column {error.colno})")
            continue
        if first and (upstream := recognise(content)) is not None:
            raise SohoError(f"{path} is {upstream}, but {_EXPECTED} were expected; set its format")
        first = False
        if (problem := _problem(content)) is not None:
            reading.broken(number, problem)
            continue
        row = _row(content, number)
        earlier = [lines_of_ids[key] for key in _id_keys(row) if key in lines_of_ids]
        if earlier:
            reading.broken(number, f'the id "{row.name}" was used in line {earlier[0]}')
            continue
        lines_of_ids.update(dict.fromkeys(_id_keys(row), number))
        yield row


def _id_keys(row: _Row) -> list[tuple[str, str]]:
    """Return what must be unique: captions and questions count their ids apart."""
    kinds = [kind for kind, there in (("captions", row.captions), ("question", row.question)) if there]
    return [] if row.name is None else [(kind, row.name) for kind in kinds]


def _problem(content: Any) -> str | None:
    """Return what is wrong with the form of a row, or None."""
    if not isinstance(content, Mapping):
        return f'an object like {{"image": ..., "captions": [...]}} was expected, found {a_type(content)}'
    for key in content:
        if key not in _KEYS:
            near = difflib.get_close_matches(str(key), _KEYS, n=1)
            advice = f'did you mean "{near[0]}"?' if near else f"known are {', '.join(_KEYS)}"
            return f'unknown key "{key}"; {advice}'
    for one, many in (("caption", "captions"), ("answer", "answers")):
        if one in content and many in content:
            return f'both "{one}" and "{many}" are given; keep one of them'
    if "image" not in content:
        return 'the key "image" is missing'
    if not {"caption", "captions", "question"} & set(content):
        return 'neither "captions" nor "question" is given'
    if {"answer", "answers"} & set(content) and "question" not in content:
        return "an answer is given without a question"
    if "id" in content and not (_is_number(content["id"]) or _is_text(content["id"])):
        return f'"id" must be a string or a number, found {shown(content["id"])}'
    return next((problem for key in content if (problem := _value_problem(key, content[key])) is not None), None)


def _value_problem(key: str, value: Any) -> str | None:
    """Return what is wrong with the value of a key that holds text, or None."""
    if key in ("captions", "answers"):
        if not isinstance(value, list):
            return f'"{key}" must be a list of strings, found {shown(value)} (for one, write "{key[:-1]}")'
        if not value:
            return f'"{key}" is an empty list'
        for index, item in enumerate(value, start=1):
            if not isinstance(item, str):
                return f'"{key}" must be a list of strings, but number {index} is {shown(item)}'
            if not item.strip():
                return f'number {index} of "{key}" is empty'
    elif key != "id":
        if not isinstance(value, str):
            return f'"{key}" must be a string, found {shown(value)}'
        if not value.strip():
            return f'"{key}" is empty'
    return None


def _row(content: Mapping[str, Any], line: int) -> _Row:
    return _Row(
        line=line,
        image=content["image"].strip(),
        name=str(content["id"]) if "id" in content else None,
        captions=_texts(content, "caption", "captions"),
        question=" ".join(content["question"].split()) if "question" in content else None,
        answers=_texts(content, "answer", "answers"),
    )


def _texts(content: Mapping[str, Any], one: str, many: str) -> tuple[str, ...]:
    values = content.get(many, [content[one]] if one in content else [])
    return tuple(" ".join(value.split()) for value in values)


def _is_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())
