from __future__ import annotations

import math
from itertools import permutations

import numpy as np
import pytest

from soho.errors import SohoError
from soho.evaluation import metrics
from soho.evaluation.metrics import (
    CodeHistogram,
    Mean,
    RetrievalMetrics,
    chance_recalls,
    merge_processes,
    retrieval_recalls,
)


def test_mean_of_parts_is_the_mean_of_all() -> None:
    left, right = Mean(), Mean()
    left.update(6.0, 2)
    right.update(3.0)
    assert left.merge(right).result() == 3.0
    assert math.isnan(Mean().result())


def test_one_process_keeps_its_metric() -> None:
    mean = Mean(2.0, 4.0)
    assert merge_processes(mean) is mean


def test_code_histogram() -> None:
    histogram, other = CodeHistogram(4), CodeHistogram(4)
    histogram.update(np.array([[0, 0, 1], [-1, -100, 1]]))
    assert histogram.counts.tolist() == [2, 2, 0, 0]
    assert histogram.perplexity() == pytest.approx(2.0)
    other.update([0, 0, 0, 0])
    histogram.merge(other)
    assert histogram.total == 8
    # exp(-(3/4 ln 3/4 + 1/4 ln 1/4)) = 4 / 3^(3/4)
    assert histogram.result() == pytest.approx({"codes_used": 2.0, "perplexity": 4 / 3**0.75, "majority_share": 0.75})


def test_empty_code_histogram_is_zero_everywhere() -> None:
    assert CodeHistogram(3).result() == {"codes_used": 0.0, "perplexity": 0.0, "majority_share": 0.0}


def test_code_histogram_refuses_what_does_not_fit() -> None:
    with pytest.raises(SohoError, match="label 4 is outside a histogram of 4"):
        CodeHistogram(4).update([4])
    with pytest.raises(SohoError, match="3 and 4"):
        CodeHistogram(3).merge(CodeHistogram(4))


# Three images; texts 0 and 1 belong to image 0, text 2 to image 1, text 3 to image 2.
SCORES = np.array(
    [
        [0.1, 0.8, 0.9, 0.2],  # best own caption 0.8 is beaten by text 2: rank 2
        [0.5, 0.7, 0.6, 0.4],  # own caption 0.6 is beaten by text 1: rank 2
        [0.0, 0.3, 0.2, 0.9],  # own caption is first: rank 1
    ],
    dtype=np.float32,
)
OWNERS = np.array([0, 0, 1, 2])
# By columns: text 0 has 0.1 for its image and 0.5 for another, text 1 is best with 0.8, text 2 has 0.6 after 0.9.


def test_ranks_and_recalls_by_hand() -> None:
    found = RetrievalMetrics.from_scores(SCORES, OWNERS)
    assert found.tr_ranks.tolist() == [2, 2, 1]
    assert found.ir_ranks.tolist() == [2, 1, 2, 1]
    assert found.result((1, 2)) == pytest.approx(
        {
            "tr_r1": 1 / 3,
            "tr_r2": 1.0,
            "tr_median_rank": 2.0,
            "ir_r1": 0.5,
            "ir_r2": 1.0,
            "ir_median_rank": 1.5,
            "recall_mean": (1 / 3 + 1 + 0.5 + 1) / 4,
        }
    )


def test_several_captions_are_a_hit_when_any_is_in_front_and_do_not_rank_against_each_other() -> None:
    # Both own captions lie before the wrong one; the second own one must not push anything down.
    found = RetrievalMetrics.from_scores(np.array([[3.0, 2.0, 1.0], [0.0, 0.0, 5.0]]), [0, 0, 1])
    assert found.tr_ranks.tolist() == [1, 1]


def test_ties_are_broken_against_the_model() -> None:
    found = RetrievalMetrics.from_scores(np.zeros((3, 4), dtype=np.float32), OWNERS)
    assert found.tr_ranks.tolist() == [3, 4, 4]  # image 0 has two captions, so only two wrong ones are before them
    assert found.ir_ranks.tolist() == [3, 3, 3, 3]
    assert retrieval_recalls(np.zeros((3, 4)), OWNERS)["tr_r1"] == 0.0


