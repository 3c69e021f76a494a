"""The report: plain data in, one HTML file out that needs nothing but itself.

No script, no font, no picture is fetched: images are part of the file, curves are SVG. Light or dark follows the
reader's system.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

from soho.inspection.curves import Curve, Series
from soho.inspection.dictionary import CodeHealth, CodePatches
from soho.inspection.markup import Html, join, paragraphs, tag
from soho.inspection.report_layout import render_items
from soho.inspection.report_parts import (
    AnsweredQuestion,
    Candidate,
    DictionaryPatches,
    Figure,
    Item,
    MetricColumn,
    MetricRow,
    MetricTable,
    Note,
    Panel,
    RetrievalExample,
    Section,
    WordPanels,
)
from soho.inspection.report_style import STYLE

__all__ = [
    "AnsweredQuestion",
    "Candidate",
    "CodeHealth",
    "CodePatches",
    "Curve",
    "DictionaryPatches",
    "Figure",
    "Item",
    "MetricColumn",
    "MetricRow",
    "MetricTable",
    "Note",
    "Panel",
    "RetrievalExample",
    "Section",
    "Series",
    "WordPanels",
    "write_report",
]


@dataclass(frozen=True)
class Report:
    """Everything a report says; see `write_report`."""

    title: str
    sections: Sequence[Section]
    lead: str = ""
    facts: Mapping[str, str] = field(default_factory=dict)


def write_report(
    path: Path,
    title: str,
    sections: Sequence[Section],
    *,
    lead: str = "",
    facts: Mapping[str, str] | None = None,
) -> Path:
    """Write a report as one HTML file.

    Args:
        path: the file; folders are made.
        title: its heading.
        sections: its parts in order; those without items are left out.
        lead: a paragraph below the heading.
        facts: short facts about the run by name (data, hardware, duration, ..).

    Returns:
        `path`.
    """
    page = render(Report(title, [section for section in sections if section.items], lead, facts or {}))
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(page, encoding="utf-8")
    os.replace(partial, path)
    return path


def render(report: Report) -> Html:
    """Return the document."""
    names = _anchors([section.title for section in report.sections])
    body = [
        tag(
            "section",
            tag("h2", section.title),
            paragraphs(section.explained(), class_="explanation"),
            (render_items(kind, list(items)) for kind, items in _runs(section.items)),
            id=name,
        )
        for section, name in zip(report.sections, names)
    ]
    contents = (tag("a", section.title, href=f"#{name}") for section, name in zip(report.sections, names))
    header = tag(
        "header",
        tag("p", "SOHO · seeing out of the box", class_="kicker"),
        tag("h1", report.title),
        paragraphs(report.lead, class_="lead"),
        tag("dl", (tag("div", tag("dt", k), tag("dd", v)) for k, v in report.facts.items()), class_="facts")
        if report.facts
        else None,
        tag("nav", contents, aria_label="Contents") if len(report.sections) > 1 else None,
    )
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        # The browser itself holds the promise that nothing is fetched.
        Html(
            '<meta http-equiv="Content-Security-Policy" '
            "content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:\">"
        ),
        tag("title", report.title),
        tag("style", Html(STYLE)),
    )
    footer = tag("footer", "Written by soho. This file is complete: it loads nothing from elsewhere.")
    return join(Html("<!doctype html>\n"), tag("html", head, tag("body", tag("main", header, body, footer)), lang="en"))


def _runs(items: Sequence[Item]) -> Iterator[tuple[type, Iterator[Item]]]:
    """Group neighbours of one kind; retrieval examples also by direction, because they are laid out differently."""
    for (kind, _), run in groupby(items, lambda item: (type(item), isinstance(getattr(item, "query", None), str))):
        yield kind, run


def _anchors(titles: Sequence[str]) -> list[str]:
    found: list[str] = []
    for title in titles:
        name = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-") or "section"
        found.append(name if name not in found else f"{name}-{len(found)}")
    return found
