"""One call: a picture (or two) and a text in; a match score, an answer or a judgement out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import AutoConfig

from soho.data.images import decode
from soho.data.schema import ImageRef
from soho.errors import SohoError
from soho.models.fast import FastReport, fast_copy
from soho.models.initialization import load_model
from soho.models.modeling_question_answering import SohoForQuestionAnswering
from soho.models.modeling_retrieval import SohoForImageTextRetrieval
from soho.models.modeling_soho import SohoPreTrainedModel
from soho.models.modeling_visual_entailment import ENTAILMENT_CLASSES, SohoForVisualEntailment
from soho.models.modeling_visual_reasoning import SohoForVisualReasoning
from soho.models.pair_scorer import GridScorer
from soho.processing.processing_soho import SohoProcessor

# Which class reads which kind of folder; a pre-training folder holds the match head, so it can score pairs.
PREDICTORS: dict[str, type[SohoPreTrainedModel]] = {
    "SohoForPreTraining": SohoForImageTextRetrieval,
    "SohoReleasedForPreTraining": SohoForImageTextRetrieval,
    "SohoForImageTextRetrieval": SohoForImageTextRetrieval,
    "SohoForQuestionAnswering": SohoForQuestionAnswering,
    "SohoForVisualReasoning": SohoForVisualReasoning,
    "SohoForVisualEntailment": SohoForVisualEntailment,
}

# What each class does, and the verb that asks for it.
VERBS: dict[type[SohoPreTrainedModel], tuple[str, str]] = {
    SohoForImageTextRetrieval: ("scores pairs", "match"),
    SohoForQuestionAnswering: ("answers questions", "answer"),
    SohoForVisualReasoning: ("judges sentences about two pictures", "judge"),
    SohoForVisualEntailment: ("judges what a picture entails", "entail"),
}

Picture = Image.Image | str | Path

# Pairs that `search` scores together.
PAIRS = 64


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


class SohoPipeline:
    """A trained model with its processor, ready for pictures and texts.

    Example:
        >>> pipeline = SohoPipeline.from_pretrained("runs/demo/vqa/model")  # doctest: +SKIP
        >>> pipeline.answer("kitchen.jpg", "how many chairs are there?")[0].text  # doctest: +SKIP
        'two'
    """

    def __init__(
        self, model: SohoPreTrainedModel, processor: SohoProcessor, device: str | torch.device = "cpu"
    ) -> None:
        try:
            self.model = model.eval().to(device)
        except (RuntimeError, AssertionError) as error:  # torch asserts where it was built without CUDA
            raise SohoError(f"device={str(device)!r} cannot be used: {str(error).splitlines()[0]}") from None
        self.processor = processor
        self.device = torch.device(device)
        self.fast: FastReport | None = None
        self.folder: Path | None = None

    @classmethod
    def from_pretrained(
        cls, folder: str | Path, trust_remote_code: bool = False, device: str | torch.device = "cpu"
    ) -> SohoPipeline:
        """Load a model folder for the task it was trained for.

        Args:
            folder: what a SOHO run wrote.
            trust_remote_code: let the folder's own CNN code run.
            device: where the model computes: "cpu", "cuda", "cuda:1", ...

        Raises:
            SohoError: the folder holds no SOHO model, or one without a task head, or the device cannot be used.
        """
        if not Path(folder).is_dir():
            raise SohoError(f"{folder} is not a folder; expected one that a SOHO run wrote (…/model)")
        try:
            kinds = AutoConfig.from_pretrained(folder).architectures or ["none"]
        except (OSError, ValueError) as error:
            raise SohoError(f"{folder} holds no model configuration: {' '.join(str(error).split())[:150]}") from None
        if kinds[0] not in PREDICTORS:
            raise SohoError(
                f"{folder} holds a {kinds[0]}, which cannot predict; expected one of {', '.join(PREDICTORS)}"
            )
        model, _ = load_model(PREDICTORS[kinds[0]], str(folder), trust_remote_code=trust_remote_code)
        try:
            processor = SohoProcessor.from_pretrained(folder)
        except (OSError, ValueError) as error:
            raise SohoError(f"{folder} holds no tokenizer or picture settings: {str(error).splitlines()[0]}") from None
        pipeline = cls(model, processor, device)
        pipeline.folder = Path(folder).absolute()
        return pipeline

    def speed_up(self, compiled: bool = False) -> SohoPipeline:
        """Exchange the model for its fast copy on this device; see `soho.models.fast.fast_copy`.

        Answers then differ from those of float32 by the rounding of bfloat16, where the device computes in it.

        Args:
            compiled: compile it too; pays for many pictures of few shapes.

        Returns:
            The pipeline itself; `fast` tells what was done.
        """
        if self.fast is None:
            self.model, self.fast = fast_copy(self.model, self.device, compiled=compiled)
        return self

    @torch.inference_mode()
    def match(self, image: Picture, texts: str | list[str]) -> list[Prediction]:
        """Score how well each text describes a picture.

        Raises:
            SohoError: the model does something else, or the picture cannot be read.
        """
        self._must_be(SohoForImageTextRetrieval, "a retrieval or pre-training model")
        rows = [texts] if isinstance(texts, str) else texts
        batch = self.processor(images=open_picture(image), text=rows, return_tensors="pt").to(self.device)
        pairs = torch.zeros(len(rows), dtype=torch.long, device=self.device)
        logits = self.model(**batch, pair_image_index=pairs).logits
        return [Prediction(text, float(value)) for text, value in zip(rows, logits.softmax(-1)[:, 1])]

    @torch.inference_mode()
    def search(
        self, texts: str | Sequence[str], images: Sequence[Picture], top: int | None = None, batch_size: int = 8
    ) -> list[list[Hit]]:
        """Rank pictures by how well each text describes them: every pair is scored, no index is needed.

        Each picture goes through the CNN once, in batches of one padded shape, and is forgotten when it is scored.
        `soho.search.PictureIndex` keeps what the CNN made of a large library on the disk.

        Args:
            texts: T of them, or one.
            images: B pictures or their paths.
            top: pictures a text gets; None = all.
            batch_size: pictures that go through the CNN together.

        Returns:
            For each of the T texts the `top` best pictures, best first; equal scores in the order of `images`.

        Raises:
            SohoError: the model does something else, a picture cannot be read, or a number is below 1.
        """
        self._must_be(SohoForImageTextRetrieval, "a retrieval or pre-training model")
        if batch_size < 1 or (top is not None and top < 1):
            raise SohoError(f"batch_size={batch_size} and top={top} must be at least 1")
        rows = [texts] if isinstance(texts, str) else list(texts)
        if not rows or not len(images):
            return [[] for _ in rows]
        scorer = GridScorer(
            cast(SohoForImageTextRetrieval, self.model), next(self.model.trunk.fusion.parameters()).dtype
        )
        words = self.processor(text=rows, return_tensors="pt").to(self.device)
        text, text_mask = scorer.text_tokens(words["input_ids"], words["attention_mask"])
        scores = torch.empty(len(rows), len(images))
        waiting: dict[tuple[int, int], list[tuple[int, np.ndarray]]] = {}  # by padded shape

        def score(shape: tuple[int, int]) -> None:
            places, pictures = zip(*waiting.pop(shape))
            batch = self.processor(images=list(pictures), canvas=shape, return_tensors="pt").to(self.device)
            visual, mask = scorer.image_tokens(batch["pixel_values"], batch["pixel_mask"])
            step = max(1, PAIRS // len(places))
            for low in range(0, len(rows), step):
                part = slice(low, low + step)
                scores[part, list(places)] = (
                    scorer.score_grid(text[part], text_mask[part], visual, mask).t().float().cpu()
                )

        reader = self.processor.image_processor
        for place, image in enumerate(images):
            picture = open_picture(image)
            shape = reader.padded_size(*picture.size)
            waiting.setdefault(shape, []).append((place, reader.resized(picture, shape)))
            if len(waiting[shape]) == batch_size:
                score(shape)
        for shape in list(waiting):
            score(shape)
        best = scores.argsort(dim=1, descending=True, stable=True)[:, :top]
        return [[Hit(int(place), float(line[place])) for place in order] for line, order in zip(scores, best)]

    @torch.inference_mode()
    def answer(self, image: Picture, question: str, top: int = 3) -> list[Prediction]:
        """Return the `top` answers to a question about a picture, best first.

        Raises:
            SohoError: the model does something else, or the picture cannot be read.
        """
        self._must_be(SohoForQuestionAnswering, "a question-answering model")
        batch = self.processor(images=open_picture(image), text=[question], return_tensors="pt").to(self.device)
        scores = self.model(**batch).logits[0].sigmoid()
        answers = cast(list[str], self.model.config.answers)
        best = scores.topk(min(top, len(answers)))
        return [Prediction(answers[int(n)], float(p)) for p, n in zip(best.values, best.indices)]

    @torch.inference_mode()
    def judge(self, left: Picture, right: Picture, sentence: str) -> list[Prediction]:
        """Say whether a sentence is true of two pictures; "true" and "false", the more probable first.

        Raises:
            SohoError: the model does something else, or a picture cannot be read.
        """
        self._must_be(SohoForVisualReasoning, "a visual-reasoning model")
        batch = self.processor(images=open_picture(left), text=[sentence], return_tensors="pt")
        second = self.processor(images=open_picture(right), return_tensors="pt")
        batch.update({f"{name}_2": value for name, value in second.items()})
        return _ranked(("false", "true"), self.model(**batch.to(self.device)).logits[0])

    @torch.inference_mode()
    def entail(self, image: Picture, hypothesis: str) -> list[Prediction]:
        """Say whether a picture entails a sentence; entailment, neutral and contradiction, the most probable first.

        Raises:
            SohoError: the model does something else, or the picture cannot be read.
        """
        self._must_be(SohoForVisualEntailment, "a visual-entailment model")
        batch = self.processor(images=open_picture(image), text=[hypothesis], return_tensors="pt").to(self.device)
        return _ranked(ENTAILMENT_CLASSES, self.model(**batch).logits[0])

    def __call__(self, image: Picture, text: str, second: Picture | None = None) -> list[Prediction]:
        """Answer, match, judge or entail, whichever the model can do.

        Args:
            image: the picture; of two the left one.
            text: a question, a text to match, a sentence or a hypothesis.
            second: the right picture, for a model that compares two.

        Raises:
            SohoError: one picture too few or too many for the model, or a picture cannot be read.
        """
        if isinstance(self.model, SohoForVisualReasoning):
            if second is None:
                raise SohoError("this model judges sentences about two pictures; give the right picture too (--second)")
            return self.judge(image, second, text)
        if second is not None:
            raise SohoError(f"this model {self._does()[0]} and reads one picture; leave the second one out")
        if isinstance(self.model, SohoForQuestionAnswering):
            return self.answer(image, text)
        if isinstance(self.model, SohoForVisualEntailment):
            return self.entail(image, text)
        return self.match(image, text)

    def _must_be(self, wanted: type[SohoPreTrainedModel], words: str) -> None:
        if not isinstance(self.model, wanted):
            does, verb = self._does()
            raise SohoError(f"this model {does}; use `{verb}`, or load {words}")

    def _does(self) -> tuple[str, str]:
        for kind, words in VERBS.items():
            if isinstance(self.model, kind):
                return words
        raise SohoError(f"a {type(self.model).__name__} cannot predict; expected one of {', '.join(PREDICTORS)}")


def load(
    folder: str | Path,
    device: str | torch.device | None = None,
    compiled: bool = False,
    trust_remote_code: bool = False,
) -> SohoPipeline:
    """Load a model folder in the fastest settings of the device that is found.

    Args:
        folder: what a SOHO run wrote.
        device: where the model computes; None: the first GPU, else the CPU.
        compiled: compile the model; every new shape of picture costs up to a minute once, later ones are faster.
        trust_remote_code: let the folder's own CNN code run.

    Raises:
        SohoError: see `SohoPipeline.from_pretrained`, which loads in float32 instead.
    """
    chosen = device if device is not None else ("cuda" if torch.cuda.is_available() else "cpu")
    return SohoPipeline.from_pretrained(folder, trust_remote_code, chosen).speed_up(compiled)


def _ranked(names: Sequence[str], logits: Tensor) -> list[Prediction]:
    pairs = zip(names, logits.softmax(-1).tolist())
    return sorted((Prediction(name, share) for name, share in pairs), key=lambda one: -one.probability)


def open_picture(image: Picture) -> Image.Image:
    """Return an RGB picture, opened where a path was given.

    Raises:
        SohoError: the file is missing or not a picture.
    """
    if isinstance(image, Image.Image):
        return image.convert("RGB")
    if not Path(image).is_file():
        raise SohoError(f"{image} is not a file; expected a picture")
    return decode(ImageRef(str(image)))
