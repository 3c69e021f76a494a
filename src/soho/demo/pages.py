"""The page of the demonstration: tables with baselines, examples, curves, the dictionary's patches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from soho.data.images import decode
from soho.data.schema import CaptionedImage, VisualHypothesis, VisualQuestion, VisualStatement
from soho.demo import tables
from soho.demo.result import DemoResult
from soho.demo.stages import demo_recipe
from soho.evaluation.vqa_score import vqa_accuracy
from soho.inspection.dictionary import CodeHealth, collect_patches, spread_codes
from soho.inspection.report import (
    AnsweredQuestion,
    Candidate,
    Curve,
    DictionaryPatches,
    RetrievalExample,
    Section,
    Series,
    write_report,
)
from soho.models import SohoForImageTextRetrieval, SohoForPreTraining, SohoForQuestionAnswering
from soho.models.modeling_visual_entailment import ENTAILMENT_CLASSES
from soho.processing.image_processing_soho import SohoImageProcessor
from soho.runs import trained_model
from soho.tasks import Processes
from soho.tasks.classification import ClassificationTask
from soho.tasks.retrieval import RetrievalTask
from soho.tasks.vqa import VqaTask
from soho.training.tracking import read_log

EXAMPLES = 6
LEAD = (
    "Everything on this page was made by one command on this machine: a small world of pictures was drawn and "
    "described, a model was pre-trained on it from random weights, fine-tuned for four tasks, and measured on pictures "
    "it had not seen, some of them with combinations of colour and kind that never occur in training."
)

NLVR2_TEXT = (
    "Is a sentence true of two images? Every sentence is asked of four pairs of images, and is true of two of them, so "
    "that it tells nothing by itself. Consistency is the share of sentences that are judged right of all four pairs."
)
SNLI_VE_TEXT = (
    "What does an image say to a sentence: that it is so (entailment), that it is not so (contradiction), or neither "
    "(neutral)? What a closed crate holds cannot be seen. Every sentence comes equally often with each of the three, "
    "so that it tells nothing by itself."
)


def write_demo_report(result: DemoResult, seed: int = 0) -> Path:
    """Write `report.html` into the demonstration's folder and return its path."""
    sections = [
        Section("At a glance", [*tables.headlines(result), tables.overview(result)]),
        Section("Retrieval", [tables.retrieval(result), *_retrieval_examples(result, seed)]),
        Section("Question answering", [tables.vqa(result), *_answered(result, seed)]),
        Section("Visual reasoning (NLVR2)", [tables.nlvr2(result), *_judged(result, seed)], NLVR2_TEXT),
        Section("Visual entailment (SNLI-VE)", [tables.snli_ve(result), *_entailed(result, seed)], SNLI_VE_TEXT),
        Section("Pre-training", [tables.pretraining(result), *_curves(result)]),
        Section("The visual dictionary", [_dictionary(result, seed)]),
    ]
    facts = {
        "duration": f"{result.wall_seconds / 60:.1f} minutes",
        "seed": str(seed),
        "threads": str(torch.get_num_threads()),
    }
    return write_report(result.out / "report.html", "SOHO on its embedded world", sections, lead=LEAD, facts=facts)


def _curves(result: DemoResult) -> list[Curve]:
    log = [row for row in read_log(result.out / "pretrain") if row["kind"] == "train"]
    steps = [row["step"] for row in log]

    def series(key: str, name: str) -> Series:
        return Series(name, steps, [row.get(key, float("nan")) for row in log])

    losses = [series(f"loss/{key}", key.upper()) for key in ("mlm", "mvm", "itm")]
    accuracy = [series(f"metric/{key}_accuracy", key.upper()) for key in ("mlm", "mvm", "itm")]
    health = [series("health/codes_used", "codes used"), series("health/perplexity", "perplexity")]
    return [
        Curve("Losses", losses),
        Curve("Accuracies", accuracy, percent=True),
        Curve("Dictionary", health, from_zero=True),
    ]


def _retrieval_examples(result: DemoResult, seed: int) -> Iterator[RetrievalExample]:
    recipe = demo_recipe("retrieval.yaml", "retrieval", result.out, seed, [])
    task, model = trained_model(recipe)
    assert isinstance(task, RetrievalTask)
    assert isinstance(model, SohoForImageTextRetrieval)
    scores, text_image = task.score(model, "test", Processes(), recipe.output / "scores-test")
    examples: Sequence[CaptionedImage] = task.gallery("test")
    texts, _ = task.gallery_texts("test")
    order = np.random.default_rng(seed).permutation(len(text_image))
    for text in order[:EXAMPLES]:
        ranking = np.argsort(-scores[:, text], kind="stable")
        right = int(text_image[text])
        found = [Candidate(decode(examples[row].image), bool(row == right)) for row in ranking[:5]]
        rank = int(np.flatnonzero(ranking == right)[0]) + 1
        yield RetrievalExample(texts[text], found, rank, decode(examples[right].image))
    for text in order[EXAMPLES : EXAMPLES + 3]:
        row = int(text_image[text])
        ranking = np.argsort(-scores[row], kind="stable")
        found_texts = [Candidate(texts[number], bool(text_image[number] == row)) for number in ranking[:5]]
        rank = int(np.flatnonzero(text_image[ranking] == row)[0]) + 1
        yield RetrievalExample(decode(examples[row].image), found_texts, rank, texts[text])


