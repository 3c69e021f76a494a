"""Two processes with gloo: metrics are merged, shards of scores are gathered, a shortlist is made together."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import numpy as np
import pytest
import torch.distributed as dist
from torch import multiprocessing

from soho.evaluation.metrics import Mean, merge_processes
from soho.evaluation.pair_scoring import score_all_pairs
from soho.evaluation.score_matrix import gather_scores, shard_rows
from tests.unit.evaluation.toy_scorer import VectorScorer, make_world

WHOLE = np.arange(7 * 3, dtype=np.float32).reshape(7, 3)


def work(rank: int, port: int, out: str) -> None:
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    whole = gather_scores(WHOLE[shard_rows(7, rank, 2)], 7)
    mean = merge_processes(Mean(sum=10.0 * (rank + 1), count=rank + 1))
    batches, ids, mask = make_world()
    folder = Path(out) / "shortlist"
    options = {"shortlist": 2, "progress": False, "rank": rank, "world_size": 2, "image_count": 7}
    short = gather_scores(score_all_pairs(VectorScorer(), batches, ids, mask, **options), 7)
    score_all_pairs(VectorScorer(), batches, ids, mask, out=folder, fingerprint="a", **options)
    # A kill that came after one process was done: they still have to find the lowest score of all together.
    record = folder / "progress-1-of-2.json"
    if rank == 1:
        record.write_text(json.dumps({**json.loads(record.read_text()), "complete": False, "image": 0}))
    scorer = VectorScorer()
    again = gather_scores(score_all_pairs(scorer, batches, ids, mask, out=folder, fingerprint="a", **options), 7)
    np.savez(
        Path(out) / f"{rank}.npz",
        whole=whole,
        mean=[mean.sum, mean.count],
        short=short,
        again=again,
        blocks=scorer.blocks,
    )
    dist.destroy_process_group()


@pytest.mark.distributed
def test_every_process_gets_the_whole(tmp_path: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    multiprocessing.spawn(work, args=(port, str(tmp_path)), nprocs=2)
    for rank in range(2):
        found = np.load(tmp_path / f"{rank}.npz")
        np.testing.assert_array_equal(found["whole"], WHOLE)
        assert found["mean"].tolist() == [30.0, 3.0]
        batches, ids, mask = make_world()
        alone = score_all_pairs(VectorScorer(), batches, ids, mask, shortlist=2, progress=False)
        np.testing.assert_allclose(found["short"], alone, atol=1e-5)
        np.testing.assert_array_equal(found["again"], found["short"])
        assert (found["blocks"] > 0) == (rank == 1)


def test_one_process_keeps_its_scores() -> None:
    assert gather_scores(WHOLE, 7) is WHOLE
