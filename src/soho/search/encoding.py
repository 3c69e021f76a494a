"""Encoding a window of new pictures into a segment, in batches of one padded shape, resumable after every batch."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from soho.data.batching import AspectRatioBatches
from soho.data.images import ImageDecodeError
from soho.evaluation.scoring_engine import Engine
from soho.evaluation.token_store import TokenStore
from soho.processing.image_processing_soho import Size
from soho.processing.processing_soho import SohoProcessor
from soho.search.library import CHANGED, read_picture, reason_of
from soho.search.segments import segment_path, write_vectors

# Batches that are decoded ahead of the model, so that memory stays bounded.
AHEAD = 2


@dataclass(frozen=True, slots=True)
class NewPicture:
    """A content that the index does not have yet.

    Attributes:
        content: its name, see `soho.search.library.content_of`.
        path: a file of the library that holds it.
        canvas: (width, height) of the tensor it becomes.
    """

    content: str
    path: str
    canvas: Size


class Encoder:
    """A model and its processor, ready to encode the pictures of a library.

    Args:
        engine: of the model, which `engine.ready` has prepared.
        processor: of the model.
        library: folder of the pictures.
        fingerprint: of the model.
        dtype: how tokens are kept.
        batch_size: pictures of one shape that go through the CNN together.
        workers: threads that decode.
    """

    def __init__(
        self,
        engine: Engine,
        processor: SohoProcessor,
        library: Path,
        fingerprint: str,
        dtype: torch.dtype,
        batch_size: int,
        workers: int,
    ) -> None:
        self.engine, self.processor, self.library = engine, processor, library
        self.fingerprint, self.dtype, self.batch_size, self.workers = fingerprint, dtype, batch_size, workers

    def encode(
        self, folder: Path, number: int, pictures: Sequence[NewPicture], done: Callable[[int], object]
    ) -> tuple[list[str], dict[str, str]]:
        """Write a segment of new pictures, or go on with one that a kill has left behind.

        Batches follow from the pictures alone. So what is on the disk after a kill is a beginning of what an
        uninterrupted run would have written, and the rest is computed in the same batches.

        Args:
            folder: of the index.
            number: of the segment.
            pictures: with contents that differ from each other.
            done: told how many pictures were done after every batch.

        Returns:
            The contents in the rows of the segment, and reasons by content of those that cannot be decoded. Where no
            picture can be, nothing is written.
        """
        path = segment_path(folder, number)
        store = TokenStore(self.dtype, path, self._key(pictures))
        held = set(store.rows)
        broken: dict[str, str] = {}
        batches = AspectRatioBatches([picture.canvas for picture in pictures], self.batch_size, seed=0, shuffle=False)
        wanted = []
        for batch in batches.batches(0):
            new = [item.index for item in batch if item.index not in held]
            done(len(batch) - len(new))
            if new:
                wanted.append(new)
        for rows, decoded in self._decode(pictures, wanted):
            reasons = {row: found for row, found in zip(rows, decoded) if isinstance(found, str)}
            if store.complete:  # all that could be read was; a file that can be only now waits for the next update
                reasons.update({row: CHANGED for row in rows if row not in reasons})
            broken.update({pictures[row].content: reason for row, reason in reasons.items()})
            good = [row for row in rows if row not in reasons]
            if good:
                images = [found for found in decoded if not isinstance(found, str)]
                batch_input = self.processor(images=images, canvas=pictures[good[0]].canvas)
                tokens, mask = self.engine.image_tokens(batch_input["pixel_values"], batch_input["pixel_mask"])
                store.add(tokens.float(), mask, good)
            done(len(rows))
        if not store.rows:
            store.remove()
            return [], broken
        store.finish()
        write_vectors(self.engine, store, path)
        return [pictures[row].content for row in store.rows], broken

    def _decode(
        self, pictures: Sequence[NewPicture], batches: Sequence[list[int]]
    ) -> Iterator[tuple[list[int], list[np.ndarray | str]]]:
        """Yield batches with their pictures, or the reason why one cannot be decoded, a few batches ahead."""
        with ThreadPoolExecutor(max_workers=self.workers) as pool:
            waiting: deque[tuple[list[int], list[Future[np.ndarray | str]]]] = deque()
            for rows in batches:
                waiting.append((rows, [pool.submit(self._read, pictures[row]) for row in rows]))
                if len(waiting) > AHEAD:
                    first, futures = waiting.popleft()
                    yield first, [future.result() for future in futures]
            for first, futures in waiting:
                yield first, [future.result() for future in futures]

    def _read(self, picture: NewPicture) -> np.ndarray | str:
        try:
            return read_picture(
                self.library, picture.path, picture.content, self.processor.image_processor, picture.canvas
            )
        except ImageDecodeError as error:
            return reason_of(error, self.library, picture.path)

    def _key(self, pictures: Sequence[NewPicture]) -> str:
        plan = [(picture.content, picture.canvas) for picture in pictures]
        subject = (self.fingerprint, str(self.dtype), self.batch_size, plan)
        return hashlib.blake2b(repr(subject).encode(), digest_size=16).hexdigest()
