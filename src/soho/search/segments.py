"""A segment: the tokens and vectors of up to a few thousand pictures, written once and never changed.

On disk it is `segment-000001.bin` and `.jsonl`, a `TokenStore`, and `segment-000001.npy`, the vectors, which are
computed from the stored tokens. Whether a segment counts is said by the catalogue alone.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from soho.errors import SohoError
from soho.evaluation.scoring_engine import Engine
from soho.evaluation.token_store import TokenStore

# Pictures that get their vectors, or are copied, in one go.
CHUNK = 64

Indices = npt.NDArray[np.int64]
Vectors = npt.NDArray[np.float32]


def segment_path(folder: Path, number: int) -> Path:
    """Return the folder and the name without suffix of a segment's files."""
    return folder / f"segment-{number:06d}"


class Segment:
    """A finished segment, opened for reading; its files are read when first asked.

    Args:
        folder: of the index.
        number: of the segment.
        live: (R,) rows whose pictures are still in the library, ascending.
    """

    def __init__(self, folder: Path, number: int, live: Indices) -> None:
        self.folder, self.number, self.live = folder, number, live

    @cached_property
    def vectors(self) -> Vectors:
        """(n, D) unit vectors of all rows, as a memory map.

        Raises:
            SohoError: the file is missing or damaged.
        """
        path = segment_path(self.folder, self.number).with_suffix(".npy")
        try:
            return np.load(path, mmap_mode="r")  # type: ignore[no-any-return]
        except (OSError, ValueError) as error:
            raise SohoError(
                f"{path} cannot be read ({error}); open the index again if it was updated meanwhile, else make it anew"
            ) from None

    @cached_property
    def store(self) -> TokenStore:
        """The tokens of all rows.

        Raises:
            SohoError: the files are missing or damaged.
        """
        return TokenStore.read(segment_path(self.folder, self.number))

    def counts(self, rows: Indices) -> Indices:
        """Return how many tokens the pictures in some rows have."""
        return np.asarray(self.store.counts, dtype=np.int64)[rows]


def take_tokens(segments: Sequence[Segment], places: Sequence[tuple[int, int]]) -> tuple[Tensor, Tensor]:
    """Return the tokens of pictures that may lie in several segments, padded to the longest of them.

    Args:
        segments: of the index.
        places: (place of the segment, row) of each of k pictures; at least one.

    Returns:
        (k, N, C) float32 tokens and (k, N) bool mask.
    """
    table = np.asarray(places, dtype=np.int64).reshape(-1, 2)
    parts: list[tuple[Indices, Tensor, Tensor]] = []
    for place in np.unique(table[:, 0]):
        own = np.flatnonzero(table[:, 0] == place)
        parts.append((own, *segments[place].store.take(table[own, 1])))
    length = max(mask.shape[1] for _, _, mask in parts)
    tokens = torch.zeros(len(table), length, parts[0][1].shape[2])
    valid = torch.zeros(len(table), length, dtype=torch.bool)
    for own, some, mask in parts:
        rows = torch.from_numpy(own)
        tokens[rows, : mask.shape[1]] = some.float()
        valid[rows, : mask.shape[1]] = mask
    return tokens, valid


def write_vectors(engine: Engine, store: TokenStore, path: Path) -> None:
    """Write the contrastive vectors of a finished store beside it; a file with its final name is whole.

    Args:
        engine: of the model, ready.
        store: of the segment.
        path: of the segment, without suffix.
    """
    count = len(store.rows)
    parts = []
    for start in range(0, count, CHUNK):
        tokens, mask = store.take(np.arange(start, min(start + CHUNK, count)))
        parts.append(engine.image_vectors(tokens, mask).cpu().numpy())
    write_whole(path.with_suffix(".npy"), lambda file: np.save(file, np.concatenate(parts)))


def merge(old: Sequence[Segment], folder: Path, number: int, dtype: torch.dtype) -> list[tuple[int, int]]:
    """Write one segment with the live rows of several, in their order; the pictures are not encoded again.

    Returns:
        (place among `old`, row there) of each row of the new segment.
    """
    path = segment_path(folder, number)
    TokenStore.discard(path)
    store = TokenStore(dtype, path, key="merged")
    places = [(place, int(row)) for place, segment in enumerate(old) for row in segment.live]
    for start in range(0, len(places), CHUNK):
        part = places[start : start + CHUNK]
        store.add(*take_tokens(old, part), range(start, start + len(part)))
    store.finish()
    vectors = np.concatenate([np.asarray(segment.vectors)[segment.live] for segment in old])
    write_whole(path.with_suffix(".npy"), lambda file: np.save(file, vectors))
    return places


def discard(folder: Path, keep: Sequence[int]) -> None:
    """Delete the files of all segments but some: those that a kill left behind, or that were merged into others."""
    names = {segment_path(folder, number).name for number in keep}
    for file in sorted(folder.glob("segment-*")):
        if file.name.split(".")[0] not in names:
            file.unlink(missing_ok=True)


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file under another name, flush it, and only then give it its own."""
    temporary = path.with_name(f"{path.stem}.part{path.suffix}")
    write(temporary)
    with temporary.open("rb+") as file:
        os.fsync(file.fileno())
    os.replace(temporary, path)
