"""A finished token store opened for reading alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from soho.errors import SohoError
from soho.evaluation.token_store import TokenStore


def test_a_finished_store_is_read_without_touching_it(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    store = TokenStore(torch.float16, path, "key")
    tokens = torch.arange(24.0).reshape(2, 3, 4)
    mask = torch.tensor([[True, True, True], [True, False, False]])
    store.add(tokens, mask, [5, 3])
    with pytest.raises(SohoError, match=r"tokens\.bin and tokens\.jsonl are not a finished store of tokens"):
        TokenStore.read(path)
    store.finish()
    before = {file.name: file.stat().st_mtime_ns for file in tmp_path.iterdir()}

    read = TokenStore.read(path)
    assert (read.rows, read.counts, read.dtype) == ([5, 3], [3, 1], torch.float16)
    taken, valid = read.take(torch.tensor([1, 0]).numpy())
    assert valid.tolist() == [[True, False, False], [True, True, True]]
    assert taken.tolist() == [[[12, 13, 14, 15], [0] * 4, [0] * 4], tokens[0].tolist()]
    assert {file.name: file.stat().st_mtime_ns for file in tmp_path.iterdir()} == before

    (tmp_path / "tokens.bin").write_bytes(b"\0" * 30)  # 4 tokens of 4 half-precision numbers are 32 bytes
    with pytest.raises(SohoError, match=r"tokens\.bin is shorter than .*tokens\.jsonl says"):
        TokenStore.read(path)
    with pytest.raises(SohoError, match="are not a finished store"):
        TokenStore.read(tmp_path / "gone")
