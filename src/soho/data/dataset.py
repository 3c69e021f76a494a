"""Random access to samples, and the epochs a trainer walks through.

A sample is a pure function of its key (which item, which epoch), so the number of workers or processes and the place
where a run was stopped change nothing about it. Everything here may be forked or pickled into worker processes.
"""

from __future__ import annotations

import logging
import os
import pickle
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Generic, NamedTuple, TypeVar, overload

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from soho.data.batching import AspectRatioBatches, BatchItem
from soho.data.images import ImageDecodeError, image_size
from soho.data.schema import CaptionedImage, ImageRef, Photo, VisualQuestion
from soho.errors import SohoError

logger = logging.getLogger(__name__)
T = TypeVar("T")
Fields = dict[str, Any]

# Every broken picture is counted and kept by name; only the first ones are also shown while a run is going on.
_SHOWN = 10


class SampleKey(NamedTuple):
    """Names one sample of one epoch; all its random draws follow from it.

    Attributes:
        index: which item of the data set.
        epoch: which epoch, because masks and pairs differ from epoch to epoch.
        filler: True where the sample must have no part in any loss, metric or the dictionary: its pixel mask has
            to be all False and its labels -100.
    """

    index: int  # type: ignore[assignment]  # tuple.index is not missed
    epoch: int
    filler: bool = False


class LoadedExample(NamedTuple):
    """A sample on its way into a batch.

    Attributes:
        fields: what the task made of the item.
        broken: why its picture could not be read (then `fields` is a filler), or None.
    """

    fields: Fields
    broken: str | None


class PackedSequence(Sequence[T]):
    """A list whose elements are stored as bytes and unpacked when asked for.

    A plain list of half a million captions costs every worker process its own copy: looking at a Python object
    writes its reference count, and a page that is written to is no longer shared after a fork. Bytes are only read.

    Args:
        elements: picklable; an equal but new object is returned at every access.
    """

    def __init__(self, elements: Iterable[T]) -> None:
        packed = bytearray()
        ends: list[int] = []
        for element in elements:
            packed += pickle.dumps(element, protocol=pickle.HIGHEST_PROTOCOL)
            ends.append(len(packed))
        self._bytes = np.frombuffer(packed, dtype=np.uint8)
        self._ends = np.array(ends, dtype=np.int64)

    def __len__(self) -> int:
        """Return the number of elements."""
        return len(self._ends)

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> list[T]: ...
    def __getitem__(self, index: int | slice) -> T | list[T]:
        """Return one element, or a list of them for a slice."""
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        number = range(len(self))[index]  # negative numbers, and the usual IndexError
        start = int(self._ends[number - 1]) if number else 0
        return pickle.loads(self._bytes[start : int(self._ends[number])].data)


