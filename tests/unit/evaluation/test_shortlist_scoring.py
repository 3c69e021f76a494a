"""Two stages: the shortlisted pairs have their exact scores, all others stand below in the order of the first stage."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from soho.errors import SohoError
from soho.evaluation import shortlist_scoring
from soho.evaluation.pair_scoring import score_all_pairs
from soho.evaluation.score_matrix import Scores
from tests.unit.evaluation.toy_scorer import ToyScorer, VectorScorer, make_world

QUIET: dict[str, Any] = {"progress": False, "record_every": 0.0}


def products() -> Scores:
    """Compute the first stage one pair at a time, without padding."""
    scorer = VectorScorer()
    batches, ids, mask = make_world()
    found = np.zeros((7, 11), dtype=np.float32)
    with torch.no_grad():
        words = [scorer.words(row[kept.bool()]).sum(0) for row, kept in zip(ids, mask)]
        for pixels, pixel_mask, rows in batches:
            tokens, valid = scorer.image_tokens(pixels, pixel_mask)
            for place, row in enumerate(rows):
                picture = tokens[place][valid[place]].sum(0)
                found[row] = [float(torch.cosine_similarity(picture, text, dim=0)) for text in words]
    return found


def best(scores: Scores, k: int) -> np.ndarray:
    """Return which pairs are among the k best of their row or their column, by sorting."""
    rows, columns = np.argsort(-scores, axis=1)[:, :k], np.argsort(-scores, axis=0)[:k]
    chosen = np.zeros(scores.shape, dtype=bool)
    np.put_along_axis(chosen, rows, True, axis=1)
    np.put_along_axis(chosen, columns, True, axis=0)
    return chosen


@pytest.mark.parametrize("pair_batch", [1, 5, 10_000])
@pytest.mark.parametrize("window", [2, 256])
def test_the_best_pairs_are_scored_exactly_and_the_others_stand_below(
    pair_batch: int, window: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shortlist_scoring, "WINDOW_IMAGES", window)
    batches, ids, mask = make_world()
    exact = score_all_pairs(ToyScorer(), batches, ids, mask, progress=False)
    scorer = VectorScorer().train()
    scores = score_all_pairs(scorer, batches, ids, mask, pair_batch=pair_batch, shortlist=2, image_count=7, **QUIET)
    first, chosen = products(), best(products(), 2)
    assert 0.2 < chosen.mean() < 0.6
    np.testing.assert_allclose(scores[chosen], exact[chosen], atol=1e-5)
    assert scores[~chosen].max() < scores[chosen].min()
    order = np.argsort(first[~chosen])
    assert np.diff(first[~chosen][order]).min() > 1e-5  # no ties that rounding could turn round
    assert (np.diff(scores[~chosen][order]) > 0).all()
    assert sum(pairs for pairs, *_ in scorer.shapes) == chosen.sum()
    assert max(pairs for pairs, *_ in scorer.shapes) <= pair_batch
    assert (scorer.images, scorer.texts, scorer.training) == (7, 11, True)


def test_a_shortlist_of_all_is_exact() -> None:
    batches, ids, mask = make_world()
    exact = score_all_pairs(ToyScorer(), batches, ids, mask, progress=False)
    np.testing.assert_allclose(
        score_all_pairs(VectorScorer(), batches, ids, mask, shortlist=11, **QUIET), exact, atol=1e-5
    )


def test_what_lies_on_the_disk(tmp_path: Path) -> None:
    batches, ids, mask = make_world()
    options = {**QUIET, "shortlist": 2}
    memory = score_all_pairs(VectorScorer(), batches, ids, mask, **options)
    disk = score_all_pairs(VectorScorer(), batches, ids, mask, out=tmp_path, fingerprint="a", **options)
    np.testing.assert_array_equal(disk, memory)
    np.testing.assert_allclose(np.load(tmp_path / "first_stage.npy"), products(), atol=1e-6)
    names = ["first_stage.npy", "first_stage_progress.json", "progress.json", "scores.npy"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    idle = VectorScorer()
    again = score_all_pairs(idle, [], ids, mask, out=tmp_path, fingerprint="a", **options)
    np.testing.assert_array_equal(again, memory)
    assert (idle.blocks, idle.texts) == (0, 0)
    longer = VectorScorer()  # another length: other scores, but the same first stage
    score_all_pairs(longer, batches, ids, mask, out=tmp_path, fingerprint="a", **{**QUIET, "shortlist": 3})
    assert sum(pairs for pairs, *_ in longer.shapes) == best(products(), 3).sum()


@pytest.mark.parametrize("die_after", [0, 1, 4])
@pytest.mark.parametrize("pair_batch", [4, 3])
def test_an_interrupted_run_goes_on(die_after: int, pair_batch: int, tmp_path: Path) -> None:
    batches, ids, mask = make_world()
    options = {**QUIET, "shortlist": 3}
    whole = score_all_pairs(VectorScorer(), batches, ids, mask, pair_batch=4, **options)
    scorer = VectorScorer()
    scorer.die_after = die_after
    with pytest.raises(KeyboardInterrupt):
        score_all_pairs(scorer, batches, ids, mask, pair_batch=4, out=tmp_path, fingerprint="a", **options)
    again = VectorScorer()
    scores = score_all_pairs(again, [], ids, mask, pair_batch=pair_batch, out=tmp_path, fingerprint="a", **options)
    if pair_batch == 4:
        np.testing.assert_array_equal(scores, whole)
        pairs = sum(pairs for pairs, *_ in scorer.shapes + again.shapes)
        assert pairs == best(products(), 3).sum()  # none was scored twice
    np.testing.assert_allclose(scores, whole, atol=1e-5)


@pytest.mark.parametrize("verb", ["image_vectors", "text_tokens"])
def test_a_run_that_ends_in_the_first_stage_goes_on(verb: str, tmp_path: Path) -> None:
    batches, ids, mask = make_world()
    options = {**QUIET, "shortlist": 3, "out": tmp_path, "fingerprint": "a"}

    def stop(*_: Tensor) -> Tensor:
        raise KeyboardInterrupt

    scorer = VectorScorer()
    setattr(scorer, verb, stop)
    with pytest.raises(KeyboardInterrupt):
        score_all_pairs(scorer, batches, ids, mask, **options)
    scores = score_all_pairs(VectorScorer(), [], ids, mask, **options)
    np.testing.assert_array_equal(scores, score_all_pairs(VectorScorer(), batches, ids, mask, shortlist=3, **QUIET))


def test_a_run_that_ends_while_the_others_get_their_place_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("soho.evaluation.shortlist.BLOCK_SCORES", 22)  # two rows at a time
    batches, ids, mask = make_world()
    options = {**QUIET, "shortlist": 3, "out": tmp_path, "fingerprint": "a"}
    calls: Iterator[int] = iter(range(100))

    def stop(lowest: float, first: Scores) -> Scores:
        if next(calls) == 2:
            raise KeyboardInterrupt
        return below(lowest, first)

    below = shortlist_scoring.below
    monkeypatch.setattr(shortlist_scoring, "below", stop)
    with pytest.raises(KeyboardInterrupt):
        score_all_pairs(VectorScorer(), batches, ids, mask, **options)
    left = np.isnan(np.load(tmp_path / "scores.npy")).any(axis=1)
    assert left.tolist() == [False] * 4 + [True] * 3
    assert not json.loads((tmp_path / "progress.json").read_text())["complete"]
    monkeypatch.setattr(shortlist_scoring, "below", below)
    idle = VectorScorer()
    scores = score_all_pairs(idle, [], ids, mask, **options)
    np.testing.assert_array_equal(scores, score_all_pairs(VectorScorer(), batches, ids, mask, shortlist=3, **QUIET))
    assert (idle.blocks, idle.texts) == (0, 0)
    assert not list(tmp_path.glob("image_tokens*"))


def test_the_plan_counts_the_shortlist(capsys: pytest.CaptureFixture[str]) -> None:
    class Costly(VectorScorer):
        def pair_flops(self, text_tokens: int, visual_tokens: int) -> float:
            return 2e9

    batches, ids, mask = make_world()
    score_all_pairs(Costly(), batches, ids, mask, shortlist=2)
    said = capsys.readouterr().err
    count = int(best(products(), 2).sum())
    assert f"by inner product: {count} of 7 images x 11 texts = 77 pairs ({count / 77:.2%})" in said
    assert f"{2.0 * count:.1f} GFLOP in all, 2.000 per pair" in said
    assert "going by the first block" in said


def test_scorers_that_cannot_make_a_shortlist() -> None:
    class Long(VectorScorer):
        def image_vectors(self, visual: Tensor, visual_mask: Tensor) -> Tensor:
            return 3 * super().image_vectors(visual, visual_mask)

    batches, ids, mask = make_world()
    with pytest.raises(SohoError, match="a model with text_vectors, and ToyScorer has none"):
        score_all_pairs(ToyScorer(), batches, ids, mask, shortlist=2, **QUIET)
    with pytest.raises(SohoError, match="are not of length one"):
        score_all_pairs(Long(), batches, ids, mask, shortlist=2, **QUIET)
    with pytest.raises(SohoError, match=r"shortlist over 2 processes needs torch\.distributed"):
        score_all_pairs(VectorScorer(), batches, ids, mask, shortlist=2, world_size=2, **QUIET)
