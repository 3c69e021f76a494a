"""One entry of a recipe's `data.train`, `data.validation` or `data.test`: which files, in which upstream format."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence, Set
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from soho.data.images import ImageStore
from soho.data.readers import (
    LoadNotes,
    OnMissing,
    coco,
    daquar,
    flickr8k,
    flickr30k,
    gqa,
    jsonl,
    karpathy,
    nlvr2,
    shards,
    snli_ve,
    visual_genome,
    vqa2,
)
from soho.data.readers.files import read_names
from soho.data.readers.photo_list import Collection, read_photo_keys
from soho.data.readers.reading import plural
from soho.data.schema import (
    CaptionedImage,
    Example,
    ImageRef,
    VisualHypothesis,
    VisualQuestion,
    VisualStatement,
    photos_of,
)
from soho.errors import SohoError

__all__ = [
    "Load",
    "LoadNotes",
    "Source",
    "excluded_photographs",
    "leave_out",
    "load_captions",
    "load_hypotheses",
    "load_questions",
    "load_statements",
    "photographs_of",
]

Format = Literal[
    "coco",
    "karpathy",
    "visual_genome",
    "flickr30k",
    "flickr8k",
    "vqa2",
    "daquar",
    "gqa",
    "nlvr2",
    "snli_ve",
    "photo_list",
    "jsonl",
    "shards",
]
Captions = tuple[list[CaptionedImage], LoadNotes]
AnyExample = TypeVar("AnyExample", bound=Example)

# What the examples of each format are; jsonl has captions too.
_HOLDS: dict[Format, str] = {
    "vqa2": "questions",
    "daquar": "questions",
    "gqa": "questions",
    "nlvr2": "statements about two pictures",
    "snli_ve": "hypotheses",
}

# Fields that only some formats know; elsewhere they would silently do nothing.
_SPECIAL_FIELDS: dict[str, tuple[Format, ...]] = {
    "questions": ("vqa2",),
    "split": ("karpathy", "daquar", "photo_list"),
    "split_file": ("flickr8k", "flickr30k", "coco"),
    "image_data": ("visual_genome", "gqa"),
    "photos_of": ("photo_list",),
    "column": ("photo_list",),
    "split_column": ("photo_list",),
    "balanced": ("nlvr2",),
    "unbalanced": ("nlvr2",),
    "shards": ("shards",),
    "cache": ("shards",),
}


class Source(BaseModel):
    """Where one data set, or one split of it, is read from.

    Paths of annotation files may end in `.gz`, name a zip file of one file, or be written `archive.zip!member`.
    """

    model_config = ConfigDict(extra="forbid")

    format: Format = Field(description="The upstream format of the files.")
    annotations: Path | None = Field(
        default=None, description="The annotation file. May be left out for vqa2 only: test questions, no answers."
    )
    questions: Path | None = Field(default=None, description="vqa2: the questions file.")
    images: list[Path] = Field(
        default_factory=list,
        description="Folders and .zip files with the pictures; one may stand without list. "
        "jsonl: the folder of the annotation file where nothing is given.",
    )
    split: str | None = Field(
        default=None,
        description='karpathy: "train", "restval", "val", "test", or joined as "train+restval". daquar: "train" or '
        '"held_out". photo_list: values of split_column, joined in the same way.',
    )
    split_file: Path | None = Field(
        default=None,
        description="flickr8k, flickr30k, coco: a list of the images of the split, one name (or COCO id) a line.",
    )
    image_data: Path | None = Field(
        default=None, description="visual_genome, gqa: image_data.json, which tells the photos that COCO has too."
    )
    photos_of: Collection | None = Field(
        default=None, description='photo_list: whose photographs are listed, "coco" or "flickr" (8k and 30k).'
    )
    column: str | None = Field(
        default=None, description="photo_list: the column of names or numbers; a plain list has none."
    )
    split_column: str | None = Field(default=None, description="photo_list: the column that split chooses from.")
    balanced: Path | None = Field(
        default=None, description="nlvr2: upstream's balanced list; its examples are also measured by themselves."
    )
    unbalanced: Path | None = Field(default=None, description="nlvr2: upstream's unbalanced list, likewise.")
    shards: list[str] = Field(
        default_factory=list,
        description="shards: what `soho data shard` wrote: a folder, an http(s) address of one, or some of its files, "
        'as in "shards/train/{000000..000009}.tar"; one may stand without list.',
    )
    cache: Path | None = Field(
        default=None, description="shards: a folder of this machine; shards of an address are fetched into it first."
    )
    name: str | None = Field(default=None, description="Name of the data set in messages; the format where not given.")
    limit: int | None = Field(default=None, ge=1, description="Only the first n images (captions) or questions.")
    on_missing: OnMissing = Field(
        default="error",
        description='Images that are not there and empty captions: "error", or "skip" them, counted and named.',
    )

    @field_validator("shards", mode="before")
    @classmethod
    def _places(cls, value: Any) -> Any:
        # An address is no path: a path would lose one of its slashes.
        many = value if isinstance(value, (list, tuple)) else [value]
        return [str(place) if isinstance(place, Path) else place for place in many]

    @field_validator("images", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return [value] if isinstance(value, (str, Path)) else value

    @model_validator(mode="after")
    def _fields_fit_format(self) -> Source:
        for key, formats in _SPECIAL_FIELDS.items():
            if getattr(self, key) not in (None, []) and self.format not in formats:
                raise ValueError(f"{key} belongs to format {' or '.join(formats)}, not to {self.format}")
        if self.format == "shards":
            if not self.shards:
                raise ValueError("format shards needs shards: a folder that `soho data shard` wrote, or its address")
            if self.annotations is not None or self.images:
                raise ValueError(
                    "format shards has its pictures and texts in the shards; leave annotations and images out"
                )
            return self
        if self.format == "vqa2" and self.questions is None:
            raise ValueError("format vqa2 needs questions: the questions file")
        if self.format != "vqa2" and self.annotations is None:
            raise ValueError(f"format {self.format} needs annotations: the annotation file")
        if self.format == "photo_list":
            if self.photos_of is None:
                raise ValueError('format photo_list needs photos_of: "coco" or "flickr"')
            if self.split_column is not None and self.column is None:
                raise ValueError("split_column needs column: which column of the table names the photographs")
            if (self.split is None) != (self.split_column is None):
                raise ValueError("format photo_list needs split and split_column together, or neither")
        elif not self.images and self.format != "jsonl":
            raise ValueError(f"format {self.format} needs images: folders or .zip files with the pictures")
        return self

    @property
    def title(self) -> str:
        """The data set's name in messages."""
        return self.name or self.format

    @property
    def file(self) -> Path:
        """The file that lists the examples: the questions of vqa2, else the annotations; shards have none."""
        path = self.questions if self.format == "vqa2" else self.annotations
        assert path is not None  # held by the validator
        return path

    @property
    def place(self) -> str:
        """Where the examples come from, for messages."""
        return ", ".join(self.shards) if self.format == "shards" else str(self.file)

    def image_store(self) -> ImageStore:
        """Return the pictures' places; shards bring their own and need none.

        Raises:
            SohoError: a place does not exist or is neither a folder nor a zip file.
        """
        return ImageStore([] if self.format == "shards" else self.images or [self.file.parent])


