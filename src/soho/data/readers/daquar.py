"""DAQUAR: questions about indoor photographs (Malinowski and Fritz, 2014), as `qa.894.raw.train.format_triple`.

Three lines a question: the question, its answer or answers (`book, scissor, papers`), the photograph (`image3`). The
photographs are those of NYU-Depth V2.

An answer of several words is a set: their order says nothing. It becomes one answer with the words in alphabetical
order, so that equal sets are equal answers, and a question-answering model knows the frequent sets as it knows single
words.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from soho.data.images import ImageStore
from soho.data.readers.files import read_lines
from soho.data.readers.reading import LoadNotes, OnMissing, Reading
from soho.data.schema import VisualQuestion
from soho.errors import SohoError

Split = Literal["train", "held_out"]

_IMAGE = re.compile(r"^image(\d+)$")
_PARTS = 5  # one of them is held out


def read_questions(
    annotations: Path,
    images: ImageStore,
    *,
    split: str | None = None,
    name: str = "daquar",
    limit: int | None = None,
    on_missing: OnMissing = "error",
) -> tuple[list[VisualQuestion], LoadNotes]:
    """Read DAQUAR questions in the order of the file.

    Args:
        annotations: the file of triples.
        images: where `image<N>.png` or `image<N>.jpg` are.
        split: "train" or "held_out", which share no photograph (see `is_held_out`); None takes all.
        name: data-set name for messages.
        limit: only the first n questions.
        on_missing: what to do with images that are not found.

    Returns:
        Questions named by their number in the file, from 1. Each has one answer, that of the file; its answer type is
        "single" or "multiple" (a set).

    Raises:
        SohoError: an unknown split, the file is something else, rows are broken, or something is missing under
            "error".
    """
    if split not in (None, "train", "held_out"):
        raise SohoError(f"{name}: there is no split {split!r} of DAQUAR's files; expected train or held_out")
    reading = Reading(name, annotations, images, on_missing)
    result: list[VisualQuestion] = []
    for number, (line, question, answer, image) in enumerate(_triples(annotations, reading), start=1):
        match = _IMAGE.match(image)
        parts = sorted({part for item in answer.split(",") if (part := " ".join(item.replace("_", " ").split()))})
        if match is None:
            reading.broken(line + 2, f"expected a photograph like image3, found {image[:40]!r}")
        elif not question or not parts:
            reading.broken(line if not question else line + 1, f"the {'answer' if question else 'question'} is empty")
        elif split is None or (split == "held_out") == is_held_out(image):
            if limit is not None and len(result) >= limit:
                break
            reading.notes.rows += 1
            ref = reading.find(f"{image}.png", f"{image}.jpg")
            if ref is None:
                reading.drop("question whose image was not found", str(number))
                continue
            result.append(
                VisualQuestion(
                    question_id=str(number),
                    image_id=image,
                    photo_key=f"nyu:{match.group(1)}",
                    image=ref,
                    question=question,
                    answers=(", ".join(parts),),
                    answer_type="single" if len(parts) == 1 else "multiple",
                )
            )
    return result, reading.finish(len(result), len(result))


def is_held_out(image: str) -> bool:
    """Say whether a photograph belongs to the fifth that is kept from training: a hash of its name decides.

    The file published for training names no validation part. The rule depends on nothing but the name, so it gives the
    same parts everywhere: 8 bytes of BLAKE2b as a big-endian number, divisible by five.

    Args:
        image: the name as the file writes it, for instance `image3`.
    """
    return int.from_bytes(hashlib.blake2b(image.encode(), digest_size=8).digest(), "big") % _PARTS == 0


def _triples(path: Path, reading: Reading) -> Iterator[tuple[int, str, str, str]]:
    """Yield (line number, question, answer, image); an incomplete last one is noted as broken."""
    lines = [" ".join(line.split()) for _, line in read_lines(path)]
    while lines and not lines[-1]:
        lines.pop()
    whole = len(lines) - len(lines) % 3
    for start in range(0, whole, 3):
        yield start + 1, lines[start], lines[start + 1], lines[start + 2]
    if whole < len(lines):
        reading.broken(
            whole + 1, f"{len(lines)} lines are no triples of question, answer and photograph; the last one is cut off"
        )
