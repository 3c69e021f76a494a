"""The words of the embedded world: what there is, which look it can have, and how people say it."""

from __future__ import annotations

KINDS: tuple[str, ...] = (
    "ball", "star", "heart", "house", "tree", "fish",
    "mushroom", "boat", "flower", "car", "umbrella", "butterfly",
)  # fmt: skip
COLORS: tuple[str, ...] = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "gray")
TEXTURES: tuple[str, ...] = ("plain", "striped", "dotted", "checked")
SIZES: tuple[str, ...] = ("small", "medium", "large")
BACKGROUNDS: tuple[str, ...] = ("meadow", "beach", "desert", "snow", "city", "space")
SHAPES: tuple[tuple[int, int], ...] = ((256, 192), (192, 256), (224, 224))
"""Width and height in pixels of the pictures: landscape, portrait, square."""

CRATE = "crate"
"""A closed wooden box, drawn for SNLI-VE alone: what it holds cannot be seen, so a hypothesis can be neutral."""

NUMBER_WORDS: dict[int, str] = {1: "one", 2: "two", 3: "three", 4: "four"}

# The first word is the usual one; the others are said less often. All are single words, because the captions of
# neighbouring scenes are to differ in one word.
SYNONYMS: dict[str, tuple[str, ...]] = {
    "ball": ("ball", "sphere"),
    "house": ("house", "cottage"),
    "mushroom": ("mushroom", "toadstool"),
    "boat": ("boat", "ship"),
    "flower": ("flower", "blossom"),
    "car": ("car", "automobile"),
    "umbrella": ("umbrella", "parasol"),
    "plain": ("plain", "unpatterned"),
    "dotted": ("dotted", "spotted"),
    "checked": ("checked", "checkered"),
    "small": ("small", "little", "tiny"),
    "large": ("large", "big", "huge"),
    CRATE: ("crate", "box"),
}
PLURALS: dict[str, str] = {"fish": "fish", "butterfly": "butterflies", "box": "boxes"}

PATTERN_NOUNS: dict[str, str] = {"striped": "stripes", "dotted": "dots", "checked": "checks"}

PLACE_PHRASES: dict[str, str] = {
    "meadow": "in a meadow",
    "beach": "on a beach",
    "desert": "in the desert",
    "snow": "in the snow",
    "city": "in the city",
    "space": "in space",
}

# (first, second): "A <first> B" holds where A comes first along the arrangement (left, top, front).
# Both members have the same number of words, so that swapping two things changes one word of a caption.
RELATIONS: dict[str, tuple[tuple[str, str], ...]] = {
    "row": (("left of", "right of"), ("to the left of", "to the right of"), ("on the left of", "on the right of")),
    "column": (("above", "below"), ("over", "under"), ("higher than", "lower than")),
    "overlap": (("in front of", "in back of"), ("partly covering", "partly behind")),
}
SEEN_FROM_OTHER: dict[str, tuple[str, str]] = {
    "row": ("to {its} left", "to {its} right"),
    "column": ("above {it}", "below {it}"),
    "overlap": ("in front of {it}", "in back of {it}"),
}


def say(word: str, draw: float) -> str:
    """Return `word` or, for a quarter of the draws, one of its synonyms.

    Args:
        word: a kind, texture or size.
        draw: uniform in [0, 1); equal draws give the synonym of equal rank for every word.
    """
    words = SYNONYMS.get(word, (word,))
    if draw < 0.75 or len(words) == 1:
        return words[0]
    rank = int((draw - 0.75) / 0.25 * (len(words) - 1))
    return words[1 + rank]


def plural(noun: str) -> str:
    """Return the plural of a noun of this world."""
    return PLURALS.get(noun, noun + "s")


def with_article(phrase: str) -> str:
    """Put `a` or `an` before a phrase."""
    return ("an " if phrase[0] in "aeiou" else "a ") + phrase
