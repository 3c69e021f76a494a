"""SNLI-VE in the embedded world: does the picture entail, contradict or leave open what a sentence says?

Some pictures hold a closed crate. What is in it cannot be known, so "there is a red fish" is neutral where no red
fish is seen beside a crate, and a contradiction where everything is seen. Every hypothesis comes equally often with
each label, over different pictures, so the hypothesis alone tells nothing; nor is the crate enough, because it stands
in many pictures of the other labels too.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np

from soho.data.miniature.captions import captions
from soho.data.miniature.lexicon import CRATE, PLACE_PHRASES, with_article
from soho.data.miniature.scene import Pair, Scene, Thing, sample_scene
from soho.randomness import keyed_generator

LABELS = ("entailment", "neutral", "contradiction")


@dataclass(frozen=True, slots=True)
class EntailmentExample:
    """One line of an SNLI-VE file; `caption_number` says which caption is the premise `sentence1`."""

    scene: Scene
    premise: str
    caption_number: int
    hypothesis: str
    label: str


def has_crate(scene: Scene) -> bool:
    """Tell whether something in the scene is hidden."""
    return any(thing.kind == CRATE for thing in scene.things)


# Photo ids far above those of COCO, as Flickr30k's are.
FIRST_PHOTO = 100_000_000
FIRST_CRATE = 200_000_000


def photo_of(scene: Scene) -> Scene:
    """Return a scene of the COCO files as a Flickr30k photo: the same picture under another number."""
    return replace(scene, image_id=FIRST_PHOTO + scene.image_id)


def shown_scenes(scenes: Sequence[Scene], count: int) -> list[Scene]:
    """Return the first `count` scenes in which no thing covers another, as Flickr30k photos."""
    return [photo_of(scene) for scene in scenes if scene.arrangement != "overlap"][:count]


def crate_scenes(seed: int, split: str, count: int, first_id: int, held_out: Collection[Pair]) -> list[Scene]:
    """Draw scenes that hide a thing in a crate.

    Args:
        seed: seed of the world.
        split: train, val or test.
        count: number of scenes.
        first_id: picture id of the first.
        held_out: combinations that training scenes do not show.
    """
    scenes: list[Scene] = []
    attempt = 0
    while len(scenes) < count:
        scene = sample_scene(seed, first_id + len(scenes), split, held_out, f"snli-ve-{split}-{attempt}")
        attempt += 1
        if scene.arrangement != "overlap":
            scenes.append(replace(scene, things=(*scene.things[:-1], Thing(CRATE, "gray"))))
    return scenes


def _sees(scene: Scene, pair: Pair) -> bool:
    return any(thing.kind != CRATE and thing.pair == pair for thing in scene.things)


def judge(scene: Scene, pair: Pair, place: str | None) -> str:
    """Return the label of "there is a `pair` (in `place`)" for a scene."""
    if place is not None and scene.background != place:
        return "contradiction"
    if _sees(scene, pair):
        return "entailment"
    return "neutral" if has_crate(scene) else "contradiction"


@dataclass(frozen=True, slots=True)
class _Candidates:
    """The scenes of one label: all, those which come near the hypothesis, and of both those with a crate."""

    scenes: tuple[list[Scene], list[Scene]]
    crates: tuple[list[Scene], list[Scene]]

    def choose(self, rng: np.random.Generator, crate: bool) -> Scene | None:
        """Choose a scene, for two draws of three among those which come near; with a crate if asked and possible."""
        every, near = self.crates if crate and self.crates[0] else self.scenes
        source = near if near and rng.random() < 2 / 3 else every
        return source[int(rng.integers(len(source)))] if source else None


def _words(scene: Scene) -> frozenset[str]:
    """Return the colours and kinds that are seen, and the crate if there is one."""
    seen = (thing for thing in scene.things if thing.kind != CRATE)
    return frozenset(word for thing in seen for word in thing.pair) | ({CRATE} if has_crate(scene) else set())


def _candidates(pool: Sequence[tuple[Scene, frozenset[str]]], pair: Pair, place: str | None) -> dict[str, _Candidates]:
    """Sort all scenes by what they say to "there is a `pair` (in `place`)"."""
    found = {label: _Candidates(([], []), ([], [])) for label in LABELS}
    for scene, words in pool:
        own = found[judge(scene, pair, place)]
        for every, near in (own.scenes, own.crates) if CRATE in words else (own.scenes,):
            every.append(scene)
            if pair[0] in words or pair[1] in words:
                near.append(scene)
    return found


def _phrase(rng: np.random.Generator, pair: Pair, place: str | None) -> str:
    name = with_article(" ".join(pair))
    if place is not None:
        return f"There is {name} {PLACE_PHRASES[place]}."
    forms = (f"There is {name}.", f"There is {name} in the picture.", f"You can see {name} here.")
    return forms[int(rng.integers(len(forms)))]


def entailment_examples(pool: Sequence[Scene], hypotheses: int, seed: int) -> list[EntailmentExample]:
    """Draw hypotheses, some more than once, and every time three pictures: one per label.

    No picture comes twice with the same hypothesis.

    Args:
        pool: scenes, some with a crate.
        hypotheses: how many to draw; fewer where the pool is too small.
        seed: seed of the world.

    Returns:
        Three examples per drawn hypothesis.
    """
    split = pool[0].split if pool else ""
    rng = keyed_generator(seed, "snli-ve", split)
    premises = {scene.image_id: captions(scene, seed) for scene in pool}
    described = [(scene, _words(scene)) for scene in pool]
    known: dict[tuple[Pair, str | None], dict[str, _Candidates]] = {}
    examples: list[EntailmentExample] = []
    used: set[tuple[int, str]] = set()
    for _ in range(20 * hypotheses if pool else 0):
        if len(examples) == len(LABELS) * hypotheses:
            break
        scene = pool[int(rng.integers(len(pool)))]
        single = [thing for thing in scene.things if thing.count == 1 and thing.kind != CRATE]
        if not single:
            continue
        pair = single[int(rng.integers(len(single)))].pair
        place = scene.background if rng.random() < 0.5 else None
        hypothesis = _phrase(rng, pair, place)
        if (pair, place) not in known:
            known[pair, place] = _candidates(described, pair, place)
        # Where they can be had, the other labels hold a crate about as often as "neutral" must.
        chosen = [
            known[pair, place][label].choose(rng, crate=label != "neutral" and rng.random() < 0.6) for label in LABELS
        ]
        if any(other is None or (other.image_id, hypothesis) in used for other in chosen):
            continue
        for other, label in zip(chosen, LABELS, strict=True):
            if other is not None:
                used.add((other.image_id, hypothesis))
                number = int(rng.integers(len(premises[other.image_id])))
                premise = premises[other.image_id][number]
                examples.append(EntailmentExample(other, premise, number, hypothesis, label))
    return examples
