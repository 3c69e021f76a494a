"""One tar file that is being written: members at known places, a digest on the way, equal bytes for equal content."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from pathlib import Path
from types import TracebackType

BLOCK = 512


def room_of(size: int) -> int:
    """Return the bytes that a member of `size` bytes takes: its header, and its content in whole blocks."""
    return BLOCK + -(-size // BLOCK) * BLOCK


class TarShard:
    """Writes a tar file under a name of its own; `finish` gives it the final one.

    Args:
        path: the final name.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._partial = path.with_name(f"{path.name}.partial")
        self._stream = open(self._partial, "wb")  # noqa: SIM115  # closed by __exit__
        self._hashing = _Hashing(self._stream)
        # USTAR: a header is one block, so a member's first byte is known; long names would be refused.
        self._tar = tarfile.TarFile(fileobj=self._hashing, mode="w", format=tarfile.USTAR_FORMAT)  # type: ignore[arg-type]

    def __enter__(self) -> TarShard:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.close()
        self._partial.unlink(missing_ok=True)

    @property
    def size(self) -> int:
        """Bytes so far, without the end mark."""
        return int(self._tar.offset)

    def add(self, name: str, data: bytes) -> tuple[int, int]:
        """Append a member; returns (its first byte, its number of bytes)."""
        info = tarfile.TarInfo(name)  # times and owners stay 0
        info.size = len(data)
        start = self.size + BLOCK
        self._tar.addfile(info, io.BytesIO(data))
        return start, len(data)

    def finish(self) -> tuple[int, str]:
        """Write the end mark, give the file its name; returns (bytes, sha256)."""
        self._tar.close()
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self._stream.close()
        os.replace(self._partial, self.path)
        return self._hashing.count, self._hashing.digest.hexdigest()


class _Hashing:
    """A file that only grows and whose digest is kept."""

    def __init__(self, stream: io.BufferedWriter) -> None:
        self._stream = stream
        self.count = 0
        self.digest = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        self.count += len(data)
        return self._stream.write(data)

    def tell(self) -> int:
        return self.count
