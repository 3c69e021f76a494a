"""A task of one's own, named by `package.module:Class`; docs/new_task.md trains one."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

import pytest

from soho.data.schema import ImageRef
from soho.data.sources import Load, Source, load_questions, load_statements
from soho.errors import SohoError
from soho.runs import check_data, shard_data, train
from soho.tasks import Nlvr2Task, Task, VqaTask, task_class
from soho.tasks.classification import ClassificationTask
from soho.training.recipe import load_recipe
from tests.support import Soho
from tests.tiny_recipes import tiny_recipe, tiny_values, write_recipe

HERE = "tests.unit.tasks.test_own_task"


@dataclass(frozen=True)
class OwnRecord:
    """A record that only the task below knows; no class of the schema."""

    question_id: str
    image_id: str
    photo_key: str
    image: ImageRef
    question: str
    answers: tuple[str, ...]
    question_type: str
    answer_type: str
    width: int
    height: int


class OwnRecordsTask(VqaTask):
    """Reads the questions of VQA v2 into records of its own."""

    def load(self, split: str) -> list[Any]:
        found = super().load(split)
        return [OwnRecord(**{field.name: getattr(one, field.name) for field in fields(one)}) for one in found]


class OwnPairsTask(Nlvr2Task):
    """Reads what the task reads that it derives from."""


class OwnQuestionsTask(ClassificationTask):
    """Says for itself how its sources are read, as the task of docs/new_task.md."""

    read: ClassVar[Load] = staticmethod(load_questions)


class OwnReaderTask(VqaTask):
    """Reads its sources into records that nobody else knows."""

    @staticmethod
    def read(source: Source) -> Any:
        examples, notes = load_questions(source)
        return [one.question for one in examples], notes


def test_a_training_on_records_of_ones_own_ends_with_its_card(world: Path, tmp_path: Path) -> None:
    values = tiny_values("vqa", world, tmp_path / "run") | {"task": f"{HERE}:OwnRecordsTask"}
    values["training"] |= {"max_steps": 1}
    run = train(load_recipe(write_recipe(tmp_path / "own.yaml", values)))
    count = len(load_questions(Source.model_validate(_filled(values["data"]["train"][0], world)))[0])
    text = (run.model_folder / "README.md").read_text(encoding="utf-8")
    assert f"\n{count:,} examples.\n" in text


def _filled(source: dict[str, Any], world: Path) -> dict[str, Any]:
    return {key: value.replace("{root}", str(world)) for key, value in source.items()}


@pytest.mark.parametrize(
    ("task", "like", "holds"),
    [
        ("OwnRecordsTask", "vqa", "questions"),
        ("OwnQuestionsTask", "vqa", "questions"),
        ("OwnPairsTask", "nlvr2", "statements"),
    ],
)
def test_its_data_are_checked_and_written_as_the_task_reads_them(
    task: str, like: str, holds: str, world: Path, tmp_path: Path, soho: Soho
) -> None:
    values = tiny_values(like, world, tmp_path / "run") | {"task": f"{HERE}:{task}"}
    recipe = write_recipe(tmp_path / "own.yaml", values)
    code, out, err = soho("data", "check", recipe)
    assert code == 0, out + err
    assert f"  {holds}  " in out.splitlines()[0]
    assert out.splitlines()[-1] == f"Sound: {HERE}:{task} can start on this data."
    code, out, err = soho("data", "shard", recipe, tmp_path / "shards")
    assert code == 0, err
    assert f" {holds}" in out.splitlines()[0]


def test_records_of_ones_own_reader_are_neither_checked_nor_written(world: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe("vqa", world, tmp_path / "run", f"task={HERE}:OwnReaderTask")
    report = check_data(recipe)
    assert "is read as str, but only the records of soho.data.schema can be checked" in report.problems[0].message
    with pytest.raises(SohoError, match="is read as str, but shards hold only the records of soho"):
        shard_data(recipe, tmp_path / "shards")


def test_how_a_task_reads_its_sources(world: Path) -> None:
    assert task_class(f"{HERE}:OwnPairsTask").read is load_statements
    with pytest.raises(SohoError, match="has questions, but captions are needed here"):
        Task.read(Source.model_validate(_filled(tiny_values("vqa", world, world)["data"]["train"][0], world)))


def test_a_task_is_found_by_its_module_and_class() -> None:
    assert task_class("soho.tasks.vqa:VqaTask") is VqaTask


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere_at_all:Task", r"task='nowhere_at_all:Task' cannot be imported: No module named 'nowhere_at_all'"),
        ("soho.tasks.vqa:Nothing", r"cannot be imported: .*has no attribute 'Nothing'"),
        (":Task", r"task=':Task' cannot be imported"),
        ("soho.tasks.vqa:", r"task='soho.tasks.vqa:' cannot be imported"),
        ("soho.errors:SohoError", r"must be a class derived from soho\.tasks\.Task, it is <class"),
        ("soho.tasks:task_class", r"must be a class derived from soho\.tasks\.Task, it is <function"),
    ],
)
def test_anything_else_is_told(name: str, message: str) -> None:
    with pytest.raises(SohoError, match=message):
        task_class(name)
