"""Visual question answering as classification over an answer vocabulary (section 4.2.2)."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from soho.data.dataset import EpochLoader, SampleKey
from soho.data.schema import VisualQuestion
from soho.data.sources import Load, load_questions
from soho.data.vocabulary_answers import build_answer_vocabulary, soft_scores
from soho.errors import SohoError
from soho.evaluation.metrics import merge_processes
from soho.evaluation.submission import AnswerSheet
from soho.evaluation.vqa_score import VqaScore
from soho.models.initialization import read_config
from soho.models.losses import IGNORE
from soho.models.modeling_question_answering import SohoForQuestionAnswering
from soho.models.modeling_soho import SohoPreTrainedModel
from soho.tasks.base import Item, Processes, Task
from soho.tasks.batches import inference, pad_texts, sample_picture, stack_pictures
from soho.tasks.groups import TEXTS_AT_ONCE, PictureGroup, group_by_picture
from soho.training.recipe import Recipe


class VqaTask(Task):
    """Question answering; `data.image_blind` gives the question-only baseline."""

    name: ClassVar[str] = "vqa"
    model_class: ClassVar[type[SohoPreTrainedModel]] = SohoForQuestionAnswering
    read: ClassVar[Load] = staticmethod(load_questions)
    has_baselines: ClassVar[bool] = True

    def __init__(self, recipe: Recipe) -> None:
        super().__init__(recipe)
        self._answers: list[str] | None = None

    def texts(self) -> Sequence[str]:
        """Return all training questions."""
        return [example.question for example in self.examples("train")]

    def config_fields(self) -> dict[str, Any]:
        """Return the answer vocabulary: from `data.answers`, from the model folder, or built from the training set."""
        return {"answers": self.answers()}

    def answers(self) -> list[str]:
        """Return the answer vocabulary in index order.

        A question-answering folder under `model.start` keeps its own: its answer head knows no other.

        Raises:
            SohoError: `data.answers` is no list of strings or differs from the folder's, or no answer is frequent
                enough.
        """
        if self._answers is None:
            data, start = self.recipe.data, self.recipe.model.start
            given = read_answers(data.answers) if data.answers else None
            known = _answers_of(start) if start else None
            if given is not None and known is not None and given != known:
                raise SohoError(
                    f"data.answers={data.answers} differs from the {len(known)} answers of model.start={start}, whose "
                    "answer head knows no other; leave data.answers out, or start from a pre-trained model"
                )
            chosen = given if given is not None else known
            if chosen is None:
                chosen = build_answer_vocabulary(self.examples("train"), data.answer_minimum_count)
            self._answers = chosen
        return self._answers

    def train_loader(self, processes: Processes) -> EpochLoader:
        """Return batches of questions that have at least one answer of the vocabulary."""
        vocabulary = {answer: number for number, answer in enumerate(self.answers())}
        kept = [example for example in self.examples("train") if soft_scores(example.answers, vocabulary)]
        dropped = len(self.examples("train")) - len(kept)
        if dropped:
            self.notes.append(f"{dropped} training questions have no answer of the vocabulary and are left out")
        if not kept:
            raise SohoError("no training question has an answer of the vocabulary; check data.answers")
        groups = group_by_picture(enumerate(kept), self.recipe.data.questions_per_image)
        items = [Item(group) for group in groups]
        sampler = QuestionSampler(self, vocabulary)
        batch_size = self.recipe.training.batch_size
        return self.loader(items, sampler, collate_questions, processes, batch_size=batch_size, shuffle=True)

    def predictions(
        self, model: SohoForQuestionAnswering, split: str, processes: Processes, top: int = 1
    ) -> dict[int, list[tuple[str, float]]]:
        """Answer this process's share of a split; returns row -> the `top` answers with probabilities.

        Rows whose pictures cannot be read are absent, counted and named in `notes`.
        """
        answers = model.config.answers
        items = [Item(group) for group in group_by_picture(enumerate(self.examples(split)), TEXTS_AT_ONCE)]
        sampler = QuestionSampler(self, {})
        loader = self.loader(
            items,
            sampler,
            collate_questions,
            processes,
            batch_size=self.recipe.evaluation.batch_size,
            shuffle=False,
        )
        chosen: dict[int, list[tuple[str, float]]] = {}
        for batch, output in inference(model, loader, self.recipe.evaluation.precision):
            best = output.logits.sigmoid().topk(min(top, len(answers)), dim=1)
            for row, values, numbers in zip(batch["rows"].tolist(), best.values.tolist(), best.indices.tolist()):
                if row >= 0:
                    chosen[row] = [(answers[number], value) for number, value in zip(numbers, values)]
        self.note_broken(loader, split, "their questions have no answer and are not measured")
        return chosen

    def evaluate(
        self, model: SohoPreTrainedModel, split: str, processes: Processes, out: Path | None = None
    ) -> dict[str, float]:
        """Return the VQA accuracy, overall and by type, beside always giving the most frequent training answer.

        Raises:
            SohoError: the split has no answers to compare with.
        """
        assert isinstance(model, SohoForQuestionAnswering)
        examples = self.examples(split)
        if not any(example.answers for example in examples):
            raise SohoError(
                f"the questions of data.{split} have no answers, so there is nothing to measure; "
                "`soho submit vqa` writes them for the server"
            )
        majority = self.majority_answer()
        score, baseline = VqaScore(), VqaScore()
        for row, best in self.predictions(model, split, processes).items():
            example = examples[row]
            if example.answers:
                score.update(best[0][0], example.answers, example.answer_type, example.question_type)
                baseline.update(majority, example.answers)
        score, baseline = merge_processes(score), merge_processes(baseline)
        return {**score.result(), "majority": baseline.result()["accuracy"]}

    def answer_sheet(self, model: SohoPreTrainedModel, split: str, processes: Processes) -> AnswerSheet:
        """Answer all questions of a split, with or without annotations; every process calls it, all return the whole.

        A question whose picture cannot be read has no answer.
        """
        assert isinstance(model, SohoForQuestionAnswering)
        examples = self.examples(split)
        sheet = AnswerSheet()
        for row, best in sorted(self.predictions(model, split, processes).items()):
            sheet.update(examples[row].question_id, best[0][0])
        return merge_processes(sheet)

    def majority_answer(self) -> str:
        """Return the most frequent answer of the training split ("yes" where there is none)."""
        if not self.recipe.data.train:
            return "yes"
        counts = Counter(answer for example in self.examples("train") for answer in example.answers)
        return counts.most_common(1)[0][0] if counts else "yes"


class QuestionSampler:
    """Turns a group of questions into pixels, token ids and soft answer scores."""

    def __init__(self, task: VqaTask, vocabulary: dict[str, int]) -> None:
        self.processor = task.processor
        self.pixels = task.pixels
        self.vocabulary = vocabulary
        self.blind = task.recipe.data.image_blind

    def __call__(self, item: Item, key: SampleKey) -> dict[str, Any]:
        """Return one sample; see `collate_questions`."""
        group: PictureGroup[VisualQuestion] = item.example
        image = group.photos[0].image
        sample = {
            "picture": sample_picture(self.pixels, image, item.size, filler=key.filler, blind=self.blind),
            "ids": self.processor.encode_batch([question.question for question in group.examples]),
            "rows": [IGNORE if key.filler else row for row in group.rows],
        }
        if self.vocabulary:
            labels = torch.full((len(group.examples), len(self.vocabulary)), float(IGNORE) if key.filler else 0.0)
            if not key.filler:
                for place, question in enumerate(group.examples):
                    for number, value in soft_scores(question.answers, self.vocabulary).items():
                        labels[place, number] = value
            sample["labels"] = labels
        return sample


def collate_questions(samples: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
    """Join groups into a batch of B pictures and P questions; `labels` (P, A) where the samples carry them."""
    batch = stack_pictures([sample["picture"] for sample in samples])
    batch["input_ids"], batch["attention_mask"] = pad_texts([ids for sample in samples for ids in sample["ids"]], 0)
    counts = torch.tensor([len(sample["ids"]) for sample in samples])
    batch["pair_image_index"] = torch.arange(len(samples)).repeat_interleave(counts)
    batch["rows"] = torch.tensor([row for sample in samples for row in sample["rows"]])
    if "labels" in samples[0]:
        batch["labels"] = torch.cat([sample["labels"] for sample in samples])
    return batch


def _answers_of(folder: str) -> list[str] | None:
    """Return the answer vocabulary of a question-answering folder, None for any other model."""
    config = read_config(folder)
    kinds = config.architectures or []
    return list(config.answers) if SohoForQuestionAnswering.__name__ in kinds else None


def read_answers(path: Path) -> list[str]:
    """Read an answer vocabulary: a JSON list of strings in index order.

    Raises:
        SohoError: the file is absent or holds something else.
    """
    try:
        answers = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SohoError(f"data.answers={path} cannot be read: {error}") from None
    if not isinstance(answers, list) or not all(isinstance(answer, str) for answer in answers):
        raise SohoError(f"data.answers={path} must hold a JSON list of strings, the answers in index order")
    return answers
