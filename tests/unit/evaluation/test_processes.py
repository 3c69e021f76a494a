"""Two processes with gloo: metrics are merged and shards of scores are gathered."""

from __future__ import annotations

import socket
from pathlib import Path

import numpy as np
import pytest
import torch.distributed as dist
from torch import multiprocessing

from soho.evaluation.metrics import Mean, merge_processes
from soho.evaluation.score_matrix import gather_scores, shard_rows

WHOLE = np.arange(7 * 3, dtype=np.float32).reshape(7, 3)


def work(rank: int, port: int, out: str) -> None:
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    whole = gather_scores(WHOLE[shard_rows(7, rank, 2)], 7)
    mean = merge_processes(Mean(sum=10.0 * (rank + 1), count=rank + 1))
    np.savez(Path(out) / f"{rank}.npz", whole=whole, mean=[mean.sum, mean.count])
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


def test_one_process_keeps_its_scores() -> None:
    assert gather_scores(WHOLE, 7) is WHOLE
