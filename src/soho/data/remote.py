"""Reading over http(s): whole small files, parts of large ones, and large ones onto the disk.

A connection is kept open for the next request. What may pass (a busy server, a broken connection) is tried again; where
the server stays away, reading ends with a `SohoError`: a run that went on without its pictures would learn from grey.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from soho.errors import SohoError

if TYPE_CHECKING:
    from urllib3 import BaseHTTPResponse, PoolManager

_BUSY = (408, 429, 500, 502, 503, 504)
_ATTEMPTS = 5
_FIRST_WAIT = 1.0  # seconds; doubled at every further attempt
_CHUNK = 1 << 20
LARGEST_FILE = 512 * 2**20  # bytes of a file that is held whole


def is_url(place: str) -> bool:
    """Say whether a place is an http(s) address and no path."""
    return place.startswith(("http://", "https://"))


def read_file(url: str) -> bytes | None:
    """Return the content of a small file, or None where the server has no such file.

    Raises:
        SohoError: the server refuses, does not answer after several attempts, or sends more than `LARGEST_FILE`.
    """

    def take(response: BaseHTTPResponse) -> bytes | None:
        return None if _absent(url, response) else _read_whole(url, response, LARGEST_FILE)

    return _attempt(url, {}, take)


def read_range(url: str, start: int, length: int) -> bytes | None:
    """Return `length` bytes of a file from byte `start` on; fewer where it ends before; None where it is not there.

    Raises:
        SohoError: the server cannot send parts of files, refuses, does not answer after several attempts, or sends
            more than was asked for.
    """

    def take(response: BaseHTTPResponse) -> bytes | None:
        if response.status == 416:  # it ends before `start`
            return b""
        if _absent(url, response):
            return None
        if response.status != 206:
            response.close()  # what would follow is the whole file
            raise SohoError(
                f"{url}: the server sends whole files only, but single pictures are asked for; name a folder as cache "
                "of this source, and its shards are fetched once"
            )
        return _read_whole(url, response, length)

    return _attempt(url, {"Range": f"bytes={start}-{start + length - 1}"}, take)


def download(url: str, path: Path, size: int, sha256: str, progress: Callable[[int], object]) -> str | None:
    """Fetch a file; it appears under its name only when it is whole.

    Args:
        url: where it is.
        path: where it goes.
        size: bytes that it must have.
        sha256: and their digest.
        progress: told the number of bytes of every piece.

    Returns:
        None, or what is wrong with the file on the server.

    Raises:
        SohoError: the server refuses or does not answer, or the file cannot be written.
    """
    partial = path.with_name(f"{path.name}.partial-{os.getpid()}")

    def take(response: BaseHTTPResponse) -> str | None:
        if _absent(url, response):
            return "the server has no such file"
        digest, count = hashlib.sha256(), 0
        with open(partial, "wb") as stream:
            for piece in response.stream(_CHUNK):
                digest.update(piece)
                count += len(piece)
                if count > size:
                    response.close()
                    return f"it has more than {size:,} bytes"
                stream.write(piece)
                progress(len(piece))
        if count != size:
            return f"it has {count:,} bytes instead of {size:,}"
        if digest.hexdigest() != sha256:
            return "its content is not what the index says (sha256)"
        os.replace(partial, path)
        return None

    try:
        return _attempt(url, {}, take)
    except OSError as error:
        raise SohoError(f"{path} cannot be written: {error.strerror or error}") from None
    finally:
        partial.unlink(missing_ok=True)


def _absent(url: str, response: BaseHTTPResponse) -> bool:
    """Say whether there is no such file.

    Raises:
        SohoError: any other answer than a file.
    """
    if response.status in (404, 410):
        return True
    if response.status not in (200, 206):
        raise SohoError(f"{url}: the server answers {response.status} {response.reason or ''}".rstrip())
    return False


def _read_whole(url: str, response: BaseHTTPResponse, most: int) -> bytes:
    """Return the content of an answer.

    Raises:
        SohoError: it has more than `most` bytes.
    """
    content = bytearray()
    for piece in response.stream(_CHUNK):
        content += piece
        if len(content) > most:
            raise SohoError(f"{url}: the server sends more than the {most:,} bytes that are expected at most")
    return bytes(content)


def _attempt(url: str, headers: dict[str, str], take: Callable[[BaseHTTPResponse], Any]) -> Any:
    """Ask, and hand the answer to `take`; once more where either breaks off."""
    _connections()  # says what is missing where the package is
    from urllib3.exceptions import HTTPError, MaxRetryError

    problem = ""
    for attempt in range(_ATTEMPTS):
        if attempt:
            time.sleep(_FIRST_WAIT * 2 ** (attempt - 1))
        try:
            with _response(url, headers) as response:
                if response.status not in _BUSY:
                    return take(response)
                problem = f"it answers {response.status}"
        except HTTPError as error:
            reason = error.reason if isinstance(error, MaxRetryError) and error.reason else error
            problem = " ".join(str(reason).split())
    raise SohoError(f"{url} cannot be had, {_ATTEMPTS} attempts failed ({problem}); the same command tries again")


@contextmanager
def _response(url: str, headers: dict[str, str]) -> Iterator[BaseHTTPResponse]:
    from urllib3 import Retry, Timeout

    # decode_content=False: some servers call a .gz file a compressed transfer, and it would arrive unpacked.
    response = _connections().request(
        "GET",
        url,
        headers=headers,
        preload_content=False,
        decode_content=False,
        retries=Retry(total=None, connect=0, read=0, status=0, other=0, redirect=3),
        timeout=Timeout(connect=10.0, read=60.0),
    )
    try:
        yield response
    except BaseException:
        response.close()  # the rest of the answer must not be taken for the next one
        raise
    response.drain_conn()
    response.release_conn()


# The connections of this process.
_pool: PoolManager | None = None


def _connections() -> PoolManager:
    global _pool
    if _pool is None:
        try:
            from urllib3 import PoolManager
        except ImportError:
            raise SohoError(
                "shards behind an address need the package urllib3: pip install 'soho-vlp[stream]'"
            ) from None
        _pool = PoolManager(num_pools=8, maxsize=8)
    return _pool


def _forget_connections() -> None:
    """Give a forked child its own connections: on a shared one answers would mix."""
    global _pool
    _pool = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_connections)