# How a task reads a source: `load_captions` or a sibling.
Load = Callable[[Source], tuple[Sequence[Example], LoadNotes]]


class _Unopened(ImageStore):
    """Takes every picture to be there: who only wants photo keys needs no picture."""

    def __init__(self) -> None:
        super().__init__([])

    def find(self, file_name: str) -> ImageRef | None:
        return ImageRef(file_name)


def excluded_photographs(sources: Sequence[Source]) -> frozenset[str]:
    """Return the photo keys of `data.exclude`.

    Annotations are read; pictures need not be there, except those of jsonl, whose keys come of the files' places.

    Raises:
        SohoError: a file is not what it should be.
    """
    return frozenset(key for source in sources for key in photographs_of(source))


def photographs_of(source: Source) -> frozenset[str]:
    """Return the photo keys of one entry of `data.exclude`; see `excluded_photographs`.

    Raises:
        SohoError: a file is not what it should be.
    """
    if source.format == "photo_list":
        assert source.photos_of is not None  # held by the validator
        table = {"column": source.column, "split_column": source.split_column, "split": source.split}
        return read_photo_keys(source.file, source.photos_of, **table)
    if source.format == "shards":
        return shards.read_photo_keys(source.shards)
    images = None if source.format == "jsonl" else _Unopened()
    examples: Sequence[Example] = _LOADERS.get(source.format, load_captions)(source, images)[0]
    return frozenset(photo.photo_key for example in examples for photo in photos_of(example))


def leave_out(examples: list[AnyExample], excluded: Set[str]) -> tuple[list[AnyExample], str]:
    """Leave out the examples of excluded photographs; of a pair, one excluded photograph is enough.

    Returns:
        The others, and a remark with the number of photographs left out (empty: none).
    """
    if not excluded:
        return examples, ""
    keys = [{photo.photo_key for photo in photos_of(example)} for example in examples]
    kept = [example for example, own in zip(examples, keys) if not own & excluded]
    if len(kept) == len(examples):
        return examples, ""
    gone = len({key for own in keys for key in own & excluded})
    return kept, f"{plural(gone, 'photograph')} left out because of data.exclude"


