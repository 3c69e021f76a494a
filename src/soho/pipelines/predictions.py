"""What a pipeline says: predictions and ranked pictures, and both as one JSON document."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Prediction:
    """What a model says of a picture and a text.

    Attributes:
        text: the answer, the text that was scored, or the judgement (true, false; entailment, neutral,
            contradiction).
        probability: of the answer (sigmoid), that picture and text match (softmax over match / no match), or of the
            judgement (softmax).
    """

    text: str
    probability: float


@dataclass(frozen=True)
class Hit:
    """A picture that `SohoPipeline.search` ranked.

    Attributes:
        place: of the picture in what was given.
        score: log-odds that picture and text match.
    """

    place: int
    score: float

    @property
    def probability(self) -> float:
        """That picture and text match, as `SohoPipeline.match` gives it."""
        return float(torch.tensor(self.score, dtype=torch.float64).sigmoid())


def ranked(names: Sequence[str], probabilities: Tensor, top: int | None = None) -> list[Prediction]:
    """Return the `top` most probable of A names (None: all), best first; equal ones in the order of the names.

    Args:
        names: A of them.
        probabilities: (A,).
        top: how many.
    """
    best = probabilities.argsort(descending=True, stable=True)[:top].tolist()
    return [Prediction(names[place], float(probabilities[place])) for place in best]


def as_document(
    model: str,
    task: str,
    verb: str,
    images: Sequence[str],
    seconds: Sequence[str] | None,
    text: str,
    predictions: Sequence[Sequence[Prediction]],
) -> dict[str, Any]:
    """Return what `soho predict --json` prints.

    Args:
        model: the folder.
        task: what was asked of it.
        verb: the method of `SohoPipeline`.
        images: B names of pictures.
        seconds: the B right pictures of a comparison, or None.
        text: what was read against each.
        predictions: of each picture (or pair).
    """
    results = []
    for place, (image, found) in enumerate(zip(images, predictions)):
        second = {} if seconds is None else {"second": seconds[place]}
        results.append({"image": image, **second, "text": text, "predictions": [asdict(one) for one in found]})
    return {"model": model, "task": task, "verb": verb, "results": results}
