"""NLVR2 in the embedded world: a sentence about two pictures side by side, true or false.

As upstream, four pairs of pictures make a set, and every sentence of the set is shown with all four. Here two of them
make it true and two false, so the sentence alone tells nothing; and a set has several sentences, so neither do the
pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from soho.data.miniature.lexicon import NUMBER_WORDS, plural, with_article
from soho.data.miniature.scene import Scene
from soho.randomness import keyed_generator

PAIRS_PER_SENTENCE = 4
SENTENCES_PER_SET = 4
_TRIES = 400
_TRUTHS = ((True, True), (True, False), (False, True), (False, False))

Pair = tuple[Scene, Scene]


@dataclass(frozen=True, slots=True)
class Statement:
    """A sentence about a left and a right scene, and which single scenes have to do with it."""

    text: str
    topic: str
    holds: Callable[[Scene, Scene], bool]
    related: Callable[[Scene], bool]


@dataclass(frozen=True, slots=True)
class PairExample:
    """One line of an NLVR2 file."""

    identifier: str
    sentence: str
    topic: str
    label: bool
    left: Scene
    right: Scene

    @property
    def image_names(self) -> tuple[str, str]:
        """Return the upstream names of the left and the right picture."""
        stem = self.identifier.rsplit("-", 1)[0]
        return f"{stem}-img0.png", f"{stem}-img1.png"


def _things_in(scene: Scene) -> int:
    return sum(thing.count for thing in scene.things)


def _number_of(kind: str, scene: Scene) -> int:
    return sum(thing.count for thing in scene.things if thing.kind == kind)


def _statement(rng: np.random.Generator, pool: Sequence[Scene]) -> Statement:
    """Make a sentence about something that exists in the pool."""
    scene = pool[int(rng.integers(len(pool)))]
    thing = scene.things[int(rng.integers(len(scene.things)))]
    kind, color, texture, place, count = thing.kind, thing.color, thing.texture, scene.background, thing.count
    # Form 4 is one single sentence, so it comes less often.
    forms = [0, 1, 2, 3, 7] * 2 + [4] + [5] * 2 * (texture != "plain") + [6] * 2 * (count > 1)
    form = forms[int(rng.integers(len(forms)))]

    def has_pair(other: Scene) -> bool:
        return any(candidate.pair == thing.pair for candidate in other.things)

    def has_kind(other: Scene) -> bool:
        return _number_of(kind, other) > 0

    if form in (0, 1):
        side = ("left", "right")[form]
        text = f"The {side} picture has {with_article(f'{color} {kind}')}."
        return Statement(text, kind, lambda left, right: has_pair((left, right)[form]), has_pair)
    if form == 2:
        text = f"Both pictures show a {place} scene."
        return Statement(
            text,
            place,
            lambda left, right: left.background == right.background == place,
            lambda other: other.background == place,
        )
    if form == 3:
        text = f"There is {with_article(kind)} in only one picture."
        return Statement(text, kind, lambda left, right: has_kind(left) != has_kind(right), has_kind)
    if form == 4:
        text = "The left picture has more things than the right picture."
        return Statement(
            text, "thing", lambda left, right: _things_in(left) > _things_in(right), lambda other: _things_in(other) > 2
        )
    if form == 5:
        return Statement(
            f"Each picture has something {texture}.",
            texture,
            lambda left, right: all(any(t.texture == texture for t in s.things) for s in (left, right)),
            lambda other: any(candidate.texture == texture for candidate in other.things),
        )
    if form == 6:
        return Statement(
            f"Only one picture has exactly {NUMBER_WORDS[count]} {plural(kind)}.",
            kind,
            lambda left, right: (_number_of(kind, left) == count) != (_number_of(kind, right) == count),
            has_kind,
        )
    text = f"There is something {color} in both pictures."
    return Statement(
        text,
        color,
        lambda left, right: all(any(t.color == color for t in s.things) for s in (left, right)),
        lambda other: any(candidate.color == color for candidate in other.things),
    )


def _find_pairs(
    rng: np.random.Generator, first: Statement, second: Statement, sources: Sequence[Sequence[Scene]]
) -> list[Pair] | None:
    """Find four pairs, one for each combination of the truths of two statements, or None.

    Args:
        rng: draws the pictures.
        first: a statement.
        second: another.
        sources: lists of scenes, all drawn from equally often.
    """
    found: dict[tuple[bool, bool], Pair] = {}
    for _ in range(_TRIES):
        sides = []
        for _ in range(2):
            source = sources[int(rng.integers(len(sources)))]
            sides.append(source[int(rng.integers(len(source)))])
        left, right = sides
        if left.look == right.look:  # the same scene or its neighbour
            continue
        found.setdefault((first.holds(left, right), second.holds(left, right)), (left, right))
        if len(found) == len(_TRUTHS):
            return [found[_TRUTHS[i]] for i in rng.permutation(len(_TRUTHS))]
    return None


def _more_statements(
    rng: np.random.Generator, statements: Sequence[Statement], pairs: Sequence[Pair]
) -> list[Statement]:
    """Return the statements of a set, followed by others that hold for two of its four pairs."""
    chosen = {statement.text: statement for statement in statements}
    scenes = [scene for pair in pairs for scene in pair]
    for _ in range(6 * SENTENCES_PER_SET):
        if len(chosen) == SENTENCES_PER_SET:
            break
        other = _statement(rng, scenes)
        if sum(other.holds(*pair) for pair in pairs) == PAIRS_PER_SENTENCE // 2:
            chosen.setdefault(other.text, other)
    return list(chosen.values())


def pair_examples(pool: Sequence[Scene], split: str, sets: int, seed: int) -> list[PairExample]:
    """Draw sets of four pairs of scenes, with two to four sentences that are true of two pairs each.

    Args:
        pool: scenes to choose from.
        split: upstream name: train, dev or test1.
        sets: how many sets; fewer where the pool is too small.
        seed: seed of the world.

    Returns:
        Four examples per sentence.
    """
    rng = keyed_generator(seed, "nlvr2", split)
    examples: list[PairExample] = []
    related: dict[str, list[Scene]] = {}
    done = 0
    for _ in range(20 * sets if len(pool) > 1 else 0):
        if done == sets:
            break
        first, second = _statement(rng, pool), _statement(rng, pool)
        if first.text == second.text:
            continue
        for statement in (first, second):
            if statement.text not in related:
                related[statement.text] = [scene for scene in pool if statement.related(scene)]
        # Most pictures have to do with one of the statements, also where it is false.
        sources = [scenes for scenes in (related[first.text], related[second.text], pool) if scenes]
        pairs = _find_pairs(rng, first, second, sources)
        if pairs is None:
            continue
        for sentence, statement in enumerate(_more_statements(rng, (first, second), pairs)):
            for number, (left, right) in enumerate(pairs):
                identifier = f"{split}-{done}-{number}-{sentence}"
                truth = statement.holds(left, right)
                examples.append(PairExample(identifier, statement.text, statement.topic, truth, left, right))
        done += 1
    return examples
