"""Questions: true, balanced, and answered by ten people."""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np
import pytest

from soho.data.miniature.questions import (
    Question,
    answer_type,
    answerable,
    balanced_questions,
    question_only_accuracy,
    question_type,
    ten_answers,
)
from soho.data.miniature.scene import Scene, Thing, held_out_pairs, sample_world

HELD_OUT = held_out_pairs(0)
WORLD = sample_world(0, 600, 0, 300, HELD_OUT)
TRAIN = [scene for scene in WORLD if scene.split == "train"]
TEST = [scene for scene in WORLD if scene.split == "test"]


def test_what_can_be_asked_about_a_scene_by_hand() -> None:
    things = (Thing("fish", "red", "striped", "small"), Thing("star", "blue", "plain", "medium", 3))
    scene = Scene(1, "test", (256, 192), "row", things, (1, 0), "beach", "x")
    asked = {(q.text, q.answer) for q in answerable(scene, (), np.random.default_rng(0))}
    assert {
        ("Where is this?", "beach"),
        ("What color is the fish?", "red"),
        ("What is the pattern on the fish?", "striped"),
        ("Is the fish small or large?", "small"),
        ("How many fish are there?", "1"),
        ("How many stars are there?", "3"),
        ("What is on the right?", "fish"),
        ("What color is the thing on the right?", "red"),
        ("What is the red thing?", "fish"),
        ("Is there a red fish?", "yes"),
        ("Is there a blue fish?", "no"),
        ("Is there a red star?", "no"),
    } <= asked
    texts = [text for text, _ in asked]
    assert "What color is the star?" not in texts  # three of them: asked as one thing it would be odd
    assert "What is on the left?" not in texts
    assert len(texts) == len(set(texts))  # no question with two answers


def test_relation_questions_by_hand() -> None:
    things = (Thing("fish", "red"), Thing("star", "blue"))
    scene = Scene(1, "test", (256, 192), "column", things, (1, 0), "beach", "x")
    asked = {q.text: q.answer for q in answerable(scene, (), np.random.default_rng(0)) if q.family == "relation"}
    assert asked == {
        "Is the fish above the star?": "no",
        "Is the fish below the star?": "yes",
        "Is the star above the fish?": "yes",
        "Is the star below the fish?": "no",
    }


def test_two_fish_are_not_asked_about_as_the_fish() -> None:
    things = (Thing("fish", "red"), Thing("fish", "blue"))
    scene = Scene(1, "test", (256, 192), "row", things, (0, 1), "beach", "x")
    texts = [q.text for q in answerable(scene, (), np.random.default_rng(0))]
    assert not [text for text in texts if "the fish" in text or "How many" in text]


@pytest.mark.parametrize(("scenes", "per_image", "forbidden"), [(TRAIN, 3.5, HELD_OUT), (TEST, 3.0, ())])
def test_every_answer_to_a_question_text_is_equally_frequent(scenes, per_image, forbidden) -> None:
    questions = balanced_questions(scenes, 0, per_image, forbidden)
    assert abs(len(questions) - per_image * len(scenes)) < 15
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for question in questions:
        counts[question.text][question.answer] += 1
    for text, answers in counts.items():
        assert len(answers) >= 2, text
        assert len(set(answers.values())) == 1, text
    assert question_only_accuracy(questions) < 0.35
    assert len({(q.image_id, q.text) for q in questions}) == len(questions)
    assert len({q.family for q in questions}) == 11
    assert max(Counter(q.image_id for q in questions).values()) <= 6


def test_yes_answers_are_half() -> None:
    answers = Counter(q.answer for q in balanced_questions(TEST, 0, 3.0) if q.answer in ("yes", "no"))
    assert answers["yes"] == answers["no"] > 50


def test_training_questions_name_no_held_out_pair() -> None:
    for question in balanced_questions(TRAIN, 0, 3.5, HELD_OUT):
        for color, kind in HELD_OUT:
            assert f"{color} {kind}" not in question.text


def test_question_only_accuracy_by_hand() -> None:
    rows = [("a?", "x"), ("a?", "x"), ("a?", "y"), ("b?", "no"), ("b?", "yes")]
    questions = [Question(1, "", text, answer) for text, answer in rows]
    assert question_only_accuracy(questions) == pytest.approx(3 / 5)
    assert question_only_accuracy([]) == 0.0


def test_ten_annotators_mostly_agree() -> None:
    votes = []
    for number in range(400):
        said = ten_answers(Question(1, "color", "What color is the car?", "gray"), number, 0)
        assert len(said) == 10
        assert {sure for _, sure in said} <= {"yes", "maybe", "no"}
        votes.append(sum(answer == "gray" for answer, _ in said))
        assert votes[-1] in (7, 10)
    assert 0.1 < np.mean(np.array(votes) == 7) < 0.35


def test_counts_slip_by_one() -> None:
    said = {a for n in range(300) for a, _ in ten_answers(Question(1, "count", "How many cars are there?", "2"), n, 0)}
    assert said == {"1", "2", "3"}


def test_upstream_types_by_hand() -> None:
    assert question_type("What color is the car?") == "what color is the"
    assert question_type("How many cars are there?") == "how many"
    assert question_type("Is there an orange car?") == "is there"
    assert question_type("Where is this?") == "none of the above"
    assert [answer_type(answer) for answer in ("no", "3", "red")] == ["yes/no", "number", "other"]
