"""The page of the demonstration: curves, tables with baselines, examples, the dictionary's patches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from soho.data.images import decode
from soho.data.schema import CaptionedImage, VisualQuestion
from soho.demo.stages import DemoResult, demo_recipe
from soho.evaluation.vqa_score import vqa_accuracy
from soho.inspection.dictionary import CodeHealth, collect_patches, spread_codes
from soho.inspection.report import (
    AnsweredQuestion,
    Candidate,
    Curve,
    DictionaryPatches,
    Figure,
    MetricColumn,
    MetricRow,
    MetricTable,
    RetrievalExample,
    Section,
    Series,
    write_report,
)
from soho.models import SohoForImageTextRetrieval, SohoForPreTraining, SohoForQuestionAnswering
from soho.processing.image_processing_soho import SohoImageProcessor
from soho.runs import trained_model
from soho.tasks import Processes
from soho.tasks.retrieval import RetrievalTask
from soho.tasks.vqa import VqaTask
from soho.training.tracking import read_log

EXAMPLES = 6
LEAD = (
    "Everything on this page was made by one command on this machine: a small world of pictures was drawn and "
    "described, a model was pre-trained on it from random weights, fine-tuned for two tasks, and measured on pictures "
    "it had not seen, some of them with combinations of colour and kind that never occur in training."
)


def write_demo_report(result: DemoResult, seed: int = 0) -> Path:
    """Write `report.html` into the demonstration's folder and return its path."""
    minutes = sum(result.seconds.values()) / 60
    sections = [
        Section("At a glance", _figures(result)),
        Section("Retrieval", [_retrieval_table(result), *_retrieval_examples(result, seed)]),
        Section("Question answering", [_vqa_table(result), *_answered(result, seed)]),
        Section("Pre-training", [_pretraining_table(result), *_curves(result)]),
        Section("The visual dictionary", [_dictionary(result, seed)]),
    ]
    facts = {"duration": f"{minutes:.1f} minutes", "seed": str(seed), "threads": str(torch.get_num_threads())}
    return write_report(result.out / "report.html", "SOHO on its embedded world", sections, lead=LEAD, facts=facts)


def _figures(result: DemoResult) -> list[Figure]:
    ours, vqa = result.metrics["retrieval"], result.metrics["vqa"]
    blind, pretrain = result.metrics["vqa_question_only"], result.metrics["pretrain"]
    return [
        Figure(f"{100 * ours['tr_r1']:.1f} %", "text retrieval R@1", f"chance {100 * ours['chance/tr_r1']:.2f} %"),
        Figure(f"{100 * ours['ir_r1']:.1f} %", "image retrieval R@1", f"chance {100 * ours['chance/ir_r1']:.2f} %"),
        Figure(f"{100 * vqa['accuracy']:.1f} %", "VQA accuracy", f"question only {100 * blind['accuracy']:.1f} %"),
        Figure(
            f"{100 * pretrain['mvm_accuracy']:.1f} %",
            "masked visual modelling",
            f"most frequent code {100 * pretrain['mvm_majority']:.1f} %, perplexity {pretrain['perplexity']:.0f}",
        ),
    ]


def _retrieval_table(result: DemoResult) -> MetricTable:
    ours, plain = result.metrics["retrieval"], result.metrics["retrieval_no_pretraining"]
    names = {
        "tr_r1": "text retrieval R@1", "tr_r5": "text retrieval R@5", "tr_r10": "text retrieval R@10",
        "ir_r1": "image retrieval R@1", "ir_r5": "image retrieval R@5", "ir_r10": "image retrieval R@10",
    }  # fmt: skip
    rows = [MetricRow(title, [ours[key], plain[key], ours[f"chance/{key}"]]) for key, title in names.items()]
    for key, title in (
        ("tr_median_rank", "text retrieval median rank"),
        ("ir_median_rank", "image retrieval median rank"),
    ):
        values = [ours[key], plain[key], ours[f"chance/{key}"]]
        rows.append(MetricRow(title, values, unit="number", higher_is_better=False))
    columns = [MetricColumn("SOHO", "ours"), MetricColumn("no pre-training"), MetricColumn("chance", "chance")]
    note = "Test pictures come in groups that differ in one thing, so their captions differ in one word."
    title = f"{ours['images']:.0f} unseen pictures, {ours['texts']:.0f} captions"
    return MetricTable(title, columns, rows, note)


def _vqa_table(result: DemoResult) -> MetricTable:
    runs = [result.metrics[name] for name in ("vqa", "vqa_no_pretraining", "vqa_question_only")]
    keys = [key for key in runs[0] if key not in ("majority",)]
    rows = [
        MetricRow(
            key.split("/")[-1], [*(run.get(key) for run in runs), runs[0]["majority"] if key == "accuracy" else None]
        )
        for key in keys
    ]
    columns = [
        MetricColumn("SOHO", "ours"),
        MetricColumn("no pre-training"),
        MetricColumn("question only"),
        MetricColumn("majority answer", "chance"),
    ]
    return MetricTable("VQA accuracy on unseen pictures, overall and by type", columns, rows)


def _pretraining_table(result: DemoResult) -> MetricTable:
    figures = result.metrics["pretrain"]
    rows = [
        MetricRow("masked words", [figures["mlm_accuracy"], None]),
        MetricRow("masked visual tokens", [figures["mvm_accuracy"], figures["mvm_majority"]]),
        MetricRow("image-text matching", [figures["itm_accuracy"], 0.5]),
        MetricRow("perplexity of the dictionary", [figures["perplexity"], 1.0], unit="number"),
    ]
    columns = [MetricColumn("SOHO", "ours"), MetricColumn("always the same guess", "chance")]
    return MetricTable("The three pre-training tasks on unseen pictures", columns, rows)


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
