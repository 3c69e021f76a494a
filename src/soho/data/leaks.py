"""Photographs that reach pre-training and are measured on later: what was left out, and what should have been.

COCO, Visual Genome and VQA share photographs, and so do Flickr8k, Flickr30k and SNLI-VE. A model that was pre-trained
on photographs of a downstream validation or test split is measured too well there. `data.exclude` leaves such
photographs out; this file counts what that did, and names the known cases where nothing does it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass

from soho.data.check_report import Problem
from soho.data.readers.reading import plural
from soho.data.sources import Source


@dataclass(frozen=True, slots=True)
class TrainingPhotographs:
    """The photographs of one source of `data.train`, before anything was left out.

    Attributes:
        source: where they come from.
        files: photo key -> name of the picture's file.
    """

    source: Source
    files: Mapping[str, str]


def exclusion_notes(
    exclude: Sequence[tuple[Source, Set[str]]], train: Sequence[TrainingPhotographs]
) -> Iterator[Problem]:
    """Yield, for each entry of `data.exclude`, how many photographs it names and how many of them were in train.

    Args:
        exclude: the entries with their photo keys.
        train: the training photographs.
    """
    for source, keys in exclude:
        hits = [(one.source.title, found) for one in train if (found := keys & one.files.keys())]
        gone = sorted({key for _, found in hits for key in found})
        parts = ", ".join(f"{len(found):,} ({title})" for title, found in hits)
        effect = f"of which train held {parts}; left out" if gone else "none of which train holds"
        where = f"exclude, {source.title}"
        yield Problem(
            where, f"{source.place} names {plural(len(keys), 'photograph')}, {effect}", False, gone, len(gone)
        )


def known_leaks(excluded: Set[str], train: Sequence[TrainingPhotographs]) -> Iterator[Problem]:
    """Yield known leaks from pre-training data into downstream splits that `data.exclude` does nothing about.

    Args:
        excluded: photo keys of `data.exclude`.
        train: the training photographs.
    """
    coco, flickr = (any(key.startswith(prefix) for key in excluded) for prefix in ("coco:", "flickr:"))
    for one in train:
        message = ""
        if one.source.format == "visual_genome" and not coco:
            shared = _with_prefix(one.files, "coco:")
            message = (
                f"{plural(shared, 'photograph')} of Visual Genome {'is' if shared == 1 else 'are'} in COCO too, those "
                "of its validation and test splits among them; exclude these before COCO retrieval or VQA is measured"
            )
        elif one.source.format == "coco" and not coco:
            shared = sum("_val2014_" in name for name in one.files.values())
            message = (
                f"{plural(shared, 'photograph')} of COCO's val2014, which holds the Karpathy validation and test "
                "splits; exclude these before COCO retrieval or VQA is measured"
            )
        elif one.source.format == "flickr8k" and not flickr:
            shared = _with_prefix(one.files, "flickr:")
            message = (
                f"{plural(shared, 'photograph')} of Flickr8k, nearly all of which are in Flickr30k; exclude those "
                "of its validation and test splits before Flickr30k retrieval or SNLI-VE is measured"
            )
        else:
            continue
        if shared:
            yield Problem(f"train, {one.source.title}", f"{message} (data.exclude)", fatal=False)


def _with_prefix(keys: Iterable[str], prefix: str) -> int:
    return sum(key.startswith(prefix) for key in keys)