def test_distractor_texts_and_images_without_captions_are_candidates_but_no_queries() -> None:
    scores = np.array([[0.5, 0.6, 0.9], [0.7, 0.1, 0.2]])
    found = RetrievalMetrics.from_scores(scores, [0, 0, -1])
    assert found.tr_ranks.tolist() == [2]  # the distractor's 0.9 is before 0.6; image 1 asks nothing
    assert found.ir_ranks.tolist() == [2, 1]


def test_blocks_of_rows_change_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 9, (37, 60)).astype(np.float32)
    owners = rng.integers(-1, 37, 60)
    whole = RetrievalMetrics.from_scores(scores, owners)
    np.save(tmp_path / "scores.npy", scores)
    monkeypatch.setattr(metrics, "BLOCK_SCORES", 300)
    parts = RetrievalMetrics.from_scores(np.load(tmp_path / "scores.npy", mmap_mode="r"), owners)
    assert parts.tr_ranks.tolist() == whole.tr_ranks.tolist()
    assert parts.ir_ranks.tolist() == whole.ir_ranks.tolist()


def test_ranks_equal_sorting() -> None:
    rng = np.random.default_rng(1)
    scores = rng.normal(size=(12, 30))
    owners = rng.permutation(np.arange(30) % 12)
    found = RetrievalMetrics.from_scores(scores, owners)
    for image in range(12):
        order = owners[np.argsort(-scores[image])]
        assert found.tr_ranks[image] == 1 + int(np.flatnonzero(order == image)[0])
    for text in range(30):
        assert found.ir_ranks[text] == 1 + int(np.flatnonzero(np.argsort(-scores[:, text]) == owners[text])[0])


def test_merged_galleries_are_averaged_over_queries() -> None:
    first = RetrievalMetrics(np.array([1, 2]), np.array([1]))
    first.merge(RetrievalMetrics(np.array([1]), np.array([3])))
    assert first.result((1,))["tr_r1"] == pytest.approx(2 / 3)
    assert first.result((1,))["ir_r1"] == 0.5


def test_a_score_that_is_not_a_number_is_named() -> None:
    scores = SCORES.copy()
    scores[1, 3] = np.nan
    with pytest.raises(SohoError, match="image 1 and text 3 is not a number"):
        retrieval_recalls(scores, OWNERS)


@pytest.mark.parametrize(
    ("owners", "words"),
    [([0, 0, 1], "each of 4 texts"), ([0, 0, 1, 3], "text 3 belongs to image 3"), ([0, -2, 1, 2], "-2")],
)
def test_wrong_owners_are_refused(owners: list[int], words: str) -> None:
    with pytest.raises(SohoError, match=words):
        retrieval_recalls(SCORES, owners)


def test_chance_by_hand() -> None:
    # Two images, three texts, two captions of image 0. TR R@1 = (2/3 + 1/3) / 2; R@2 = (1 + 2/3) / 2; IR R@1 = 1/2.
    found = chance_recalls(2, [0, 0, 1], (1, 2, 5))
    assert found == pytest.approx(
        {
            "tr_r1": 1 / 2,
            "tr_r2": 5 / 6,
            "tr_r5": 1.0,
            "tr_median_rank": 1.0,
            "ir_r1": 1 / 2,
            "ir_r2": 1.0,
            "ir_r5": 1.0,
            "ir_median_rank": 1.0,
            "recall_mean": (1 / 2 + 5 / 6 + 1 + 1 / 2 + 1 + 1) / 6,
        }
    )


def test_chance_is_the_mean_over_all_rankings() -> None:
    owners = np.array([0, 0, 1, 2])
    hits = np.mean(
        [[np.any(owners[list(order)[:2]] == image) for image in range(3)] for order in permutations(range(4))]
    )
    assert chance_recalls(3, owners, (2,))["tr_r2"] == pytest.approx(float(hits))


def test_chance_of_the_usual_gallery() -> None:
    found = chance_recalls(1000, np.repeat(np.arange(1000), 5))
    assert found["ir_r1"] == pytest.approx(0.001)
    assert found["tr_r1"] == pytest.approx(0.001)
    assert found["ir_median_rank"] == 500
    # 1 - (1 - r / 5000)^5 = 1/2 near r = 647
    assert found["tr_median_rank"] == pytest.approx(647, abs=2)
