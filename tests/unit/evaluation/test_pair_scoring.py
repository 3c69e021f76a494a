from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from soho.errors import SohoError
from soho.evaluation.pair_scoring import ScoringPlan, fingerprint_of, score_all_pairs, shard_rows
from tests.unit.evaluation.toy_scorer import ToyScorer, VectorScorer, make_world


def brute_force(scorer: ToyScorer, batches, ids: Tensor, mask: Tensor) -> np.ndarray:
    """Score each pair alone and without padding."""
    scorer.eval()
    result = np.zeros((sum(len(rows) for *_, rows in batches), len(ids)), dtype=np.float32)
    with torch.no_grad():
        for pixels, pixel_mask, rows in batches:
            tokens, valid = scorer.image_tokens(pixels, pixel_mask)
            for place, row in enumerate(rows):
                visual = tokens[place][valid[place]][None]
                for text in range(len(ids)):
                    words = scorer.words(ids[text][mask[text].bool()])[None]
                    here, there = torch.ones(words.shape[:2]).bool(), torch.ones(visual.shape[:2]).bool()
                    result[row, text] = scorer.score_pairs(words, here, visual, there).item()
    return result


@pytest.mark.parametrize("pair_batch", [1, 5, 16, 10_000])
def test_equals_one_pair_at_a_time(pair_batch: int) -> None:
    batches, ids, mask = make_world()
    expected = brute_force(ToyScorer(), batches, ids, mask)
    scorer = ToyScorer().train()
    scores = score_all_pairs(scorer, batches, ids, mask, pair_batch=pair_batch, progress=False, image_count=7)
    np.testing.assert_allclose(scores, expected, atol=1e-5)
    assert np.ptp(expected) > 1.0  # a constant would agree with anything
    assert scores.dtype == np.float32
    assert (scorer.images, scorer.texts) == (7, 11)
    assert max(pairs for pairs, *_ in scorer.shapes) <= pair_batch
    assert scorer.training
    assert scorer.dropout.training


def test_frozen_parts_stay_frozen() -> None:
    scorer = ToyScorer().train()
    scorer.project.eval()
    batches, ids, mask = make_world()
    score_all_pairs(scorer, batches, ids, mask, progress=False)
    assert scorer.dropout.training
    assert not scorer.project.training


def test_blocks_hold_no_padding_of_images_and_little_of_texts() -> None:
    batches, ids, mask = make_world(images=8, texts=40)
    scorer = ToyScorer()
    score_all_pairs(scorer, batches, ids, mask, pair_batch=16, progress=False)
    true = sum(int(mask.sum()) for _ in range(8))
    assert sum(pairs * length for pairs, length, _ in scorer.shapes) < 1.1 * true
    valid = sum(int(m.sum()) for *_, m in [(0, ToyScorer().image_tokens(p, m)[1]) for p, m, _ in batches])
    assert sum(pairs * visual for pairs, _, visual in scorer.shapes) == valid * 40


def test_plan_covers_every_pair_once_and_starts_with_the_longest() -> None:
    plan = ScoringPlan.of([4, 6, 4, 6, 6], [3, 9, 5], pair_batch=4)
    assert plan.images.tolist() == [1, 3, 4, 0, 2]
    assert plan.texts.tolist() == [1, 2, 0]
    seen = np.zeros((5, 3), dtype=int)
    for block in plan.blocks():
        seen[block.image_start : block.image_end, block.text_start : block.text_end] += 1
        assert len(set(plan.image_lengths[block.image_start : block.image_end])) == 1
        assert (block.image_end - block.image_start) * (block.text_end - block.text_start) <= 4
    assert (seen == 1).all()
    blocks = list(plan.blocks())
    for number, block in enumerate(blocks[1:], start=1):
        assert list(plan.blocks(block.image_start, block.text_start)) == blocks[number:]


def test_plan_speaks_of_pairs_and_work() -> None:
    class Costly(ToyScorer):
        def pair_flops(self, text_tokens: int, visual_tokens: int) -> float:
            return 1e9 * text_tokens * visual_tokens

    plan = ScoringPlan.of([2, 3], [5, 1], pair_batch=8)
    assert plan.cost(Costly()) == 1e9 * (2 + 3) * (5 + 1)
    assert plan.cost(ToyScorer()) == 5 + 2 + 5 + 3 + 1 + 2 + 1 + 3
    first, second = plan.lines(Costly())
    assert "2 images x 2 texts = 4 pairs, on average 2.5 visual and 3.0 text tokens" in first
    assert "30.0 GFLOP in all, 7.500 per pair" in second
    assert len(plan.lines(ToyScorer())) == 1


