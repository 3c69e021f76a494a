"""NLVR2 and SNLI-VE of the embedded world: every sentence with all labels, nothing to be had without looking.

Nothing is drawn here; the files are tested in `test_miniature_world`.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence

import pytest

from soho.data.miniature.nlvr2 import PairExample, pair_examples
from soho.data.miniature.scene import Scene, held_out_pairs, sample_world
from soho.data.miniature.snli_ve import (
    FIRST_CRATE,
    LABELS,
    EntailmentExample,
    crate_scenes,
    entailment_examples,
    has_crate,
    judge,
    shown_scenes,
)

SEED = 5
Rows = list[tuple[str, str]]


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return sample_world(SEED, 400, 0, 200, held_out_pairs(SEED))


@pytest.fixture(scope="module")
def statements(scenes: list[Scene]) -> dict[str, list[PairExample]]:
    return {
        split: pair_examples([scene for scene in scenes if scene.split == split], split, 60, SEED)
        for split in ("train", "test")
    }


@pytest.fixture(scope="module")
def hypotheses(scenes: list[Scene]) -> dict[str, list[EntailmentExample]]:
    found = {}
    for split in ("train", "test"):
        pool = shown_scenes([scene for scene in scenes if scene.split == split], 150)
        pool += crate_scenes(SEED, split, 75, FIRST_CRATE, held_out_pairs(SEED))
        found[split] = entailment_examples(pool, 300, SEED)
    return found


def words(text: str) -> set[str]:
    return set(text.lower().rstrip(".").split())


def naive_bayes(train: Rows, test: Rows) -> float:
    """Return the accuracy on `test` of Bernoulli naive Bayes over words; the first label among equals."""
    labels = sorted({label for _, label in train})
    vocabulary = set().union(*(words(text) for text, _ in train))
    count = Counter(label for _, label in train)
    holding = Counter((word, label) for text, label in train for word in words(text))

    def score(text: str, label: str) -> float:
        total = math.log(count[label] / len(train))
        for word in vocabulary:
            share = (holding[word, label] + 1) / (count[label] + 2)
            total += math.log(share if word in words(text) else 1 - share)
        return round(total, 9)

    right = [max(labels, key=lambda label: score(text, label)) == truth for text, truth in test]
    return sum(right) / len(right)


def told(rows: Sequence[PairExample]) -> Rows:
    return [(row.sentence, str(row.label)) for row in rows]


def test_naive_bayes_finds_a_word_that_tells_the_label() -> None:
    rows = [("a red ball", "True"), ("a blue ball", "False"), ("a red fish", "True"), ("a blue fish", "False")]
    assert naive_bayes(rows, [("a red boat", "True"), ("a blue boat", "False")]) == 1


def test_sentences_of_nlvr2_tell_nothing(statements: dict[str, list[PairExample]]) -> None:
    assert naive_bayes(told(statements["train"]), told(statements["test"])) < 0.53


def test_hypotheses_tell_nothing(hypotheses: dict[str, list[EntailmentExample]]) -> None:
    rows = {split: [(row.hypothesis, row.label) for row in rows] for split, rows in hypotheses.items()}
    assert naive_bayes(rows["train"], rows["test"]) < 1 / 3 + 0.03


@pytest.mark.parametrize("split", ["train", "test"])
def test_every_sentence_of_a_set_is_true_of_two_of_its_four_pairs(statements, split: str) -> None:
    sets: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    truths: dict[tuple[str, str], list[bool]] = defaultdict(list)
    for row in statements[split]:
        _, number, pair, sentence = row.identifier.split("-")
        sets[number]["pairs"].add(pair)
        sets[number]["sentences"].add(sentence)
        truths[number, sentence].append(row.label)
        assert row.left.look != row.right.look
        assert row.image_names[0] == f"{split}-{number}-{pair}-img0.png"
    assert len(sets) == 60
    assert all(len(own["pairs"]) == 4 and 2 <= len(own["sentences"]) <= 4 for own in sets.values())
    assert all(sorted(labels) == [False, False, True, True] for labels in truths.values())
    # The first two sentences are true and false in all four ways, so one tells nothing of the other.
    for number in sets:
        first = [row.label for row in statements[split] if row.identifier.startswith(f"{split}-{number}-")][:8]
        assert len(set(zip(first[:4], first[4:], strict=True))) == 4
    assert len({row.sentence for row in statements[split]}) > 50


@pytest.mark.parametrize("split", ["train", "test"])
def test_every_hypothesis_comes_equally_often_with_each_label(hypotheses, split: str) -> None:
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for row in hypotheses[split]:
        counts[row.hypothesis][row.label] += 1
    assert len(hypotheses[split]) == 900
    assert all(len({own[label] for label in LABELS}) == 1 for own in counts.values())
    assert max(own["neutral"] for own in counts.values()) > 1
    shown = [(row.scene.image_id, row.hypothesis) for row in hypotheses[split]]
    assert len(set(shown)) == len(shown)


def test_a_crate_alone_does_not_tell_neutral(hypotheses: dict[str, list[EntailmentExample]]) -> None:
    counts = Counter((has_crate(row.scene), row.label) for row in hypotheses["train"])
    assert counts[False, "neutral"] == 0
    best = sum(max(counts[crate, label] for label in LABELS) for crate in (True, False))
    assert best < 0.6 * len(hypotheses["train"])


def test_shown_scenes_are_the_pictures_of_the_coco_files(scenes: list[Scene]) -> None:
    shown = shown_scenes(scenes, 50)
    by_look = {scene.look: scene for scene in scenes if scene.split == "train"}
    assert len(shown) == 50
    assert all(photo.things == by_look[photo.look].things for photo in shown)
    assert all(photo.arrangement != "overlap" for photo in shown)
    assert {photo.image_id - by_look[photo.look].image_id for photo in shown} == {100_000_000}


def test_crate_scenes_hide_one_thing_and_show_no_held_out_pair() -> None:
    held_out = held_out_pairs(SEED)
    pool = crate_scenes(SEED, "train", 40, FIRST_CRATE, held_out)
    assert all(has_crate(scene) for scene in pool)
    assert not [thing for scene in pool for thing in scene.things if thing.pair in held_out]
    assert len({scene.image_id for scene in pool}) == len({scene.look for scene in pool}) == 40


def test_judgement_beside_a_crate() -> None:
    scene = crate_scenes(SEED, "train", 1, FIRST_CRATE, ())[0]
    seen = scene.things[0].pair
    assert judge(scene, seen, None) == "entailment"
    assert judge(scene, ("red", "anchor"), None) == "neutral"
    assert judge(scene, ("red", "anchor"), "the moon") == "contradiction"
