"""The normal form of an answer, as the official VQA evaluation compares them (https://visualqa.org/evaluation.html).

Lower case, no articles, number words as digits, apostrophes put back into contractions, punctuation removed. The
rules agree with the official tool in every case, its surprises included, because scores are compared with it.
"""

from __future__ import annotations

import re
from functools import lru_cache

_ARTICLES = frozenset({"a", "an", "the"})
_NUMBER_WORDS = {"none": "0"} | {
    word: str(value)
    for value, word in enumerate(
        ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
    )
}
_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_COMMA_IN_NUMBER = re.compile(r"\d,\d")
_FULL_STOP = re.compile(r"\.(?!\d)")
# The official tool passes a flag (of value 32) where the number of replacements belongs.
_MOST_FULL_STOPS = 32

# Every word is also recognised with exactly one of its apostrophes left out.
_CONTRACTED = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've
he's how'd how'll how's isn't it'd it'd've it'll ma'am might've mightn't mightn't've must've mustn't needn't not've
o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's
someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've
there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's
what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've
wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've
"""


def _contractions() -> dict[str, str]:
    table = {"somebody'd": "somebodyd"}  # the official table has this one the wrong way round
    for word in _CONTRACTED.split():
        for index, letter in enumerate(word):
            if letter == "'":
                table[word[:index] + word[index + 1 :]] = word
    return table


CONTRACTIONS = _contractions()


def clean_spaces(answer: str) -> str:
    """Return the answer without white space at its ends and with line ends and tabs made spaces.

    This is all that the official tool does to answers on which all annotators agree.
    """
    return answer.replace("\n", " ").replace("\t", " ").strip()


@lru_cache(maxsize=1 << 16)  # data sets repeat the same few thousand answers
def normalize_answer(answer: str) -> str:
    """Return the normal form of an answer: punctuation, then number words, articles and contractions.

    Args:
        answer: free text, for instance `"The Two dogs."`.

    Returns:
        For instance `"2 dogs"`; empty where only punctuation and articles were there.
    """
    words = (_NUMBER_WORDS.get(word, word) for word in _strip_punctuation(clean_spaces(answer)).lower().split())
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


def _strip_punctuation(text: str) -> str:
    """Remove marks at a word's edge, make a space of marks inside a word, and drop stops that precede no digit.

    Where a number has a comma (`1,000`), every mark of the answer is removed, none becomes a space.
    """
    result = text
    number_with_comma = _COMMA_IN_NUMBER.search(text) is not None
    for mark in _PUNCTUATION:
        if mark in text:
            at_edge = f"{mark} " in text or f" {mark}" in text
            result = result.replace(mark, "" if at_edge or number_with_comma else " ")
    return _FULL_STOP.sub("", result, count=_MOST_FULL_STOPS)
