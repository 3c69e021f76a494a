"""From files to tensors: pictures a second on one thread, and whether the loader keeps up with a training step.

Sides of `photographs`: the bare decoders (Pillow; simplejpeg, which is libjpeg-turbo, where it is installed) on the
bytes in memory; `ours`, file to uint8 tensor at the model's size (600 x 1000); `ours, normalised`, the same to float32
with mask, as the data loader does it; `ours, data.decoder=simplejpeg`, file to uint8 tensor with the optional decoder,
which decodes at the size that is needed. Photographs of 640 x 480 and 3000 x 2000 pixels.
`loader` lets two worker processes feed the trainer's step (R18+3, four texts a picture) and measures how long the step
waits.
"""

from __future__ import annotations

import io
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from benchmarks.inference import jpeg
from benchmarks.options import Options
from benchmarks.pretraining_step import our_step
from benchmarks.report import Check, Outcome
from benchmarks.subjects import R18, TINY, pretraining_batch
from benchmarks.timing import Clock, Side, interleave
from soho.data.batching import AspectRatioBatches
from soho.data.dataset import EpochLoader, ExampleDataset, SampleKey
from soho.data.schema import ImageRef
from soho.processing import SohoImageProcessor
from soho.tasks.batches import PixelReader, stack_pictures

PILLOW, TURBO, OURS = "bare decoder, Pillow", "bare decoder, simplejpeg", "ours"
NORMALISED, SCALED = "ours, normalised", "ours, data.decoder=simplejpeg"


def run(options: Options) -> Outcome:
    """Time decoding of two sizes of photographs, then the loader."""
    outcome = Outcome("input pipeline")
    with tempfile.TemporaryDirectory() as folder:
        for width, height in [(96, 64)] if options.quick else [(640, 480), (3000, 2000)]:
            case = f"photographs of {width} x {height}"
            if options.wants_case(case):
                files = photographs(Path(folder) / f"{width}", width, height, 3 if options.quick else 8)
                _decoding(outcome, options, files, case)
                options.after_case(outcome)
        if options.wants_case("loader") and not options.sides:
            edges = (96, 64) if options.quick else (1000, 667)
            files = photographs(Path(folder) / "loader", *edges, 4 if options.quick else 16)
            _loader(outcome, options, files, edges)
    return outcome


def photographs(folder: Path, width: int, height: int, count: int) -> list[Path]:
    """Write JPEG files of noise on several scales."""
    folder.mkdir()
    paths = [folder / f"{number}.jpg" for number in range(count)]
    for number, path in enumerate(paths):
        path.write_bytes(jpeg(width, height, number))
    return paths


def image_processor(options: Options) -> SohoImageProcessor:
    """Return the model's image processor."""
    return SohoImageProcessor(shorter_edge=64, longer_edge=128) if options.quick else SohoImageProcessor()


def simplejpeg() -> Any:
    """Return the module, or None where it is not installed."""
    try:
        import simplejpeg as module
    except ImportError:
        return None
    return module


def to_uint8(path: Path, reader: PixelReader, size: tuple[int, int]) -> Tensor:
    """Return a picture (h, w, 3) uint8 at the model's size, by the package's own way."""
    pixels = reader(ImageRef(str(path)), size).pixels
    assert pixels is not None
    return torch.from_numpy(pixels)


def _decoding(outcome: Outcome, options: Options, files: Sequence[Path], case: str) -> None:
    reader = PixelReader(image_processor(options))
    contents = [path.read_bytes() for path in files]
    with Image.open(files[0]) as first:
        size = first.size
    turbo = simplejpeg()

    def each(function: Callable[[Any], object], items: Sequence[Any]) -> Callable[[Clock], None]:
        def call(_: Clock) -> None:
            for item in items:
                function(item)

        return call

    makers: dict[str, Callable[[Clock], None]] = {
        PILLOW: each(lambda data: Image.open(io.BytesIO(data)).load(), contents),
        OURS: each(lambda path: to_uint8(path, reader, size), files),
        NORMALISED: each(lambda path: stack_pictures([reader(ImageRef(str(path)), size)]), files),
    }
    if turbo is not None:
        makers[TURBO] = each(lambda data: turbo.decode_jpeg(data, "RGB"), contents)
        scaled = PixelReader(reader.processor, decoder="simplejpeg")
        makers[SCALED] = each(lambda path: to_uint8(path, scaled, size), files)
    else:
        outcome.remarks.append("simplejpeg is not installed, so its sides are missing: pip install '.[bench]'")
    sides = [Side(name, makers[name], len(files)) for name in options.chosen(list(makers))]
    timings = interleave(sides, torch.device("cpu"), options.rounds, case, options.seconds)
    outcome.add(case, timings, "pictures", OURS)
    bare = TURBO if TURBO in timings else PILLOW
    if SCALED in timings and bare in timings:
        share = timings[SCALED].rate / timings[bare].rate
        outcome.checks.append(Check(f"{case}: {SCALED} reaches 0.45 of the rate of the {bare}", share, 0.45))


class LoadPixels:
    """Reads one photograph; picklable, for worker processes."""

    def __init__(self, processor: SohoImageProcessor, size: tuple[int, int]) -> None:
        self.reader, self.size = PixelReader(processor), size

    def __call__(self, path: str, key: SampleKey) -> dict[str, Any]:
        """Return the decoded, resized picture."""
        return {"picture": self.reader(ImageRef(path), self.size)}


def collate_pictures(samples: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
    """Normalise pictures into a batch."""
    return stack_pictures([sample["picture"] for sample in samples])


def waiting_share(options: Options, files: Sequence[Path], size: tuple[int, int], workers: int) -> tuple[float, float]:
    """Train on photographs from a loader; return the median seconds of a step and the share of time spent waiting."""
    scale, images = (TINY, 2) if options.quick else (R18, 4)
    processor = image_processor(options)
    count = 4 if options.quick else 12
    items = [str(files[number % len(files)]) for number in range(images * (count + 2))]
    width, height = processor.padded_size(*size)
    batches = AspectRatioBatches([(width, height)] * len(items), images, 0)
    dataset = ExampleDataset(items, LoadPixels(processor, size))
    loader = EpochLoader(dataset, batches, collate_pictures, workers=workers)
    batch = pretraining_batch(images, height, width, scale.config().vocab_size)
    step = our_step(scale, batch, options)
    clock = Clock(options.device)
    waits, steps = [], []
    begun = time.perf_counter()
    for found in tqdm(loader.epoch(0), total=len(batches), desc="loader", unit="step", dynamic_ncols=True):
        ready = time.perf_counter()
        batch.update(found)
        step(clock)
        done = time.perf_counter()
        waits.append(ready - begun)
        steps.append(done - ready)
        begun = done
    kept = slice(2, None)  # the first batches come while the workers start
    return float(np.median(steps[kept])), sum(waits[kept]) / (sum(waits[kept]) + sum(steps[kept]))


def _loader(outcome: Outcome, options: Options, files: Sequence[Path], size: tuple[int, int]) -> None:
    workers = 0 if options.quick else 2
    step, share = waiting_share(options, files, size, workers)
    outcome.remarks.append(
        f"loader: {workers} workers, a step of {1e3 * step:.0f} ms, {share:.1%} of the time spent waiting for pictures"
    )
    if not options.quick:
        outcome.checks.append(
            Check("the step waits for the loader at most 0.05 of the time", share, 0.05, at_most=True)
        )
