"""SNLI-VE in the embedded world: does the picture entail, contradict or leave open what a sentence says?

Some pictures hold a closed crate. What is in it cannot be known, so "there is a red fish" is neutral where no red
fish is seen beside a crate, and a contradiction where everything is seen. Every hypothesis comes with all three labels
over different pictures, so the hypothesis alone tells nothing, and neither does the crate.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
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


def entailment_scenes(seed: int, split: str, count: int, first_id: int, held_out: Collection[Pair]) -> list[Scene]:
    """Draw scenes of which every other one hides a thing in a crate.

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
        if scene.arrangement == "overlap":
            continue
        if len(scenes) % 2:
            scene = replace(scene, things=(*scene.things[:-1], Thing(CRATE, "gray")))
        scenes.append(scene)
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


def _choose(rng: np.random.Generator, scenes: Sequence[Scene], near: Callable[[Scene], bool]) -> Scene | None:
    """Choose a scene, for two draws of three among those which come near the hypothesis."""
    close = [scene for scene in scenes if near(scene)]
    source = close if close and rng.random() < 2 / 3 else scenes
    return source[int(rng.integers(len(source)))] if source else None


def entailment_examples(pool: Sequence[Scene], hypotheses: int, seed: int) -> list[EntailmentExample]:
    """Draw hypotheses and three pictures for each: one per label.

    Args:
        pool: scenes, some with a crate.
        hypotheses: how many to draw; fewer where the pool is too small.
        seed: seed of the world.

    Returns:
        Three examples per hypothesis.
    """
    split = pool[0].split if pool else ""
    rng = keyed_generator(seed, "snli-ve", split)
    premises = {scene.image_id: captions(scene, seed) for scene in pool}
    examples: list[EntailmentExample] = []
    said: set[str] = set()
    for _ in range(20 * hypotheses if pool else 0):
        if len(said) == hypotheses:
            break
        scene = pool[int(rng.integers(len(pool)))]
        single = [thing for thing in scene.things if thing.count == 1 and thing.kind != CRATE]
        if not single:
            continue
        thing = single[int(rng.integers(len(single)))]
        place = scene.background if rng.random() < 0.5 else None
        name = with_article(f"{thing.color} {thing.kind}")
        forms = (
            (f"There is {name} {PLACE_PHRASES[place]}.",)
            if place
            else (f"There is {name}.", f"There is {name} in the picture.", f"One can find {name} here.")
        )
        hypothesis = forms[int(rng.integers(len(forms)))]
        if hypothesis in said:
            continue
        by_label: dict[str, list[Scene]] = {label: [] for label in LABELS}
        for candidate in pool:
            by_label[judge(candidate, thing.pair, place)].append(candidate)

        def near(other: Scene, thing: Thing = thing) -> bool:
            return any(
                seen.kind != CRATE and (seen.kind == thing.kind or seen.color == thing.color) for seen in other.things
            )

        # Where they can be had, the other labels hold a crate about as often as "neutral" must.
        for label in ("entailment", "contradiction"):
            crates = [other for other in by_label[label] if has_crate(other)]
            if crates and rng.random() < 0.6:
                by_label[label] = crates
        chosen = [_choose(rng, by_label[label], near) for label in LABELS]
        if any(other is None for other in chosen):
            continue
        said.add(hypothesis)
        for other, label in zip(chosen, LABELS, strict=True):
            if other is not None:
                number = int(rng.integers(len(premises[other.image_id])))
                premise = premises[other.image_id][number]
                examples.append(EntailmentExample(other, premise, number, hypothesis, label))
    return examples
