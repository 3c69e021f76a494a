from __future__ import annotations

import os
import pickle
import random
import signal
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from soho.data.batching import AspectRatioBatches
from soho.data.dataset import (
    DecodeLog,
    EpochLoader,
    ExampleDataset,
    PackedSequence,
    SampleKey,
    resolve_sizes,
)
from soho.data.images import decode
from soho.data.schema import CaptionedImage, ImageRef, VisualQuestion
from soho.errors import SohoError
from soho.processing.image_processing_soho import SohoImageProcessor
from soho.randomness import keyed_generator
from tests.support import shared_data

COUNT = 12
BROKEN = 5


def record(number: int, archive: str | None, **options: Any) -> CaptionedImage:
    ref = ImageRef(f"p/{number}.png", archive=archive)
    return CaptionedImage(str(number), f"test:{number}", ref, (f"number {number}",), ("0",), **options)


@pytest.fixture
def records(tmp_path: Path) -> list[CaptionedImage]:
    """Twelve pictures of two shapes in a zip file; every pixel tells the picture's number; one is cut off."""
    path = tmp_path / "pictures.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(COUNT):
            size = (8, 6) if number % 3 else (6, 8)
            file = tmp_path / "one.png"
            Image.new("RGB", size, (number, number, number)).save(file)
            content = file.read_bytes()
            archive.writestr(f"p/{number}.png", content[:45] if number == BROKEN else content)
    return [record(number, str(path)) for number in range(COUNT)]


def load(item: CaptionedImage, key: SampleKey) -> dict[str, Any]:
    """A sample as a task makes it: pixels, mask, a keyed draw and a label."""
    if key.filler:
        pixels = torch.zeros(3, 6, 8)
    else:
        pixels = torch.from_numpy(np.array(decode(item.image))).permute(2, 0, 1).float()
        pixels = pixels if pixels.shape[2] == 8 else pixels.transpose(1, 2)
    return {
        "pixel_values": pixels,
        "filler": key.filler,
        "index": key.index,
        "draw": keyed_generator(0, key.epoch, item.image_id, "test").random(),
    }


def collate(samples: list[dict[str, Any]]) -> dict[str, Tensor]:
    return {
        "pixel_values": torch.stack([sample["pixel_values"] for sample in samples]),
        "index": torch.tensor([sample["index"] for sample in samples]),
        "filler": torch.tensor([sample["filler"] for sample in samples]),
        "draw": torch.tensor([sample["draw"] for sample in samples], dtype=torch.float64),
    }


def load_badly(item: CaptionedImage, key: SampleKey) -> dict[str, Any]:
    raise SohoError(f"row {item.image_id}: no good")


def load_and_die(item: CaptionedImage, key: SampleKey) -> dict[str, Any]:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("not reached")


def loader(records: list[CaptionedImage], workers: int = 0, load: Any = load, **options: Any) -> EpochLoader:
    shapes = [(8, 6) if number % 3 else (6, 8) for number in range(len(records))]
    world = {name: options.pop(name) for name in ("world_size", "rank") if name in options}
    batches = AspectRatioBatches(shapes, 2, seed=1, **world)
    return EpochLoader(ExampleDataset(records, load), batches, collate, workers=workers, seed=1, **options)