def test_plan_and_time_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    batches, ids, mask = make_world()
    score_all_pairs(ToyScorer(), batches, ids, mask)
    said = capsys.readouterr().err
    assert "7 images x 11 texts = 77 pairs" in said
    assert "going by the first block" in said


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_storage_is_close(dtype: torch.dtype, tmp_path: Path) -> None:
    batches, ids, mask = make_world()
    exact = score_all_pairs(ToyScorer(), batches, ids, mask, progress=False)
    memory = score_all_pairs(ToyScorer(), batches, ids, mask, dtype=dtype, progress=False)
    disk = score_all_pairs(ToyScorer(), batches, ids, mask, dtype=dtype, out=tmp_path, fingerprint="a", progress=False)
    np.testing.assert_allclose(memory, exact, atol=0.05)
    assert not np.array_equal(memory, exact)
    np.testing.assert_array_equal(disk, memory)


def test_autocast_computes_in_bfloat16() -> None:
    batches, ids, mask = make_world()
    exact = score_all_pairs(ToyScorer(), batches, ids, mask, progress=False)
    half = score_all_pairs(ToyScorer(), batches, ids, mask, autocast=torch.bfloat16, progress=False)
    assert half.dtype == np.float32
    assert 0 < np.abs(half - exact).max() < 0.2


def test_a_number_too_large_for_float16_is_told() -> None:
    batches, ids, mask = make_world()
    scorer = ToyScorer()
    with torch.no_grad():
        scorer.project.bias.fill_(1e6)
    with pytest.raises(SohoError, match="not finite as float16"):
        score_all_pairs(scorer, batches, ids, mask, dtype=torch.float16, progress=False)


@pytest.mark.parametrize("die_after", [0, 1, 4])
def test_an_interrupted_run_goes_on_and_ends_with_the_identical_matrix(die_after: int, tmp_path: Path) -> None:
    batches, ids, mask = make_world()
    whole = score_all_pairs(ToyScorer(), batches, ids, mask, pair_batch=8, progress=False)
    scorer = ToyScorer()
    scorer.die_after = die_after
    options = {"pair_batch": 8, "out": tmp_path, "fingerprint": "a", "progress": False, "record_every": 0.0}
    with pytest.raises(KeyboardInterrupt):
        score_all_pairs(scorer, batches, ids, mask, **options)
    again = ToyScorer()
    scores = score_all_pairs(again, iter(()), ids, mask, **options)  # the images are cached: none is asked for
    np.testing.assert_array_equal(scores, whole)
    assert again.images == 0
    assert again.blocks + die_after == len(list(_blocks_of(batches, mask, 8)))
    np.testing.assert_array_equal(np.load(tmp_path / "scores.npy"), whole)
    assert not list(tmp_path.glob("image_tokens*"))


def _blocks_of(batches, mask: Tensor, pair_batch: int) -> Iterator[object]:
    lengths = {
        row: int(valid[i].sum())
        for p, m, rows in batches
        for valid in [ToyScorer().image_tokens(p, m)[1]]
        for i, row in enumerate(rows)
    }
    return ScoringPlan.of(
        [lengths[row] for *_, rows in batches for row in rows], mask.sum(1).tolist(), pair_batch
    ).blocks()


def test_long_pairs_come_in_smaller_blocks() -> None:
    # 600 x 1000 pixels have 160 cells; 16,384 tokens hold 93 pairs of 160 + 16.
    plan = ScoringPlan.of([160, 100], [16] * 200, 512, tokens=16_384)
    assert plan.pair_batch == 93
    assert next(plan.blocks()) == (0, 1, 0, 93)
    assert ScoringPlan.of([160], [16], 64, tokens=16_384).pair_batch == 64
    assert ScoringPlan.of([20_000], [16], 64, tokens=16_384).pair_batch == 1
    assert ScoringPlan.of([20_000], [16], 64).pair_batch == 64


def test_a_block_on_a_cpu_has_so_many_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    batches, ids, mask = make_world()
    scorer = ToyScorer()
    monkeypatch.setattr("soho.evaluation.pair_scoring.CPU_TOKENS_PER_BLOCK", 30)
    scores = score_all_pairs(scorer, batches, ids, mask, progress=False, image_count=7)
    assert max(pairs * (text + visual) for pairs, text, visual in scorer.shapes if pairs > 1) <= 30
    np.testing.assert_allclose(scores, score_all_pairs(ToyScorer(), batches, ids, mask, progress=False), atol=1e-6)