def load_captions(source: Source, images: ImageStore | None = None) -> Captions:
    """Read a source of captioned images.

    Args:
        source: which files, in which format.
        images: where pictures are looked up instead of `source.images`.

    Returns:
        The examples in the order of the file, and what was left out.

    Raises:
        SohoError: the format has no captions, a file is not what it should be, rows are broken, or something is
            missing under `on_missing: error`.
    """
    readers: dict[str, Callable[[Source], Captions]] = {
        "coco": lambda s: coco.read_captions(s.file, store, names=_split_names(s), **_common(s)),
        "karpathy": lambda s: karpathy.read_captions(s.file, store, split=s.split, **_common(s)),
        "visual_genome": lambda s: visual_genome.read_captions(s.file, store, image_data=s.image_data, **_common(s)),
        "flickr30k": lambda s: flickr30k.read_captions(s.file, store, names=_split_names(s), **_common(s)),
        "flickr8k": lambda s: flickr8k.read_captions(s.file, store, names=_split_names(s), **_common(s)),
        "jsonl": lambda s: jsonl.read_captions(s.file, store, **_common(s)),
        "shards": lambda s: _of_shards(s, "captions"),
    }
    if source.format not in readers:
        raise _other_kind(source, "captions", readers)
    store = source.image_store() if images is None else images
    return readers[source.format](source)


def load_questions(source: Source, images: ImageStore | None = None) -> tuple[list[VisualQuestion], LoadNotes]:
    """Read a source of questions about images; see `load_captions`.

    Raises:
        SohoError: the format has no questions, a file is not what it should be, rows are broken, or something is
            missing under `on_missing: error`.
    """
    readers: dict[str, Callable[[Source], tuple[list[VisualQuestion], LoadNotes]]] = {
        "vqa2": lambda s: vqa2.read_questions(s.file, s.annotations, store, **_common(s)),
        "daquar": lambda s: daquar.read_questions(s.file, store, split=s.split, **_common(s)),
        "gqa": lambda s: gqa.read_questions(s.file, store, image_data=s.image_data, **_common(s)),
        "jsonl": lambda s: jsonl.read_questions(s.file, store, **_common(s)),
        "shards": lambda s: _of_shards(s, "questions"),
    }
    if source.format not in readers:
        raise _other_kind(source, "questions", readers)
    store = source.image_store() if images is None else images
    return readers[source.format](source)


def load_statements(source: Source, images: ImageStore | None = None) -> tuple[list[VisualStatement], LoadNotes]:
    """Read a source of sentences about two pictures; see `load_captions`.

    Raises:
        SohoError: the format has no such sentences, a file is not what it should be, rows are broken, or something is
            missing under `on_missing: error`.
    """
    if source.format == "shards":
        return _of_shards(source, "statements")
    if source.format != "nlvr2":
        raise _other_kind(source, _HOLDS["nlvr2"], ("nlvr2", "shards"))
    lists = {"balanced": source.balanced, "unbalanced": source.unbalanced}
    subsets = {name: path for name, path in lists.items() if path is not None}
    store = source.image_store() if images is None else images
    return nlvr2.read_statements(source.file, store, subsets=subsets, **_common(source))


def load_hypotheses(source: Source, images: ImageStore | None = None) -> tuple[list[VisualHypothesis], LoadNotes]:
    """Read a source of sentences that a picture entails, contradicts or leaves open; see `load_captions`.

    Raises:
        SohoError: the format has no hypotheses, a file is not what it should be, rows are broken, or something is
            missing under `on_missing: error`.
    """
    if source.format == "shards":
        return _of_shards(source, "hypotheses")
    if source.format != "snli_ve":
        raise _other_kind(source, _HOLDS["snli_ve"], ("snli_ve", "shards"))
    store = source.image_store() if images is None else images
    return snli_ve.read_hypotheses(source.file, store, **_common(source))


# Formats without captions; all others are read by `load_captions`.
_LOADERS: dict[str, Callable[[Source, ImageStore | None], tuple[Sequence[Example], LoadNotes]]] = {
    "vqa2": load_questions,
    "daquar": load_questions,
    "gqa": load_questions,
    "nlvr2": load_statements,
    "snli_ve": load_hypotheses,
}


def _of_shards(source: Source, holds: Any) -> tuple[list[Any], LoadNotes]:
    return shards.read_examples(source.shards, holds, cache=source.cache, **_common(source))


def _other_kind(source: Source, needed: str, formats: Iterable[str]) -> SohoError:
    if source.format == "photo_list":
        return SohoError(
            f"{source.title} (format photo_list, {source.file}) lists photographs without texts; it belongs under "
            "data.exclude"
        )
    return SohoError(
        f"{source.title} (format {source.format}, {source.place}) has {_HOLDS.get(source.format, 'captions')}, but "
        f"{needed} are needed here; formats with {needed}: {', '.join(formats)}"
    )


def _common(source: Source) -> dict[str, Any]:
    return {"name": source.title, "limit": source.limit, "on_missing": source.on_missing}


def _split_names(source: Source) -> list[str] | None:
    return None if source.split_file is None else read_names(source.split_file)
