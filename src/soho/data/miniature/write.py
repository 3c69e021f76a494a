"""Puts the embedded world on the disk: pictures in a folder or a zip file, annotations as JSON."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from soho.data.miniature.draw import encode
from soho.data.miniature.scene import Scene
from soho.errors import SohoError

WORLD_FILE = "world.json"
_CHUNK = 32
_EPOCH = (2024, 1, 1, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Job:
    """A scene to draw, and under which names to write it, per image format (JPEG, PNG)."""

    scene: Scene
    names: dict[str, list[str]]


def prepare_folder(out: Path) -> None:
    """Make the folder, and clear an earlier world out of it.

    Raises:
        SohoError: if there is a folder with other things in it.
    """
    if out.exists() and not out.is_dir():
        raise SohoError(f"{out} is a file; the embedded world needs a folder")
    if out.exists() and any(out.iterdir()) and not (out / WORLD_FILE).exists():
        raise SohoError(f"{out} holds other files; give an empty folder or one with an earlier embedded world")
    out.mkdir(parents=True, exist_ok=True)
    # The sign that the folder is ours, so that an interrupted run can be repeated; the record itself comes last.
    (out / WORLD_FILE).write_text('{"unfinished": true}', encoding="utf-8")
    (out / "images.zip").unlink(missing_ok=True)
    for name in ("images", "annotations"):
        shutil.rmtree(out / name, ignore_errors=True)
    (out / "annotations").mkdir()


class ImageSink:
    """Writes pictures under relative names into `out/images/` or into `out/images.zip`, the same bytes either way."""

    def __init__(self, out: Path, zipped: bool) -> None:
        self._folder = out / "images"
        self._zip = zipfile.ZipFile(out / "images.zip", "w", zipfile.ZIP_STORED) if zipped else None
        self._made: set[Path] = set()

    def write(self, names: Sequence[str], data: bytes) -> None:
        """Write one picture under one or more names (hard links where the file system has them)."""
        if self._zip is not None:
            for name in names:
                self._zip.writestr(zipfile.ZipInfo(name, _EPOCH), data)
            return
        paths = [self._folder / name for name in names]
        for path in paths:
            if path.parent not in self._made:
                path.parent.mkdir(parents=True, exist_ok=True)
                self._made.add(path.parent)
        paths[0].write_bytes(data)
        for path in paths[1:]:
            try:
                path.hardlink_to(paths[0])
            except OSError:
                path.write_bytes(data)

    def __enter__(self) -> ImageSink:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._zip is not None:
            self._zip.close()


def _encode_many(jobs: Sequence[Job], seed: int) -> list[list[bytes]]:
    return [encode(job.scene, seed, tuple(job.names)) for job in jobs]


def encoded(jobs: Sequence[Job], seed: int, workers: int) -> Iterator[list[bytes]]:
    """Yield the encoded files of every job in order; their bytes don't depend on the number of workers."""
    chunks = [jobs[start : start + _CHUNK] for start in range(0, len(jobs), _CHUNK)]
    if workers <= 1 or len(chunks) == 1:
        for chunk in chunks:
            yield from _encode_many(chunk, seed)
        return
    with ProcessPoolExecutor(min(workers, len(chunks))) as pool:
        futures = deque(pool.submit(_encode_many, chunk, seed) for chunk in chunks)
        while futures:
            yield from futures.popleft().result()


def write_json(path: Path, value: Any) -> None:
    """Write one JSON document."""
    path.write_text(json.dumps(value, separators=(",", ":")), encoding="utf-8")


def write_lines(path: Path, values: Iterable[Any]) -> None:
    """Write JSON lines."""
    path.write_text("".join(json.dumps(value) + "\n" for value in values), encoding="utf-8")
