"""The matrix of pair scores: filled in parts, flushed before it is believed, joined over processes."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist

from soho.errors import SohoError
from soho.evaluation.scoring_plan import Block, Indices

Scores = npt.NDArray[np.float32]

V = TypeVar("V")

# What the matrices on disk are called.
SCORES = "scores"
FIRST_STAGE = "first_stage"

# Rows of a shard that are on the device at one time while shards are gathered.
GATHER_ROWS = 256


class ScoreMatrix:
    """The score matrix of one process and how far it is filled.

    On disk it is `scores.npy` and the record `progress.json` (`first_stage.npy` and `first_stage_progress.json` with
    the stem "first_stage"); the matrix is always flushed before the record is written, so that a record never promises
    scores that a kill has taken.

    Args:
        out: their folder; None = memory.
        key: names everything that the scores depend on; a record with another key is not believed.
        rank: number of this process.
        world_size: number of processes; with several, file names end in `-<rank>-of-<world_size>`.
        content: names model, data and precision alone, so that matrices made in different ways can be compared; it is
            written into the record.
        stem: what the file of the matrix is called.

    Attributes:
        complete: whether all scores are there.
        image: images done, in the order of the plan.
        text: texts (in a shortlist: pairs) done for the images that are under way.
    """

    def __init__(
        self,
        out: Path | None,
        key: str,
        rank: int = 0,
        world_size: int = 1,
        *,
        content: str = "",
        stem: str = SCORES,
    ) -> None:
        self.key, self.content, self.complete = key, content, False
        self.image = self.text = self.pair_batch = 0
        self._others = False  # whether scores of another model or data lay there
        self._path: Path | None = None
        self._progress: Path | None = None
        if out is not None:
            self._path, self._progress = matrix_files(out, stem, rank, world_size)
        self._matrix: Scores | None = None
        self._shape: list[int] = []
        if self._progress is not None and self._progress.exists():
            found = json.loads(self._progress.read_text())
            self._others = found["key"] != key
            if not self._others and self._path is not None and self._path.exists():
                self.image, self.text = found["image"], found["text"]
                self.pair_batch, self._shape, self.complete = found["pair_batch"], found["shape"], found["complete"]
                if self.complete and found.get("content") != content:
                    self.save()  # made before records told their content

    @property
    def all_reached(self) -> bool:
        """Whether all images are done, though the matrix may not be finished."""
        return bool(self._shape) and self.image == self._shape[0]

    def begin(self, images: int, texts: int, pair_batch: int) -> None:
        """Open the matrix at the recorded place, or a new one full of NaN."""
        fresh = self._shape != [images, texts]
        if self.pair_batch != pair_batch:
            self.text = 0  # blocks are cut differently now: redo the images that were under way
        if fresh:
            self.image = self.text = 0
        self.pair_batch, self._shape = pair_batch, [images, texts]
        if self._path is None or self._progress is None:
            self._matrix = np.full((images, texts), np.nan, dtype=np.float32)
            return
        if not images * texts:  # an empty file cannot be mapped
            np.save(self._path, np.zeros((images, texts), dtype=np.float32))
            return
        if fresh:
            self._progress.unlink(missing_ok=True)
            self._path.unlink(missing_ok=True)  # not emptied: somebody may still read the old one
            self._matrix = np.lib.format.open_memmap(self._path, "w+", np.float32, (images, texts))
            self._matrix[:] = np.nan
        else:
            self._matrix = np.lib.format.open_memmap(self._path, "r+")
        self.save()

    def lines(self, done: int) -> list[str]:
        """Say what was found at the place where scores are kept, if anything: for instance scores of `done` pairs."""
        if self._others:
            return [f"pair scoring: {self._path} held scores of another model, data or precision; they are replaced"]
        if done:
            return [f"pair scoring: going on after {done:,} pairs that are in {self._path}"]
        return []

    def write(self, rows: Indices, columns: Indices, scores: Scores) -> None:
        """Put a block into the matrix."""
        assert self._matrix is not None
        self._matrix[np.ix_(rows, columns)] = scores

    def write_pairs(self, rows: Indices, columns: Indices, scores: Scores) -> None:
        """Put (P,) scores at their (P,) rows and columns."""
        assert self._matrix is not None
        self._matrix[rows, columns] = scores

    def rows(self, part: slice) -> Scores:
        """Return some rows of the matrix, to be read and changed in place."""
        assert self._matrix is not None
        return self._matrix[part]

    def reached(self, block: Block, texts: int) -> None:
        """Note that everything up to the end of `block` is done."""
        whole = block.text_end == texts
        self.image, self.text = (block.image_end, 0) if whole else (block.image_start, block.text_end)

    def finish(self) -> None:
        """Note that the matrix is whole."""
        self.complete = True
        self.save()

    def save(self) -> None:
        """Flush the matrix, then write the record, in one step that a kill cannot halve."""
        if self._progress is None:
            return
        if isinstance(self._matrix, np.memmap):
            self._matrix.flush()
        fields = {
            "key": self.key,
            "content": self.content,
            "image": self.image,
            "text": self.text,
            "pair_batch": self.pair_batch,
            "shape": self._shape,
            "complete": self.complete,
        }
        partial = self._progress.with_suffix(".partial")
        with partial.open("w") as file:
            json.dump(fields, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, self._progress)

    def scores(self) -> Scores:
        """Return the matrix, read-only where it is a file."""
        if self._path is None:
            assert self._matrix is not None
            return self._matrix
        return _load(self._path)


def shard_rows(images: int, rank: int, world_size: int) -> Indices:
    """Return the image rows that process `rank` of `world_size` scores: every `world_size`-th."""
    return np.arange(rank, images, world_size, dtype=np.int64)


def gather_scores(shard: Scores, images: int) -> Scores:
    """Join the shards of all processes of torch.distributed; collective.

    Args:
        shard: (own rows, texts), what `score_all_pairs` returned with this process's rank and world size.
        images: number of images over all processes.

    Returns:
        (images, texts) in every process; `shard` itself where there is only one process.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return shard
    world = dist.get_world_size()
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    whole = np.empty((images, shard.shape[1]), dtype=np.float32)
    step = GATHER_ROWS
    for start in range(0, -(-images // world), step):
        mine = torch.zeros(step, shard.shape[1], device=device)
        part = np.array(shard[start : start + step])
        mine[: len(part)] = torch.from_numpy(part).to(device)
        parts = [torch.empty_like(mine) for _ in range(world)]
        dist.all_gather(parts, mine)
        for rank, rows in enumerate(parts):
            places = shard_rows(images, rank, world)[start : start + step]
            whole[places] = rows[: len(places)].cpu().numpy()
    return whole


def over_processes(value: V, world_size: int) -> list[V]:
    """Return the values of all processes of torch.distributed, in rank order; collective.

    Raises:
        SohoError: there should be several processes, but torch.distributed does not know them.
    """
    if world_size == 1:
        return [value]
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() != world_size:
        raise SohoError(f"a shortlist over {world_size} processes needs torch.distributed with as many")
    values: list[Any] = [None] * world_size
    dist.all_gather_object(values, value)
    return values


def matrix_files(folder: Path, stem: str, rank: int, world_size: int) -> tuple[Path, Path]:
    """Return the files of one process's matrix and of its record."""
    progress = "progress" if stem == SCORES else f"{stem}_progress"
    return folder / f"{named(stem, rank, world_size)}.npy", folder / f"{named(progress, rank, world_size)}.json"


def named(stem: str, rank: int, world_size: int) -> str:
    """Return the file name stem of one process's part."""
    return stem if world_size == 1 else f"{stem}-{rank}-of-{world_size}"


def _load(path: Path) -> Scores:
    # A process without rows (more processes than images) has a file that is all header, which cannot be mapped.
    return np.load(path, mmap_mode="r") if path.stat().st_size > 128 else np.load(path)
