"""The file that the VQA server takes: `[{"question_id": 262148000, "answer": "no"}, ...]` (https://visualqa.org).

The server scores test-dev and test-std, whose answers are withheld. It takes few files a day and says little about a
bad one, so every file is checked before it is sent: each question once, whole numbers as ids, strings as answers.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from soho.errors import SohoError

_SHOWN = 5


@dataclass
class AnswerSheet:
    """Answers of one process; mergeable over processes.

    Attributes:
        answers: question id -> answer.
    """

    answers: dict[str, str] = field(default_factory=dict)

    def update(self, question_id: str, answer: str) -> None:
        """Add one answer.

        Raises:
            SohoError: the question was answered before.
        """
        if question_id in self.answers:
            raise SohoError(f"question {question_id} was answered twice")
        self.answers[question_id] = answer

    def merge(self, other: AnswerSheet) -> AnswerSheet:
        """Add what `other` holds; returns self.

        Raises:
            SohoError: both answered the same question.
        """
        for question_id, answer in other.answers.items():
            self.update(question_id, answer)
        return self


def write_submission(path: Path, sheet: AnswerSheet, questions: Sequence[str]) -> int:
    """Write the server file, in the order of the questions, after checking it; an invalid one is not written.

    Args:
        path: the file; its folder is made where it is missing.
        sheet: the answers to all questions.
        questions: ids of all questions of the split.

    Returns:
        The number of answers.

    Raises:
        SohoError: the answers are not exactly those of the questions, or an id is no whole number.
    """
    order = {question: place for place, question in enumerate(questions)}
    rows = [
        {"question_id": _number(question), "answer": answer}
        for question, answer in sorted(sheet.answers.items(), key=lambda item: order.get(item[0], len(order)))
    ]
    problems = submission_problems(rows, questions)
    if problems:
        raise SohoError(f"{path} is not written: {'; '.join(problems)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(rows), encoding="utf-8")
    os.replace(partial, path)
    return len(rows)


def check_submission(path: Path, questions: Collection[str]) -> int:
    """Check a server file against the questions it must answer.

    Args:
        path: the file.
        questions: ids of all questions of the split.

    Returns:
        The number of answers.

    Raises:
        SohoError: what is wrong, all of it in one sentence.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SohoError(f"{path} cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise SohoError(f"{path} is not JSON ({error})") from None
    problems = submission_problems(content, questions)
    if problems:
        raise SohoError(f"{path} is no valid server file: {'; '.join(problems)}")
    return len(content)


def submission_problems(content: Any, questions: Collection[str]) -> list[str]:
    """Return what is wrong with the content of a server file; empty = the server can score it.

    Args:
        content: the parsed file.
        questions: ids of all questions of the split, as decimal strings.
    """
    if not isinstance(content, list):
        return ['expected a list of {"question_id": ..., "answer": ...} objects, found something else']
    found: dict[str, list[str]] = {}
    answered: set[str] = set()
    asked = set(questions)
    for place, row in enumerate(content):
        name = f"row {place + 1}"
        if not isinstance(row, dict) or "question_id" not in row or "answer" not in row:
            found.setdefault('without "question_id" and "answer"', []).append(name)
            continue
        number, answer = row["question_id"], row["answer"]
        if not isinstance(number, int) or isinstance(number, bool):
            found.setdefault('whose "question_id" is no whole number', []).append(f"{name} ({number!r})")
            continue
        question = str(number)
        if question in answered:
            found.setdefault("answering a question again", []).append(f"question {question}")
        elif question not in asked:
            found.setdefault("answering a question that is not asked", []).append(f"question {question}")
        answered.add(question)
        if not isinstance(answer, str):
            found.setdefault('whose "answer" is no string', []).append(f"question {question} ({answer!r})")
        elif not answer.strip():
            found.setdefault("with an empty answer", []).append(f"question {question}")
    problems = [f"{_rows(len(names))} {reason}: {_first(names)}" for reason, names in found.items()]
    missing = [question for question in questions if question not in answered]
    if missing:
        verb = "has" if len(missing) == 1 else "have"
        problems.append(f"{len(missing):,} of {len(asked):,} questions {verb} no answer: {_first(missing)}")
    return problems


def _number(question: str) -> int:
    if not question.isdecimal():
        raise SohoError(f"the question id {question!r} is no whole number, which the VQA server asks for")
    return int(question)


def _rows(count: int) -> str:
    return f"{count:,} row" + ("" if count == 1 else "s")


def _first(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
