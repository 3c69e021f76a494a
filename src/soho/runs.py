"""From a recipe to a trained model or a table of figures: what the commands do, callable from Python."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import nn
from transformers import PreTrainedTokenizerBase

from soho.data.check import check
from soho.data.check_report import CheckReport
from soho.data.readers.vqa2 import read_question_ids
from soho.data.schema import is_example, photos_of, texts_of
from soho.data.shards.writing import WrittenSection, write_shards
from soho.data.sources import Source
from soho.errors import SohoError
from soho.evaluation.submission import write_submission
from soho.memory import keep_freed_memory
from soho.models.initialization import LoadReport, load_model, load_tokenizer
from soho.models.modeling_soho import SohoPreTrainedModel
from soho.sharing.card import refresh_card
from soho.sharing.facts import record_measurement, record_training
from soho.tasks import PretrainingTask, Processes, Task, VqaTask, build_task, task_class
from soho.training.processes import make_accelerator
from soho.training.protocols import TrainingSummary
from soho.training.recipe import Recipe
from soho.training.run_info import check_output, check_same_recipe, save_run_info
from soho.training.trainer import Trainer

MODEL_FOLDER = "model"
BLIND_FOLDER = "blind"
# Figures that tell of the data alone: they are the same for the model without pictures.
OF_THE_DATA = ("majority", "examples", "sentences")


@dataclass
class TrainedRun:
    """What `train` leaves.

    Attributes:
        model_folder: holds weights, configuration and processor; `from_pretrained` reads it.
        load_report: what the model was made from.
        summary: steps, losses, time.
    """

    model_folder: Path
    load_report: LoadReport
    summary: TrainingSummary


def command_of(recipe: Recipe) -> str:
    """Return the command that runs a recipe's task: "pretrain" or "finetune".

    Raises:
        SohoError: there is no such task.
    """
    return "pretrain" if task_class(recipe.task) is PretrainingTask else "finetune"


def train(recipe: Recipe) -> TrainedRun:
    """Train the recipe's model; continues by itself where an earlier run of the same recipe stopped.

    Raises:
        SohoError: anything wrong in recipe, data or weights, in one sentence.
    """
    accelerator = make_accelerator(recipe.training.precision)
    if accelerator.device.type == "cpu":
        keep_freed_memory()
    check_same_recipe(recipe.output, recipe)
    set_seed(recipe.seed)  # initial weights; the trainer seeds again for dropout
    processes = Processes(accelerator.process_index, accelerator.num_processes)
    task = build_task(recipe)
    data = task.train_loader(processes)
    model, report = task.build_model()
    model.remember_frozen_features(recipe.training.frozen_feature_megabytes)
    evaluate_model = None
    if recipe.data.validation and recipe.training.evaluate_every:

        def evaluate_model(current: nn.Module, step: int) -> dict[str, float]:
            assert isinstance(current, SohoPreTrainedModel)
            return task.evaluate(current, "validation", processes)

    trainer = Trainer(
        model, data, recipe.training, recipe.output, recipe.seed, evaluate=evaluate_model, accelerator=accelerator
    )
    trainer.check_continuation()  # a run that is refused keeps the recipe and the versions that made it
    _tell(accelerator, [*report.lines(), *task.notes])
    save_run_info(recipe.output, recipe, accelerator)
    summary = trainer.fit()
    folder = recipe.output / MODEL_FOLDER
    if accelerator.is_main_process:
        task.processor.save_pretrained(folder)
        lines = [*report.lines(), *task.notes, *(f"broken picture, skipped: {name}" for name in data.broken)]
        (recipe.output / "load_report.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
        record_training(folder, {**_counts(task), "broken": len(data.broken)})
        _tell(accelerator, [refresh_card(folder)])
    if data.broken:
        _tell(accelerator, [f"{len(data.broken)} pictures could not be decoded and were skipped: {data.broken[:5]}"])
    accelerator.wait_for_everyone()
    return TrainedRun(folder, report, summary)


def evaluate(recipe: Recipe, split: str = "validation", model_folder: Path | None = None) -> dict[str, float]:
    """Measure a model on a split and write the figures into the run's folder.

    Args:
        recipe: names task and data.
        split: "train", "validation" or "test".
        model_folder: default: the run's own model, else the recipe's start (zero-shot).

    Returns:
        Name -> figure; also written to `metrics-<split>.json`. With `evaluation.baselines` the figures of the model
        that never saw a picture stand beside them as `blind/<name>`.

    Raises:
        SohoError: there is no model to measure, or the data are wrong.
    """
    accelerator = make_accelerator(recipe.evaluation.precision)
    if accelerator.device.type == "cpu":
        keep_freed_memory()
    processes = Processes(accelerator.process_index, accelerator.num_processes)
    task, model = trained_model(recipe, model_folder)
    model.to(accelerator.device)
    check_output(recipe.output)
    recipe.output.mkdir(parents=True, exist_ok=True)
    figures = task.evaluate(model, split, processes, out=recipe.output / f"scores-{split}")
    _tell(accelerator, task.notes)
    if recipe.evaluation.baselines:
        del task, model  # two models at once may not fit
        blind = blind_recipe(recipe)
        train(blind)
        unseen = evaluate(blind, split)
        figures |= {f"blind/{name}": value for name, value in unseen.items() if name not in OF_THE_DATA}
    if accelerator.is_main_process:
        path = recipe.output / f"metrics-{split}.json"
        path.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
        own = recipe.output / MODEL_FOLDER
        measured_own = own.is_dir() and (model_folder is None or Path(model_folder).resolve() == own.resolve())
        # A folder that knows nothing of its making, from an earlier version, gets no card.
        if measured_own and record_measurement(own, split, figures, recipe.model_dump(mode="json")):
            _tell(accelerator, [refresh_card(own)])
    return figures


def submit_answers(recipe: Recipe, split: str, out: Path, model_folder: Path | None = None) -> int:
    """Answer every question of a split and write the VQA server's file; see `soho.evaluation.submission`.

    Args:
        recipe: names model and data; `task: vqa`.
        split: "train", "validation" or "test".
        out: the file.
        model_folder: default: the run's own model, else the recipe's start.

    Returns:
        The number of answers.

    Raises:
        SohoError: the recipe is of another task, a question has no answer (its picture is absent or cannot be read),
            or there is no model.
    """
    asked = asked_questions(recipe, split)
    accelerator = make_accelerator(recipe.evaluation.precision)
    processes = Processes(accelerator.process_index, accelerator.num_processes)
    task, model = trained_model(recipe, model_folder)
    assert isinstance(task, VqaTask)
    read = {example.question_id for example in task.examples(split)}
    absent = [question for question in asked if question not in read]
    if absent:  # told before hours of answering
        raise SohoError(
            f"{len(absent):,} of {len(asked):,} questions of data.{split} are left out, but the server wants all: "
            f"{', '.join(absent[:5])}; look at on_missing and limit of the sources, and at `soho data check`"
        )
    model.to(accelerator.device)
    sheet = task.answer_sheet(model, split, processes)
    _tell(accelerator, task.notes)
    if accelerator.is_main_process:
        write_submission(out, sheet, asked)
    return len(asked)


def asked_questions(recipe: Recipe, split: str) -> list[str]:
    """Return the ids of all questions that the files of a split ask, whether their pictures are there or not.

    Raises:
        SohoError: the recipe is of another task, names no source, or one of another format than VQA v2.
    """
    if task_class(recipe.task) is not VqaTask:
        raise SohoError(f"the recipe has task: {recipe.task}; a file for the VQA server needs task: vqa")
    sources = getattr(recipe.data, split)
    if not sources:
        raise SohoError(f"the recipe names no source under data.{split}, which this command needs")
    other = next((source for source in sources if source.format != "vqa2"), None)
    if other is not None:
        raise SohoError(f"data.{split} has format {other.format}, but the VQA server knows only VQA v2 (format vqa2)")
    ids = [question for source in sources for question in read_question_ids(source.file, name=source.title)]
    if len(set(ids)) < len(ids):
        raise SohoError(f"the files of data.{split} ask some questions twice; name only one questions file")
    return ids


def blind_recipe(recipe: Recipe) -> Recipe:
    """Return the recipe of the text-only baseline: all the same, but every picture is grey; a run of its own.

    It lies in `<output>/blind` and goes on by itself where it was stopped, as any run does.
    """
    blind = recipe.model_copy(deep=True)
    blind.output = recipe.output / BLIND_FOLDER
    blind.data.image_blind = True
    blind.evaluation.baselines = False
    return blind


def trained_model(recipe: Recipe, model_folder: Path | None = None) -> tuple[Task, SohoPreTrainedModel]:
    """Load the model of a finished run (or another folder) together with its task.

    Raises:
        SohoError: there is no such model.
    """
    own = recipe.output / MODEL_FOLDER
    folder = model_folder or (own if own.is_dir() else None)
    source = str(folder) if folder else recipe.model.start
    if not source:
        raise SohoError(f"{own} does not exist yet and the recipe names no model.start; train first, or name a model")
    if folder is not None and not Path(folder).is_dir():
        raise SohoError(f"{folder} is not a folder; expected one that holds a trained model")
    # Our own run may bring its own CNN factory; anybody else's folder only the one our recipe names.
    trusted = folder is not None and Path(folder).resolve() == own.resolve()
    recipe = recipe.model_copy(deep=True)
    recipe.model.start = source
    task = build_task(recipe)
    model, _ = load_model(
        task.model_class, source, trust_remote_code=trusted, trusted_factory=recipe.model.backbone_factory
    )
    return task, model


def check_data(recipe: Recipe) -> CheckReport:
    """Read everything the recipe names once; see `soho.data.check`.

    Text lengths are measured with the tokenizer of `model.start`, where that is not there yet with that of
    `model.text`, and not at all where neither is.

    Raises:
        SohoError: the recipe names no data, an unknown task or a tokenizer that cannot be read.
    """
    load = task_class(recipe.task).read
    data = recipe.data
    sections = _sections(recipe)
    length = None
    tokenizer = _tokenizer_of(recipe)
    if tokenizer is not None:

        def length(text: str) -> int:
            return len(tokenizer(text)["input_ids"])

    return check(sections, recipe.task, length, data.text_length, progress=True, exclude=data.exclude, load=load)


def shard_data(recipe: Recipe, out: Path, megabytes: int = 256) -> list[WrittenSection]:
    """Write everything the recipe names as shards; see `soho.data.shards.writing`.

    Args:
        recipe: names task and data. Photographs of `data.exclude` are left out of the training shards.
        out: a folder; each section gets one of its own in it.
        megabytes: bound of a shard.

    Raises:
        SohoError: the recipe names no data or an unknown task, a source is not what it should be, or `out` cannot be
            used.
    """
    load = task_class(recipe.task).read
    return write_shards(
        _sections(recipe), load, out, megabytes=megabytes, exclude=recipe.data.exclude, seed=recipe.seed, progress=True
    )


def _sections(recipe: Recipe) -> dict[str, list[Source]]:
    data = recipe.data
    sections = {name: getattr(data, name) for name in ("train", "validation", "test") if getattr(data, name)}
    if not sections:
        raise SohoError("the recipe names no data: data.train, data.validation and data.test are empty")
    return sections


def _tokenizer_of(recipe: Recipe) -> PreTrainedTokenizerBase | None:
    """Return the tokenizer that training would use, as far as it can be known before the start is trained."""
    section = recipe.model
    failure = ""
    for source in filter(None, (section.start, section.text)):
        try:
            return load_tokenizer(source)
        except SohoError as error:
            failure = str(error)  # the start may be the output of a run that has not begun, or a hub out of reach
    if failure:
        print(f"the lengths of texts are not measured: {failure}")
    return None


def _counts(task: Task) -> dict[str, int]:
    """Count the training data for the model's card; of records that only the task itself knows, their number alone."""
    examples = task.examples("train")
    if not all(map(is_example, examples)):
        return {"examples": len(examples)}
    pictures = {str(photo.image) for example in examples for photo in photos_of(example)}
    texts = sum(len(texts_of(example)) for example in examples)
    return {"examples": len(examples), "pictures": len(pictures), "texts": texts}


def _tell(accelerator: Accelerator, lines: list[str]) -> None:
    for line in lines:
        accelerator.print(line)
