"""Words of codes, by hand."""

from __future__ import annotations

import math

import pytest

from soho.inspection.code_words import likelihood_ratio, pointwise_mutual_information, telling_words, words_of


def test_pointwise_mutual_information_by_hand() -> None:
    assert pointwise_mutual_information(2, 4, 4, 16) == 1.0  # 2/16 against 1/4 * 1/4
    assert pointwise_mutual_information(1, 4, 4, 16) == 0.0
    assert pointwise_mutual_information(4, 4, 4, 16) == 2.0
    assert pointwise_mutual_information(0, 4, 4, 16) == -math.inf


def test_likelihood_ratio_by_hand() -> None:
    assert likelihood_ratio(6, 6, 6, 12) == pytest.approx(24 * math.log(2))
    assert likelihood_ratio(1, 4, 4, 16) == pytest.approx(0.0, abs=1e-12)
    # 3 1 / 1 3: 2 (2 * 3 ln 1.5 + 2 * 1 ln 0.5)
    assert likelihood_ratio(3, 4, 4, 8) == pytest.approx(2 * (6 * math.log(1.5) + 2 * math.log(0.5)))
    assert likelihood_ratio(5, 5, 10, 10) == 0.0  # a word that is in all captions says nothing


def test_a_word_once_has_the_highest_pmi_and_no_weight() -> None:
    assert pointwise_mutual_information(1, 10, 1, 100) > pointwise_mutual_information(9, 10, 12, 100)
    assert likelihood_ratio(1, 10, 1, 100) < 5 < likelihood_ratio(9, 10, 12, 100)


def test_words_are_lower_case_and_keep_their_apostrophes() -> None:
    assert words_of(["A red Ball, a dog's ball.", "Zwei Bälle"]) == {"a", "red", "ball", "dog's", "zwei", "bälle"}


def test_telling_words() -> None:
    red = (frozenset({0, 7}), {"a", "red", "ball"})
    blue = (frozenset({1}), {"a", "blue", "ball"})
    found = telling_words([red] * 6 + [blue] * 6, [0, 1, 9])
    assert [(row.word, row.images, row.lift) for row in found[0]] == [("red", 6, 2.0)]
    assert found[0][0].evidence == pytest.approx(24 * math.log(2))
    assert [row.word for row in found[1]] == ["blue"]
    assert found[9] == []  # no image has it
    assert telling_words([red, blue], [0]) == {0: []}  # two images are no evidence
