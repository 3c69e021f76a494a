"""The example records: the only contract between the readers of upstream files and everything after them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ImageRef:
    """Where the bytes of a picture are.

    Attributes:
        path: path of the file, or the member name inside `archive`.
        archive: path of a zip file, or None for a plain file.
    """

    path: str
    archive: str | None = None

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
