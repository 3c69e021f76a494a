"""What a report is made of: plain data, without any HTML."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from soho.inspection.curves import Curve
from soho.inspection.dictionary import CodeHealth, CodePatches
from soho.inspection.markup import Picture


@dataclass(frozen=True)
class Figure:
    """One number that the reader should see first.

    Attributes:
        value: as it is to be written, for instance "31.2 %".
        label: what it is.
        note: what to compare it with.
    """

    value: str
    label: str
    note: str = ""


@dataclass(frozen=True)
class MetricColumn:
    """A system in a table of metrics.

    Attributes:
        name: of the system.
        kind: "ours" is highlighted, "chance" is set back.
    """

    name: str
    kind: Literal["ours", "baseline", "chance"] = "baseline"


@dataclass(frozen=True)
class MetricRow:
    """A metric in a table.

    Attributes:
        name: of the metric.
        values: one per column; None where there is none.
        unit: "percent" for fractions, "number" for everything else.
        higher_is_better: decides which value is set bold.
    """

    name: str
    values: Sequence[float | None]
    unit: Literal["percent", "number"] = "percent"
    higher_is_better: bool = True


@dataclass(frozen=True)
class MetricTable:
    """Metrics of several systems side by side.

    Attributes:
        title: what was measured, and on what.
        columns: the systems.
        rows: the metrics.
        note: a sentence below the table.
    """

    title: str
    columns: Sequence[MetricColumn]
    rows: Sequence[MetricRow]
    note: str = ""


@dataclass(frozen=True)
class Candidate:
    """Something that retrieval put at a place.

    Attributes:
        item: an image, or a caption.
        right: whether it belongs to the query.
        score: probability of a match, if it is to be shown.
    """

    item: Picture | str
    right: bool = False
    score: float | None = None


@dataclass(frozen=True)
class RetrievalExample:
    """A query and what was found for it.

    Attributes:
        query: a caption (then candidates are images) or an image (then candidates are captions).
        candidates: the best ones, best first.
        rank: place of the right one, 1 = first, where it is known.
        answer: the right one, shown where it is not among the candidates.
    """

    query: Picture | str
    candidates: Sequence[Candidate]
    rank: int | None = None
    answer: Picture | str | None = None


@dataclass(frozen=True)
class AnsweredQuestion:
    """A question about an image and the model's answer.

    Attributes:
        image: the image.
        question: the question.
        answer: the model's answer.
        truth: what people answered.
        top: the most probable answers with their probabilities.
        score: VQA accuracy of the answer in [0, 1]; None = 1 where answer and truth are equal, else 0.
        second_image: the right image where the question is about two.
        truth_words: stand before the truth where the answer is wrong.
    """

    image: Picture
    question: str
    answer: str
    truth: str
    top: Sequence[tuple[str, float]] = ()
    score: float | None = None
    second_image: Picture | None = None
    truth_words: str = "people say"


@dataclass(frozen=True)
class DictionaryPatches:
    """Codes of the visual dictionary, each with patches that map to it.

    Attributes:
        codes: what `soho.inspection.dictionary.collect_patches` returned.
        health: how the whole dictionary is used.
    """

    codes: Sequence[CodePatches]
    health: CodeHealth | None = None


@dataclass(frozen=True)
class Panel:
    """A picture with a map laid over it.

    Attributes:
        picture: as it is to be shown.
        label: the word.
        note: a figure beside it.
    """

    picture: Picture
    label: str
    note: str = ""


@dataclass(frozen=True)
class WordPanels:
    """Maps of the words of a text over one picture.

    Attributes:
        picture: without any map.
        rows: name of each kind of map, and one panel per word.
        title: which picture.
    """

    picture: Picture
    rows: Sequence[tuple[str, Sequence[Panel]]]
    title: str = ""


@dataclass(frozen=True)
class Note:
    """A passage of text; blank lines divide paragraphs."""

    text: str


Item = Figure | Curve | MetricTable | RetrievalExample | AnsweredQuestion | DictionaryPatches | WordPanels | Note

# What a reader who does not know the paper needs in order to read each kind of item.
EXPLANATIONS: dict[type, str] = {
    Figure: "The numbers that matter most, each with what it should be compared with.",
    Curve: (
        "How training went. In pre-training the model guesses hidden words (MLM), guesses hidden parts of the image "
        "(MVM, by the index that the visual dictionary gave them) and tells whether a text belongs to an image (ITM). "
        "A loss that falls means that it learns; a faint line is what was measured, the strong one its moving average."
    ),
    MetricTable: (
        "Each column is a system, each row a measure. Recall at k (R@k) is the share of queries with a right answer "
        "among the first k: TR looks for the captions of an image, IR for the image of a caption. Chance is what a "
        "random order would reach. The best value of a row is bold; no number means much without those beside it."
    ),
    RetrievalExample: (
        "What the model finds. It reads every image together with every text and orders them by how well they match. "
        "The right one is framed; where it is not in front, its place is given."
    ),
    AnsweredQuestion: (
        "Questions about images the model has never seen, with its three most probable answers. The model chooses "
        "from a fixed list of answers and sees the whole image, not a list of detected objects."
    ),
    DictionaryPatches: (
        "The visual dictionary gives every part of an image one of a fixed number of indices, as a text is made of "
        "words. Nobody says what they mean: each line shows parts of images that got the same index. Perplexity is "
        "the number of equally used indices that the use is worth; a dictionary that collapsed would have few."
    ),
    WordPanels: (
        "Where the model looks from a word. Attention: from which cells of the image the word takes information, mean "
        "over heads. Gradient x attention: the part of it that speaks for the model's output. Each panel is scaled to "
        "its own maximum, and what is not attended to is faded; the number tells how much there is."
    ),
    Note: "",
}


@dataclass(frozen=True)
class Section:
    """A part of the report.

    Attributes:
        title: its heading.
        items: what it shows; neighbours of one kind share a grid.
        explanation: for a reader who does not know the paper; None = the usual one of the first item's kind.
    """

    title: str
    items: Sequence[Item]
    explanation: str | None = None

    def explained(self) -> str:
        """Return the explanation."""
        if self.explanation is not None:
            return self.explanation
        return EXPLANATIONS[type(self.items[0])] if self.items else ""
