"""Queries in, results out: files of texts, lines for a terminal, JSON, and a page with the pictures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from soho.data.images import ImageDecodeError, decode
from soho.data.schema import ImageRef
from soho.errors import SohoError
from soho.inspection.markup import Html, picture, tag
from soho.search.picture_index import Found

STYLE = """
:root { color-scheme: light dark; --soft: light-dark(#5f5c54, #b1ada2); }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 1200px; margin: 0 auto; padding: 2rem 1rem 4rem;
  background: light-dark(#faf9f6, #171715); color: light-dark(#25241f, #e8e5dc); }
h1 { font-size: 1.2rem; font-weight: 500; color: var(--soft); }
h2 { font-size: 1.5rem; font-weight: 500; margin: 2.5rem 0 1rem; }
ol { list-style: none; margin: 0; padding: 0; display: grid; gap: 1.4rem 1rem; align-items: end;
  grid-template-columns: repeat(auto-fill, minmax(200px, 1fr)); }
img { display: block; width: 100%; height: auto; border-radius: 5px; }
p { margin: .3rem 0 0; font-size: .8rem; color: var(--soft); overflow-wrap: anywhere; }
"""


def read_queries(path: Path) -> list[str]:
    """Return the texts of a file: one a line, or in a .jsonl file a string or an object with "text" a line.

    Raises:
        SohoError: the file is missing, empty, or a line of it is no text.
    """
    if not path.is_file():
        raise SohoError(f"{path} is not a file; expected one text a line")
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise SohoError(f"{path} is no UTF-8 text (byte {error.start}); expected one text a line") from None
    texts = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        text: Any = line.strip()
        if path.suffix == ".jsonl":
            try:
                text = json.loads(line)
            except json.JSONDecodeError:
                raise SohoError(f'{path}, line {number}: is no JSON; expected a string or {{"text": ...}}') from None
            text = text.get("text") if isinstance(text, dict) else text
            if not isinstance(text, str) or not text.strip():
                raise SohoError(f'{path}, line {number}: holds no text; expected a string or {{"text": ...}}')
        texts.append(text)
    if not texts:
        raise SohoError(f"{path} holds no text; expected one a line")
    return texts


def as_lines(queries: Sequence[str], results: Sequence[Sequence[Found]]) -> list[str]:
    """Return results for a terminal: probability (or similarity) and path, under their text where there are several."""
    said = []
    for query, found in zip(queries, results):
        if len(queries) > 1:
            said.append(query)
        for one in found:
            more = f"  (+{len(one.copies)} copies)" if one.copies else ""
            value = one.similarity if one.probability is None else one.probability
            said.append(f"{value:.3f}  {one.path}{more}")
        if not found:
            said.append("nothing: the index holds no pictures")
    return said


def as_json(queries: Sequence[str], results: Sequence[Sequence[Found]]) -> str:
    """Return results as a JSON list with one object a text."""
    table = [
        {
            "text": query,
            "found": [
                {
                    "path": str(one.path),
                    "score": one.score,
                    "probability": one.probability,
                    "similarity": one.similarity,
                    "copies": [str(path) for path in one.copies],
                }
                for one in found
            ],
        }
        for query, found in zip(queries, results)
    ]
    return json.dumps(table, indent=1, ensure_ascii=False)


def write_page(path: Path, queries: Sequence[str], results: Sequence[Sequence[Found]], title: str) -> None:
    """Write results as one HTML file that holds small copies of the pictures.

    Raises:
        SohoError: the file cannot be written.
    """
    body = [tag("h1", title)]
    for query, found in zip(queries, results):
        body += [tag("h2", query), tag("ol", (_card(one, query) for one in found))]
    page = tag(
        "html",
        tag("head", tag("meta", charset="utf-8"), tag("title", title), tag("style", Html(STYLE))),
        tag("body", body),
        lang="en",
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"<!doctype html>{page}", encoding="utf-8")
    except OSError as error:
        raise SohoError(f"{path} cannot be written ({error.strerror})") from None


def _card(one: Found, query: str) -> Html:
    try:
        shown: Html = picture(decode(ImageRef(str(one.path))), alt=f"found for: {query}")
    except ImageDecodeError:
        shown = tag("p", "this file is gone or broken by now")
    value = f"similarity {one.similarity:.3f}" if one.probability is None else f"match {one.probability:.3f}"
    copies = f", and {len(one.copies)} copies" if one.copies else ""
    return tag("li", shown, tag("p", tag("b", value), f" {one.path}{copies}"))
