"""What a model folder can be asked, and the one place where the server calls the pipelines' verbs."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image

from soho.pipelines import Prediction, SohoPipeline, abilities_of

# Verb -> the model that it needs, in words.
VERBS = {
    "answer": "a question-answering model (task: vqa)",
    "match": "a retrieval or pre-training model (task: retrieval or pretraining)",
    "compare": "a visual-reasoning model (task: nlvr2)",
    "entails": "a visual-entailment model (task: snli_ve)",
}


def verbs_of(architectures: Sequence[str]) -> tuple[str, ...]:
    """Return the verbs of a model folder by the classes that its configuration names."""
    return tuple(ability.verb for ability in abilities_of(architectures))


def answer(pipeline: SohoPipeline, image: Image.Image, question: str, top: int) -> list[Prediction]:
    """Return the `top` answers to a question about a picture."""
    return pipeline.answer(image, question, top=top)


def match(pipeline: SohoPipeline, image: Image.Image, texts: list[str]) -> list[Prediction]:
    """Return for each text the probability that it describes the picture."""
    return pipeline.match(image, texts)


def compare(pipeline: SohoPipeline, left: Image.Image, right: Image.Image, sentence: str) -> list[Prediction]:
    """Say whether a sentence is true of two pictures."""
    return pipeline.compare(left, right, sentence)


def entails(pipeline: SohoPipeline, image: Image.Image, text: str) -> list[Prediction]:
    """Say whether a picture entails a text."""
    return pipeline.entails(image, text)
