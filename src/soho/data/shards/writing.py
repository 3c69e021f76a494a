"""Writes the sources of a recipe as shards.

A sample is a picture (or NLVR2's pair) with all records about it. Samples lie in shuffled order, so that readers that
can only go through a shard from front to back see mixed data; each record keeps its number in the order of the recipe,
and a run of this project goes by that.

The bytes of a picture are copied. One that cannot be read has no place in a tar: it is counted and named, and its
records stay in the list beside it, because a run from the files has them too (a filler instead of the picture, the
captions as negatives of others).

A shard is finished when its list of records is there, which is written after it. What is finished is not written again.
"""

from __future__ import annotations

import hashlib
import os
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from tqdm import tqdm

from soho.data.images import ImageDecodeError, decode_bytes, image_format, read_bytes, size_of_bytes
from soho.data.readers.reading import plural
from soho.data.schema import Example, ImageRef, is_example, photos_of
from soho.data.shards.layout import (
    FORMAT,
    INDEX_NAME,
    VERSION,
    Shard,
    ShardHead,
    ShardIndex,
    read_lines,
    to_json,
    write_lines,
)
from soho.data.shards.records import kind_of, to_record
from soho.data.shards.tar import TarShard, room_of
from soho.data.sources import Load, Source, excluded_photographs, leave_out
from soho.errors import SohoError
from soho.randomness import keyed_generator

MEGABYTE = 2**20
_THREADS = 4
_CHUNK = 64
_NAMES_KEPT = 20
_TOLERATED_BROKEN = 0.01  # as `soho data check`
_EXTENSIONS = {"JPEG": "jpg", "MPO": "jpg", "PNG": "png", "WEBP": "webp", "TIFF": "tif"}


@dataclass(slots=True)
class WrittenSection:
    """What was written of one section.

    Attributes:
        name: "train", "validation" or "test".
        folder: where.
        index: what it holds.
        kept: shards that were finished before.
        notes: what the readers left out.
    """

    name: str
    folder: Path
    index: ShardIndex
    kept: int
    notes: list[str] = field(default_factory=list)

    @property
    def sound(self) -> bool:
        """Whether at most one picture in a hundred is broken, as `soho data check` asks."""
        whole = sum(shard.pictures for shard in self.index.shards)
        return self.index.broken <= _TOLERATED_BROKEN * (whole + self.index.broken)

    def lines(self) -> list[str]:
        """Return what happened, ready to print."""
        shards = self.index.shards
        size = sum(shard.size for shard in shards) / MEGABYTE
        pictures, records = sum(shard.pictures for shard in shards), sum(shard.records for shard in shards)
        earlier = f", {self.kept} of them there before" if self.kept else ""
        what = "captioned pictures" if self.index.holds == "captions" else self.index.holds
        lines = [
            f"{self.name}: {plural(len(shards), 'shard')} in {self.folder}, {size:,.1f} MB{earlier}: "
            f"{plural(pictures, 'picture')}, {records:,} {what}"
        ]
        if self.index.broken:
            verdict = "" if self.sound else ": more than 1 in 100"
            shown = "; ".join(self.index.broken_names[:5])
            lines.append(f"  {plural(self.index.broken, 'picture')} cannot be read{verdict}: {shown}")
        return [*lines, *(f"  {note}" for note in self.notes)]


def write_shards(
    sections: Mapping[str, Sequence[Source]],
    load: Load,
    out: Path,
    *,
    megabytes: int = 256,
    exclude: Sequence[Source] = (),
    seed: int = 0,
    progress: bool = False,
) -> list[WrittenSection]:
    """Write every section into a folder of its own name in `out`; goes on where it was stopped.

    Args:
        sections: "train", "validation", "test" -> sources.
        load: reads a source.
        out: the folder, new or of an earlier run with the same recipe.
        megabytes: a shard is closed before it grows beyond (2^20 bytes each).
        exclude: sources whose photographs are left out of "train".
        seed: of the order of the samples.
        progress: show bars.

    Raises:
        SohoError: a source is not what it should be, `out` holds shards of something else, another process is
            writing there, or the disk is full.
    """
    if megabytes < 1:
        raise SohoError(f"a shard of {megabytes} MB cannot be written; give at least 1")
    made = not out.exists()
    try:
        out.mkdir(parents=True, exist_ok=True)
        with FileLock(out / ".lock", timeout=0):
            written = []
            for name, sources in sections.items():
                examples, notes = _examples(sources, load, exclude if name == "train" else ())
                plan = _Plan(examples, megabytes, keyed_generator(seed, name, "shards").permutation)
                written.append(_write_section(name, out / name, plan, notes, progress))
        (out / ".lock").unlink(missing_ok=True)
        return written
    except Timeout:
        raise SohoError(f"another process is writing shards into {out}") from None
    except SohoError:  # what was refused leaves nothing; shards that are finished stay
        (out / ".lock").unlink(missing_ok=True)
        if made:
            with suppress(OSError):  # it holds something
                out.rmdir()
        raise
    except OSError as error:
        raise SohoError(f"{error.filename or out} cannot be written: {error.strerror or error}") from None


