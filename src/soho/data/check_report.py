"""What `soho data check` prints: one table of counts, then what is wrong or worth knowing, then a verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from soho.data.readers.reading import plural
from soho.data.shards.layout import Holds

_EXAMPLES_SHOWN = 5


@dataclass(slots=True)
class SourceCounts:
    """Counts of one source.

    Attributes:
        section: "train", "validation" or "test".
        source: name of the data set.
        images: distinct pictures of the examples.
        texts: captions, questions, statements or hypotheses.
        answers: distinct majority answers (questions only).
        unanswered: questions without answers (questions only).
        missing: pictures named but not found.
        broken: pictures that cannot be decoded.
        left_out: rows and captions left out for another reason than a missing picture.
        measured: texts whose tokens were counted.
        cut: those that are longer than the text length.
    """

    section: str
    source: str
    images: int = 0
    texts: int = 0
    answers: int = 0
    unanswered: int = 0
    missing: int = 0
    broken: int = 0
    left_out: int = 0
    measured: int = 0
    cut: int = 0


@dataclass(slots=True)
class Problem:
    """One thing that is wrong (`fatal`) or worth knowing.

    Attributes:
        where: section and source.
        message: one sentence.
        fatal: whether training would not be sound.
        examples: names; the report shows the first five.
        total: how many there are in all.
    """

    where: str
    message: str
    fatal: bool
    examples: Sequence[str] = ()
    total: int = 0

    def lines(self) -> list[str]:
        """Return the sentence and the named examples below it."""
        sentence, *rest = self.message.split("\n")
        listed = [*(line.strip() for line in rest), *self.examples[:_EXAMPLES_SHOWN]]
        more = self.total - min(len(self.examples), _EXAMPLES_SHOWN)
        if self.examples and more > 0:
            listed.append(f"... and {more:,} more")
        label = "ERROR" if self.fatal else "note "
        return [f"{label}  {self.where}: {sentence}", *(f"         {line}" for line in listed)]


@dataclass(slots=True)
class CheckReport:
    """The result of a check.

    Attributes:
        task: what the data is for.
        holds: what the examples are: captions, questions, statements or hypotheses; None where nothing could be read.
        text_length: tokens that a text may have, `[CLS]` and `[SEP]` included.
        counts: one entry per source.
        problems: what is wrong or worth knowing, in the order found.
        images_read: distinct pictures that were opened.
        seconds: time that took.
        smallest: (width, height) of the picture with the fewest pixels.
        largest: (width, height) of the picture with the most pixels.
    """

    task: str
    text_length: int
    holds: Holds | None = None
    counts: list[SourceCounts] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    images_read: int = 0
    seconds: float = 0.0
    smallest: tuple[int, int] = (0, 0)
    largest: tuple[int, int] = (0, 0)

    @property
    def sound(self) -> bool:
        """Whether training on this data would be sound."""
        return not any(problem.fatal for problem in self.problems)

    def lines(self) -> list[str]:
        """Return the report, ready to print."""
        lines = _table(self._header(), [self._row(count, index) for index, count in enumerate(self.counts)])
        if self.images_read:
            sizes = " to ".join("{}x{}".format(*size) for size in dict.fromkeys((self.smallest, self.largest)))
            lines += [
                "",
                f"{self.images_read:,} pictures read in {self.seconds:.1f} s; {sizes} pixels (width x height)",
            ]
        for problem in sorted(self.problems, key=lambda problem: not problem.fatal):
            lines += ["", *problem.lines()]
        errors = sum(problem.fatal for problem in self.problems)
        if self.sound:
            verdict = f"Sound: {self.task} can start on this data."
        else:
            verdict = f"Not sound: {plural(errors, 'error')} above must be mended first."
        return [*lines, "", verdict]

    def _header(self) -> list[str]:
        further = ["answers", "unanswered"] if self.holds == "questions" else ["per image"]
        kind = [self.holds or "texts", *further]
        return ["section", "source", "images", *kind, "missing", "broken", "left out", f"cut at {self.text_length}"]

    def _row(self, count: SourceCounts, index: int) -> list[str]:
        first = index == 0 or self.counts[index - 1].section != count.section
        if self.holds == "questions":
            kind = [f"{count.texts:,}", f"{count.answers:,}", f"{count.unanswered:,}"]
        else:
            kind = [f"{count.texts:,}", f"{count.texts / count.images:.1f}" if count.images else "-"]
        cut = f"{100 * count.cut / count.measured:.1f} %" if count.measured else "-"
        losses = [f"{number:,}" for number in (count.missing, count.broken, count.left_out)]
        return [count.section if first else "", count.source, f"{count.images:,}", *kind, *losses, cut]


def _table(header: list[str], rows: list[list[str]]) -> list[str]:
    """Align: the two names to the left, numbers to the right."""
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    rule = ["-" * width for width in widths]
    return [
        "  ".join(
            cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths))
        ).rstrip()
        for row in [header, rule, *rows]
    ]