@pytest.mark.parametrize("seconds", [0.0, 1e6])
def test_freed_memory_is_given_back_now_and_then(seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    batches, ids, mask = make_world()
    given: list[None] = []
    monkeypatch.setattr("soho.evaluation.scoring_engine.GIVE_BACK_EVERY", seconds)
    monkeypatch.setattr("soho.evaluation.scoring_engine.give_back_freed_memory", lambda: given.append(None))
    scorer = ToyScorer()
    score_all_pairs(scorer, batches, ids, mask, pair_batch=8, progress=False)
    assert len(scorer.shapes) > 3
    assert len(given) == (0 if seconds else len(scorer.shapes))


def test_going_on_with_another_pair_batch_fills_everything(tmp_path: Path) -> None:
    batches, ids, mask = make_world()
    whole = score_all_pairs(ToyScorer(), batches, ids, mask, progress=False)
    scorer = ToyScorer()
    scorer.die_after = 3
    with pytest.raises(KeyboardInterrupt):
        score_all_pairs(scorer, batches, ids, mask, pair_batch=6, out=tmp_path, fingerprint="a", progress=False)
    scores = score_all_pairs(ToyScorer(), [], ids, mask, pair_batch=5, out=tmp_path, fingerprint="a", progress=False)
    np.testing.assert_allclose(scores, whole, atol=1e-5)


def test_images_encoded_before_an_interruption_are_not_encoded_again(tmp_path: Path) -> None:
    batches, ids, mask = make_world()
    whole = score_all_pairs(ToyScorer(), batches, ids, mask, progress=False)

    def broken() -> Iterator[tuple[Tensor, Tensor, list[int]]]:
        yield from batches[:2]
        raise OSError("disk unplugged")

    with pytest.raises(OSError, match="unplugged"):
        score_all_pairs(ToyScorer(), broken(), ids, mask, out=tmp_path, fingerprint="a", progress=False)
    with (tmp_path / "image_tokens.bin").open("ab") as file:
        file.write(b"written but not noted")
    with (tmp_path / "image_tokens.jsonl").open("a") as file:
        file.write('{"rows": [5')
    scorer = ToyScorer()
    scores = score_all_pairs(scorer, batches, ids, mask, out=tmp_path, fingerprint="a", progress=False)
    assert scorer.images == 3
    np.testing.assert_array_equal(scores, whole)


def test_finished_scores_are_only_read(tmp_path: Path) -> None:
    batches, ids, mask = make_world()
    first = score_all_pairs(ToyScorer(), batches, ids, mask, out=tmp_path, fingerprint="a", progress=False)
    (tmp_path / "image_tokens.bin").touch()  # as a kill in the last moment leaves it
    scorer = ToyScorer()
    again = score_all_pairs(scorer, [], ids, mask, out=tmp_path, fingerprint="a", progress=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["progress.json", "scores.npy"]
    np.testing.assert_array_equal(first, again)
    assert scorer.blocks == 0


def test_scores_of_another_model_or_of_other_texts_are_replaced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    batches, ids, mask = make_world()
    score_all_pairs(ToyScorer(), batches, ids, mask, out=tmp_path, fingerprint="a", progress=False)
    scorer = ToyScorer()
    with torch.no_grad():
        scorer.words.weight.mul_(2)
    scores = score_all_pairs(scorer, batches, ids, mask, out=tmp_path, fingerprint="b")
    np.testing.assert_array_equal(scores, score_all_pairs(scorer, batches, ids, mask, progress=False))
    assert "another model, data or precision; they are replaced" in capsys.readouterr().err
    fewer = score_all_pairs(scorer, batches, ids[:4], mask[:4], out=tmp_path, fingerprint="b", progress=False)
    np.testing.assert_allclose(fewer, scores[:, :4], atol=1e-5)


KILLED = """
import json, os, signal, sys
from pathlib import Path
from tests.unit.evaluation.toy_scorer import VectorScorer, make_world
from soho.evaluation.pair_scoring import score_all_pairs

class Killed(VectorScorer):
    def score_pairs(self, *tensors):
        if self.blocks == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().score_pairs(*tensors)

batches, ids, mask = make_world()
score_all_pairs(Killed(), batches, ids, mask, out=Path(sys.argv[1]), **json.loads(sys.argv[2]))
"""


@pytest.mark.parametrize("shortlist", [None, 3])
def test_killed_twice(shortlist: int | None, tmp_path: Path) -> None:
    batches, ids, mask = make_world()
    options = {"pair_batch": 4, "fingerprint": "a", "progress": False, "record_every": 0.0, "shortlist": shortlist}
    whole = score_all_pairs(VectorScorer(), batches, ids, mask, **options)
    root = Path(__file__).resolve().parents[3]
    command = [sys.executable, "-c", KILLED, str(tmp_path), json.dumps(options)]
    # This test's own package first, or an installed one would be tested.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join((str(root / "src"), str(root)))}
    places = []
    for _ in range(2):
        done = subprocess.run(command, cwd=root, env=environment, check=False)
        assert done.returncode == -9
        record = json.loads((tmp_path / "progress.json").read_text())
        places.append((record["image"], record["text"]))
    assert (0, 0) < places[0] < places[1]
    assert np.isnan(np.load(tmp_path / "scores.npy")).any()
    scorer = VectorScorer()
    scores = score_all_pairs(scorer, [], ids, mask, out=tmp_path, **options)  # no image is encoded again
    np.testing.assert_array_equal(scores, whole)
    uninterrupted = VectorScorer()
    score_all_pairs(uninterrupted, batches, ids, mask, **options)
    assert scorer.blocks == uninterrupted.blocks - 6


@pytest.mark.parametrize("shortlist", [None, 3])
def test_where_a_run_goes_on_is_told(shortlist: int | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    batches, ids, mask = make_world()
    options = {"pair_batch": 4, "out": tmp_path, "fingerprint": "a", "shortlist": shortlist}
    scorer = VectorScorer()
    scorer.die_after = 5
    with pytest.raises(KeyboardInterrupt):
        score_all_pairs(scorer, batches, ids, mask, progress=False, **options)
    score_all_pairs(VectorScorer(), batches, ids, mask, **options)
    done = sum(pairs for pairs, *_ in scorer.shapes)
    assert f"going on after {done} pairs that are in {tmp_path / 'scores.npy'}" in capsys.readouterr().err


@pytest.mark.parametrize("deal", [False, True])
def test_shards_are_rows_of_the_whole(deal: bool, tmp_path: Path) -> None:
    batches, ids, mask = make_world()
    whole = score_all_pairs(ToyScorer(), batches, ids, mask, progress=False)
    for rank in range(3):
        own = set(shard_rows(7, rank, 3).tolist())
        mine = batches
        if deal:  # the caller may also hand out only the rows of the shard
            mine = [(p[[i]], m[[i]], [row]) for p, m, rows in batches for i, row in enumerate(rows) if row in own]
        scorer = ToyScorer()
        options = {"out": tmp_path, "fingerprint": "a", "progress": False, "image_count": 7}
        part = score_all_pairs(scorer, mine, ids, mask, rank=rank, world_size=3, **options)
        assert scorer.images == len(own)
        np.testing.assert_allclose(part, whole[rank::3], atol=1e-6)


def test_an_image_of_padding_alone_is_scored() -> None:
    batches, ids, mask = make_world()
    pixels, pixel_mask, rows = batches[0]
    batches[0] = (pixels, torch.zeros_like(pixel_mask), rows)
    assert np.isfinite(score_all_pairs(ToyScorer(), batches, ids, mask, progress=False)).all()


def test_rows_must_be_whole() -> None:
    batches, ids, mask = make_world()
    with pytest.raises(SohoError, match="row 0 is missing"):
        score_all_pairs(ToyScorer(), batches[1:], ids, mask, progress=False)
    with pytest.raises(SohoError, match="row 7 is missing"):
        score_all_pairs(ToyScorer(), batches, ids, mask, progress=False, image_count=8)
    with pytest.raises(SohoError, match="row 0 came twice"):
        score_all_pairs(ToyScorer(), [*batches, batches[0]], ids, mask, progress=False)
    with pytest.raises(SohoError, match="no images"):
        score_all_pairs(ToyScorer(), [], ids, mask, progress=False)
    with pytest.raises(SohoError, match="no texts"):
        score_all_pairs(ToyScorer(), batches, ids[:0], mask[:0], progress=False)
    with pytest.raises(SohoError, match="2 images came with 1 row"):
        score_all_pairs(ToyScorer(), [(*batches[0][:2], [0])], ids, mask, progress=False)


def test_a_score_that_is_not_a_number_is_named() -> None:
    class Broken(ToyScorer):
        def score_pairs(self, *tensors: Tensor) -> Tensor:
            return super().score_pairs(*tensors) * float("nan")

    batches, ids, mask = make_world()
    # The first image with the most valid cells is that of row 6, the first text with six tokens is text 2.
    with pytest.raises(SohoError, match="the score of image 6 and text 2 is not a number"):
        score_all_pairs(Broken(), batches, ids, mask, pair_batch=1, progress=False)


def test_scores_on_disk_need_a_fingerprint(tmp_path: Path) -> None:
    batches, ids, mask = make_world()
    with pytest.raises(SohoError, match="fingerprint"):
        score_all_pairs(ToyScorer(), batches, ids, mask, out=tmp_path, progress=False)


def test_fingerprint_knows_weights_and_parts() -> None:
    same, other = ToyScorer(), ToyScorer()
    assert fingerprint_of(same, "data", 3) == fingerprint_of(other, "data", 3)
    assert fingerprint_of(same, "data", 3) != fingerprint_of(other, "data", 4)
    with torch.no_grad():
        other.project.bias[0] += 1e-3
    assert fingerprint_of(same, "data", 3) != fingerprint_of(other, "data", 3)
