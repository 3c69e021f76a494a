"""HTML from Python values in which nothing can be forgotten to be escaped."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable
from pathlib import Path

from PIL import Image

Picture = Image.Image | Path


class Html(str):
    """Text that is HTML already. Every other string is escaped when it becomes part of a document."""

    __slots__ = ()


Child = Html | str | None | Iterable["Child"]
VOID = {"img", "meta", "br", "line", "path", "circle", "rect", "polyline"}


def tag(name: str, /, *children: Child, **attributes: object) -> Html:
    """Return an element.

    Args:
        name: of the element.
        *children: HTML, text (which is escaped), None (left out) or iterables of these.
        **attributes: by name; a trailing or inner underscore stands for what Python cannot spell (`class_`,
            `stroke_width` for `stroke-width`); None and False are left out, True is an attribute without value.
    """
    written = "".join(
        f" {key.rstrip('_').replace('_', '-')}" + ("" if value is True else f'="{html.escape(str(value))}"')
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    inner = join(*children)
    if name in VOID and not inner:
        return Html(f"<{name}{written}>") if name in ("img", "meta", "br") else Html(f"<{name}{written}/>")
    return Html(f"<{name}{written}>{inner}</{name}>")


def join(*children: Child) -> Html:
    """Return children in a row, text escaped."""
    parts: list[str] = []
    for child in children:
        if child is None:
            continue
        if isinstance(child, str):
            parts.append(child if isinstance(child, Html) else html.escape(child, quote=False))
        else:
            parts.append(join(*child))
    return Html("".join(parts))


def paragraphs(text: str, **attributes: object) -> Html:
    """Return text as paragraphs, divided at blank lines."""
    return join(tag("p", " ".join(part.split()), **attributes) for part in text.split("\n\n") if part.strip())


def picture(source: Picture, alt: str, edge: int = 320, quality: int = 84) -> Html:
    """Return an image whose bytes are part of the document.

    Args:
        source: a picture or the path of one.
        alt: what it shows, for who cannot see it.
        edge: it is made smaller until neither side is longer than this many pixels.
        quality: of the JPEG.
    """
    if isinstance(source, Path):
        with Image.open(source) as opened:
            shown = opened.convert("RGB")
    else:
        shown = source.convert("RGB")
    shown.thumbnail((edge, edge), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    shown.save(buffer, "JPEG", quality=quality, optimize=True)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    return tag("img", src=f"data:image/jpeg;base64,{data}", alt=alt, width=shown.width, height=shown.height)


def aspect(source: Picture) -> float:
    """Return width / height of a picture."""
    if isinstance(source, Path):
        with Image.open(source) as opened:
            return opened.width / opened.height
    return source.width / source.height
