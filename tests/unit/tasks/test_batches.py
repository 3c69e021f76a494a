"""The small steps from samples to tensors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from soho.data.images import ImageDecodeError
from soho.data.schema import ImageRef
from soho.errors import SohoError
from soho.processing import SohoImageProcessor
from soho.tasks import PretrainingTask, Processes
from soho.tasks.batches import GreyCollate, PixelReader, autocast, blank_picture, inference, pad_texts, stack_pictures
from tests.tiny_recipes import tiny_recipe

PROCESSOR = SohoImageProcessor(shorter_edge=64, longer_edge=128)


def test_texts_are_padded_to_the_longest() -> None:
    padded, mask = pad_texts([[2, 7, 3], np.array([2, 3])], 9)
    assert padded.tolist() == [[2, 7, 3], [2, 3, 9]]
    assert mask.tolist() == [[1, 1, 1], [1, 1, 0]]
    assert padded.dtype == mask.dtype == torch.long
    padded, _ = pad_texts([[5], [6, -100, 1]], -100)
    assert padded.tolist() == [[5, -100, -100], [6, -100, 1]]


def test_equal_grey_pictures_stand_once_in_a_blind_batch() -> None:
    def grey(height: int, visible: bool = True) -> torch.Tensor:
        return stack_pictures([blank_picture(PROCESSOR, (64, height), visible=visible)])["pixel_mask"][0]

    left = [grey(64), grey(96), grey(64), grey(64), grey(64, visible=False)]
    right = [grey(64), grey(64), grey(64), grey(96), grey(64, visible=False)]

    def collate(samples: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        batch = {"pair_image_index": torch.tensor([0, 0, 1, 2, 3, 4]), "labels": torch.arange(6)}
        for suffix, side in (("", left), ("_2", right)):
            masks = torch.stack([mask[:64] if len(mask) == 64 else mask[:64] & False for mask in side])
            batch |= {f"pixel_values{suffix}": torch.zeros(5, 3, 64, 64), f"pixel_mask{suffix}": masks}
        return batch

    batch = GreyCollate(collate)([])
    assert batch["pair_image_index"].tolist() == [0, 0, 1, 0, 2, 3]
    assert len(batch["pixel_values"]) == len(batch["pixel_values_2"]) == 4
    assert batch["pixel_mask"].flatten(1).any(1).tolist() == [True, False, True, False]
    assert batch["pixel_mask_2"].flatten(1).any(1).tolist() == [True, True, False, False]
    assert batch["labels"].tolist() == list(range(6))


def test_a_picture_is_read_at_the_shape_of_its_declared_size(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("RGB", (50, 50), (255, 0, 0)).save(path)  # 64 x 64 after resizing
    batch = stack_pictures([PixelReader(PROCESSOR)(ImageRef(str(path)), (50, 50))])
    pixels, mask = batch["pixel_values"][0], batch["pixel_mask"][0]
    assert pixels.shape == (3, 64, 64)
    assert mask.all()
    # ImageNet's mean and standard deviation: (1 - 0.485) / 0.229 and (0 - 0.456) / 0.224.
    torch.testing.assert_close(pixels[:2, 30, 30], torch.tensor([2.2489, -2.0357]), atol=1e-3, rtol=0)
    # The annotation was wrong.
    batch = stack_pictures([PixelReader(PROCESSOR)(ImageRef(str(path)), (100, 50))])
    assert batch["pixel_values"].shape == (1, 3, 64, 128)
    assert batch["pixel_mask"].sum() == 64 * 64
    assert batch["pixel_values"][..., 64:].eq(0).all()


def test_a_picture_is_decoded_once_where_it_fits_into_memory(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        Image.effect_noise((1024, 512), 80).convert("RGB").save(tmp_path / name)
    processor = SohoImageProcessor(shorter_edge=512, longer_edge=1024)
    first, second = ImageRef(str(tmp_path / "a.png")), ImageRef(str(tmp_path / "b.png"))
    reader = PixelReader(processor, megabytes=2)  # 1024 x 512 x 3 bytes are 1.5 MiB: one of them fits

    def read(image: ImageRef, size: tuple[int, int] = (1024, 512)) -> torch.Tensor:
        return stack_pictures([reader(image, size)])["pixel_values"]

    before = [read(ref) for ref in (first, second)]
    for name in ("a.png", "b.png"):
        Image.new("RGB", (1024, 512), (1, 2, 3)).save(tmp_path / name)
    after = [read(ref) for ref in (first, second)]
    assert torch.equal(before[0], after[0])
    assert not torch.equal(before[1], after[1])
    # Another declared size is another tensor.
    assert read(first, (512, 1024)).shape == (1, 3, 1024, 512)


def test_a_missing_picture(tmp_path: Path) -> None:
    with pytest.raises(ImageDecodeError, match=r"gone\.png"):
        PixelReader(PROCESSOR)(ImageRef(str(tmp_path / "gone.png")), (50, 50))


def test_a_batch_has_one_padded_shape() -> None:
    pictures = [blank_picture(PROCESSOR, size, visible=True) for size in ((64, 64), (128, 64))]
    with pytest.raises(SohoError, match=r"one padded shape, but these have 64x64, 128x64"):
        stack_pictures(pictures)


def test_blank_pictures() -> None:
    size = (75, 50)  # resized to 96 x 64, padded to 128 x 64
    batch = stack_pictures([blank_picture(PROCESSOR, size, visible=visible) for visible in (False, True)])
    assert batch["pixel_values"].shape == (2, 3, 64, 128)
    assert batch["pixel_values"].eq(0).all()
    filler, visible = batch["pixel_mask"]
    assert not filler.any()
    assert visible[:, :96].all()
    assert not visible[:, 96:].any()


def test_pictures_are_normalised_as_the_processor_does_it(tmp_path: Path) -> None:
    """To the last bit, whatever the picture's row in the batch and its place in memory."""
    paths = [tmp_path / f"{name}.png" for name in "ab"]
    for path, size in zip(paths, ((75, 50), (72, 50))):
        Image.effect_noise(size, 80).convert("RGB").resize(size).save(path)
    reader = PixelReader(PROCESSOR)
    batch = stack_pictures([reader(ImageRef(str(path)), (75, 50)) for path in paths])
    assert batch["pixel_values"].is_contiguous(memory_format=torch.channels_last)
    assert batch["pixel_values"].dtype == torch.float32
    for path, values, mask in zip(paths, batch["pixel_values"], batch["pixel_mask"]):
        with Image.open(path) as picture:
            expected = PROCESSOR(picture.convert("RGB"), canvas=(128, 64))
        assert torch.equal(values, expected["pixel_values"][0])
        assert torch.equal(mask, expected["pixel_mask"][0])


@pytest.mark.parametrize(
    ("precision", "expected"), [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)]
)
def test_autocast_by_name(precision: str, expected: torch.dtype) -> None:
    with autocast(torch.device("cpu"), precision):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == expected


@pytest.mark.parametrize("training", [True, False])
def test_inference_leaves_the_mode_and_the_dictionary_as_they_were(world: Path, tmp_path: Path, training: bool) -> None:
    task = PretrainingTask(tiny_recipe("pretraining", world, tmp_path / "run", "data.train.0.limit=8"))
    model, _ = task.build_model()
    model.train(training)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    loader = task.train_loader(Processes())
    batches = 0
    for batch, output in inference(model, loader, "fp32"):
        assert not model.training
        assert not output.loss.requires_grad
        assert len(output.logits) == len(batch["itm_labels"])
        batches += 1
    assert batches == loader.batches_per_epoch
    assert model.training == training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    interrupted = inference(model, loader, "fp32")
    next(interrupted)
    interrupted.close()  # as an error in the middle of a loop does
    assert model.training == training
