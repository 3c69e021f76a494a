"""Small steps that every task's batches share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from soho.data.dataset import EpochLoader
from soho.data.images import decode
from soho.data.jpeg import decode_at_least, require_simplejpeg
from soho.data.schema import ImageRef
from soho.errors import SohoError
from soho.processing.image_processing_soho import SohoImageProcessor

AUTOCAST = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """A picture on its way into a batch, not yet normalised: 3 bytes a pixel.

    Attributes:
        pixels: (h, w, 3) uint8, or None for mean grey.
        shown: (width, height) of what the mask marks as picture, from the upper left corner; (0, 0) is a filler.
        canvas: (width, height) of its tensor.
        processor: normalises it.
    """

    pixels: np.ndarray | None
    shown: tuple[int, int]
    canvas: tuple[int, int]
    processor: SohoImageProcessor


class PixelReader:
    """Reads pictures as the model takes them, and keeps as many of them as its memory holds.

    Decoding a JPEG and resizing it costs more than a small model's forward pass. A picture is kept as it is after
    resizing, 3 bytes a pixel, so a later epoch only normalises it. Every data worker keeps its own.

    Args:
        processor: resizes, normalises and pads.
        megabytes: bound of what is kept, 0 = nothing.
        decoder: "pillow", or "simplejpeg" for JPEG at the size that is needed (`soho.data.jpeg`).

    Raises:
        SohoError: the decoder is not installed.
    """

    def __init__(self, processor: SohoImageProcessor, megabytes: int = 0, decoder: str = "pillow") -> None:
        self.processor = processor
        self.scaled = decoder == "simplejpeg"
        if self.scaled:
            require_simplejpeg()
        self.left = megabytes * 2**20
        self._kept: dict[tuple[ImageRef, tuple[int, int]], np.ndarray] = {}

    def __call__(self, image: ImageRef, size: tuple[int, int]) -> Picture:
        """Return the picture, padded by its own shape alone.

        The shape is that of the declared `size` (width, height), by which its batch was formed; a picture that turns
        out to be of another size is fitted into it.

        Raises:
            ImageDecodeError: the picture cannot be read.
        """
        canvas = self.processor.padded_size(*size)
        pixels = self._kept.get((image, canvas))
        if pixels is None:
            pixels = self.processor.resized(self._decoded(image, canvas), canvas)
            if pixels.nbytes <= self.left:
                self.left -= pixels.nbytes
                self._kept[image, canvas] = pixels
        height, width = pixels.shape[:2]
        return Picture(pixels, (width, height), canvas, self.processor)

    def _decoded(self, image: ImageRef, canvas: tuple[int, int]) -> Image.Image | np.ndarray:
        if not self.scaled:
            return decode(image)
        return decode_at_least(image, lambda width, height: self.processor.fitted_size(width, height, canvas))


def blank_picture(processor: SohoImageProcessor, size: tuple[int, int], *, visible: bool = False) -> Picture:
    """Return mean grey in the shape that a picture of `size` (width, height) would have.

    Args:
        processor: decides the shape.
        size: of the picture that is not read.
        visible: False marks every pixel as padding (a filler); True lets the model look at grey.
    """
    shown = processor.target_size(*size) if visible else (0, 0)
    return Picture(None, shown, processor.padded_size(*size), processor)


def sample_picture(
    pixels: PixelReader, image: ImageRef, size: tuple[int, int], *, filler: bool, blind: bool
) -> Picture:
    """Return what a sample shows: the picture, grey where the model is blind, nothing at all where it is a filler."""
    if filler or blind:
        return blank_picture(pixels.processor, size, visible=not filler)
    return pixels(image, size)


def stack_pictures(pictures: Sequence[Picture]) -> dict[str, Tensor]:
    """Normalise pictures of one canvas into a batch.

    Returns:
        `pixel_values` (B, 3, H, W) float32, zero where padded or grey, channels last in memory, as CNNs want it; and
        `pixel_mask` (B, H, W) bool, True on picture.

    Raises:
        SohoError: the canvases differ: a batch holds one padded shape (docs/architecture.md).
    """
    canvases = {picture.canvas for picture in pictures}
    if len(canvases) > 1:
        shapes = ", ".join(f"{width}x{height}" for width, height in sorted(canvases))
        raise SohoError(f"a batch holds pictures of one padded shape, but these have {shapes}")
    width, height = pictures[0].canvas
    values = np.zeros((len(pictures), height, width, 3), dtype=np.float32)
    mask = torch.zeros(len(pictures), height, width, dtype=torch.bool)
    for row, picture in enumerate(pictures):
        mask[row, : picture.shown[1], : picture.shown[0]] = True
        if picture.pixels is not None:
            picture.processor.write_normalised(picture.pixels, values[row])
    return {"pixel_values": torch.from_numpy(values).permute(0, 3, 1, 2), "pixel_mask": mask}


@dataclass(frozen=True)
class GreyCollate:
    """A collate function for blind models: equal grey pictures go through the CNN once for all their texts.

    Batch norms and the count of images then see every shape of grey once, however many pictures have it.

    Attributes:
        collate: makes the batch, with `pair_image_index`.
    """

    collate: Callable[[Sequence[dict[str, Any]]], dict[str, Tensor]]

    def __call__(self, samples: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        """Return the batch with one picture (or pair of them) for every shape of grey."""
        batch = self.collate(samples)
        masks = torch.cat([value.flatten(1) for name, value in batch.items() if name.startswith("pixel_mask")], dim=1)
        known: dict[bytes, int] = {}
        place = torch.tensor([known.setdefault(row.tobytes(), len(known)) for row in masks.numpy()])
        first = [place.tolist().index(number) for number in range(len(known))]
        for name in [name for name in batch if name.startswith("pixel_")]:
            batch[name] = batch[name][first]
        batch["pair_image_index"] = place[batch["pair_image_index"]]
        return batch


def pad_texts(rows: Sequence[Sequence[int] | np.ndarray], value: int) -> tuple[Tensor, Tensor]:
    """Pad rows of ids to the longest; returns (T, L) int64 and the 0/1 attention mask (T, L)."""
    length = max(len(row) for row in rows)
    padded = np.full((len(rows), length), value, dtype=np.int64)
    mask = np.zeros((len(rows), length), dtype=np.int64)
    for number, row in enumerate(rows):
        padded[number, : len(row)] = row
        mask[number, : len(row)] = 1
    return torch.from_numpy(padded), torch.from_numpy(mask)


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Return the autocast context of a precision name (fp32: disabled)."""
    dtype = AUTOCAST[precision]
    return torch.autocast(device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None)


def inference(
    model: nn.Module, loader: EpochLoader, precision: str, epoch: int = 0
) -> Iterator[tuple[dict[str, Tensor], Any]]:
    """Run a model over all batches in evaluation mode; yields (batch, output).

    The model's training mode is restored afterwards.
    """
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    try:
        with torch.inference_mode(), autocast(device, precision):
            for batch in loader.epoch(epoch):
                batch = {name: value.to(device) for name, value in batch.items()}
                yield batch, model(**batch)
    finally:
        model.train(training)
