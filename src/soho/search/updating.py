"""Bringing an index up to date with its library: what is new is encoded, what is gone is dropped."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from tqdm import tqdm

from soho.data.images import ImageDecodeError
from soho.errors import SohoError
from soho.search.catalogue import Catalogue, FileRow
from soho.search.encoding import Encoder, NewPicture
from soho.search.library import CHANGED, PictureFile, padded_size, read_content, reason_of, walk
from soho.search.segments import Segment, discard, merge

# Files that become part of the index together. After a kill at most so many are hashed again; none is encoded again.
WINDOW = 2048

# Segments with a smaller share of pictures that are still in the library are rewritten without the others.
LEAST_LIVE = 0.75

# So many segments of less than half a window are joined.
SMALL_SEGMENTS = 8

BROKEN = "broken.txt"

# The time of a file that could not be opened: unlike any real one, so that the next update tries again.
UNREAD = -1


@dataclass
class UpdateReport:
    """What an update did.

    Attributes:
        files: pictures in the library that can be read.
        contents: different ones among them.
        encoded: pictures that went through the CNN, in this run or in one that was killed.
        known: new, moved or touched files whose content was in the index already.
        dropped: files that are gone.
        broken: path and reason of every file that cannot be read, those of earlier updates included.
        seconds: wall clock.
    """

    files: int = 0
    contents: int = 0
    encoded: int = 0
    known: int = 0
    dropped: int = 0
    broken: list[tuple[str, str]] = field(default_factory=list)
    seconds: float = 0.0

    def lines(self, folder: Path, named: int = 10) -> list[str]:
        """Return the report for a console; of the broken files the first `named` by name."""
        said = [
            f"{folder}: {self.files:,} pictures, {self.contents:,} of them different; {self.encoded:,} encoded, "
            f"{self.known:,} known by content, {self.dropped:,} dropped, {len(self.broken):,} broken "
            f"({self.seconds:.1f} s)"
        ]
        said += [f"broken: {path}: {reason}" for path, reason in self.broken[:named]]
        if len(self.broken) > named:
            said.append(f"broken: {len(self.broken) - named:,} more in {folder / BROKEN}")
        return said


def bring_up_to_date(
    catalogue: Catalogue, encoder: Encoder, rehash: bool, compact: bool, progress: bool, window: int = WINDOW
) -> UpdateReport:
    """Make an index hold what its library holds.

    Args:
        catalogue: of the index, open for writing, and nobody else's (`only_writer`).
        encoder: of the library.
        rehash: read all files, also those of which size and time are as before.
        compact: rewrite every segment that holds pictures no longer in the library.
        progress: show a bar with rate and time left.
        window: files that are taken in together.

    Raises:
        SohoError: the library's folder is gone, or empty where the index is not.
    """
    begun, report, folder = time.monotonic(), UpdateReport(), catalogue.folder
    found = list(walk(encoder.library))
    held = catalogue.counts()[1]
    if not found and held:
        # Mostly a drive that is not mounted; hours of encoding would be thrown away.
        raise SohoError(
            f"{encoder.library} holds no picture now, but the index {held:,} of them; is the drive there? Delete "
            f"{folder} where they are really gone"
        )
    total = catalogue.scan(found, rehash)
    discard(folder, [*(number for number, _ in catalogue.segments()), catalogue.next_segment()])
    after = ""
    with tqdm(total=total, desc="indexing", unit="picture", disable=not progress, dynamic_ncols=True) as bar:
        while files := catalogue.todo(after, window):
            _take_in(catalogue, encoder, files, report, bar)
            after = files[-1].path
    report.dropped = catalogue.drop_gone()
    tidy(catalogue, encoder.dtype, compact, window)
    report.files, report.contents = catalogue.counts()
    report.broken = catalogue.broken()
    listed = [f"{path}\t{reason}\n" for path, reason in report.broken]
    (folder / BROKEN).write_text("".join(listed), encoding="utf-8")
    report.seconds = time.monotonic() - begun
    return report


def _take_in(
    catalogue: Catalogue, encoder: Encoder, files: Sequence[PictureFile], report: UpdateReport, bar: tqdm
) -> None:
    """Read a window of files and commit it."""
    contents: dict[str, str] = {}
    rows: dict[str, FileRow] = {}  # those that cannot be read
    for file in files:
        try:
            contents[file.path] = read_content(encoder.library, file.path)
        except ImageDecodeError as error:
            reason = reason_of(error, encoder.library, file.path)
            rows[file.path] = FileRow(file.path, None, file.size, UNREAD, reason)
    known = catalogue.known(list(contents.values()))
    new: dict[str, NewPicture] = {}
    broken: dict[str, str] = {}  # by content
    for path, content in contents.items():
        if content in known or content in new or content in broken:
            continue
        try:
            new[content] = NewPicture(
                content, path, padded_size(encoder.library, path, encoder.processor.image_processor)
            )
        except ImageDecodeError as error:
            broken[content] = reason_of(error, encoder.library, path)
    bar.update(len(files) - len(new))
    number = catalogue.next_segment()
    placed: list[str] = []
    if new:
        placed, failed = encoder.encode(catalogue.folder, number, list(new.values()), bar.update)
        broken |= failed
    for file in files:
        if file.path in contents:
            why = broken.get(contents[file.path])
            # What failed for a reason outside of the file is tried again by the next update.
            passing = why is not None and (why == CHANGED or why.startswith("cannot be read"))
            time_seen = UNREAD if passing else file.mtime
            rows[file.path] = FileRow(file.path, None if why else contents[file.path], file.size, time_seen, why)
    catalogue.commit(list(rows.values()), number if placed else None, placed)
    report.encoded += len(placed)
    report.known += sum(row.content is not None for row in rows.values()) - len(placed)


def tidy(catalogue: Catalogue, dtype: torch.dtype, compact: bool, window: int = WINDOW) -> None:
    """Rewrite segments that hold too many dropped pictures, join many small ones, and remove files of no use.

    Args:
        catalogue: of the index.
        dtype: how tokens are kept.
        compact: leave no dropped picture behind, however few there are.
        window: pictures of a segment at most.
    """
    folder = catalogue.folder
    share = 1.0 if compact else LEAST_LIVE
    poor: list[Segment] = []
    small: list[Segment] = []
    for number, pictures in catalogue.segments():
        segment = Segment(folder, number, catalogue.live_rows(number))
        if len(segment.live) < share * pictures:
            poor.append(segment)
        elif len(segment.live) < window // 2:
            small.append(segment)
    if len(small) >= SMALL_SEGMENTS:
        poor = sorted([*poor, *small], key=lambda segment: segment.number)
    number, made = catalogue.next_segment(), []
    for group in _groups(poor, window):
        places = merge(group, folder, number, dtype)
        made.append((number, [catalogue.content_at(group[place].number, row) for place, row in places]))
        number += 1
    if poor:
        catalogue.replace_segments([segment.number for segment in poor], made)
    discard(folder, [number for number, _ in catalogue.segments()])


def _groups(segments: Sequence[Segment], window: int) -> list[list[Segment]]:
    """Share segments out so that the pictures of each group fit into one; those without any are left out."""
    groups: list[list[Segment]] = []
    room = 0
    for segment in segments:
        if not len(segment.live):
            continue
        if not groups or len(segment.live) > room:
            groups.append([])
            room = window
        groups[-1].append(segment)
        room -= len(segment.live)
    return groups
