"""What `soho predict` does: one question to one picture or several, as lines or as a JSON document."""

from __future__ import annotations

import json as json_format
from collections.abc import Sequence
from pathlib import Path

from soho.pipelines.abilities import ability_for
from soho.pipelines.pairs import as_many
from soho.pipelines.pipeline import SohoPipeline
from soho.pipelines.predictions import as_document


def predict_lines(
    model: Path,
    images: Sequence[Path],
    text: str,
    seconds: Sequence[Path] | None = None,
    *,
    task: str | None = None,
    top: int = 3,
    json: bool = False,
    trust_remote_code: bool = False,
    device: str = "cpu",
) -> list[str]:
    """Return what a model says of pictures, for a terminal or as JSON.

    Args:
        model: a model folder or hub id.
        images: B pictures; of pairs the left ones.
        text: read against each.
        seconds: B right pictures.
        task: which head is asked, where several fit.
        top: answers to a question.
        json: one line with the document of `as_document`, instead of lines for people.
        trust_remote_code: let the folder's own CNN code run.
        device: where to compute.

    Raises:
        SohoError: what `SohoPipeline` raises.
    """
    right = list(seconds) if seconds else None
    if right is not None:
        as_many(list(images), right)  # told before a model is loaded
    pipeline = SohoPipeline.from_pretrained(model, trust_remote_code, device, task)
    ability = ability_for(pipeline.abilities, right is not None, task)
    found = pipeline(list(images), text, right, ability.task, top)
    names, rights = [str(image) for image in images], None if right is None else [str(image) for image in right]
    if json:
        document = as_document(str(model), ability.task, ability.verb, names, rights, text, found)
        return [json_format.dumps(document, ensure_ascii=False)]
    lines = []
    for place, predictions in enumerate(found):
        if len(names) > 1:
            lines.append(names[place] if rights is None else f"{names[place]} and {rights[place]}")
        lines += [f"{one.probability:.3f}  {one.text}" for one in predictions]
    return lines