def _answered(result: DemoResult, seed: int) -> Iterator[AnsweredQuestion]:
    recipe = demo_recipe("vqa.yaml", "vqa", result.out, seed, [])
    task, model = trained_model(recipe)
    assert isinstance(task, VqaTask)
    assert isinstance(model, SohoForQuestionAnswering)
    examples: Sequence[VisualQuestion] = task.examples("test")
    chosen = task.predictions(model, "test", Processes(), top=3)
    for row in np.random.default_rng(seed).permutation(len(examples))[: 2 * EXAMPLES]:
        example, best = examples[row], chosen[int(row)]
        truth = max(set(example.answers), key=example.answers.count)
        score = vqa_accuracy(best[0][0], example.answers)
        yield AnsweredQuestion(decode(example.image), example.question, best[0][0], truth, best, score)


def _classified(result: DemoResult, name: str, seed: int) -> Iterator[tuple[Any, list[float]]]:
    """Yield some test examples of NLVR2 or SNLI-VE with the probability of every class."""
    task, model = trained_model(demo_recipe(f"{name}.yaml", name, result.out, seed, []))
    assert isinstance(task, ClassificationTask)
    found = task.predictions(model, "test", Processes())
    rows = sorted(found)
    for place in np.random.default_rng(seed).permutation(len(rows))[:EXAMPLES]:
        yield task.examples("test")[rows[place]], found[rows[place]]


def _judged(result: DemoResult, seed: int) -> Iterator[AnsweredQuestion]:
    """Yield sentences about two pictures with the model's judgement and the truth."""
    for example, shares in _classified(result, "nlvr2", seed):
        assert isinstance(example, VisualStatement)
        top = sorted(zip(("false", "true"), shares), key=lambda entry: -entry[1])
        yield AnsweredQuestion(
            decode(example.image),
            example.sentence,
            answer=top[0][0],
            truth=str(example.label).lower(),
            top=top,
            second_image=decode(example.second_image),
            truth_words="in truth",
        )


def _entailed(result: DemoResult, seed: int) -> Iterator[AnsweredQuestion]:
    """Yield pictures and hypotheses with the model's label and the true one."""
    for example, shares in _classified(result, "snli_ve", seed):
        assert isinstance(example, VisualHypothesis)
        top = sorted(zip(ENTAILMENT_CLASSES, shares), key=lambda entry: -entry[1])
        yield AnsweredQuestion(
            decode(example.image),
            example.hypothesis,
            answer=top[0][0],
            truth=example.label,
            top=top,
            truth_words="in truth",
        )


def _dictionary(result: DemoResult, seed: int) -> DictionaryPatches:
    recipe = demo_recipe("pretrain.yaml", "pretrain", result.out, seed, [])
    task, model = trained_model(recipe)
    assert isinstance(model, SohoForPreTraining)
    model.eval()
    processor = task.processor.image_processor
    counts = np.zeros(model.config.dictionary_size, dtype=np.int64)
    seen: list[tuple[Image.Image, Any, Any]] = []
    for example in task.examples("validation"):
        picture, indices = look_up(model, processor, decode(example.image))
        counts += np.bincount(indices[indices >= 0], minlength=len(counts))
        seen.append((picture, indices, indices >= 0))
    codes = collect_patches(seen, spread_codes(counts, 12), per_code=8, seed=seed)
    return DictionaryPatches(codes, CodeHealth.of(counts))


@torch.inference_mode()
def look_up(
    model: SohoForPreTraining, processor: SohoImageProcessor, picture: Image.Image
) -> tuple[Image.Image, np.ndarray]:
    """Return the picture in the size the model reads and the (rows, columns) code index of every cell."""
    batch = processor(images=picture, return_tensors="pt")
    height, width = batch["pixel_values"].shape[-2:]
    indices = model.soho.encode_image(batch["pixel_values"], batch["pixel_mask"]).indices
    assert indices is not None
    cells = indices[0, 1:] if model.config.visual_summary else indices[0]
    grid = cells.unflatten(0, (height // 64, width // 64)).numpy()
    return picture.resize(processor.target_size(*picture.size)), grid
