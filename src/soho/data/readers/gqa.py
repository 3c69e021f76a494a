"""GQA: compositional questions about Visual Genome's photographs (Hudson and Manning, 2019), `*_questions.json`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from soho.data.images import ImageStore
from soho.data.readers.files import describe, read_json
from soho.data.readers.reading import LoadNotes, OnMissing, Reading, identifier, shown, text_of
from soho.data.readers.visual_genome import photo_key, read_image_data
from soho.data.schema import VisualQuestion
from soho.errors import SohoError

_EXPECTED = "a GQA questions file ({question id: {imageId, question, answer, types}, ...})"


def read_questions(
    annotations: Path,
    images: ImageStore,
    *,
    image_data: Path | None = None,
    name: str = "gqa",
    limit: int | None = None,
    on_missing: OnMissing = "error",
) -> tuple[list[VisualQuestion], LoadNotes]:
    """Read GQA questions, in the order of the file.

    Args:
        annotations: for instance `train_balanced_questions.json`; the files for testing have no answers.
        images: where `<imageId>.jpg` are.
        image_data: Visual Genome's `image_data.json`, which tells the photographs that COCO has too.
        name: data-set name for messages.
        limit: only the first n questions.
        on_missing: what to do with images that are not found and empty questions.

    Returns:
        Questions with one answer. The question type is GQA's structural one (query, verify, choose, ..), the answer
        type "open" for queries and "binary" for all others, as GQA's own evaluation counts them.

    Raises:
        SohoError: the file is something else, rows are broken, or something is missing under "error".
    """
    content = read_json(annotations)
    rows = content.values() if isinstance(content, Mapping) else [None]
    if not all(isinstance(row, Mapping) and "imageId" in row for row in rows):
        raise SohoError(f"{annotations} is {describe(content)}, but {_EXPECTED} was expected")
    details = {} if image_data is None else read_image_data(image_data)
    reading = Reading(name, annotations, images, on_missing)
    if image_data is None:
        reading.notes.remarks.append(
            "no image_data file is given, so photographs that are also in COCO cannot be recognised"
        )
    result: list[VisualQuestion] = []
    for question_id, row in content.items():
        if limit is not None and len(result) >= limit:
            break
        reading.notes.rows += 1
        where = f'"{question_id}"'
        image_id = identifier(row, ("imageId",), where, reading)
        question = text_of(row, "question", where, f"question {question_id}", reading)
        answer = row.get("answer")
        if answer is not None and not isinstance(answer, str):
            reading.broken(where, f'"answer" must be a string, found {shown(answer)}')
            continue
        if image_id is None or question is None:
            continue
        ref = reading.find(f"{image_id}.jpg")
        if ref is None:
            reading.drop("question whose image was not found", question_id)
            continue
        kind = _structure(row)
        result.append(
            VisualQuestion(
                question_id=question_id,
                image_id=image_id,
                photo_key=photo_key(image_id, details),
                image=ref,
                question=question,
                answers=() if answer is None else (answer,),
                question_type=kind,
                answer_type="" if not kind else "open" if kind == "query" else "binary",
            )
        )
    return result, reading.finish(len(result), len(result))


def _structure(row: Mapping[str, Any]) -> str:
    types = row.get("types")
    return str(types.get("structural", "")) if isinstance(types, Mapping) else ""
