"""What is said about scenes."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

from soho.data.miniature.captions import Mention, captions, name_thing, regions, relation, word_count
from soho.data.miniature.lexicon import plural, say, with_article
from soho.data.miniature.scene import Scene, Thing, held_out_pairs, sample_world

HELD_OUT = held_out_pairs(0)
WORLD = sample_world(0, 200, 100, 200, HELD_OUT)
FISH, STAR = Thing("fish", "red", "striped", "small"), Thing("star", "orange", "plain", "medium", 3)
SCENE = Scene(7, "train", (256, 192), "row", (FISH, STAR), (0, 1), "beach", "fixed")


def _words(text: str) -> list[str]:
    """Return lower-case words; an article follows its noun, so "an" counts as "a"."""
    words = [word.strip(".,").lower() for word in text.split()]
    return ["a" if word == "an" else word for word in words]


def test_naming_by_hand() -> None:
    assert name_thing(FISH, Mention()) == "a red fish"
    assert name_thing(FISH, Mention(texture=True, size=True)) == "a small striped red fish"
    assert name_thing(FISH, Mention(texture=True, after=True)) == "a red fish with stripes"
    assert name_thing(STAR, Mention(texture=True, size=True)) == "three plain orange stars"
    assert name_thing(replace(STAR, count=1), Mention()) == "an orange star"
    assert name_thing(FISH, Mention(size=True), article=False) == "small red fish"


def test_words_by_hand() -> None:
    assert (plural("butterfly"), plural("fish"), plural("tree")) == ("butterflies", "fish", "trees")
    assert (with_article("umbrella"), with_article("tree")) == ("an umbrella", "a tree")
    assert (say("small", 0.74), say("small", 0.8), say("small", 0.99)) == ("small", "little", "tiny")
    assert say("heart", 0.99) == "heart"


def test_relation_by_hand() -> None:
    assert relation(SCENE, 0, 1, 0.0) == "left of"
    assert relation(SCENE, 1, 0, 0.0) == "right of"
    assert relation(replace(SCENE, order=(1, 0)), 0, 1, 0.0) == "right of"
    assert relation(replace(SCENE, arrangement="column"), 0, 1, 0.0) == "above"
    assert relation(replace(SCENE, arrangement="overlap"), 1, 0, 0.0) == "in back of"


def test_every_scene_has_five_different_short_captions_of_two_things() -> None:
    for scene in WORLD:
        texts = captions(scene, 0)
        assert len(set(texts)) == 5
        assert texts == captions(scene, 0)
        for text in texts:
            assert 6 <= word_count(text) <= 16
            colors = {thing.color for thing in scene.things}
            assert sum(word in colors for word in _words(text)) >= 2
    lengths = [word_count(text) for scene in WORLD for text in captions(scene, 0)]
    assert sum(length <= 14 for length in lengths) / len(lengths) > 0.95


def test_captions_of_neighbours_differ_in_one_word() -> None:
    groups: dict[tuple[str, int], list[Scene]] = defaultdict(list)
    for scene in WORLD:
        if scene.group >= 0:
            groups[scene.split, scene.group].append(scene)
    compared = 0
    for base, *neighbours in groups.values():
        first = [_words(text) for text in captions(base, 0)]
        for scene in neighbours:
            for before, after in zip(first, (_words(text) for text in captions(scene, 0)), strict=True):
                assert len(before) == len(after)
                assert sum(a != b for a, b in zip(before, after, strict=True)) == 1
                compared += 1
    assert compared > 1000


def test_captions_name_no_held_out_pair_in_training() -> None:
    for scene in WORLD[:200]:
        for text in captions(scene, 0) + [phrase for phrase, _ in regions(scene, 0)]:
            words = _words(text)
            for color, kind in HELD_OUT:
                assert not any(words[i : i + 2] == [color, kind] for i in range(len(words)))


def test_regions_speak_about_things_that_exist() -> None:
    for scene in WORLD[:50]:
        found = regions(scene, 0)
        assert len(found) == 2 * len(scene.things) + 2
        assert found[-1] == (f"the {scene.background} in the background", ())
        for index in range(len(scene.things)):
            assert sum(indices == (index,) for _, indices in found) == 2
