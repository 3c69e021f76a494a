"""The example records: the only contract between the readers of upstream files and everything after them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, TypeGuard

# Whether a picture entails a sentence, as SNLI names it.
ENTAILMENT_LABELS = ("entailment", "neutral", "contradiction")


@dataclass(frozen=True, slots=True)
class ImageRef:
    """Where the bytes of a picture are.

    Attributes:
        path: path of the file, or the member name inside `archive`.
        archive: path of a zip file, or path or URL of a tar shard, or None for a plain file.
        span: only in a shard: (first byte, number of bytes) of the picture.
    """

    path: str
    archive: str | None = None
    span: tuple[int, int] | None = None

    def __str__(self) -> str:
        """Return a name a person can find the picture by."""
        return self.path if self.archive is None else f"{self.archive}!{self.path}"


@dataclass(frozen=True, slots=True)
class CaptionedImage:
    """A picture and its human captions.

    Attributes:
        image_id: unique inside its data set.
        photo_key: names the photograph across data sets (`coco:391895`, `flickr:1000092795`, `vg:1`), because
            COCO, Visual Genome and VQA share photographs under different ids.
        image: where the bytes are.
        captions: one or more texts.
        caption_ids: as many ids as captions.
        width: pixels; 0 where the annotation file does not say (then it is read from the image header).
        height: pixels; 0 likewise.
    """

    image_id: str
    photo_key: str
    image: ImageRef
    captions: tuple[str, ...]
    caption_ids: tuple[str, ...]
    width: int = 0
    height: int = 0


@dataclass(frozen=True, slots=True)
class VisualQuestion:
    """A question about a picture.

    Attributes:
        question_id: unique inside its data set.
        image_id: see `CaptionedImage`.
        photo_key: see `CaptionedImage`.
        image: where the bytes are.
        question: the text.
        answers: one per annotator (VQA v2: ten); empty where they are withheld (test splits).
        question_type: upstream's group of questions, empty where there is none.
        answer_type: upstream's group of answers (yes/no, number, other), empty where there is none.
        width: pixels, 0 where not known.
        height: pixels, 0 where not known.
    """

    question_id: str
    image_id: str
    photo_key: str
    image: ImageRef
    question: str
    answers: tuple[str, ...] = ()
    question_type: str = ""
    answer_type: str = ""
    width: int = 0
    height: int = 0


@dataclass(frozen=True, slots=True)
class VisualStatement:
    """A sentence about two pictures side by side (NLVR2), true or false.

    Attributes:
        statement_id: NLVR2's identifier `<split>-<set>-<image pair>-<sentence>`.
        sentence: the text.
        label: whether it is true of the two pictures.
        image: where the bytes of the left picture are.
        second_image: where those of the right picture are.
        photo_key: of the left picture; see `CaptionedImage`.
        second_photo_key: of the right picture.
        subsets: upstream's lists that name this example: balanced, unbalanced.
        width: pixels of the left picture, 0 where not known.
        height: pixels of the left picture, 0 where not known.
        second_width: pixels of the right picture, 0 where not known.
        second_height: pixels of the right picture, 0 where not known.
    """

    statement_id: str
    sentence: str
    label: bool
    image: ImageRef
    second_image: ImageRef
    photo_key: str
    second_photo_key: str
    subsets: tuple[str, ...] = ()
    width: int = 0
    height: int = 0
    second_width: int = 0
    second_height: int = 0


@dataclass(frozen=True, slots=True)
class VisualHypothesis:
    """A sentence that a picture entails, contradicts or leaves open (SNLI-VE).

    Attributes:
        hypothesis_id: upstream's `pairID`.
        image_id: see `CaptionedImage`.
        photo_key: see `CaptionedImage`.
        image: where the bytes are.
        hypothesis: the text.
        label: one of `ENTAILMENT_LABELS`.
        width: pixels, 0 where not known.
        height: pixels, 0 where not known.
    """

    hypothesis_id: str
    image_id: str
    photo_key: str
    image: ImageRef
    hypothesis: str
    label: str
    width: int = 0
    height: int = 0


Example = CaptionedImage | VisualQuestion | VisualStatement | VisualHypothesis


def is_example(record: object) -> TypeGuard[Example]:
    """Say whether a record is one of this module; a task of one's own may read others."""
    return isinstance(record, Example)


class Photo(NamedTuple):
    """One picture of an example; see `CaptionedImage` for the fields."""

    image: ImageRef
    photo_key: str
    width: int
    height: int


def photos_of(example: Example) -> tuple[Photo, ...]:
    """Return the pictures of an example: two of a `VisualStatement` (left, right), one of any other."""
    first = Photo(example.image, example.photo_key, example.width, example.height)
    if not isinstance(example, VisualStatement):
        return (first,)
    second = Photo(example.second_image, example.second_photo_key, example.second_width, example.second_height)
    return (first, second)


def texts_of(example: Example) -> tuple[str, ...]:
    """Return the texts of an example: its captions, or its question, sentence or hypothesis."""
    match example:
        case CaptionedImage():
            return example.captions
        case VisualQuestion():
            return (example.question,)
        case VisualStatement():
            return (example.sentence,)
        case VisualHypothesis():
            return (example.hypothesis,)


def id_of(example: Example) -> str:
    """Return what names an example inside its data set."""
    match example:
        case CaptionedImage():
            return example.image_id
        case VisualQuestion():
            return example.question_id
        case VisualStatement():
            return example.statement_id
        case VisualHypothesis():
            return example.hypothesis_id
