"""Examples as JSON and back. Everything of a record is kept but the place of its pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from soho.data.schema import (
    CaptionedImage,
    Example,
    ImageRef,
    VisualHypothesis,
    VisualQuestion,
    VisualStatement,
)
from soho.data.shards.layout import Holds
from soho.errors import SohoError

# Any: each has keywords of its own, which `to_example` fills from JSON.
CLASSES: dict[Holds, Any] = {
    "captions": CaptionedImage,
    "questions": VisualQuestion,
    "statements": VisualStatement,
    "hypotheses": VisualHypothesis,
}
_PICTURES = ("image", "second_image")


def kind_of(example: Example) -> Holds:
    """Return what an index calls records of this class."""
    return next(kind for kind, known in CLASSES.items() if isinstance(example, known))


def to_record(example: Example, number: int, sizes: Sequence[tuple[int, int]] = ()) -> dict[str, Any]:
    """Return the JSON object of an example.

    Args:
        example: the record.
        number: its place in the order of the recipe.
        sizes: (width, height) of its pictures, used where the example itself names none.
    """
    record: dict[str, Any] = {"number": number}
    for field in fields(example):
        if field.name not in _PICTURES:
            value = getattr(example, field.name)
            record[field.name] = list(value) if isinstance(value, tuple) else value
    for prefix, (width, height) in zip(("", "second_"), sizes):
        if not (record[f"{prefix}width"] and record[f"{prefix}height"]):
            record |= {f"{prefix}width": width, f"{prefix}height": height}
    return record


def to_example(record: Mapping[str, Any], kind: Holds, pictures: Sequence[ImageRef]) -> tuple[int, Example]:
    """Return (place in the order of the recipe, example) of a JSON object.

    Raises:
        SohoError: it lacks a key or has one too many.
    """
    values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in record.items()}
    try:
        number = int(values.pop("number"))
        return number, CLASSES[kind](**values, **dict(zip(_PICTURES, pictures)))
    except (KeyError, TypeError) as error:
        raise SohoError(f"a record of a shard is not of this version ({error}): {dict(record)!r:.120}") from None
