"""How each kind of item of a report looks as HTML."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from soho.inspection.curves import Curve, draw_curve, format_value
from soho.inspection.dictionary import CodePatches, CodeWord
from soho.inspection.markup import Html, Picture, aspect, join, paragraphs, picture, tag
from soho.inspection.report_parts import (
    AnsweredQuestion,
    Candidate,
    DictionaryPatches,
    Figure,
    MetricRow,
    MetricTable,
    Note,
    RetrievalExample,
    WordPanels,
)

GRID = 300  # edge in pixels of a picture among others
LARGE = 520


def render_items(kind: type, items: Sequence[Any]) -> Html:
    """Return neighbouring items of one kind in their common layout."""
    renderer, layout = LAYOUTS[kind]
    if kind is RetrievalExample and not isinstance(items[0].query, str):
        layout = "examples two"
    return tag("div", (renderer(item) for item in items), class_=layout)


def render_figure(figure: Figure) -> Html:
    """A large number."""
    return tag(
        "div",
        tag("span", figure.value, class_="value"),
        tag("span", figure.label, class_="label"),
        tag("span", figure.note, class_="note") if figure.note else None,
        class_="figure",
    )


def render_note(note: Note) -> Html:
    """Running text."""
    return paragraphs(note.text)


def render_table(table: MetricTable) -> Html:
    """Metrics by systems, ours highlighted, the best of each row bold."""
    head = tag("tr", tag("th"), (tag("th", c.name, class_=c.kind, scope="col") for c in table.columns))
    rows = (_table_row(row, table) for row in table.rows)
    return tag(
        "figure",
        tag("figcaption", table.title),
        tag("div", tag("table", tag("thead", head), tag("tbody", rows)), class_="scroll"),
        tag("p", table.note, class_="note") if table.note else None,
        class_="table",
    )


def _table_row(row: MetricRow, table: MetricTable) -> Html:
    known = [v for v in row.values if v is not None and math.isfinite(v)]
    best = (max if row.higher_is_better else min)(known) if known else None
    cells = []
    for column, value in zip(table.columns, row.values):
        if value is None or not math.isfinite(value):
            cells.append(tag("td", "–", class_=column.kind))
            continue
        text = format_value(value, row.unit == "percent")
        bar = None
        if row.unit == "percent":
            bar = tag("i", class_="bar", style=f"width:{100 * min(max(value, 0), 1):.1f}%")
        cells.append(tag("td", tag("b", text) if value == best else text, bar, class_=column.kind))
    return tag("tr", tag("th", row.name, scope="row"), cells)


def render_retrieval(example: RetrievalExample) -> Html:
    """A query with what was found, the right one framed."""
    by_text = isinstance(example.query, str)
    hit = any(candidate.right for candidate in example.candidates)
    query = (
        tag("p", f"“{example.query}”", class_="query")
        if isinstance(example.query, str)
        else picture(example.query, "the query image", LARGE)
    )
    answer = None
    if not hit and example.answer is not None:
        answer = _answer(example.answer)
    place = None
    if example.rank is not None:
        place = tag("p", "right at first place" if example.rank == 1 else f"right one at place {example.rank:,}")
        place = tag("div", place, class_="place hit" if example.rank == 1 else "place")
    found = tag(
        "ol",
        (_candidate(number, candidate) for number, candidate in enumerate(example.candidates, start=1)),
        class_="pictures" if by_text else "captions",
    )
    return tag("article", tag("div", query, place, class_="asked"), found, answer, class_="retrieval")


def _candidate(number: int, candidate: Candidate) -> Html:
    words = "✓" if isinstance(candidate.item, str) else "✓ right"
    mark = tag("span", words, class_="mark", title="belongs to the query") if candidate.right else None
    score = tag("span", f"{candidate.score:.2f}", class_="score") if candidate.score is not None else None
    shape = None
    if isinstance(candidate.item, str):
        item = tag("span", candidate.item)
    else:
        item = picture(candidate.item, f"place {number}" + (", the right image" if candidate.right else ""), GRID)
        # Width in proportion to the picture's shape gives all pictures of a row one height, without cutting any.
        shape = f"--shape:{aspect(candidate.item):.3f}"
    under = tag("span", mark, score, class_="under")
    return tag("li", item, under, class_="right" if candidate.right else None, style=shape)


def _answer(answer: Picture | str) -> Html:
    shown = tag("span", answer) if isinstance(answer, str) else picture(answer, "the right image", GRID)
    return tag("div", tag("p", "the right one would have been", class_="note"), shown, class_="missed")


def render_question(question: AnsweredQuestion) -> Html:
    """One or two images, a question, the answer beside the truth, the most probable answers as bars."""
    images = [image for image in (question.image, question.second_image) if image is not None]
    sides = ("left ", "right ") if len(images) == 2 else ("",)
    score = question.score if question.score is not None else float(question.answer == question.truth)
    verdict = "✓ right" if score >= 1 else ("✗ wrong" if score <= 0 else f"{score:.0%} right")
    top = (
        tag(
            "li",
            tag("span", answer, class_="word"),
            tag("span", tag("i", style=f"width:{100 * min(max(probability, 0), 1):.1f}%"), class_="track"),
            tag("span", f"{probability:.0%}", class_="score"),
        )
        for answer, probability in question.top
    )
    return tag(
        "article",
        tag(
            "div",
            (
                # Width in proportion to the picture's shape gives both one height.
                tag(
                    "div",
                    picture(image, f"{side}image of the question: {question.question}", LARGE),
                    style=f"--shape:{aspect(image):.3f}",
                )
                for image, side in zip(images, sides)
            ),
            class_="shown",
        ),
        tag(
            "div",
            tag("p", question.question, class_="query"),
            tag(
                "p",
                tag("span", verdict, class_="verdict " + ("good" if score >= 1 else "bad" if score <= 0 else "part")),
                tag("b", question.answer),
                join(tag("span", f" {question.truth_words} ", class_="note"), question.truth) if score < 1 else None,
            ),
            tag("ul", top, class_="top") if question.top else None,
            class_="words",
        ),
        class_="question",
    )


def render_dictionary(dictionary: DictionaryPatches) -> Html:
    """Health of the dictionary, then one line of patches per code."""
    health = None
    if dictionary.health is not None:
        h = dictionary.health
        figures = [
            Figure(f"{h.used:,}", "indices in use", f"of {h.size:,}; {h.dead:,} never seen"),
            Figure(format_value(h.perplexity), "perplexity", "equally used indices it is worth"),
            Figure(format_value(h.majority_share, percent=True), "most frequent index", "always guessing it"),
        ]
        health = tag("div", (render_figure(figure) for figure in figures), class_="figures")
    return join(health, tag("div", (_code(entry) for entry in dictionary.codes if entry.patches), class_="codes"))


def _code(entry: CodePatches) -> Html:
    return tag(
        "div",
        tag(
            "div",
            tag("b", f"index {entry.code}"),
            tag("span", f"{entry.share:.1%} of cells · {entry.images:,} images", class_="note"),
        ),
        _words(entry.words) if entry.words is not None else None,
        tag("div", (picture(patch, f"patch of index {entry.code}", 128) for patch in entry.patches), class_="patches"),
        class_="code",
    )


def _words(words: Sequence[CodeWord]) -> Html:
    if not words:
        return tag("p", "no word stands out", class_="note")
    title = "{}: in {:,} of its images, {:.2f} times as often as in all, G² {:.0f}"
    return tag(
        "ul",
        (
            tag(
                "li",
                word.word,
                tag("span", f"×{word.lift:.1f}", class_="note"),
                title=title.format(word.word, word.images, word.lift, word.evidence),
            )
            for word in words
        ),
        class_="said",
    )


def render_panels(panels: WordPanels) -> Html:
    """A picture with one panel per word beside it, each map under its name."""
    rows = (
        tag(
            "div",
            tag("p", name, class_="note"),
            tag(
                "ul",
                (
                    tag(
                        "li",
                        picture(panel.picture, f"{name}: {panel.label}", GRID),
                        tag("p", tag("b", panel.label), tag("span", f" {panel.note}", class_="note")),
                    )
                    for panel in row
                ),
            ),
        )
        for name, row in panels.rows
    )
    return tag(
        "figure",
        tag("figcaption", panels.title) if panels.title else None,
        tag("div", picture(panels.picture, "the picture", LARGE), class_="whole"),
        rows,
        class_="panels",
    )


LAYOUTS: dict[type, tuple[Callable[[Any], Html], str]] = {
    Figure: (render_figure, "figures"),
    Curve: (draw_curve, "curves"),
    MetricTable: (render_table, "tables"),
    RetrievalExample: (render_retrieval, "examples"),
    AnsweredQuestion: (render_question, "questions"),
    DictionaryPatches: (render_dictionary, "dictionary"),
    WordPanels: (render_panels, "maps"),
    Note: (render_note, "prose"),
}
