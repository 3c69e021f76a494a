"""The official VQA accuracy, offline: the leave-one-out average over the annotators of a question.

An answer counts min(1, matches / 3) against every set of nine of the ten annotators, averaged over the ten sets
(Antol et al., 2015; the evaluation tool of VQA v2). Scores are fractions in [0, 1].
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from soho.data.answer_text import clean_spaces, normalize_answer
from soho.errors import SohoError
from soho.evaluation.metrics import Mean

# The number of annotators of VQA v2, for which the official rules hold to the letter.
ANNOTATORS = 10
# Matching annotators that make an answer wholly right.
ENOUGH = 3


def vqa_accuracy(prediction: str, answers: Sequence[str]) -> float:
    """Score one answer.

    With ten or more annotators this is the official evaluator: where all annotators gave the same string, the
    prediction must be that very string, and only where they differ are prediction and answers normalised
    (punctuation, number words, articles, contractions, case).

    With fewer annotators, which the official evaluator does not know, texts are always normalised and each
    leave-one-out set asks for at most as many matches as it has members: two annotators who agree score 1, one of
    two scores 1/2, and a single annotator means an exact match.

    Args:
        prediction: the model's answer.
        answers: one answer per annotator.

    Returns:
        A score in [0, 1].

    Raises:
        SohoError: there are no answers to compare with.
    """
    if not answers:
        raise SohoError("a question without annotators' answers cannot be scored (test questions withhold them)")
    given = clean_spaces(prediction)
    truths = [clean_spaces(answer) for answer in answers]
    if len(truths) < ANNOTATORS or len(set(truths)) > 1:
        given = normalize_answer(given)
        truths = [normalize_answer(truth) for truth in truths]
    matches = sum(truth == given for truth in truths)
    if len(truths) == 1:
        return float(matches)
    enough = min(ENOUGH, len(truths) - 1)
    # Leaving out an annotator who matches takes one match away; there are `matches` such annotators.
    agreeing = matches * min(1.0, (matches - 1) / enough)
    differing = (len(truths) - matches) * min(1.0, matches / enough)
    return (agreeing + differing) / len(truths)


@dataclass
class VqaScore:
    """VQA accuracy over questions, overall and by type; mergeable.

    Attributes:
        overall: mean over all questions.
        by_answer_type: mean over the questions of each answer type ("yes/no", "number", "other").
        by_question_type: mean over the questions of each question type ("what is the", ..).
    """

    overall: Mean = field(default_factory=Mean)
    by_answer_type: dict[str, Mean] = field(default_factory=dict)
    by_question_type: dict[str, Mean] = field(default_factory=dict)

    def update(self, prediction: str, answers: Sequence[str], answer_type: str = "", question_type: str = "") -> float:
        """Add one question and return its score; an empty type is left out of the breakdown.

        Raises:
            SohoError: there are no answers to compare with.
        """
        score = vqa_accuracy(prediction, answers)
        self.overall.update(score)
        if answer_type:
            self.by_answer_type.setdefault(answer_type, Mean()).update(score)
        if question_type:
            self.by_question_type.setdefault(question_type, Mean()).update(score)
        return score

    def merge(self, other: VqaScore) -> VqaScore:
        """Add what `other` saw; returns self."""
        self.overall.merge(other.overall)
        for mine, theirs in (
            (self.by_answer_type, other.by_answer_type),
            (self.by_question_type, other.by_question_type),
        ):
            for name, mean in theirs.items():
                mine.setdefault(name, Mean()).merge(mean)
        return self

    def result(self) -> dict[str, float]:
        """Return `accuracy`, `answer_type/<type>` and `question_type/<type>`, types in alphabetical order."""
        return {
            "accuracy": self.overall.result(),
            **_named("answer_type", self.by_answer_type),
            **_named("question_type", self.by_question_type),
        }


def score_answers(
    predictions: Mapping[str, str],
    truths: Mapping[str, Sequence[str]],
    answer_types: Mapping[str, str] | None = None,
    question_types: Mapping[str, str] | None = None,
) -> VqaScore:
    """Score a whole set of answers, each question once.

    Args:
        predictions: answer by question id.
        truths: annotators' answers by question id.
        answer_types: answer type by question id.
        question_types: question type by question id.

    Returns:
        The score, overall and by type.

    Raises:
        SohoError: a question has no prediction, or a prediction no question; the message names the first.
    """
    for these, those, words in (
        (truths, predictions, "has no prediction"),
        (predictions, truths, "was answered but is not among the questions"),
    ):
        missing = next((key for key in these if key not in those), None)
        if missing is not None:
            raise SohoError(f"question {missing} {words}")
    score = VqaScore()
    for key, answers in truths.items():
        score.update(predictions[key], answers, (answer_types or {}).get(key, ""), (question_types or {}).get(key, ""))
    return score


def _named(prefix: str, means: Mapping[str, Mean]) -> dict[str, float]:
    return {f"{prefix}/{name}": means[name].result() for name in sorted(means)}
