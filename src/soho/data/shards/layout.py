"""What lies where in a folder of shards.

    index.json           what the shards hold; written last
    000000.tar           samples: <key>.json and <key>.jpg (two pictures: <key>.left.png, <key>.right.png), ...
    000000.jsonl.gz      line 1: about the shard; then a line a sample: its records, and where its pictures begin

The lines of `000000.jsonl.gz` hold what the `.json` members hold, so that a run knows all texts without reading a tar.
"""

from __future__ import annotations

import gzip
import io
import json
import zlib
from collections.abc import Iterator
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from soho.errors import SohoError

INDEX_NAME = "index.json"
FORMAT = "soho-shards"
VERSION = 1
Holds = Literal["captions", "questions", "statements", "hypotheses"]
# Unpacked, in bytes. A list is read whole, and one from elsewhere may be a few bytes that unpack to terabytes.
LARGEST_LIST = 512 * 2**20
# No folder in front and no dot at the start: a name out of a fetched index must stay in its place.
_NAME = r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$"
_SHA256 = r"^[0-9a-f]{64}$"


class Shard(BaseModel):
    """One tar file.

    Attributes:
        name: of the tar file.
        size: its bytes.
        sha256: their digest.
        samples: pictures (or pairs of them) with their records; broken ones among them.
        pictures: pictures in the tar.
        records: captioned pictures, questions, statements or hypotheses.
        lines: name of the file beside it that holds the records.
        lines_sha256: digest of that file; only in the index.
    """

    model_config = ConfigDict(frozen=True)

    name: str = Field(pattern=_NAME)
    size: int = Field(ge=0)
    sha256: str = Field(pattern=_SHA256)
    samples: int = Field(ge=0)
    pictures: int = Field(ge=0)
    records: int = Field(ge=0)
    lines: str = Field(pattern=_NAME)
    lines_sha256: str = Field(default="", pattern=r"^$|" + _SHA256)


class ShardIndex(BaseModel):
    """The content of `index.json`.

    Attributes:
        format: always `FORMAT`.
        version: of the layout.
        holds: what the records are.
        plan: digest of all that decides the content of the shards.
        broken: pictures that could not be read; their records stay, see `soho.data.shards.writing`.
        broken_names: the first 20 of them.
        shards: in their order.
    """

    model_config = ConfigDict(frozen=True)

    format: Literal["soho-shards"]
    version: Literal[1]
    holds: Holds
    plan: str
    broken: int = 0
    broken_names: tuple[str, ...] = ()
    shards: tuple[Shard, ...]


class ShardHead(BaseModel):
    """The first line of a shard's file of records.

    Attributes:
        shard: the tar file.
        plan: see `ShardIndex`.
        first: number of its first sample.
        next: number of the sample that the next shard begins with.
        broken: one sentence a picture that could not be read.
    """

    model_config = ConfigDict(frozen=True)

    shard: Shard
    plan: str
    first: int
    next: int
    broken: tuple[str, ...] = ()


def parse_index(data: bytes, place: str) -> ShardIndex:
    """Return the index of a folder of shards.

    Raises:
        SohoError: it is none, or of a layout that this version does not read.
    """
    try:
        return ShardIndex.model_validate_json(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise SohoError(f"{place} is not an index of shards that this version reads: {where}: {first['msg']}") from None


def write_lines(head: ShardHead, samples: list[dict[str, Any]]) -> bytes:
    """Return the content of a shard's file of records; equal input gives equal bytes.

    Raises:
        SohoError: it would be larger than what `read_lines` takes.
    """
    rows = [head.model_dump(mode="json"), *samples]
    content = "".join(to_json(row) + "\n" for row in rows).encode()
    if len(content) > LARGEST_LIST:
        raise SohoError(
            f"the records of {head.shard.name} have more than {LARGEST_LIST:,} bytes; write smaller shards "
            "(--shard-megabytes)"
        )
    return gzip.compress(content, compresslevel=6, mtime=0)


def read_lines(data: bytes, place: str) -> tuple[ShardHead, Iterator[dict[str, Any]]]:
    """Return the head and the samples of a shard's file of records.

    Raises:
        SohoError: it is damaged, or larger than `LARGEST_LIST`; of a line that is no JSON, when it is its turn.
    """
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as stream:
            content = stream.read(LARGEST_LIST + 1)
        if len(content) > LARGEST_LIST:
            raise SohoError(f"{place} unpacks to more than {LARGEST_LIST:,} bytes, too many for the records of a shard")
        # Not splitlines: a caption may hold a character that Unicode calls the end of a line.
        first, *rest = content.decode().rstrip("\n").split("\n")
        return ShardHead.model_validate_json(first), _parsed(rest, place)
    except (OSError, EOFError, ValueError, zlib.error) as error:  # pydantic's and JSON's errors are ValueErrors
        raise _damaged(place, error) from None


def _parsed(lines: list[str], place: str) -> Iterator[dict[str, Any]]:
    for line in lines:
        try:
            yield json.loads(line)
        except ValueError as error:
            raise _damaged(place, error) from None


def _damaged(place: str, error: Exception) -> SohoError:
    detail = " ".join(str(error).split())[:120]
    return SohoError(f"{place} is damaged or no file of records of a shard ({detail})")


def to_json(value: Any) -> str:
    """Return JSON without spaces, in UTF-8 characters; equal values give equal text."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
