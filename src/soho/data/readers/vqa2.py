"""VQA v2: `v2_OpenEnded_mscoco_train2014_questions.json` with `v2_mscoco_train2014_annotations.json` (https://visualqa.org)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from soho.data.images import ImageStore
from soho.data.readers.files import read_json
from soho.data.readers.photo_names import coco_file_names, coco_key
from soho.data.readers.reading import LoadNotes, OnMissing, Reading, identifier, objects, section, shown, text_of
from soho.data.schema import VisualQuestion

_QUESTIONS = "a VQA v2 questions file ({data_subtype, questions: [{image_id, question, question_id}, ...]})"
_ANNOTATIONS = "a VQA v2 annotations file ({annotations: [{question_id, answers: [{answer}, ...]}, ...]})"
_NO_SUBTYPE = ("train2014", "val2014", "test2015")


def read_questions(
    questions: Path,
    annotations: Path | None,
    images: ImageStore,
    *,
    name: str = "vqa2",
    limit: int | None = None,
    on_missing: OnMissing = "error",
) -> tuple[list[VisualQuestion], LoadNotes]:
    """Read VQA v2 questions, in their order, with their answers.

    Args:
        questions: the questions file; its `data_subtype` tells how the photos are named.
        annotations: the annotations file; None for test splits, whose answers are withheld.
        images: where the photos are; the names of the 2014/2015 and of the 2017 releases are both tried.
        name: data-set name for messages.
        limit: only the first n questions.
        on_missing: what to do with images that are not found, empty questions and questions without annotation.

    Raises:
        SohoError: a file is something else, rows are broken, or something is missing under "error".
    """
    content = read_json(questions)
    rows = section(content, "questions", questions, _QUESTIONS, inner="question")
    reading = Reading(name, questions, images, on_missing)
    records = None if annotations is None else _read_annotations(annotations, name, images)
    if records is not None:
        asked = {str(row.get("question_id")) for row in rows if isinstance(row, Mapping)}
        for annotated in records:
            if annotated not in asked:
                reading.drop("annotation without a question", annotated)
    data_type, subtype = str(content.get("data_type", "mscoco")), content.get("data_subtype")
    result: list[VisualQuestion] = []
    seen: set[str] = set()
    for where, row in objects(rows, "questions", reading):
        if limit is not None and len(result) >= limit:
            break
        reading.notes.rows += 1
        question_id = identifier(row, ("question_id",), where, reading)
        image_id = identifier(row, ("image_id",), where, reading)
        text = text_of(row, "question", where, f"question {question_id}", reading)
        if question_id is None or image_id is None or text is None:
            continue
        if question_id in seen:
            reading.broken(where, f"the question id {question_id} was used before")
            continue
        seen.add(question_id)
        record: Mapping[str, Any] = {}
        if records is not None:
            if question_id not in records:
                reading.absent(where, f"without annotation in {annotations}", f"question {question_id}")
                continue
            record = records[question_id]
            if str(record.get("image_id", image_id)) != image_id:
                reading.broken(where, f"its image is {image_id}, but {record['image_id']} in {annotations}")
                continue
        ref = reading.find(*_file_names(data_type, subtype, image_id))
        if ref is None:
            reading.drop("question whose image was not found", question_id)
            continue
        result.append(
            VisualQuestion(
                question_id=question_id,
                image_id=image_id,
                photo_key=coco_key(image_id, name) if data_type == "mscoco" else f"{data_type}:{image_id}",
                image=ref,
                question=text,
                answers=tuple(answer["answer"] for answer in record.get("answers", ())),
                question_type=str(record.get("question_type", "")),
                answer_type=str(record.get("answer_type", "")),
            )
        )
    return result, reading.finish(len(result), len(result))


def read_question_ids(questions: Path, *, name: str = "vqa2") -> list[str]:
    """Return the ids of all questions of a file in its order, whether their pictures are there or not.

    Args:
        questions: the questions file.
        name: data-set name for messages.

    Raises:
        SohoError: the file is something else, or an id is missing or comes twice.
    """
    reading = Reading(name, questions, ImageStore([]))
    ids: dict[str, None] = {}
    for where, row in objects(
        section(read_json(questions), "questions", questions, _QUESTIONS, "question"), "questions", reading
    ):
        question_id = identifier(row, ("question_id",), where, reading)
        if question_id in ids:
            reading.broken(where, f"the question id {question_id} was used before")
        elif question_id is not None:
            ids[question_id] = None
    reading.finish(len(ids), len(ids))
    return list(ids)


def _read_annotations(path: Path, name: str, images: ImageStore) -> dict[str, Mapping[str, Any]]:
    """Return question id -> annotation record, whose answers have been checked."""
    rows = section(read_json(path), "annotations", path, _ANNOTATIONS, inner="answers")
    reading = Reading(name, path, images)
    records: dict[str, Mapping[str, Any]] = {}
    for where, row in objects(rows, "annotations", reading):
        question_id = identifier(row, ("question_id",), where, reading)
        answers = row.get("answers")
        if question_id is None:
            continue
        if not isinstance(answers, list) or not answers:
            reading.broken(where, f'"answers" must be a list of {{"answer": ...}} objects, found {shown(answers)}')
        elif wrong := [item for item in answers if not _is_answer(item)]:
            reading.broken(where, f'each answer must be an object with a string "answer", found {shown(wrong[0])}')
        elif question_id in records:
            reading.broken(where, f"the question id {question_id} was used before")
        else:
            records[question_id] = row
    reading.finish(len(rows), len(rows))
    return records


def _is_answer(item: object) -> bool:
    return isinstance(item, Mapping) and isinstance(item.get("answer"), str)


def _file_names(data_type: str, subtype: object, image_id: str) -> tuple[str, ...]:
    """Return the names a photo may have on disk, the official one first."""
    number = image_id.zfill(12)
    if data_type != "mscoco":
        return (f"{data_type}_{subtype}_{number}.png",)
    # The photos of test-dev are those of the whole test set.
    subtypes = (subtype.replace("test-dev", "test"),) if isinstance(subtype, str) else _NO_SUBTYPE
    official = [f"COCO_{part}_{number}.jpg" for part in subtypes]
    return (*official, *coco_file_names(official[0])[1:])