class DecodeLog:
    """Counts pictures that cannot be read and keeps their names; the first ones are also logged as warnings."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}

    def add(self, message: str) -> None:
        """Note one failed reading; `message` names the picture and says why."""
        self._counts[message] = self._counts.get(message, 0) + 1
        if self._counts[message] == 1 and len(self._counts) <= _SHOWN:
            logger.warning("picture left out: %s", message)

    @property
    def messages(self) -> list[str]:
        """One sentence per broken picture, in the order they were met."""
        return list(self._counts)

    @property
    def count(self) -> int:
        """How many times a picture could not be read."""
        return sum(self._counts.values())


class ExampleDataset(Dataset[LoadedExample], Generic[T]):
    """Items and the function that makes a sample of one.

    Args:
        items: what there is to draw in an epoch.
        load: turns (item, key) into the fields of a sample. For a key with `filler` it must not read the picture. It
            must draw nothing but from `soho.randomness.keyed_generator`, and has to be picklable (a top-level
            function, a method or an object of a top-level class) where workers are spawned.
    """

    def __init__(self, items: Sequence[T], load: Callable[[T, SampleKey], Fields]) -> None:
        self.items = items
        self.load = load

    def __len__(self) -> int:
        """Return the number of items."""
        return len(self.items)

    def __getitem__(self, key: SampleKey) -> LoadedExample:
        """Return the sample of a key; a picture that cannot be read becomes a filler that says why."""
        item = self.items[key.index]
        try:
            return LoadedExample(self.load(item, key), None)
        except ImageDecodeError as error:
            return LoadedExample(self.load(item, key._replace(filler=True)), str(error))


class EpochLoader:
    """The batches of one process, epoch by epoch, from any place in the epoch.

    `epoch(e, start=k)` yields exactly the batches k, k + 1, ... of the uninterrupted epoch. The number of batches is
    the same in every epoch and on every process (see `AspectRatioBatches`). The global random states of torch, NumPy
    and Python are neither read nor changed, with whatever number of workers.

    Args:
        dataset: makes the samples.
        batches: says which samples stand in which batch.
        collate: joins the fields of a batch's samples; picklable where workers are spawned.
        workers: number of processes that read ahead; 0 reads in this one.
        seed: seeds the workers' own random states, which nothing here draws from.
        start_method: "fork", "spawn" or "forkserver"; None is Python's default for the system.

    Attributes:
        log: the pictures that could not be read so far.
    """

    def __init__(
        self,
        dataset: ExampleDataset[Any],
        batches: AspectRatioBatches,
        collate: Callable[[list[Fields]], dict[str, Tensor]],
        workers: int = 0,
        seed: int = 0,
        start_method: str | None = None,
    ) -> None:
        if len(dataset) != batches.sample_count:
            raise SohoError(
                f"the data set has {len(dataset)} items but the batches were made for {batches.sample_count}"
            )
        self.dataset = dataset
        self.batches = batches
        self.collate = collate
        self.workers = workers
        self.seed = seed
        self.start_method = start_method
        self.log = DecodeLog()

    @property
    def batches_per_epoch(self) -> int:
        """Number of micro-batches per process; constant over epochs and processes."""
        return len(self.batches)

    @property
    def broken(self) -> list[str]:
        """One sentence per picture that this process could not read so far."""
        return self.log.messages

    def epoch(self, epoch: int, start: int = 0) -> Iterator[dict[str, Tensor]]:
        """Yield the batches of an epoch.

        Args:
            epoch: number of the epoch.
            start: how many batches to leave out.

        Raises:
            SohoError: `start` is beyond the end, the data are bad, or a worker process died.
        """
        plan = self.batches.batches(epoch, start)
        # Rust threads do not survive a fork (each worker would warn on the console), and for the few texts of a sample
        # they cost more than they bring.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        loader: DataLoader[Any] = DataLoader(
            self.dataset,  # type: ignore[arg-type]
            batch_sampler=_Keys(plan, epoch),  # type: ignore[arg-type]
            num_workers=self.workers,
            collate_fn=_Collate(self.collate),
            # A loader without a generator of its own draws from torch's global one.
            generator=torch.Generator().manual_seed(self.seed),
            multiprocessing_context=self.start_method if self.workers else None,
            pin_memory=torch.cuda.is_available(),
        )
        return self._walk(loader)

    def _walk(self, loader: DataLoader[Any]) -> Iterator[dict[str, Tensor]]:
        try:
            for batch in loader:
                for message in batch.pop("broken"):
                    self.log.add(message)
                yield batch
        except SohoError as error:
            # A worker hands its whole traceback over as the message; the user is meant to read the sentence alone.
            raise SohoError(str(error).rsplit(f"{type(error).__name__}: ", 1)[-1].strip()) from error
        except RuntimeError as error:
            if not str(error).startswith("DataLoader worker"):  # "... (pid 7) is killed by signal" and the like
                raise
            raise SohoError(
                f"a data worker process died ({error}); mostly memory or /dev/shm was full: try data.workers=0 or a "
                "smaller batch size"
            ) from error


class _Keys:
    """The keys of an epoch's batches, made one batch at a time."""

    def __init__(self, plan: list[list[BatchItem]], epoch: int) -> None:
        self.plan = plan
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.plan)

    def __iter__(self) -> Iterator[list[SampleKey]]:
        for batch in self.plan:
            yield [SampleKey(item.index, self.epoch, item.filler) for item in batch]


class _Collate:
    """Collates the fields and carries the broken pictures' messages from the worker to the loader."""

    def __init__(self, collate: Callable[[list[Fields]], dict[str, Tensor]]) -> None:
        self.collate = collate

    def __call__(self, examples: list[LoadedExample]) -> dict[str, Any]:
        batch: dict[str, Any] = dict(self.collate([example.fields for example in examples]))
        batch["broken"] = [example.broken for example in examples if example.broken is not None]
        return batch


def resolve_sizes(
    items: Sequence[CaptionedImage] | Sequence[VisualQuestion] | Sequence[Photo],
    progress: bool = False,
    log: DecodeLog | None = None,
    threads: int = 4,
) -> list[tuple[int, int]]:
    """Return (width, height) of every item's picture.

    The record's own figures are believed where it has them; otherwise the header of the file is read, once per file.

    Args:
        items: records with `image`, `width` and `height`.
        progress: show a bar.
        log: takes the pictures whose header cannot be read.
        threads: readers at the same time; reading headers is mostly waiting.

    Returns:
        One pair per item, (0, 0) where the header cannot be read.
    """
    unknown = list(dict.fromkeys(item.image for item in items if not (item.width and item.height)))
    log = DecodeLog() if log is None else log
    read: dict[ImageRef, tuple[int, int]] = {}
    if unknown:
        with ThreadPoolExecutor(threads) as pool:
            results = tqdm(
                pool.map(_header, unknown),
                total=len(unknown),
                desc="reading picture sizes",
                unit="picture",
                disable=not progress,
                delay=1.0,  # a bar for a small set would only flash up
                leave=False,
            )
            for ref, size in zip(unknown, results):
                if isinstance(size, str):
                    log.add(size)
                    size = (0, 0)
                read[ref] = size
    return [(item.width, item.height) if item.width and item.height else read[item.image] for item in items]


def _header(ref: ImageRef) -> tuple[int, int] | str:
    try:
        return image_size(ref)
    except ImageDecodeError as error:
        return str(error)
