"""Examples about the same picture, or the same two pictures, that stand together in a batch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

from soho.data.schema import ImageRef, Photo, VisualHypothesis, VisualQuestion, VisualStatement, photos_of

OneText = TypeVar("OneText", VisualQuestion, VisualStatement, VisualHypothesis)

# Texts about one picture that are read together in evaluation.
TEXTS_AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class PictureGroup(Generic[OneText]):
    """Examples about the same pictures, which go through the CNN once for all of them.

    Attributes:
        examples: the records.
        rows: their numbers in the split.
    """

    examples: tuple[OneText, ...]
    rows: tuple[int, ...]

    @property
    def photos(self) -> tuple[Photo, ...]:
        """The pictures that all the examples share."""
        return photos_of(self.examples[0])


def group_by_picture(examples: Iterable[tuple[int, OneText]], most: int) -> list[PictureGroup[OneText]]:
    """Put up to `most` examples about the same pictures together; every example stands in exactly one group.

    Args:
        examples: (row, record) pairs.
        most: examples in a group; 1 leaves every one alone.
    """
    of_pictures: dict[tuple[ImageRef, ...], list[tuple[int, OneText]]] = {}
    for row, example in examples:
        of_pictures.setdefault(tuple(photo.image for photo in photos_of(example)), []).append((row, example))
    groups = []
    for members in of_pictures.values():
        for start in range(0, len(members), most):
            rows, records = zip(*members[start : start + most])
            groups.append(PictureGroup(tuple(records), tuple(rows)))
    return groups
