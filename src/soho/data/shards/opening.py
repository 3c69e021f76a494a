"""Finding shards: in a folder, behind an address, or fetched from there onto a disk of this machine."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock
from tqdm import tqdm

from soho.data.remote import download, is_url, read_file, read_range
from soho.data.shards.layout import INDEX_NAME, Holds, Shard, ShardIndex, parse_index, read_lines
from soho.errors import SohoError

_THREADS = 8
_CHUNK = 1 << 20
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")


@dataclass(frozen=True, slots=True)
class OpenedShard:
    """A shard of a source.

    Attributes:
        shard: what the index says of it.
        archive: path or URL of the tar file.
        base: folder or address that it is of.
        problem: why it could not be fetched, empty where it could or had not to be.
    """

    shard: Shard
    archive: str
    base: str
    problem: str = ""

    @property
    def gone(self) -> bool:
        """Whether there is no tar file at all, as far as this machine knows."""
        return not is_url(self.archive) and not Path(self.archive).exists()

    def samples(self) -> Iterator[dict[str, Any]]:
        """Yield its samples: key, records, names and places of the pictures.

        Raises:
            SohoError: the list of records is not there, or not the one that the index names.
        """
        place = _join(self.base, self.shard.lines)
        data = _read(place)
        if hashlib.sha256(data).hexdigest() != self.shard.lines_sha256:
            raise SohoError(f"{place} is not the file that {INDEX_NAME} names (sha256); was it cut off or replaced?")
        return read_lines(data, place)[1]

    def fault(self) -> str | None:
        """Return what is wrong with the tar file as far as its length tells, or None; looks at this machine only."""
        if self.problem or is_url(self.archive):
            return self.problem or None
        path = Path(self.archive)
        if self.gone:
            return f"{self.archive} is not there"
        size = path.stat().st_size
        if size < self.shard.size:
            return f"{self.archive} is cut off: it has {size:,} of {self.shard.size:,} bytes"
        if size > self.shard.size:
            return f"{self.archive} has {size:,} bytes instead of {self.shard.size:,}"
        return None

    def fault_inside(self) -> str | None:
        """Return what `fault` does, or that the content has another digest; of an address, that it is too short."""
        if is_url(self.archive):
            last = read_range(self.archive, self.shard.size - 1, 1)
            if last is None:
                return f"{self.archive} is not there"
            return None if last else f"{self.archive} is cut off: it has fewer than {self.shard.size:,} bytes"
        if (fault := self.fault()) is not None:
            return fault
        digest = hashlib.sha256()
        with open(self.archive, "rb") as stream:
            while piece := stream.read(_CHUNK):
                digest.update(piece)
        if digest.hexdigest() != self.shard.sha256:
            return f"{self.archive} does not hold what {INDEX_NAME} says (sha256)"
        return None


def open_shards(places: Sequence[str], cache: Path | None = None) -> tuple[Holds, list[OpenedShard]]:
    """Find the shards of a source.

    Args:
        places: folders, addresses of folders, or tar files in one, `{000000..000009}` standing for ten names.
        cache: where shards of an address are fetched to; None leaves them there.

    Returns:
        What they hold, and the shards.

    Raises:
        SohoError: there is no index, or places hold different things, or a shard is named that is not in the index.
    """
    opened: list[OpenedShard] = []
    kinds: dict[Holds, str] = {}
    for place in places:
        base, names = _base_and_names(place)
        index = _index(base)
        kinds.setdefault(index.holds, place)
        known = {shard.name: shard for shard in index.shards}
        unknown = [name for name in names or () if name not in known]
        if unknown:
            raise SohoError(f"{base} has no shard {unknown[0]}; its {INDEX_NAME} names {len(known):,}")
        opened += [OpenedShard(known[name], _join(base, name), base) for name in names or known]
    if len(kinds) > 1:
        both = " and ".join(f"{kind} ({place})" for kind, place in kinds.items())
        raise SohoError(f"the shards of one source must hold one thing, but these hold {both}")
    return next(iter(kinds)), opened if cache is None else _fetched(opened, cache)


def samples_of(opened: Sequence[OpenedShard]) -> Iterator[tuple[OpenedShard, dict[str, Any]]]:
    """Yield the samples of all shards, in order; lists of records are read ahead."""
    with ThreadPoolExecutor(_THREADS) as pool:
        for one, samples in zip(opened, pool.map(OpenedShard.samples, opened)):
            for sample in samples:
                yield one, sample


def _fetched(opened: Sequence[OpenedShard], cache: Path) -> list[OpenedShard]:
    """Fetch the shards that lie behind an address; one process of a machine does it, the others wait."""
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SohoError(f"cache {cache} cannot be made: {error.strerror or error}") from None
    result: list[OpenedShard] = []
    with FileLock(cache / ".lock"):
        wanted = [one for one in opened if is_url(one.archive) and not _cached(one, cache).exists()]
        total = sum(one.shard.size for one in wanted)
        # disable=None: no bar where nobody looks at a terminal.
        with tqdm(total=total, unit="B", unit_scale=True, desc="fetching shards", disable=None, delay=1.0) as bar:
            for one in opened:
                if not is_url(one.archive):
                    result.append(one)
                    continue
                path, fault = _cached(one, cache), None
                if not path.exists():
                    fault = download(one.archive, path, one.shard.size, one.shard.sha256, bar.update)
                result.append(OpenedShard(one.shard, str(path), one.base, f"{one.archive}: {fault}" if fault else ""))
    return result


def _cached(one: OpenedShard, cache: Path) -> Path:
    # The digest in the name: shards that were written anew under an old name are fetched anew.
    return cache / f"{one.shard.sha256[:16]}-{one.shard.name}"


def _base_and_names(place: str) -> tuple[str, list[str] | None]:
    """Split a place into its folder or address and the names of tar files (None = all)."""
    if not place.endswith(".tar"):
        return place.rstrip("/") or "/", None
    base, _, name = place.replace("\\", "/").rpartition("/")
    match = _RANGE.search(name)
    if match is None:
        return base or ".", [name]
    first, last = match.groups()
    numbers = range(int(first), int(last) + 1)
    if not numbers:
        raise SohoError(f"{place}: the numbers in braces must go up")
    return base or ".", [f"{name[: match.start()]}{number:0{len(first)}d}{name[match.end() :]}" for number in numbers]


def _index(base: str) -> ShardIndex:
    place = _join(base, INDEX_NAME)
    return parse_index(_read(place), place)


def _join(base: str, name: str) -> str:
    return f"{base.rstrip('/')}/{name}" if is_url(base) else str(Path(base) / name)


def _read(place: str) -> bytes:
    """Read a small file.

    Raises:
        SohoError: it is not there.
    """
    try:
        data = read_file(place) if is_url(place) else Path(place).read_bytes()
    except FileNotFoundError:
        data = None
    except OSError as error:
        raise SohoError(f"{place} cannot be read: {error.strerror or error}") from None
    if data is None:
        advice = "; a folder of shards is finished when it has one (`soho data shard`)" if INDEX_NAME in place else ""
        raise SohoError(f"{place} does not exist{advice}")
    return data
