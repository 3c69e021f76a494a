"""What `soho data shard` wrote: pictures and records in WebDataset shards, found by their index.

The order of the examples and everything about them follow from the index and the lists of records alone, never from the
state of the tar files. A tar that is cut off on one machine of several therefore changes nothing about the plan of an
epoch: its pictures cannot be read, are named and count for nothing, like any broken picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from soho.data.readers.reading import LoadNotes, OnMissing, plural
from soho.data.schema import ImageRef, photos_of
from soho.data.shards.layout import Holds
from soho.data.shards.opening import OpenedShard, open_shards, samples_of
from soho.data.shards.records import to_example
from soho.errors import SohoError


def read_examples(
    places: Sequence[str],
    holds: Holds,
    *,
    name: str = "shards",
    limit: int | None = None,
    on_missing: OnMissing = "error",
    cache: Path | None = None,
) -> tuple[list[Any], LoadNotes]:
    """Read the examples of shards, in the order of the recipe that they were written from.

    Args:
        places: see `soho.data.shards.opening.open_shards`.
        holds: what is needed: captions, questions, statements or hypotheses.
        name: data-set name for messages.
        limit: only the first n examples.
        on_missing: whether a shard that is not there is an error, or named and its pictures count for nothing.
        cache: folder that shards of an address are fetched into.

    Raises:
        SohoError: there are no such shards, they hold something else, or one is missing under "error".
    """
    found, opened = open_shards(places, cache)
    place = ", ".join(places)
    if found != holds:
        raise SohoError(f"{name} (format shards, {place}) has {found}, but {holds} are needed here")
    notes = LoadNotes(source=name, file=place)
    faulty = [(one, fault) for one in opened if (fault := one.fault()) is not None]
    absent = [fault for one, fault in faulty if one.gone]
    if absent and on_missing == "error":
        raise SohoError(f"{name}: {_first(absent)} (on_missing: skip goes on without its pictures)")
    if faulty:
        pictures = sum(one.shard.pictures for one, _ in faulty)
        notes.remarks.append(
            f"{plural(len(faulty), 'shard')} with {plural(pictures, 'picture')} damaged; what cannot be read of it "
            f"counts for nothing: {_first([fault for _, fault in faulty])}"
        )
    numbered = [pair for one, sample in samples_of(opened) for pair in _examples(one, sample, holds)]
    # Shards of several folders follow each other; inside a folder the numbers tell the order.
    bases = {base: number for number, base in enumerate(dict.fromkeys(one.base for one in opened))}
    numbered.sort(key=lambda pair: (bases[pair[0]], pair[1]))
    notes.rows = len(numbered)
    examples = [example for _, _, example in numbered[:limit]]
    if not examples:
        raise SohoError(f"{name}: {place} gives no rows")
    notes.used = len(examples)
    notes.texts = sum(len(example.captions) for example in examples) if holds == "captions" else len(examples)
    return examples, notes


def read_photo_keys(places: Sequence[str]) -> frozenset[str]:
    """Return the photo keys of shards; their tar files need not be there.

    Raises:
        SohoError: there are no such shards.
    """
    holds, opened = open_shards(places)
    examples = (example for one, sample in samples_of(opened) for _, _, example in _examples(one, sample, holds))
    return frozenset(photo.photo_key for example in examples for photo in photos_of(example))


def damaged_shards(places: Sequence[str], cache: Path | None = None) -> list[str]:
    """Read every tar file and return one sentence for each that is not what its index says.

    Raises:
        SohoError: there are no such shards.
    """
    _, opened = open_shards(places, cache)
    return [fault for one in opened if (fault := one.fault_inside()) is not None]


def _examples(one: OpenedShard, sample: dict[str, Any], holds: Holds) -> list[tuple[str, int, Any]]:
    """Return (folder, number, example) of each record of a sample."""
    try:
        key, names, spans = sample["key"], sample["files"], sample["spans"]
        places = [_span(one, *span) for span in spans] or [(0, 0)] * len(names)
        refs = [ImageRef(f"{key}.{name}", one.archive, span) for name, span in zip(names, places, strict=True)]
        return [(one.base, *to_example(record, holds, refs)) for record in sample["records"]]
    except (KeyError, TypeError, ValueError) as error:
        raise SohoError(f"{one.shard.lines} of {one.base}: a sample is not of this version ({error})") from None


def _span(one: OpenedShard, start: Any, length: Any) -> tuple[int, int]:
    """Return the place of a picture: a list that was fetched from elsewhere may say anything.

    Raises:
        ValueError: it is no part of the shard.
    """
    size = one.shard.size
    if type(start) is not int or type(length) is not int or min(start, length) < 0 or start + length > size:
        raise ValueError(f"[{start}, {length}] is no part of a shard of {size:,} bytes")
    return start, length


def _first(faults: Sequence[str]) -> str:
    more = f" and {len(faults) - 1:,} more" if len(faults) > 1 else ""
    return faults[0] + more
