from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from soho.errors import SohoError
from soho.evaluation.submission import AnswerSheet, check_submission, submission_problems, write_submission

QUESTIONS = ["262148000", "1000", "393225001"]
ROWS = [
    {"question_id": 1000, "answer": "yes"},
    {"question_id": 262148000, "answer": "2"},
    {"question_id": 393225001, "answer": "red"},
]


def test_the_file_holds_whole_numbers_and_strings_in_the_order_of_the_questions(tmp_path: Path) -> None:
    left, right = AnswerSheet({"1000": "yes"}), AnswerSheet({"393225001": "red", "262148000": "2"})
    path = tmp_path / "new" / "out.json"
    assert write_submission(path, left.merge(right), QUESTIONS) == 3
    assert json.loads(path.read_text()) == [ROWS[1], ROWS[0], ROWS[2]]
    assert check_submission(path, QUESTIONS) == 3
    assert [entry.name for entry in path.parent.iterdir()] == ["out.json"]


def test_any_order_is_valid() -> None:
    assert submission_problems(ROWS, QUESTIONS) == []


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (ROWS[:2], "1 of 3 questions has no answer: 393225001"),
        ([], "3 of 3 questions have no answer: 262148000, 1000, 393225001"),
        ([*ROWS, ROWS[0]], "1 row answering a question again: question 1000"),
        ([*ROWS, {"question_id": 7, "answer": "no"}], "1 row answering a question that is not asked: question 7"),
        ([{"question_id": "1000", "answer": "yes"}, *ROWS[1:]], "\"question_id\" is no whole number: row 1 ('1000')"),
        ([{"question_id": True, "answer": "yes"}, *ROWS], '"question_id" is no whole number: row 1 (True)'),
        ([{"question_id": 1000.0, "answer": "yes"}, *ROWS], '"question_id" is no whole number: row 1 (1000.0)'),
        ([{"question_id": 1000, "answer": 2}, *ROWS[1:]], '1 row whose "answer" is no string: question 1000 (2)'),
        ([{"question_id": 1000, "answer": None}, *ROWS[1:]], 'whose "answer" is no string: question 1000 (None)'),
        ([{"question_id": 1000, "answer": " "}, *ROWS[1:]], "1 row with an empty answer: question 1000"),
        ([*ROWS, {"question_id": 1000}, "x"], '2 rows without "question_id" and "answer": row 4, row 5'),
        ({"1000": "yes"}, "expected a list of"),
    ],
)
def test_what_the_server_would_refuse(rows: Any, words: str, tmp_path: Path) -> None:
    assert words in "; ".join(submission_problems(rows, QUESTIONS))
    path = tmp_path / "out.json"
    path.write_text(json.dumps(rows))
    with pytest.raises(SohoError, match=r"out\.json is no valid server file: ") as caught:
        check_submission(path, QUESTIONS)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_long_lists_are_cut() -> None:
    problems = submission_problems([], [str(number) for number in range(447)])
    assert problems == ["447 of 447 questions have no answer: 0, 1, 2, 3, 4 and 442 more"]


def test_an_invalid_file_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    with pytest.raises(SohoError, match=r"out\.json is not written: 2 of 3 questions have no answer"):
        write_submission(path, AnswerSheet({"1000": "yes"}), QUESTIONS)
    with pytest.raises(SohoError, match=r"'a\.jpg#0' is no whole number, which the VQA server asks for"):
        write_submission(path, AnswerSheet({"a.jpg#0": "yes"}), ["a.jpg#0"])
    assert not path.exists()


def test_a_question_is_answered_once() -> None:
    sheet = AnswerSheet({"1": "a"})
    with pytest.raises(SohoError, match="question 1 was answered twice"):
        sheet.update("1", "b")
    with pytest.raises(SohoError, match="question 1 was answered twice"):
        AnswerSheet({"1": "a"}).merge(sheet)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(SohoError, match=r"gone\.json cannot be read"):
        check_submission(tmp_path / "gone.json", QUESTIONS)
    (tmp_path / "bad.json").write_text("[")
    with pytest.raises(SohoError, match=r"bad\.json is not JSON"):
        check_submission(tmp_path / "bad.json", QUESTIONS)
