"""The table of contents of an index, in SQLite: its transactions survive a kill at any moment.

Files and contents are told apart. A file has a path; a content is what its bytes are, known by their hash, and is
encoded once however many files hold it and wherever they are moved.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from soho.errors import SohoError
from soho.search.library import PictureFile

NAME = "catalogue.sqlite"
LOCK = "lock.sqlite"

TABLES = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS segments (id INTEGER PRIMARY KEY AUTOINCREMENT, pictures INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS contents (content TEXT PRIMARY KEY, segment INTEGER NOT NULL, row INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS contents_place ON contents (segment, row);
CREATE TABLE IF NOT EXISTS files (
    path TEXT PRIMARY KEY, content TEXT, size INTEGER NOT NULL, mtime INTEGER NOT NULL, error TEXT);
CREATE INDEX IF NOT EXISTS files_content ON files (content);
"""

# Rows written in one go.
PORTION = 10_000


class FileRow(NamedTuple):
    """What the index knows of a file; `content` is None and `error` says why where it could not be read."""

    path: str
    content: str | None
    size: int
    mtime: int
    error: str | None


class Catalogue:
    """Files, contents and segments of an index.

    Args:
        folder: of the index.
        write: make it where it is not there; False opens it for reading alone.

    Raises:
        SohoError: there is no index, or the file is none.
    """

    def __init__(self, folder: Path, write: bool = False) -> None:
        self.folder = folder
        path = folder / NAME
        if not write and not path.is_file():
            raise SohoError(f"{folder} is no index; make one with `soho index PICTURES --model MODEL --out INDEX`")
        try:
            # A reader must be able to undo what a killed writer left half done, so it too may write where it can.
            mode = "rwc" if write else ("rw" if os.access(path, os.W_OK) else "ro")
            address = f"{path.absolute().as_uri()}?mode={mode}"
            # Transactions are begun by hand: Python's own way would hide where they end.
            self.base = sqlite3.connect(address, uri=True, timeout=60.0, isolation_level=None)
            if write:
                self.base.executescript(TABLES)
            self.base.execute("SELECT count(*) FROM meta").fetchone()
        except sqlite3.Error as error:
            raise SohoError(f"{path} cannot be opened ({error}); expected the catalogue of an index") from None

    def close(self) -> None:
        """Close the file."""
        self.base.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Write all or nothing of what happens inside."""
        self.base.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self.base.execute("ROLLBACK")
            raise
        self.base.execute("COMMIT")

    @contextmanager
    def one_moment(self) -> Iterator[None]:
        """Let everything that is read inside be of one moment, whatever another process writes meanwhile."""
        self.base.execute("BEGIN")
        try:
            yield
        finally:
            self.base.execute("COMMIT")

    # -- Settings ---------------------------------------------------------------------------------------------------

    def meta(self) -> dict[str, str]:
        """Return the settings of the index."""
        return dict(self.base.execute("SELECT key, value FROM meta"))

    def set_meta(self, **values: str) -> None:
        """Write some settings."""
        self.base.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", values.items())

    # -- One update -------------------------------------------------------------------------------------------------

    def scan(self, files: Iterable[PictureFile], everything: bool) -> int:
        """Note what the library's folder holds now; returns how many files have to be read.

        Args:
            files: of the folder.
            everything: read also files whose size and time are as before.
        """
        self.base.execute("DROP TABLE IF EXISTS temp.seen")
        self.base.execute("CREATE TEMP TABLE seen (path TEXT PRIMARY KEY, size INTEGER, mtime INTEGER, todo INTEGER)")
        portion: list[tuple[str, int, int]] = []
        for file in files:
            portion.append((_storable(file.path), file.size, file.mtime))
            if len(portion) == PORTION:
                self._see(portion)
        self._see(portion)
        self.base.execute(
            "UPDATE temp.seen SET todo = ? OR NOT EXISTS (SELECT 1 FROM files WHERE files.path = seen.path AND "
            "files.size = seen.size AND files.mtime = seen.mtime)",
            (everything,),
        )
        return int(self.base.execute("SELECT coalesce(sum(todo), 0) FROM temp.seen").fetchone()[0])

    def _see(self, portion: list[tuple[str, int, int]]) -> None:
        with self.transaction():
            self.base.executemany("INSERT OR IGNORE INTO temp.seen VALUES (?, ?, ?, 0)", portion)
        portion.clear()

    def seen(self) -> int:
        """Return how many files the last `scan` found."""
        return int(self.base.execute("SELECT count(*) FROM temp.seen").fetchone()[0])

    def todo(self, after: str, count: int) -> list[PictureFile]:
        """Return the next files to read, by path."""
        rows = self.base.execute(
            "SELECT path, size, mtime FROM temp.seen WHERE todo AND path > ? ORDER BY path LIMIT ?", (after, count)
        )
        return [PictureFile(*row) for row in rows]

    def known(self, contents: Sequence[str]) -> set[str]:
        """Return which of some contents are encoded already."""
        find = "SELECT 1 FROM contents WHERE content = ?"
        return {content for content in contents if self.base.execute(find, (content,)).fetchone()}

    def next_segment(self) -> int:
        """Return the number of the segment that comes next; none is given twice."""
        last = self.base.execute("SELECT seq FROM sqlite_sequence WHERE name = 'segments'").fetchone()
        return 1 + (int(last[0]) if last else 0)

    def commit(self, files: Sequence[FileRow], segment: int | None, contents: Sequence[str]) -> None:
        """Take files, and the new segment that holds the contents not known before, into the index at once."""
        with self.transaction():
            if segment is not None:
                self._place(segment, contents)
            self.base.executemany("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?)", files)

    def _place(self, segment: int, contents: Sequence[str]) -> None:
        self.base.execute("INSERT INTO segments VALUES (?, ?)", (segment, len(contents)))
        rows = ((content, segment, row) for row, content in enumerate(contents))
        self.base.executemany("INSERT OR REPLACE INTO contents VALUES (?, ?, ?)", rows)

    def drop_gone(self) -> int:
        """Take the files that the last `scan` did not find out of the index; returns their number."""
        gone = self.base.execute("DELETE FROM files WHERE path NOT IN (SELECT path FROM temp.seen)")
        return gone.rowcount

    # -- What is there ----------------------------------------------------------------------------------------------

    def segments(self) -> list[tuple[int, int]]:
        """Return (number, pictures) of every segment."""
        return list(self.base.execute("SELECT id, pictures FROM segments ORDER BY id"))

    def live_rows(self, segment: int) -> npt.NDArray[np.int64]:
        """Return the rows of a segment whose content some file still holds, ascending."""
        rows = self.base.execute(
            "SELECT row FROM contents WHERE segment = ? AND EXISTS (SELECT 1 FROM files WHERE "
            "files.content = contents.content) ORDER BY row",
            (segment,),
        )
        return np.fromiter((row for (row,) in rows), dtype=np.int64)

    def content_at(self, segment: int, row: int) -> str:
        """Return the content in a row of a segment."""
        find = "SELECT content FROM contents WHERE segment = ? AND row = ?"
        return str(self.base.execute(find, (segment, row)).fetchone()[0])

    def paths_at(self, segment: int, row: int) -> list[str]:
        """Return the files that hold the content in a row of a segment, by path."""
        rows = self.base.execute(
            "SELECT path FROM files WHERE content = (SELECT content FROM contents WHERE segment = ? AND row = ?) "
            "ORDER BY path",
            (segment, row),
        )
        return [path for (path,) in rows]

    def broken(self) -> list[tuple[str, str]]:
        """Return path and reason of every file that could not be read, by path."""
        return list(self.base.execute("SELECT path, error FROM files WHERE error IS NOT NULL ORDER BY path"))

    def counts(self) -> tuple[int, int]:
        """Return the number of readable files and of the different contents in them."""
        files, contents = self.base.execute("SELECT count(content), count(DISTINCT content) FROM files").fetchone()
        return int(files), int(contents)

    def replace_segments(self, old: Sequence[int], new: Sequence[tuple[int, Sequence[str]]]) -> None:
        """Exchange segments for others that hold what was still needed of them, at once."""
        with self.transaction():
            for number in old:
                self.base.execute("DELETE FROM contents WHERE segment = ?", (number,))
                self.base.execute("DELETE FROM segments WHERE id = ?", (number,))
            for number, contents in new:
                self._place(number, contents)


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Keep a second update away from an index; a killed one lets go by itself.

    Raises:
        SohoError: another update is running.
    """
    try:
        lock = sqlite3.connect(folder / LOCK, timeout=0.0, isolation_level=None)
    except sqlite3.OperationalError as error:
        raise SohoError(f"{folder} cannot be written to: {error}") from None
    try:
        try:
            lock.execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError as error:
            if "locked" not in str(error):
                raise SohoError(f"{folder} cannot be written to: {error}") from None
            raise SohoError(f"another `soho index` is writing to {folder}; wait until it has ended") from None
        yield
    finally:
        lock.close()


def _storable(path: str) -> str:
    """Return a path as SQLite can keep it: bytes that are no UTF-8 are written out."""
    return path.encode("utf-8", "backslashreplace").decode("utf-8")
