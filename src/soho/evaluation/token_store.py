"""Token sequences of different lengths, kept without their padding, in memory or in a file that survives a kill."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from soho.errors import SohoError

# numpy has no bfloat16: its bits are kept as integers of the same width.
_STORED = {torch.float32: np.float32, torch.float16: np.float16, torch.bfloat16: np.int16}


class TokenStore:
    """Rows of tokens (n_i, C) with their own n_i, packed into one array (sum of n_i, C).

    On disk it is `<name>.bin`, the packed numbers, and `<name>.jsonl`, one line per `add`, written only after the
    numbers it speaks of are on the disk. A store that was killed goes on after its last whole line.

    Args:
        dtype: how numbers are kept: torch.float32, torch.float16 or torch.bfloat16.
        path: folder and name without suffix; None = memory.
        key: names what the tokens belong to; files with another key are replaced.

    Raises:
        SohoError: another dtype.
    """

    def __init__(self, dtype: torch.dtype, path: Path | None = None, key: str = "") -> None:
        if dtype not in _STORED:
            raise SohoError(f"tokens are kept as float32, float16 or bfloat16, not {str(dtype).removeprefix('torch.')}")
        self.dtype = dtype
        self.rows: list[int] = []
        self.counts: list[int] = []
        self.complete = False
        self._width = 0
        self._given = dtype
        self._parts: list[npt.NDArray[Any]] = []
        self._packed: npt.NDArray[Any] | None = None
        self._offsets: npt.NDArray[np.int64] = np.zeros(0, dtype=np.int64)
        self._data: Path | None = None
        self._journal: Path | None = None
        if path is not None:
            self._data, self._journal = _files(path)
            self._open(key)

    @classmethod
    def read(cls, path: Path) -> TokenStore:
        """Open the files of a finished store for `take` alone; nothing on the disk is touched.

        Args:
            path: folder and name without suffix.

        Raises:
            SohoError: there is no finished store.
        """
        data, journal = _files(path)
        lines, _ = _whole_lines(journal)
        if not lines or not lines[-1].get("complete") or not data.exists():
            raise SohoError(f"{data} and {journal.name} are not a finished store of tokens")
        store = cls(getattr(torch, lines[0]["dtype"]))
        store._data, store._journal, store.complete = data, journal, True
        for line in lines[1:-1]:
            store._take_in(line)
        if data.stat().st_size < store._bytes():
            raise SohoError(f"{data} is shorter than {journal} says; the store is damaged")
        store.finish()
        return store

    def add(self, tokens: Tensor, mask: Tensor, rows: Sequence[int]) -> None:
        """Append rows.

        Args:
            tokens: (B, N, C) floating.
            mask: (B, N) bool, True at tokens to keep.
            rows: the B numbers under which the caller knows the rows.

        Raises:
            SohoError: a number does not fit into the dtype.
        """
        kept = tokens[mask.bool()].to(self.dtype).cpu()  # (sum of n_i, C)
        if not torch.isfinite(kept).all():
            name = str(self.dtype).removeprefix("torch.")
            raise SohoError(
                f"a token of row {rows[0]} or its batch mates is not finite as {name}; bfloat16 and float32 hold "
                "larger numbers"
            )
        counts = [int(count) for count in mask.sum(dim=1)]
        self._width, self._given = kept.shape[1], tokens.dtype
        numbers = (kept.view(torch.int16) if self.dtype == torch.bfloat16 else kept).contiguous().numpy()
        if self._data is None:
            self._parts.append(numbers)
        else:
            with self._data.open("ab") as file:
                file.write(numbers.tobytes())
                file.flush()
                os.fsync(file.fileno())
            given = str(tokens.dtype).removeprefix("torch.")
            self._note({"rows": list(rows), "counts": counts, "width": self._width, "given": given})
        self.rows.extend(int(row) for row in rows)
        self.counts.extend(counts)

    def finish(self) -> None:
        """Say that nothing more comes; from then on rows can be taken."""
        if self._data is None:
            self._packed = np.concatenate(self._parts) if self._parts else None
            self._parts = []
        else:
            if not self.complete:
                self._note({"complete": True})
            if sum(self.counts):
                shape = (sum(self.counts), self._width)
                self._packed = np.memmap(self._data, dtype=_STORED[self.dtype], mode="r", shape=shape)
        self._offsets = np.cumsum([0, *self.counts], dtype=np.int64)
        self.complete = True

    def take(self, positions: npt.NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Return rows by their position in `rows`, padded to the longest of them.

        Args:
            positions: (B,) positions.

        Returns:
            (B, n, C) tokens in the dtype in which they were given to `add`, zero at padding, and (B, n) bool mask;
            n is at least 1.
        """
        counts = np.asarray(self.counts, dtype=np.int64)[positions]
        length = max(1, int(counts.max(initial=0)))
        steps = np.arange(length)
        mask = torch.from_numpy(steps < counts[:, None])  # (B, n)
        tokens = torch.zeros(len(positions), length, self._width, dtype=self.dtype)
        if self._packed is not None:
            index = (self._offsets[positions][:, None] + steps)[mask.numpy()]
            numbers = torch.from_numpy(np.ascontiguousarray(self._packed[index]))
            tokens[mask] = numbers.view(torch.bfloat16) if self.dtype == torch.bfloat16 else numbers
        return tokens.to(self._given), mask

    def remove(self) -> None:
        """Delete the files, where there are any."""
        self._packed = None
        if self._data is not None:
            self.discard(self._data.with_suffix(""))

    @staticmethod
    def discard(path: Path) -> None:
        """Delete the files of a store that may have been at `path`."""
        for file in reversed(_files(path)):  # the journal first: it must never speak of numbers that are gone
            file.unlink(missing_ok=True)

    def _open(self, key: str) -> None:
        """Go on with files of the same key, or begin new ones."""
        assert self._data is not None
        assert self._journal is not None
        head = {"key": key, "dtype": str(self.dtype).removeprefix("torch.")}
        lines, length = _whole_lines(self._journal)
        if not lines or lines[0] != head or not self._data.exists():
            self.remove()
            self._data.parent.mkdir(parents=True, exist_ok=True)
            self._data.touch()
            self._note(head)
            return
        for line in lines[1:]:
            if line.get("complete"):
                self.complete = True
                break
            self._take_in(line)
        size = self._bytes()
        if self._data.stat().st_size < size:
            raise SohoError(f"{self._data} is shorter than {self._journal} says; delete both to start again")
        os.truncate(self._data, size)
        # A torn last line would swallow the next one.
        os.truncate(self._journal, length)

    def _take_in(self, line: dict[str, Any]) -> None:
        self.rows += line["rows"]
        self.counts += line["counts"]
        self._width, self._given = line["width"], getattr(torch, line["given"])

    def _bytes(self) -> int:
        return sum(self.counts) * self._width * np.dtype(_STORED[self.dtype]).itemsize

    def _note(self, line: dict[str, Any]) -> None:
        assert self._journal is not None
        with self._journal.open("a") as file:
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())


def _files(path: Path) -> tuple[Path, Path]:
    return path.with_name(path.name + ".bin"), path.with_name(path.name + ".jsonl")


def _whole_lines(path: Path) -> tuple[list[dict[str, Any]], int]:
    """Return the lines of a JSONL file up to one that was torn by a kill, and their length in bytes."""
    found: list[dict[str, Any]] = []
    length = 0
    for line in path.read_bytes().splitlines(keepends=True) if path.exists() else []:
        try:
            found.append(json.loads(line if line.endswith(b"\n") else b"torn"))
        except json.JSONDecodeError:
            break
        length += len(line)
    return found, length
