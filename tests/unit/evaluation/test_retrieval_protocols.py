from __future__ import annotations

import numpy as np
import pytest

from soho.errors import SohoError
from soho.evaluation.retrieval_protocols import fold_bounds, fold_name, retrieval_figures

# Four images with one caption each, in two folds of two. Rows are images.
SCORES = np.array(
    [
        [0.5, 0.4, 0.9, 0.0],  # own 0.5 is beaten by a caption of the other fold only
        [0.6, 0.3, 0.0, 0.0],  # own 0.3 is beaten by a caption of its fold
        [0.0, 0.0, 0.7, 0.1],
        [0.0, 0.0, 0.7, 0.2],  # own 0.2 is beaten by 0.7
    ],
    dtype=np.float32,
)
OWNERS = np.arange(4)


def test_folds_rank_among_themselves_and_are_averaged() -> None:
    found = retrieval_figures(SCORES, OWNERS, folds=2)
    # All four: image 0 has rank 2, image 1 rank 2, image 2 rank 1, image 3 rank 2.
    assert found["tr_r1"] == 1 / 4
    # Within the folds image 0 has rank 1 and image 1 rank 2; image 2 rank 1 and image 3 rank 2.
    assert found["2_images/tr_r1"] == 1 / 2
    # By columns: caption 0 is beaten by image 1, caption 1 by image 0, in both galleries; caption 2 is beaten by image
    # 0 and tied with image 3; caption 3 is first. Fold 1 has no hit, fold 2 has one: the tie counts against it.
    assert found["ir_r1"] == 1 / 4
    assert found["2_images/ir_r1"] == (0 / 2 + 1 / 2) / 2
    assert found["2_images/tr_r5"] == found["2_images/ir_r5"] == 1.0
    assert (found["images"], found["texts"], found["folds"]) == (4, 4, 2)


def test_chance_of_a_fold_is_that_of_its_size() -> None:
    found = retrieval_figures(SCORES, OWNERS, folds=2)
    assert found["chance/ir_r1"] == pytest.approx(1 / 4)
    assert found["chance/2_images/ir_r1"] == pytest.approx(1 / 2)
    assert found["chance/2_images/tr_r1"] == pytest.approx(1 / 2)


def test_the_mean_is_over_folds_and_not_over_queries() -> None:
    # Fold 1: two images, three captions, all found. Fold 2: two images, one caption, not found.
    scores = np.array([[1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0], [0, 0, 0, 1]], dtype=np.float32)
    found = retrieval_figures(scores, [0, 0, 1, 2], folds=2)
    assert found["2_images/ir_r1"] == (1.0 + 0.0) / 2  # over queries it would be 3/4
    assert found["ir_r1"] == 3 / 4


def test_five_folds_of_five_thousand_images_are_consecutive_thousands() -> None:
    bounds = fold_bounds(5000, np.repeat(np.arange(5000), 5), 5)
    assert bounds == [(0, 1000), (1000, 2000), (2000, 3000), (3000, 4000), (4000, 5000)]
    assert fold_name(5000, 5) == "1k"


def test_without_folds_there_are_no_fold_figures() -> None:
    found = retrieval_figures(SCORES, OWNERS)
    assert [name for name in found if name.count("/") > name.startswith("chance/")] == []
    assert "folds" not in found


def test_a_memory_map_is_read_like_an_array(tmp_path) -> None:
    np.save(tmp_path / "scores.npy", SCORES)
    mapped = np.load(tmp_path / "scores.npy", mmap_mode="r")
    assert retrieval_figures(mapped, OWNERS, 2) == retrieval_figures(SCORES, OWNERS, 2)


def test_uneven_folds_are_named_as_such() -> None:
    assert fold_bounds(8, np.arange(8), 3) == [(0, 3), (3, 6), (6, 8)]
    assert fold_name(8, 3) == "2_or_3_images"
    assert fold_name(4999, 5) == "999_or_1000_images"


def test_folds_that_the_gallery_does_not_have() -> None:
    with pytest.raises(SohoError, match=r"evaluation\.folds=5 is more than the 4 images"):
        retrieval_figures(SCORES, OWNERS, folds=5)
    with pytest.raises(SohoError, match=r"fold 2 of evaluation\.folds=2 \(images 2 to 3\) has no caption"):
        retrieval_figures(SCORES, [0, 0, 1, 1], folds=2)
