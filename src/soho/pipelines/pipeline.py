"""A trained model with its processor, and the verbs: match, search, answer, compare, entails."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast, overload

import torch

from soho.errors import SohoError
from soho.models.fast import FastReport, fast_copy
from soho.models.modeling_retrieval import SohoForImageTextRetrieval
from soho.models.modeling_soho import SohoPreTrainedModel
from soho.models.modeling_visual_entailment import ENTAILMENT_CLASSES
from soho.pipelines.abilities import ABILITIES, Ability, ability_for, ability_of, another_model
from soho.pipelines.pairs import BATCH_SIZE, as_many, read_pairs
from soho.pipelines.pictures import Many, Picture, Pictures, Texts, is_many, pair_up
from soho.pipelines.predictions import Hit, Prediction, ranked
from soho.pipelines.ranking import rank_pictures
from soho.pipelines.reading import read_folder
from soho.processing.processing_soho import SohoProcessor


class SohoPipeline:
    """A trained model with its processor, ready for pictures and texts.

    Every verb takes one picture (a path, bytes, a Pillow picture) or a list of them. For a list it returns a list, one
    result a picture; the texts are then one for all or one for each. What is said of a picture does not depend on the
    others.

    Args:
        model: its head says what the pipeline can do.
        processor: turns pictures and texts into tensors.
        device: where the model computes.
        heads: models with other heads on the same trunk; theirs is replaced by that of `model`.

    Raises:
        SohoError: the device cannot be used.

    Example:
        >>> pipeline = SohoPipeline.from_pretrained("runs/demo/vqa/model")  # doctest: +SKIP
        >>> pipeline.answer("kitchen.jpg", "how many chairs are there?")[0].text  # doctest: +SKIP
        'two'
    """

    def __init__(
        self,
        model: SohoPreTrainedModel,
        processor: SohoProcessor,
        device: str | torch.device = "cpu",
        heads: Sequence[SohoPreTrainedModel] = (),
    ) -> None:
        try:
            self.model = model.eval().to(device)
            self.heads = tuple(_on_trunk(head, self.model).eval().to(device) for head in heads)
        except (RuntimeError, AssertionError) as error:  # torch asserts where it was built without CUDA
            raise SohoError(f"device={str(device)!r} cannot be used: {str(error).splitlines()[0]}") from None
        self.processor = processor
        self.device = torch.device(device)
        self.fast: FastReport | None = None
        self.folder: Path | None = None

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        trust_remote_code: bool = False,
        device: str | torch.device = "cpu",
        task: str | None = None,
    ) -> SohoPipeline:
        """Load a model folder, or a hub id, for the tasks it was trained for.

        Args:
            folder: what a SOHO run wrote, or "owner/name" on the Hugging Face hub.
            trust_remote_code: let the folder's own CNN code run.
            device: where the model computes: "cpu", "cuda", "cuda:1", ...
            task: of a folder with several heads only this one: retrieval, vqa, nlvr2 or snli_ve.

        Raises:
            SohoError: the folder holds no SOHO model, or one without (this) task head, or the device cannot be used.
        """
        models, processor = read_folder(folder, trust_remote_code, task)
        pipeline = cls(models[0], processor, device, models[1:])
        pipeline.folder = Path(folder).absolute() if Path(folder).is_dir() else None
        return pipeline

    @property
    def abilities(self) -> tuple[Ability, ...]:
        """What this model can do, one for each head.

        Raises:
            SohoError: it has no head that predicts.
        """
        return tuple(ability_of(model) for model in (self.model, *self.heads))

    def head(self, verb: str) -> SohoPipeline:
        """Return a pipeline of the head that a verb asks, on the same trunk.

        Args:
            verb: match, answer, compare or entails.

        Returns:
            This pipeline where it has no other head.

        Raises:
            SohoError: there is no such verb, or no head for it.
        """
        if verb not in (verbs := [ability.verb for ability in ABILITIES]):
            raise SohoError(f"there is no verb {verb!r}; expected one of {', '.join(verbs)}")
        model = self._model_for(verb)
        if not self.heads:
            return self
        one = SohoPipeline(model, self.processor, self.device)
        one.folder, one.fast = self.folder, self.fast
        return one

    def speed_up(self, compiled: bool = False) -> SohoPipeline:
        """Exchange the model for its fast copy on this device; see `soho.models.fast.fast_copy`.

        Answers then differ from those of float32 by the rounding of bfloat16, where the device computes in it.

        Args:
            compiled: compile it too; pays for many pictures of few shapes.

        Returns:
            The pipeline itself; `fast` tells what was done.
        """
        if self.fast is None:
            heads = [fast_copy(head, self.device)[0] for head in self.heads]
            self.model, self.fast = fast_copy(self.model, self.device, compiled=compiled)
            self.heads = tuple(_on_trunk(head, self.model) for head in heads)
        return self

    @overload
    def match(self, image: Picture, texts: Texts, *, batch_size: int = BATCH_SIZE) -> list[Prediction]: ...
    @overload
    def match(self, image: Many, texts: Texts, *, batch_size: int = BATCH_SIZE) -> list[list[Prediction]]: ...
    def match(self, image: Pictures, texts: Texts, *, batch_size: int = BATCH_SIZE) -> Any:
        """Score how well texts describe pictures.

        Args:
            image: one picture or a list of B.
            texts: beside one picture any number; beside a list one for all or one for each. `search` scores every
                text with every picture.
            batch_size: pictures of a list that go through the CNN together.

        Returns:
            Of one picture a prediction for each text; of a list a list of such lists, one prediction in each.

        Raises:
            SohoError: the model does something else, a picture cannot be read, or the numbers do not agree.
        """
        model = self._model_for("match")
        pictures, rows = pair_up(image, texts)
        scores = read_pairs(model, self.processor, pictures, rows, batch_size).softmax(-1)[:, 1].tolist()
        found = [Prediction(text, score) for text, score in zip(rows, scores)]
        return [[one] for one in found] if is_many(image) else found

    def search(
        self, texts: Texts, images: Sequence[Picture], top: int | None = None, batch_size: int = BATCH_SIZE
    ) -> list[list[Hit]]:
        """Rank pictures by how well each text describes them: every pair is scored, no index is needed.

        Each picture goes through the CNN once, in batches of one padded shape, and is forgotten when it is scored.
        `soho.search.PictureIndex` keeps what the CNN made of a large library on the disk.

        Args:
            texts: T of them, or one.
            images: B pictures.
            top: pictures a text gets; None = all.
            batch_size: pictures that go through the CNN together.

        Returns:
            For each of the T texts the `top` best pictures, best first; equal scores in the order of `images`.

        Raises:
            SohoError: the model does something else, a picture cannot be read, or a number is below 1.
        """
        model = cast(SohoForImageTextRetrieval, self._model_for("match"))
        rows = list(texts) if isinstance(texts, (list, tuple)) else [texts]
        with torch.inference_mode():
            return rank_pictures(model, self.processor, rows, images, top, batch_size)

    @overload
    def answer(
        self, image: Picture, question: str, top: int = 3, *, batch_size: int = BATCH_SIZE
    ) -> list[Prediction]: ...
    @overload
    def answer(
        self, image: Many, question: Texts, top: int = 3, *, batch_size: int = BATCH_SIZE
    ) -> list[list[Prediction]]: ...
    @overload
    def answer(
        self, image: Picture, question: Many, top: int = 3, *, batch_size: int = BATCH_SIZE
    ) -> list[list[Prediction]]: ...
    def answer(self, image: Pictures, question: Texts | Many, top: int = 3, *, batch_size: int = BATCH_SIZE) -> Any:
        """Return the `top` answers to a question about a picture, best first.

        Args:
            image: one picture or a list.
            question: one question; or a list of them, any number beside one picture, one for each beside several.
            top: answers to return; at most as many as the model knows.
            batch_size: pictures of a list that go through the CNN together.

        Returns:
            The answers; a list of such lists where pictures or questions came as a list.

        Raises:
            SohoError: the model does something else, a picture cannot be read, or the numbers do not agree.
        """
        model = self._model_for("answer")
        if top < 1:
            raise SohoError(f"top={top} must be at least 1")
        pictures, rows = pair_up(image, cast(Texts, question))
        shares = read_pairs(model, self.processor, pictures, rows, batch_size).sigmoid()
        found = [ranked(cast(list[str], model.config.answers), row, top) for row in shares]
        return found if is_many(image) or is_many(question) else found[0]

    @overload
    def compare(
        self, image_a: Picture, image_b: Picture, sentence: str, *, batch_size: int = BATCH_SIZE
    ) -> list[Prediction]: ...
    @overload
    def compare(
        self, image_a: Many, image_b: Many, sentence: Texts, *, batch_size: int = BATCH_SIZE
    ) -> list[list[Prediction]]: ...
    @overload
    def compare(
        self, image_a: Picture, image_b: Picture, sentence: Many, *, batch_size: int = BATCH_SIZE
    ) -> list[list[Prediction]]: ...
    def compare(
        self, image_a: Pictures, image_b: Pictures, sentence: Texts | Many, *, batch_size: int = BATCH_SIZE
    ) -> Any:
        """Say whether a sentence is true of two pictures; "true" and "false", the more probable first.

        Args:
            image_a: the left picture, or a list.
            image_b: the right picture, or a list of as many.
            sentence: one for all, or a list: any number beside one pair, one for each beside several.
            batch_size: pairs of a list that go through the CNN together.

        Returns:
            Both judgements; a list of such lists where anything came as a list.

        Raises:
            SohoError: the model does something else, a picture cannot be read, or the numbers do not agree.
        """
        model = self._model_for("compare")
        many = as_many(image_a, image_b)
        first, rows = pair_up(image_a, cast(Texts, sentence))
        second, _ = pair_up(image_b, "no text of its own")
        shares = read_pairs(model, self.processor, first, rows, batch_size, second).softmax(-1)
        found = [ranked(("false", "true"), row) for row in shares]
        return found if many or is_many(sentence) else found[0]

    @overload
    def entails(self, image: Picture, text: str, *, batch_size: int = BATCH_SIZE) -> list[Prediction]: ...
    @overload
    def entails(self, image: Many, text: Texts, *, batch_size: int = BATCH_SIZE) -> list[list[Prediction]]: ...
    @overload
    def entails(self, image: Picture, text: Many, *, batch_size: int = BATCH_SIZE) -> list[list[Prediction]]: ...
    def entails(self, image: Pictures, text: Texts | Many, *, batch_size: int = BATCH_SIZE) -> Any:
        """Say whether a picture entails a sentence; entailment, neutral and contradiction, the most probable first.

        Args:
            image: one picture or a list.
            text: one sentence, or a list: any number beside one picture, one for each beside several.
            batch_size: pictures of a list that go through the CNN together.

        Returns:
            The three judgements; a list of such lists where anything came as a list.

        Raises:
            SohoError: the model does something else, a picture cannot be read, or the numbers do not agree.
        """
        model = self._model_for("entails")
        pictures, rows = pair_up(image, cast(Texts, text))
        found = [
            ranked(ENTAILMENT_CLASSES, row)
            for row in read_pairs(model, self.processor, pictures, rows, batch_size).softmax(-1)
        ]
        return found if is_many(image) or is_many(text) else found[0]

    def __call__(
        self, image: Pictures, text: Texts, second: Pictures | None = None, task: str | None = None, top: int = 3
    ) -> Any:
        """Answer, match, compare or tell what is entailed, whichever the model can do.

        Args:
            image: the picture, of two the left one; or a list.
            text: a question, a text to match, a sentence or a hypothesis; or a list, as the verbs take it.
            second: the right picture or pictures, for a model that compares two.
            task: which head is asked, where several fit: retrieval, vqa, nlvr2 or snli_ve.
            top: answers to a question.

        Returns:
            What the verb returns.

        Raises:
            SohoError: one picture too few or too many for the model, several heads fit, or what the verb raises.
        """
        verb = ability_for(self.abilities, second is not None, task).verb
        ask: Any = getattr(self, verb)
        if verb == "compare":
            return ask(image, second, text)
        return ask(image, text, top) if verb == "answer" else ask(image, text)

    def _model_for(self, verb: str) -> SohoPreTrainedModel:
        wanted = next(ability for ability in ABILITIES if ability.verb == verb)
        for model in (self.model, *self.heads):
            if isinstance(model, wanted.model_class):
                return model
        raise another_model(wanted, self.abilities)


def load(
    folder: str | Path,
    device: str | torch.device | None = None,
    compiled: bool = False,
    trust_remote_code: bool = False,
    task: str | None = None,
) -> SohoPipeline:
    """Load a model folder, or a hub id, in the fastest settings of the device that is found.

    Args:
        folder: what a SOHO run wrote, or "owner/name" on the Hugging Face hub.
        device: where the model computes; None: the first GPU, else the CPU.
        compiled: compile the model; every new shape of picture costs up to a minute once, later ones are faster.
        trust_remote_code: let the folder's own CNN code run.
        task: of a folder with several heads only this one.

    Raises:
        SohoError: see `SohoPipeline.from_pretrained`, which loads in float32 instead.
    """
    chosen = device if device is not None else ("cuda" if torch.cuda.is_available() else "cpu")
    return SohoPipeline.from_pretrained(folder, trust_remote_code, chosen, task).speed_up(compiled)


def _on_trunk(head: SohoPreTrainedModel, model: SohoPreTrainedModel) -> SohoPreTrainedModel:
    setattr(head, head.base_model_prefix, model.trunk)
    return head
