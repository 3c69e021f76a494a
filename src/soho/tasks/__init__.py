"""One file per task; a new task is one new file and one entry here, or `task: package.module:Class` in a recipe."""

from __future__ import annotations

import difflib
import importlib

from soho.errors import SohoError
from soho.tasks.base import Processes, Task
from soho.tasks.nlvr2 import Nlvr2Task
from soho.tasks.pretraining import PretrainingTask
from soho.tasks.retrieval import RetrievalTask
from soho.tasks.snli_ve import SnliVeTask
from soho.tasks.vqa import VqaTask
from soho.training.recipe import Recipe

TASKS: dict[str, type[Task]] = {
    task.name: task for task in (PretrainingTask, RetrievalTask, VqaTask, Nlvr2Task, SnliVeTask)
}


def task_class(name: str) -> type[Task]:
    """Return the task of a recipe's `task` value: a name in `TASKS`, or `package.module:Class` of a task of one's own.

    Raises:
        SohoError: there is no such task; the nearest name is told.
    """
    if name not in TASKS and ":" in name:
        return _own_task(name)
    if name not in TASKS:
        near = difflib.get_close_matches(name, TASKS, n=1)
        advice = f"did you mean {near[0]!r}?" if near else f"expected one of {', '.join(TASKS)}"
        raise SohoError(f"there is no task {name!r}; {advice}")
    return TASKS[name]


def _own_task(name: str) -> type[Task]:
    """Import a task from outside this package; naming it in one's own recipe is asking for its code."""
    module, _, attribute = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise SohoError(f"task={name!r} cannot be imported: {error}") from None
    if not (isinstance(found, type) and issubclass(found, Task)):
        raise SohoError(f"task={name!r} must be a class derived from soho.tasks.Task, it is {found!r}")
    return found


def build_task(recipe: Recipe) -> Task:
    """Return the task a recipe names, set up.

    Raises:
        SohoError: there is no such task, or its data or model cannot be read.
    """
    return task_class(recipe.task)(recipe)


__all__ = [
    "TASKS",
    "Nlvr2Task",
    "PretrainingTask",
    "Processes",
    "RetrievalTask",
    "SnliVeTask",
    "Task",
    "VqaTask",
    "build_task",
    "task_class",
]
