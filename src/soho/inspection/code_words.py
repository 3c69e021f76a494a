"""Which words of the captions go with which codes of the visual dictionary.

Counted are images: has an image the code in any of its cells, and is the word in any of its captions? A word of many
captions is no stronger than one of a single caption, and neither is a code of many cells.

Words are ranked by the log-likelihood ratio G^2 of independence (Dunning 1993), not by pointwise mutual information.
PMI is highest where a word occurs once and happens to meet the code: it needs a count floor, and the floor decides the
list. G^2 asks how badly "code and word have nothing to do with each other" explains the four counts; a coincidence of
one or two images weighs little by itself, and "a", which is in nearly all captions, weighs nothing, so no list of stop
words is needed. How strong the bond is, which G^2 does not say, stands beside it as the lift, 2 ** PMI.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence

from soho.inspection.dictionary import CodeWord

# A chance that any of the words tested against a code is listed without reason (Bonferroni).
FALSE_ALARM = 0.01
_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")


def words_of(texts: Iterable[str]) -> set[str]:
    """Return the words of texts, in lower case."""
    return {word for text in texts for word in _WORD.findall(text.lower())}


def pointwise_mutual_information(both: int, code: int, word: int, total: int) -> float:
    """Return PMI in bits: log2 of p(code, word) / (p(code) p(word)); minus infinity where they never meet.

    Args:
        both: images with code and word.
        code: images with the code, at least 1.
        word: images with the word, at least 1.
        total: all images.
    """
    return math.log2(both * total / (code * word)) if both else -math.inf


def likelihood_ratio(both: int, code: int, word: int, total: int) -> float:
    """Return G^2 = 2 sum O ln(O / E) over the four counts; see `pointwise_mutual_information`."""
    observed = (both, code - both, word - both, total - code - word + both)
    rows, columns = (code, code, total - code, total - code), (word, total - word, word, total - word)
    parts = (
        seen * math.log(seen * total / (row * column)) for seen, row, column in zip(observed, rows, columns) if seen
    )
    return max(0.0, 2.0 * sum(parts))


def telling_words(
    images: Sequence[tuple[Collection[int], Collection[str]]], codes: Sequence[int], most: int = 5
) -> dict[int, list[CodeWord]]:
    """Find the words that go with codes.

    Args:
        images: distinct codes and distinct words of every image that has captions.
        codes: the codes to describe.
        most: words per code.

    Returns:
        Code -> words that are said more often where it is seen, by falling G^2; empty where none is beyond chance:
        the probability of such a G^2 among independent ones, times the number of words, must be below 1 %.
    """
    word_counts: Counter[str] = Counter()
    code_counts: Counter[int] = Counter()
    together: dict[int, Counter[str]] = {code: Counter() for code in codes}
    for own_codes, own_words in images:
        word_counts.update(own_words)
        for code in together.keys() & set(own_codes):
            code_counts[code] += 1
            together[code].update(own_words)
    found: dict[int, list[CodeWord]] = {}
    for code, meeting in together.items():
        rows = []
        for word, both in meeting.items():
            counts = both, code_counts[code], word_counts[word], len(images)
            lift = 2.0 ** pointwise_mutual_information(*counts)
            evidence = likelihood_ratio(*counts)
            # The square of a standard normal variable is above g with probability erfc(sqrt(g / 2)).
            if lift > 1.0 and math.erfc(math.sqrt(evidence / 2.0)) * len(word_counts) < FALSE_ALARM:
                rows.append(CodeWord(word, both, lift, evidence))
        found[code] = sorted(rows, key=lambda row: (-row.evidence, row.word))[:most]
    return found
