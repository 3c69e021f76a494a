"""NLVR2 in the embedded world: a sentence about two pictures side by side, true or false.

As upstream, a sentence is shown with four pairs of pictures; here two of them make it true and two false, so the
sentence alone tells nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from soho.data.miniature.lexicon import NUMBER_WORDS, plural, with_article
from soho.data.miniature.scene import Scene
from soho.randomness import keyed_generator

PAIRS_PER_SENTENCE = 4
_TRIES = 400


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
    forms = [0, 1, 2, 3, 4, 7] + [5] * (texture != "plain") + [6] * (count > 1)
    form = forms[int(rng.integers(len(forms)))]

    def has_pair(other: Scene) -> bool:
        return any(candidate.pair == thing.pair for candidate in other.things)

    def has_kind(other: Scene) -> bool:
        return _number_of(kind, other) > 0

    if form in (0, 1):
        side = ("left", "right")[form]
        text = f"The {side} image contains {with_article(f'{color} {kind}')}."
        return Statement(text, kind, lambda left, right: has_pair((left, right)[form]), has_pair)
    if form == 2:
        text = f"Both images show a {place} scene."
        return Statement(
            text,
            place,
            lambda left, right: left.background == right.background == place,
            lambda other: other.background == place,
        )
    if form == 3:
        text = f"There is {with_article(kind)} in exactly one of the images."
        return Statement(text, kind, lambda left, right: has_kind(left) != has_kind(right), has_kind)
    if form == 4:
        text = "The left image contains more things than the right image."
        return Statement(
            text, "thing", lambda left, right: _things_in(left) > _things_in(right), lambda other: _things_in(other) > 2
        )
    if form == 5:
        return Statement(
            f"Each image contains something {texture}.",
            texture,
            lambda left, right: all(any(t.texture == texture for t in s.things) for s in (left, right)),
            lambda other: any(candidate.texture == texture for candidate in other.things),
        )
    if form == 6:
        return Statement(
            f"One of the images contains exactly {NUMBER_WORDS[count]} {plural(kind)}.",
            kind,
            lambda left, right: (_number_of(kind, left) == count) != (_number_of(kind, right) == count),
            has_kind,
        )
    text = f"There is something {color} in both images."
    return Statement(
        text,
        color,
        lambda left, right: all(any(t.color == color for t in s.things) for s in (left, right)),
        lambda other: any(candidate.color == color for candidate in other.things),
    )


def _find_pairs(
    rng: np.random.Generator, statement: Statement, pool: Sequence[Scene]
) -> list[tuple[Scene, Scene, bool]] | None:
    """Find two pairs that make the statement true and two that make it false, or None."""
    related = [scene for scene in pool if statement.related(scene)]
    if not related:
        return None
    found: dict[bool, list[tuple[Scene, Scene, bool]]] = {True: [], False: []}
    for _ in range(_TRIES):
        sides = []
        for _ in range(2):  # half of the pictures have to do with the sentence, also where it is false
            source = related if rng.random() < 0.6 else pool
            sides.append(source[int(rng.integers(len(source)))])
        if sides[0].look == sides[1].look:  # the same scene or its neighbour
            continue
        truth = statement.holds(sides[0], sides[1])
        if len(found[truth]) < PAIRS_PER_SENTENCE // 2:
            found[truth].append((sides[0], sides[1], truth))
        if all(len(pairs) == PAIRS_PER_SENTENCE // 2 for pairs in found.values()):
            pairs = found[True] + found[False]
            return [pairs[i] for i in rng.permutation(len(pairs))]
    return None


def pair_examples(pool: Sequence[Scene], split: str, sentences: int, seed: int) -> list[PairExample]:
    """Draw sentences, each with two true and two false pairs of scenes.

    Args:
        pool: scenes to choose from.
        split: upstream name: train, dev or test1.
        sentences: how many different sentences; fewer where the pool is too small.
        seed: seed of the world.

    Returns:
        Four examples per sentence.
    """
    rng = keyed_generator(seed, "nlvr2", split)
    examples: list[PairExample] = []
    said: set[str] = set()
    for _ in range(20 * sentences if len(pool) > 1 else 0):
        if len(said) == sentences:
            break
        statement = _statement(rng, pool)
        pairs = None if statement.text in said else _find_pairs(rng, statement, pool)
        if pairs is None:
            continue
        for number, (left, right, truth) in enumerate(pairs):
            identifier = f"{split}-{len(said)}-{number}-0"
            examples.append(PairExample(identifier, statement.text, statement.topic, truth, left, right))
        said.add(statement.text)
    return examples
