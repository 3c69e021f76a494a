"""A task of one's own, named by `package.module:Class`; docs/new_task.md trains one."""

from __future__ import annotations

import pytest

from soho.errors import SohoError
from soho.tasks import VqaTask, task_class


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
