"""Examples that are ready to click: a JSON file beside the pictures that it names."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from soho.data.images import decode
from soho.data.schema import ImageRef
from soho.errors import SohoError
from soho.serving.pictures import as_jpeg

# Kind of an example -> number of its pictures.
KINDS = {"search": 0, "answer": 1, "match": 1, "entails": 1, "compare": 2, "inspect": 1}
MOST = 48
# Pixels of the longer side; the model sees no more than this of an example.
EDGE = 1000


@dataclass(frozen=True)
class Clickable:
    """An example.

    Attributes:
        kind: one of `KINDS`.
        text: to be read with the pictures.
        pictures: JPEG files.
    """

    kind: str
    text: str
    pictures: tuple[bytes, ...]


def read_examples(path: Path) -> list[Clickable]:
    """Read a file of examples.

    It holds a JSON list of `{"kind": "answer", "text": "how many?", "pictures": ["a.jpg"]}`; paths are relative to the
    file.

    Raises:
        SohoError: the file or a picture cannot be read, or an example is of no known kind.
    """
    try:
        rows: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SohoError(f"{path} cannot be read ({error}); expected a JSON list of examples") from None
    if not isinstance(rows, list) or len(rows) > MOST:
        raise SohoError(f"{path} holds no list of at most {MOST} examples")
    return [_example(row, path, number) for number, row in enumerate(rows)]


def _example(row: Any, path: Path, number: int) -> Clickable:
    place = f"{path}, example {number}"
    if not isinstance(row, dict) or row.get("kind") not in KINDS:
        raise SohoError(f'{place}: expected an object with "kind", one of {", ".join(KINDS)}')
    kind, text, names = row["kind"], row.get("text"), row.get("pictures", [])
    if not isinstance(text, str) or not text.strip():
        raise SohoError(f'{place}: expected "text"')
    if not isinstance(names, list) or len(names) != KINDS[kind] or not all(isinstance(one, str) for one in names):
        raise SohoError(f'{place}: expected "pictures", a list of {KINDS[kind]} paths')
    return Clickable(
        kind, text.strip(), tuple(as_jpeg(decode(ImageRef(str(path.parent / one))), EDGE, 92) for one in names)
    )


def write_examples(path: Path, rows: Sequence[tuple[str, str, Sequence[Path]]]) -> None:
    """Write a file of examples.

    Args:
        path: of the file.
        rows: kind, text and pictures of each; the pictures lie below the file's folder.
    """
    table = [
        {"kind": kind, "text": text, "pictures": [one.relative_to(path.parent).as_posix() for one in pictures]}
        for kind, text, pictures in rows
    ]
    path.write_text(json.dumps(table, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
