"""Bytes out of the middle of a shard: of a file here, or of one behind an http(s) address."""

from __future__ import annotations

import os

from soho.data.remote import is_url, read_range


class SpanError(OSError):
    """A part of a shard that cannot be had; the message says why, without the name of the picture."""


def read_span(archive: str, span: tuple[int, int]) -> bytes:
    """Return the bytes of one picture.

    The shard is opened for this one reading: nothing is shared between threads and forked workers.

    Args:
        archive: path or URL of the shard.
        span: (first byte, number of bytes); no bytes = the picture could not be read when the shard was written.

    Raises:
        SpanError: there is no such picture, no such shard, or it ends too early.
        OSError: the file cannot be read.
        SohoError: the server does not answer.
    """
    start, length = span
    if not length:
        raise SpanError("could not be read when the shards were written")
    if is_url(archive):
        data = read_range(archive, start, length)
        if data is None:
            raise SpanError("the server has no such shard")
    else:
        try:
            with open(archive, "rb") as stream:
                # Asked first: room is made for all bytes that are asked for, also where the file has far fewer.
                whole = start + length <= os.fstat(stream.fileno()).st_size
                stream.seek(start)
                data = stream.read(length) if whole else b""
        except FileNotFoundError:
            raise SpanError("the shard is not there") from None
    if len(data) < length:
        raise SpanError(f"the shard ends before this picture does (byte {start + length:,}); it is cut off")
    return data