def same(left: Iterator[dict[str, Tensor]] | list, right: Iterator[dict[str, Tensor]] | list) -> None:
    for one, other in zip(left, right, strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_batches_and_the_broken_picture(records: list[CaptionedImage]) -> None:
    data = loader(records)
    assert data.batches_per_epoch == 2 + 4  # 4 tall and 8 wide pictures by two
    batches = list(data.epoch(0))
    assert len(batches) == 6
    assert all(set(batch) == {"pixel_values", "index", "filler", "draw"} for batch in batches)
    index = torch.cat([batch["index"] for batch in batches])
    assert sorted(index.tolist()) == list(range(COUNT))
    filler = torch.cat([batch["filler"] for batch in batches])
    assert index[filler].tolist() == [BROKEN]
    pixels = torch.cat([batch["pixel_values"][:, 0, 0, 0] for batch in batches])
    assert pixels[~filler].tolist() == index[~filler].tolist()
    assert pixels[filler].tolist() == [0.0]
    assert len(data.broken) == 1
    assert f"pictures.zip!p/{BROKEN}.png" in data.broken[0]


def test_broken_pictures_are_counted_over_epochs_and_named_once(
    records: list[CaptionedImage], caplog: pytest.LogCaptureFixture
) -> None:
    data = loader(records)
    for epoch in range(3):
        list(data.epoch(epoch))
    assert len(data.broken) == 1
    assert data.log.count == 3
    assert sum("picture left out" in message for message in caplog.messages) == 1


def test_only_the_first_broken_pictures_are_shown(caplog: pytest.LogCaptureFixture) -> None:
    log = DecodeLog()
    for number in range(25):
        log.add(f"{number}.jpg: cut off")
    assert len(caplog.messages) == 10
    assert len(log.messages) == log.count == 25


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(records: list[CaptionedImage], workers: int) -> None:
    data = loader(records, workers)
    same(list(data.epoch(2)), list(loader(records).epoch(2)))
    assert data.broken == list(loader_broken(records))


def loader_broken(records: list[CaptionedImage]) -> list[str]:
    data = loader(records)
    list(data.epoch(2))
    return data.broken


@pytest.mark.slow
def test_spawned_workers_read_from_the_zip_too(records: list[CaptionedImage]) -> None:
    decode(records[0].image)  # the parent has the archive open
    data = loader(records, 1, start_method="spawn")
    same(list(data.epoch(0)), list(loader(records).epoch(0)))
    assert len(data.broken) == 1


@pytest.mark.parametrize("workers", [0, 2])
def test_going_on_in_the_middle_of_an_epoch(records: list[CaptionedImage], workers: int) -> None:
    whole = list(loader(records).epoch(4))
    for start in (0, 1, 3, 5, 6):
        same(list(loader(records, workers).epoch(4, start=start)), whole[start:])
    with pytest.raises(SohoError, match="cannot start epoch 4 at batch 7"):
        loader(records).epoch(4, start=7)


@pytest.mark.parametrize("workers", [0, 2])
def test_global_random_states_are_left_alone(records: list[CaptionedImage], workers: int) -> None:
    torch.manual_seed(5)
    np.random.seed(5)
    random.seed(5)
    before = torch.get_rng_state(), pickle.dumps(np.random.get_state()), random.getstate()
    first = list(loader(records, workers).epoch(0))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert pickle.dumps(np.random.get_state()) == before[1]
    assert random.getstate() == before[2]
    torch.manual_seed(99)
    same(first, list(loader(records, workers).epoch(0)))


def test_an_epoch_that_is_left_early_leaves_no_worker(records: list[CaptionedImage]) -> None:
    import multiprocessing

    batches = loader(records, 2).epoch(0)
    next(batches)
    assert len(multiprocessing.active_children()) == 2
    batches.close()  # type: ignore[attr-defined]
    assert multiprocessing.active_children() == []


def test_two_processes_share_the_epoch(records: list[CaptionedImage]) -> None:
    seen: list[int] = []
    for rank in range(2):
        for batch in loader(records, world_size=2, rank=rank).epoch(0):
            seen += batch["index"][~batch["filler"]].tolist()
    assert sorted(seen) == [number for number in range(COUNT) if number != BROKEN]


def test_a_filler_key_reaches_the_sample(records: list[CaptionedImage]) -> None:
    batches = [list(loader(records[1:2], world_size=2, rank=rank).epoch(0)) for rank in range(2)]
    assert sorted(batch["filler"].tolist() for (batch,) in batches) == [[False], [True]]


def test_draws_follow_the_epoch(records: list[CaptionedImage]) -> None:
    dataset = ExampleDataset(records, load)
    draws = [dataset[SampleKey(3, epoch)].fields["draw"] for epoch in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]


@pytest.mark.parametrize("workers", [0, 1])
def test_bad_data_is_one_sentence_from_a_worker_too(records: list[CaptionedImage], workers: int) -> None:
    with pytest.raises(SohoError) as caught:
        list(loader(records[:1], workers, load_badly).epoch(0))
    assert str(caught.value) == "row 0: no good"


def test_a_worker_that_dies_says_what_to_do(records: list[CaptionedImage]) -> None:
    with pytest.raises(SohoError, match=r"a data worker process died .* try data\.workers=0"):
        list(loader(records, 1, load_and_die).epoch(0))


def test_data_set_and_batches_must_agree(records: list[CaptionedImage]) -> None:
    with pytest.raises(SohoError, match="12 items but the batches were made for 3"):
        EpochLoader(ExampleDataset(records, load), AspectRatioBatches([(1, 1)] * 3, 1, 0), collate)


def test_sizes_from_records_and_headers(records: list[CaptionedImage], caplog: pytest.LogCaptureFixture) -> None:
    known = record(99, None, width=640, height=480)  # no such file, and none is needed
    log = DecodeLog()
    missing = record(98, None)
    sizes = resolve_sizes([*records[:3], known, missing, missing], log=log)
    assert sizes == [(6, 8), (8, 6), (8, 6), (640, 480), (0, 0), (0, 0)]
    assert log.count == 1
    assert "p/98.png" in log.messages[0]
    assert resolve_sizes([]) == []


def test_a_header_is_read_once_for_all_questions_on_a_picture(
    records: list[CaptionedImage], monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[ImageRef] = []

    def counting(ref: ImageRef) -> tuple[int, int]:
        read.append(ref)
        return 7, 5

    monkeypatch.setattr("soho.data.dataset.image_size", counting)
    questions = [VisualQuestion(str(number), "1", "test:1", records[1].image, "what?") for number in range(5)]
    assert resolve_sizes(questions) == [(7, 5)] * 5
    assert read == [records[1].image]


def test_packed_sequence(records: list[CaptionedImage]) -> None:
    packed = PackedSequence(iter(records))
    assert len(packed) == COUNT
    assert list(packed) == records
    assert packed[-1] == records[-1]
    assert packed[2:5] == records[2:5]
    assert packed[0] is not packed[0]
    assert list(pickle.loads(pickle.dumps(packed))) == records
    with pytest.raises(IndexError):
        packed[COUNT]
    assert list(PackedSequence([])) == []


def load_photo(item: ImageRef, key: SampleKey) -> dict[str, Any]:
    encoded = SohoImageProcessor(shorter_edge=128, longer_edge=256)(decode(item))
    return {"pixel_values": encoded["pixel_values"][0], "index": key.index, "filler": key.filler, "draw": 0.0}


def test_real_photos_inside_a_zip() -> None:
    path = shared_data("flickr8k/images_dev.zip")
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if name.endswith(".jpg")][:12]
    items = [ImageRef(name, archive=str(path)) for name in names]
    batches = AspectRatioBatches([(128, 128)] * len(items), 4, seed=0)
    dataset = ExampleDataset(items, load_photo)
    alone = list(EpochLoader(dataset, batches, collate).epoch(0))
    assert [tuple(batch["pixel_values"].shape) for batch in alone] == [(4, 3, 128, 128)] * 3
    assert all(1.0 < batch["pixel_values"].std() < 1.6 for batch in alone)  # photographs, normalised
    same(list(EpochLoader(dataset, batches, collate, workers=2).epoch(0)), alone)
