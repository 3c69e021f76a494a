"""The classes of visual question answering: a fixed list of frequent answers, and soft scores over it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from soho.data.answer_text import normalize_answer
from soho.data.schema import VisualQuestion
from soho.errors import SohoError

_FULL_AGREEMENT = 3


def majority_answer(answers: Sequence[str]) -> str | None:
    """Return the answer that most annotators gave, in its normal form; the first given among equals.

    Returns:
        None where there is no answer, or none that is more than punctuation and articles.
    """
    counts = Counter(text for answer in answers if (text := normalize_answer(answer)))
    return counts.most_common(1)[0][0] if counts else None


def build_answer_vocabulary(questions: Iterable[VisualQuestion], minimum_count: int) -> list[str]:
    """Return the answers that are the majority answer of at least `minimum_count` questions.

    With the training and validation questions of VQA v2 and a minimum of 9 this is the usual list of about 3,100
    answers.

    Args:
        questions: questions with answers; those without are passed over.
        minimum_count: smallest number of questions an answer must be the majority answer of.

    Returns:
        Normalised answers, most frequent first, equals in alphabetical order.

    Raises:
        SohoError: no answer is frequent enough.
    """
    counts = Counter(text for question in questions if (text := majority_answer(question.answers)) is not None)
    frequent = [answer for answer, count in counts.items() if count >= minimum_count]
    if not frequent:
        top = f'the most frequent one, "{max(counts, key=lambda text: counts[text])}", stands at' if counts else ""
        detail = f"{top} {max(counts.values())}" if counts else "no question has an answer"
        raise SohoError(
            f"no answer is given to {minimum_count} or more questions ({detail}); lower answer_minimum_count"
        )
    return sorted(frequent, key=lambda answer: (-counts[answer], answer))


def soft_scores(answers: Sequence[str], vocabulary: Mapping[str, int]) -> dict[int, float]:
    """Return class -> target in (0, 1]: min(1, n / 3) for an answer that n annotators gave (Antol et al., 2015).

    Where fewer than three people answered, n is divided by their number, so that one annotator is a hard label.

    Args:
        answers: one per annotator.
        vocabulary: answer -> class, in normal form (an answer is also found as it was written).

    Returns:
        Scores of the answers that are in the vocabulary; empty where none is.
    """
    counts: Counter[int] = Counter()
    for answer in answers:
        index = vocabulary.get(normalize_answer(answer))
        if index is None:  # a list from elsewhere may hold forms that the rules would change
            index = vocabulary.get(answer.strip().lower())
        if index is not None:
            counts[index] += 1
    needed = min(_FULL_AGREEMENT, len(answers))
    return {index: min(1.0, count / needed) for index, count in counts.items()}