def _examples(sources: Sequence[Source], load: Load, exclude: Sequence[Source]) -> tuple[list[Example], list[str]]:
    excluded = excluded_photographs(exclude)
    examples: list[Example] = []
    lines: list[str] = []
    for source in sources:
        rows, notes = load(source)
        if (other := next((row for row in rows if not is_example(row)), None)) is not None:
            raise SohoError(
                f"{source.title} ({source.place}) is read as {type(other).__name__}, but shards hold only the records "
                "of soho.data.schema"
            )
        kept, remark = leave_out(list(rows), excluded)
        examples += kept
        lines += [*notes.lines(), *([f"{source.title}: {remark}"] if remark else [])]
    if not examples:
        raise SohoError("nothing is left to write: data.exclude names all photographs of data.train")
    return examples, lines


class _Plan:
    """Which records lie in which sample, the samples in their order, and a digest of all that."""

    def __init__(
        self, examples: Sequence[Example], megabytes: int, permutation: Callable[[int], Iterable[int]]
    ) -> None:
        self.holds = kind_of(examples[0])
        self.limit = megabytes * MEGABYTE
        of_pictures: dict[tuple[ImageRef, ...], list[tuple[int, Example]]] = {}
        for number, example in enumerate(examples):
            of_pictures.setdefault(tuple(photo.image for photo in photos_of(example)), []).append((number, example))
        unordered = list(of_pictures.items())
        self.samples = [unordered[int(place)] for place in permutation(len(unordered))]
        digest = hashlib.sha256(f"{FORMAT} {VERSION} {megabytes}\n".encode())
        for refs, records in self.samples:
            rows = [to_record(example, number) for number, example in records]
            digest.update(to_json([list(map(str, refs)), rows]).encode())
        self.digest = digest.hexdigest()


def _write_section(name: str, folder: Path, plan: _Plan, notes: list[str], progress: bool) -> WrittenSection:
    folder.mkdir(exist_ok=True)
    heads: list[ShardHead] = []
    start = kept = 0
    samples: Iterator[_Sample] | None = None
    held: _Sample | None = None
    title = f"shards of {name}"
    with tqdm(total=len(plan.samples), unit="sample", desc=title, disable=not progress) as bar:
        while start < len(plan.samples):
            head = _finished(folder, len(heads), plan, start)
            if head is None:
                samples = samples or _prepared(plan, start)
                head, held = _write_shard(folder, len(heads), plan, start, samples, held, bar.update)
            else:
                samples = held = None
                kept += 1
                bar.update(head.next - start)
            heads.append(head)
            start = head.next
    broken = [sentence for head in heads for sentence in head.broken]
    index = ShardIndex(
        format="soho-shards",
        version=1,
        holds=plan.holds,
        plan=plan.digest,
        broken=len(broken),
        broken_names=tuple(broken[:_NAMES_KEPT]),
        shards=tuple(
            head.shard.model_copy(update={"lines_sha256": _sha256(folder / head.shard.lines)}) for head in heads
        ),
    )
    _replace(folder / INDEX_NAME, (index.model_dump_json(indent=1) + "\n").encode())
    return WrittenSection(name, folder, index, kept, notes)


def _finished(folder: Path, number: int, plan: _Plan, start: int) -> ShardHead | None:
    """Return the head of a shard that is whole and begins with sample `start`, or None.

    Raises:
        SohoError: it is of another recipe, other files or another size.
    """
    path = folder / _lines_name(number)
    if not path.exists():
        return None
    head, _ = read_lines(path.read_bytes(), str(path))
    if head.plan != plan.digest:
        raise SohoError(
            f"{folder} holds shards of other examples, another order or another size (--shard-megabytes); name "
            "another folder, or remove it"
        )
    tar = folder / head.shard.name
    whole = tar.exists() and tar.stat().st_size == head.shard.size
    return head if whole and head.first == start else None


