"""One file per task; a new task is one new file and one entry here."""

from __future__ import annotations

from soho.tasks.base import Processes, Task
from soho.tasks.pretraining import PretrainingTask
from soho.tasks.retrieval import RetrievalTask
from soho.tasks.vqa import VqaTask
from soho.training.recipe import Recipe

TASKS: dict[str, type[Task]] = {task.name: task for task in (PretrainingTask, RetrievalTask, VqaTask)}


def build_task(recipe: Recipe) -> Task:
    """Return the task a recipe names, set up."""
    return TASKS[recipe.task](recipe)


__all__ = ["TASKS", "PretrainingTask", "Processes", "RetrievalTask", "Task", "VqaTask", "build_task"]
