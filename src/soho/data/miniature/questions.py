"""Questions about scenes, balanced as in VQA v2: to one question text every answer is equally often right.

All answerable questions of a split are listed first. Then complete rounds are dealt: a round takes one question text
and one picture for each of its answers. Whoever sees only the question can do no better than guess.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from soho.data.miniature.lexicon import COLORS, KINDS, plural
from soho.data.miniature.scene import Pair, Scene
from soho.randomness import keyed_generator

SHARES: dict[str, float] = {
    "color": 0.20,
    "color_at": 0.10,
    "kind_at": 0.13,
    "kind_of": 0.10,
    "count": 0.12,
    "exists": 0.05,
    "exists_pair": 0.08,
    "relation": 0.08,
    "texture": 0.09,
    "size": 0.02,
    "place": 0.07,
}
"""Part of the questions each family should have; where pictures run out, the others fill in."""

_MOST_PER_IMAGE = 6
_LOOK_AHEAD = 40
_AT = {
    ("row", 0): "on the left",
    ("row", -1): "on the right",
    ("column", 0): "at the top",
    ("column", -1): "at the bottom",
    ("overlap", 0): "in front",
}
_ASKED_RELATION = {"row": ("to the left of", "to the right of"), "column": ("above", "below")}


@dataclass(frozen=True, slots=True)
class Question:
    """A question with its true answer and the family of its template."""

    image_id: int
    family: str
    text: str
    answer: str


def answerable(scene: Scene, forbidden: Collection[Pair], rng: np.random.Generator) -> Iterator[Question]:
    """Yield everything that can be asked about a scene and has one clear answer.

    Args:
        scene: the scene graph.
        forbidden: (color, kind) combinations that no text may name (in training, the held-out ones).
        rng: draws what is asked about absent things.
    """

    def ask(family: str, text: str, answer: str) -> Question:
        return Question(scene.image_id, family, text, answer)

    things = scene.things
    kinds, colors = [thing.kind for thing in things], [thing.color for thing in things]
    yield ask("place", "Where is this?", scene.background)
    yield ask("place", "What is in the background?", scene.background)
    for index, thing in enumerate(things):
        single = thing.count == 1
        if kinds.count(thing.kind) == 1:
            yield ask("count", f"How many {plural(thing.kind)} are there?", str(thing.count))
            if single:
                yield ask("color", f"What color is the {thing.kind}?", thing.color)
                yield ask("texture", f"What is the pattern on the {thing.kind}?", thing.texture)
                if thing.size != "medium":
                    yield ask("size", f"Is the {thing.kind} small or large?", thing.size)
        if single and colors.count(thing.color) == 1:
            yield ask("kind_of", f"What is the {thing.color} thing?", thing.kind)
        for (arrangement, rank), where in _AT.items():
            if single and scene.arrangement == arrangement and scene.order[rank] == index:
                yield ask("kind_at", f"What is {where}?", thing.kind)
                yield ask("color_at", f"What color is the thing {where}?", thing.color)
        yield ask("exists", f"Is there a {thing.kind}?", "yes")
        if single:
            yield ask("exists_pair", f"Is there a {thing.color} {thing.kind}?", "yes")
    present = {thing.pair for thing in things}
    absent = [kind for kind in KINDS if kind not in kinds]
    for kind in rng.permutation(absent)[:4]:
        yield ask("exists", f"Is there a {kind}?", "no")
    # The right colour on the wrong thing: only binding the two tells yes from no.
    wrong = {(color, kind) for color in colors for kind in kinds}
    wrong |= {(str(rng.choice(COLORS)), kind) for kind in kinds for _ in range(3)}
    for color, kind in sorted(wrong - present - set(forbidden)):
        yield ask("exists_pair", f"Is there a {color} {kind}?", "no")
    if scene.arrangement in _ASKED_RELATION:
        for i, j in ((i, j) for i in range(len(things)) for j in range(len(things)) if i != j):
            if kinds.count(kinds[i]) == kinds.count(kinds[j]) == 1 and things[i].count == things[j].count == 1:
                for sign, words in enumerate(_ASKED_RELATION[scene.arrangement]):
                    truth = (scene.rank(i) < scene.rank(j)) == (sign == 0)
                    yield ask("relation", f"Is the {kinds[i]} {words} the {kinds[j]}?", "yes" if truth else "no")


def _with_articles(text: str) -> str:
    words = text.split()
    for here, following in enumerate(words[1:]):
        if words[here] == "a" and following[0] in "aeiou":
            words[here] = "an"
    return " ".join(words)


def _fullest_answers(candidates: dict[str, list[Question]]) -> list[str]:
    """Choose the answers whose rounds are complete and many; rare answers (a quarter at most) may be left out."""
    ranked = sorted(candidates, key=lambda answer: (-len(candidates[answer]), answer))
    least = max(2, int(np.ceil(0.75 * len(ranked))))
    if len(ranked) < least:
        return []
    best = max(range(least, len(ranked) + 1), key=lambda size: size * len(candidates[ranked[size - 1]]))
    return sorted(ranked[:best])


class _Template:
    """One question text with its pictures by answer, dealt out in rounds."""

    def __init__(self, candidates: dict[str, list[Question]], rng: np.random.Generator) -> None:
        self.answers = _fullest_answers(candidates)
        self.queues = {
            answer: [candidates[answer][i] for i in rng.permutation(len(candidates[answer]))] for answer in self.answers
        }
        self.rounds = 0

    def deal(self, load: dict[int, int]) -> list[Question]:
        """Take one picture per answer, the least asked of the next few; empty when an answer has none left."""
        taken: list[Question] = []
        asked = dict(load)
        for answer in self.answers:
            free = (q for q in self.queues[answer] if asked.get(q.image_id, 0) < _MOST_PER_IMAGE)
            question = min(islice(free, _LOOK_AHEAD), key=lambda q: asked.get(q.image_id, 0), default=None)
            if question is None:
                return []
            asked[question.image_id] = asked.get(question.image_id, 0) + 1
            taken.append(question)
        for question in taken:
            self.queues[question.answer].remove(question)
            load[question.image_id] = load.get(question.image_id, 0) + 1
        self.rounds += 1
        return taken


def balanced_questions(
    scenes: Sequence[Scene], seed: int, per_image: float, forbidden: Collection[Pair] = ()
) -> list[Question]:
    """Choose questions so that, for each question text, all its answers are equally frequent.

    Args:
        scenes: the scenes of one split.
        seed: seed of the world.
        per_image: wanted questions per scene, on average.
        forbidden: combinations that no text may name.

    Returns:
        Questions sorted by image id.
    """
    split = scenes[0].split if scenes else ""
    rng = keyed_generator(seed, "questions", split)
    found: dict[str, dict[str, dict[str, list[Question]]]] = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    for position in rng.permutation(len(scenes)):
        for question in dict.fromkeys(answerable(scenes[position], forbidden, rng)):
            found[question.family][question.text][question.answer].append(question)
    templates = {
        family: [template for text in sorted(texts) if (template := _Template(texts[text], rng)).answers]
        for family, texts in found.items()
    }
    for family in templates:
        rng.shuffle(templates[family])  # type: ignore[arg-type]
    wanted, load, chosen = round(per_image * len(scenes)), dict[int, int](), list[Question]()
    filled: dict[str, int] = dict.fromkeys(SHARES, 0)
    while len(chosen) < wanted:
        open_families = [family for family in SHARES if templates.get(family)]
        if not open_families:
            break
        family = min(open_families, key=lambda name: filled[name] / SHARES[name])
        template = min(templates[family], key=lambda item: item.rounds)
        dealt = template.deal(load)
        if not dealt:
            templates[family].remove(template)
        filled[family] += len(dealt)
        chosen += dealt
    chosen.sort(key=lambda question: (question.image_id, question.text))
    return [Question(q.image_id, q.family, _with_articles(q.text), q.answer) for q in chosen]


def question_only_accuracy(questions: Sequence[Question]) -> float:
    """Return the best accuracy without looking: for every question text its most frequent answer, in [0, 1]."""
    counts: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for question in questions:
        counts[question.text][question.answer] += 1
    right = sum(max(answers.values()) for answers in counts.values())
    return right / len(questions) if questions else 0.0


_SLIPS: dict[str, tuple[str, ...]] = {
    "red": ("orange", "maroon"), "orange": ("red", "yellow"), "yellow": ("gold", "orange"),
    "green": ("dark green", "teal"), "blue": ("purple", "navy"), "purple": ("violet", "blue"),
    "pink": ("light pink", "purple"), "gray": ("grey", "silver"), "boat": ("sailboat", "ship"),
    "house": ("home", "building"), "ball": ("circle", "sphere"), "car": ("taxi", "vehicle"),
    "flower": ("daisy", "plant"), "mushroom": ("toadstool", "plant"), "tree": ("bush", "plant"),
    "umbrella": ("parasol",), "butterfly": ("moth", "insect"), "fish": ("goldfish",), "star": ("starfish",),
    "dotted": ("polka dots", "spotted"), "striped": ("stripes", "lines"), "checked": ("checkered", "plaid"),
    "plain": ("solid", "none"), "yes": ("no",), "no": ("yes",), "small": ("large",), "large": ("big",),
    "beach": ("ocean", "sand"), "meadow": ("field", "hills"), "desert": ("sand",), "snow": ("mountains",),
    "city": ("town", "buildings"), "space": ("stars", "sky"), "1": ("2",), "2": ("3", "1"), "3": ("4", "2"),
    "4": ("3", "5"),
}  # fmt: skip


def ten_answers(question: Question, question_id: int, seed: int) -> list[tuple[str, str]]:
    """Return what ten annotators said, as (answer, confidence); the true answer has at least seven votes.

    Args:
        question: the question and its true answer.
        question_id: upstream id; key of the draws.
        seed: seed of the world.
    """
    rng = keyed_generator(seed, "annotators", question_id)
    said = [question.answer] * 10
    slips = _SLIPS.get(question.answer, ())
    if slips:
        often = 3 if question.answer == "gray" else 1 + int(rng.random() < 0.2)
        number = often if rng.random() < 0.22 else 0
        slip = slips[int(rng.integers(len(slips)))]
        for place in rng.permutation(10)[:number]:
            said[place] = slip
    sure = rng.random(10)
    return [
        (answer, "yes" if draw < (0.9 if answer == question.answer else 0.4) else "maybe" if draw < 0.98 else "no")
        for answer, draw in zip(said, sure, strict=True)
    ]


QUESTION_TYPES: tuple[str, ...] = (
    "what color is the", "what is the", "what is in the", "what is on the", "what is", "where is the", "how many",
    "is there a", "is there", "is the", "is this", "are there", "what",
)  # fmt: skip
"""The upstream question types that occur here, longest match first."""


def question_type(text: str) -> str:
    """Return the upstream `question_type`: the longest of `QUESTION_TYPES` that the question starts with."""
    words = text.lower()
    matches = [kind for kind in QUESTION_TYPES if words.startswith(kind + " ")]
    return max(matches, key=len, default="none of the above")


def answer_type(answer: str) -> str:
    """Return the upstream `answer_type`: yes/no, number or other."""
    if answer in ("yes", "no"):
        return "yes/no"
    return "number" if answer.isdigit() else "other"