@dataclass(slots=True)
class _Sample:
    """A sample whose pictures were read.

    Attributes:
        pictures: their bytes, none where one of them is broken.
        row: what the list of records says, but for the places of the pictures.
        names: file names of the pictures behind the key, like "jpg" or "left.png".
        broken: sentences about pictures that cannot be read.
    """

    pictures: list[bytes]
    row: dict[str, Any]
    names: list[str]
    broken: list[str]

    @property
    def member(self) -> bytes:
        """The content of `<key>.json`."""
        return to_json({**self.row, "files": self.names}).encode()

    @property
    def room(self) -> int:
        """Bytes that it takes in a tar."""
        return sum(room_of(len(data)) for data in [*self.pictures, self.member]) if self.pictures else 0


def _prepared(plan: _Plan, start: int) -> Iterator[_Sample]:
    """Yield the samples from `start` on; some are read ahead by threads."""
    with ThreadPoolExecutor(_THREADS) as pool:
        for low in range(start, len(plan.samples), _CHUNK):
            numbers = range(low, min(low + _CHUNK, len(plan.samples)))
            yield from pool.map(lambda number: _sample(number, *plan.samples[number]), numbers)


def _sample(number: int, refs: tuple[ImageRef, ...], records: list[tuple[int, Example]]) -> _Sample:
    pictures, sizes, endings, broken = [], [], [], []
    for ref in refs:
        # Of a picture's place only its name is told: shards are passed on.
        name = ref.path.replace("\\", "/").rsplit("/", 1)[-1]
        size, ending = (0, 0), "jpg"
        try:
            data = read_bytes(ref)
            size = size_of_bytes(data, str(ref))
            kind = image_format(data, str(ref))
            ending = _EXTENSIONS.get(kind, kind.lower())
            decode_bytes(data, str(ref), smallest=True)
            pictures.append(data)
        except ImageDecodeError as error:
            broken.append(str(error).replace(str(ref), name))
        sizes.append(size)
        endings.append(ending)
    sides = ("left.", "right.") if len(refs) == 2 else ("",)
    row = {
        "key": f"{number:09d}",
        "records": [to_record(example, place, sizes) for place, example in records],
    }
    names = [side + ending for side, ending in zip(sides, endings)]
    return _Sample([] if broken else pictures, row, names, broken)


def _write_shard(
    folder: Path,
    number: int,
    plan: _Plan,
    start: int,
    samples: Iterator[_Sample],
    held: _Sample | None,
    update: Callable[[], object],
) -> tuple[ShardHead, _Sample | None]:
    """Write one shard; returns its head and the sample that had no room in it any more."""
    rows: list[dict[str, Any]] = []
    broken: list[str] = []
    pictures = records = 0
    name = f"{number:06d}.tar"
    (folder / _lines_name(number)).unlink(missing_ok=True)  # of a tar that was lost
    with TarShard(folder / name) as tar:
        while (sample := held or next(samples, None)) is not None:
            if tar.size and tar.size + sample.room + tarfile.RECORDSIZE > plan.limit:
                break
            held = None
            key, spans = sample.row["key"], []
            if sample.pictures:
                tar.add(f"{key}.json", sample.member)
                spans = [tar.add(f"{key}.{end}", data) for end, data in zip(sample.names, sample.pictures)]
            rows.append({**sample.row, "files": sample.names, "spans": spans})
            broken += sample.broken
            pictures += len(spans)
            records += len(sample.row["records"])
            update()
        size, sha256 = tar.finish()
    shard = Shard(
        name=name,
        size=size,
        sha256=sha256,
        samples=len(rows),
        pictures=pictures,
        records=records,
        lines=_lines_name(number),
    )
    head = ShardHead(shard=shard, plan=plan.digest, first=start, next=start + len(rows), broken=tuple(broken))
    _replace(folder / _lines_name(number), write_lines(head, rows))
    return head, sample


def _lines_name(number: int) -> str:
    return f"{number:06d}.jsonl.gz"


def _replace(path: Path, data: bytes) -> None:
    partial = path.with_name(f"{path.name}.partial")
    with open(partial, "wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(partial, path)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
