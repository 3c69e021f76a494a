"""Says what is in a scene: five captions that choose different facts, words and sentence forms.

Neighbours of a group share every draw, and their captions mention every attribute in which the group differs. So
caption n of one scene and caption n of its neighbour differ in one word (an article follows its noun).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from soho.data.miniature.lexicon import (
    CRATE,
    NUMBER_WORDS,
    PATTERN_NOUNS,
    PLACE_PHRASES,
    RELATIONS,
    SEEN_FROM_OTHER,
    plural,
    say,
    with_article,
)
from soho.data.miniature.scene import Scene, Thing
from soho.randomness import keyed_generator

CAPTIONS_PER_IMAGE = 5
LONGEST = 14
"""Words in a caption, punctuation not counted; two more where a group needs many facts said."""

_MENTION = {"texture": 0.55, "size": 0.35, "background": 0.55}
_TWO_PLACES = ("{a} {rel} {b}", "{a} {is} {rel} {b}", "there {is} {a} {rel} {b}", "{a} can be seen {rel} {b}",
               "you can see {a} {rel} {b}", "{rel} {b} {is} {a}", "{b} with {a} {seen}", "{b} has {a} {seen}",
               "a picture of {a} {rel} {b}")  # fmt: skip
_THREE_THINGS = ("{a} between {b} and {c}", "{b} , {a} and {c} in a line")
_FACT_DRAWS = 8
_PLACE_LAST, _PLACE_FIRST, _PLACE_SCENE, _PLACE_BEHIND = "last", "first", "scene", "behind"


@dataclass(frozen=True, slots=True)
class Mention:
    """How a thing is named: which attributes beyond colour, kind and count, and the draws that choose synonyms."""

    texture: bool = False
    size: bool = False
    after: bool = False
    draws: tuple[float, float, float] = (0.0, 0.0, 0.0)


def name_thing(thing: Thing, mention: Mention, article: bool = True) -> str:
    """Name a thing, as in "a small striped red fish", "a red fish with stripes" or "three red fish".

    Args:
        thing: what to name.
        mention: which attributes to say and with which synonyms.
        article: put `a` or `an` before a single thing.
    """
    noun = say(thing.kind, mention.draws[0])
    if thing.kind == CRATE:
        return f"a closed {noun}" if article else f"closed {noun}"
    words = [thing.color, noun if thing.count == 1 else plural(noun)]
    if mention.texture and mention.after and thing.texture in PATTERN_NOUNS:
        words += ["with", PATTERN_NOUNS[thing.texture]]
    elif mention.texture:
        words.insert(0, say(thing.texture, mention.draws[1]))
    if mention.size and thing.size != "medium":
        words.insert(0, say(thing.size, mention.draws[2]))
    phrase = " ".join(words)
    if thing.count > 1:
        return NUMBER_WORDS[thing.count] + " " + phrase
    return with_article(phrase) if article else phrase


def relation(scene: Scene, one: int, other: int, draw: float) -> str:
    """Return the words that say where thing `one` is, seen from thing `other`."""
    families = RELATIONS[scene.arrangement]
    family = families[int(draw * len(families))]
    return family[0] if scene.rank(one) < scene.rank(other) else family[1]


def _seen_from(scene: Scene, one: int, other: int) -> str:
    first, second = SEEN_FROM_OTHER[scene.arrangement]
    many = scene.things[other].count > 1
    chosen = first if scene.rank(one) < scene.rank(other) else second
    return chosen.format(its="their" if many else "its", it="them" if many else "it")


def _with_place(sentence: str, scene: Scene, form: str) -> str:
    place = scene.background
    if form == _PLACE_LAST:
        return f"{sentence} {PLACE_PHRASES[place]}"
    if form == _PLACE_FIRST:
        return f"{PLACE_PHRASES[place]} , {sentence}"
    if form == _PLACE_SCENE:
        return f"{sentence} in a {place} scene"
    return f"{sentence} with the {place} behind"


def word_count(text: str) -> int:
    """Count words; punctuation is not a word."""
    return sum(any(letter.isalnum() for letter in word) for word in text.split())


def _finish(sentence: str, full_stop: bool) -> str:
    text = sentence.replace(" ,", ",")
    return text[0].upper() + text[1:] + ("." if full_stop else "")


def _mentions(scene: Scene, draws: Sequence[float], pair: Sequence[int]) -> tuple[dict[int, Mention], bool]:
    """Choose which optional facts a caption says: what the group needs, then at most two in all."""
    wanted: set[str] = set()
    for position, index in enumerate(scene.focus):
        wanted |= {f"{fact}{index}" for fact in ("texture", "size") if f"{fact}{position}" in scene.axes}
    if "background" in scene.axes:
        wanted.add("background")
    optional = ["background", *(f"{fact}{index}" for index in pair for fact in ("texture", "size"))]
    for draw, fact in sorted(zip(draws[: len(optional)], optional, strict=True)):
        if len(wanted) < 2 and draw < _MENTION[fact.rstrip("0123456789")]:
            wanted.add(fact)
    mentions = {}
    for index in range(len(scene.things)):
        words = draws[_FACT_DRAWS + 4 * index : _FACT_DRAWS + 4 * index + 4]
        mentions[index] = Mention(
            texture=f"texture{index}" in wanted,
            size=f"size{index}" in wanted,
            after=words[3] < 0.3 and not any(axis.startswith("texture") for axis in scene.axes),
            draws=(words[0], words[1], words[2]),
        )
    return mentions, "background" in wanted


def _sentence(scene: Scene, frame: str, draws: Sequence[float], plain_words: bool) -> str:
    """Fill one sentence form; `plain_words` takes the shortest relation and leaves optional facts out."""
    one, other = scene.focus if draws[20] < 0.5 else scene.focus[::-1]
    third = -1
    if not scene.axes and len(scene.things) == 3:
        if frame in _THREE_THINGS:
            other, one, third = scene.order
        else:
            one, other = sorted(range(3), key=lambda index: draws[21 + index])[:2]
    pair = [index for index in (one, other, third) if index >= 0]
    if plain_words:
        draws = [1.0] * _FACT_DRAWS + list(draws[_FACT_DRAWS:])
    mentions, place = _mentions(scene, draws, pair)
    names = {index: name_thing(scene.things[index], mentions[index]) for index in pair}
    sentence = frame.format(
        a=names[one],
        b=names[other],
        c=names.get(third, ""),
        rel=relation(scene, one, other, 0.0 if plain_words else draws[24]),
        seen=_seen_from(scene, one, other),
        **{"is": "is" if scene.things[one].count == 1 else "are"},
    )
    if frame.startswith("{b} has") and scene.things[other].count > 1:
        sentence = sentence.replace(" has ", " have ", 1)
    if not place:
        return sentence
    forms: tuple[str, ...] = (_PLACE_LAST, _PLACE_LAST, _PLACE_FIRST, _PLACE_SCENE, _PLACE_BEHIND)
    if "background" in scene.axes:  # the one form in which all places differ in one word
        forms = (_PLACE_SCENE,)
    elif scene.background == "space":
        forms = forms[:-1]
    return _with_place(sentence, scene, forms[int(draws[25] * len(forms))])


def captions(scene: Scene, seed: int) -> list[str]:
    """Return five different captions of about 7 to `LONGEST` words.

    Args:
        scene: the scene graph.
        seed: seed of the world; the draws belong to `scene.look`.
    """
    rng = keyed_generator(seed, "captions", scene.look)
    frames: list[str] = list(_TWO_PLACES)
    if len(scene.things) == 3 and not scene.axes and scene.arrangement != "overlap":
        frames += list(_THREE_THINGS)
    queue = [frames[i] for i in rng.permutation(len(frames))]
    texts: list[str] = []
    draws = rng.random((len(queue), 32)).tolist()
    for plain_words, longest in ((False, LONGEST), (True, LONGEST), (True, LONGEST + 2)):
        for row, frame in enumerate(queue):
            if len(texts) == CAPTIONS_PER_IMAGE:
                return texts
            sentence = _sentence(scene, frame, draws[row], plain_words)
            text = _finish(sentence, full_stop=draws[row][30] < 0.7)
            if word_count(sentence) <= longest and text not in texts:
                texts.append(text)
    return texts


def regions(scene: Scene, seed: int) -> list[tuple[str, tuple[int, ...]]]:
    """Return Visual Genome style phrases with the indices of the things they are about; no index = everywhere."""
    rng = keyed_generator(seed, "regions", scene.look)
    found: list[tuple[str, tuple[int, ...]]] = []
    for index, thing in enumerate(scene.things):
        draws = rng.random(8).tolist()
        mention = Mention(draws[0] < 0.6, draws[1] < 0.5, draws[2] < 0.4, (draws[3], draws[4], draws[5]))
        found.append((name_thing(thing, mention, article=draws[6] < 0.5), (index,)))
        noun = plural(thing.kind) if thing.count > 1 else thing.kind
        verb = "are" if thing.count > 1 else "is"
        fact = say(thing.texture, draws[4]) if draws[7] < 0.5 else thing.color
        found.append((f"the {noun} {verb} {fact}", (index,)))
    one, other = (int(i) for i in rng.permutation(len(scene.things))[:2])
    bare = Mention()
    names = [name_thing(scene.things[index], bare) for index in (one, other)]
    found.append((f"{names[0]} {relation(scene, one, other, float(rng.random()))} {names[1]}", (one, other)))
    found.append((f"the {scene.background} in the background", ()))
    return found
