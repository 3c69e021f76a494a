"""Pictures to tensors: resize by the shorter edge, normalise, pad by the picture's own shape alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypedDict

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F
from transformers import BatchFeature
from transformers.image_processing_utils import BaseImageProcessor

from soho.errors import SohoError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

Picture = Image.Image | np.ndarray
Size = tuple[int, int]


class SohoImageKwargs(TypedDict, total=False):
    """Fields of `SohoImageProcessor` that `from_pretrained` may override."""

    do_resize: bool
    shorter_edge: int
    longer_edge: int
    size_divisor: int
    smallest_padded_edge: int
    resample: int
    image_mean: Sequence[float]
    image_std: Sequence[float]


class SohoImageProcessor(BaseImageProcessor):
    """Turns pictures into normalised pixels with a mask of the real ones.

    A picture is scaled so that its shorter edge has `shorter_edge` pixels unless the longer one would pass
    `longer_edge` (section 4.1: 600 and 1000), normalised with ImageNet's mean and deviation and padded with zeros
    (the mean colour) on the right and at the bottom to a multiple of `size_divisor`.

    Args:
        do_resize: False keeps the pictures' own sizes.
        shorter_edge: pixels.
        longer_edge: pixels.
        size_divisor: 64 is what the CNN and the 2x2 max-pool divide by, so that no cell is cut.
        smallest_padded_edge: pixels that a padded edge has at least. Where `size_divisor` is below the 64 pixels of a
            cell, very long and narrow pictures would have no cell without it.
        resample: Pillow's filter number; 2 is bilinear.
        image_mean: three values for pixels in [0, 1].
        image_std: three values likewise.
        **kwargs: what transformers stores with a processor.

    Raises:
        SohoError: a size below 1 or a longer edge below the shorter one.
    """

    model_input_names = ["pixel_values", "pixel_mask"]  # noqa: RUF012
    valid_kwargs = SohoImageKwargs

    def __init__(
        self,
        do_resize: bool = True,
        shorter_edge: int = 600,
        longer_edge: int = 1000,
        size_divisor: int = 64,
        smallest_padded_edge: int = 1,
        resample: int = int(Image.Resampling.BILINEAR),
        image_mean: Sequence[float] = IMAGENET_MEAN,
        image_std: Sequence[float] = IMAGENET_STD,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not 1 <= shorter_edge <= longer_edge:
            raise SohoError(f"shorter_edge={shorter_edge} must lie in 1..longer_edge={longer_edge}")
        if size_divisor < 1:
            raise SohoError(f"size_divisor={size_divisor} must be at least 1")
        self.do_resize = do_resize
        self.shorter_edge = shorter_edge
        self.longer_edge = longer_edge
        self.size_divisor = size_divisor
        self.smallest_padded_edge = smallest_padded_edge
        self.resample = int(resample)
        self.image_mean = list(image_mean)
        self.image_std = list(image_std)

    def target_size(self, width: int, height: int) -> Size:
        """Return the (width, height) that a picture of `width` x `height` pixels is resized to."""
        if not self.do_resize:
            return width, height
        scale = min(self.longer_edge / max(width, height), self.shorter_edge / min(width, height))
        return _scaled(width, height, scale)

    def padded_size(self, width: int, height: int) -> Size:
        """Return the (width, height) of the tensor of a picture of `width` x `height` pixels."""
        target = self.target_size(width, height)
        edges = [max(edge, self.smallest_padded_edge) for edge in target]
        divisor = self.size_divisor
        return -(-edges[0] // divisor) * divisor, -(-edges[1] // divisor) * divisor

    def __call__(
        self,
        images: Picture | Sequence[Picture],
        return_tensors: str | None = "pt",
        pad_to_largest: bool = False,
        canvas: Size | None = None,
    ) -> BatchFeature:
        """Return `pixel_values` (B, 3, H, W) float32 and `pixel_mask` (B, H, W) bool, True on picture.

        Args:
            images: one or several RGB pictures: Pillow images of any mode or (H, W, 3) uint8 arrays. A stored EXIF
                orientation is not looked at here; `soho.data.images.decode` has obeyed it.
            return_tensors: "pt" or "np".
            pad_to_largest: allow pictures of different padded shapes in one call. Zeros inside a CNN change the
                features near them, so a picture's result then depends on the others.
            canvas: (width, height) of the tensor, whatever the pictures say; a picture that would not fit is made
                smaller. For batches whose shape is settled before the pictures are read.

        Raises:
            SohoError: no picture, something else than a picture, or pictures of different padded shapes.
        """
        given = [images] if isinstance(images, (Image.Image, np.ndarray)) else images
        pictures = [_rgb(image) for image in given]
        if not pictures:
            raise SohoError("no picture was given; expected a Pillow image, an (H, W, 3) uint8 array or a list of them")
        width, height = canvas or self._canvas([picture.size for picture in pictures], pad_to_largest)
        values = np.zeros((len(pictures), 3, height, width), dtype=np.float32)
        mask = np.zeros((len(pictures), height, width), dtype=bool)
        for row, picture in enumerate(pictures):
            self._write(self.resized(picture, (width, height)), values[row], mask[row])
        return BatchFeature({"pixel_values": values, "pixel_mask": mask}, tensor_type=return_tensors)

    preprocess = __call__

    def _canvas(self, sizes: list[Size], pad_to_largest: bool) -> Size:
        padded = {self.padded_size(*size) for size in sizes}
        if len(padded) > 1 and not pad_to_largest:
            shapes = ", ".join(f"{width}x{height}" for width, height in sorted(padded))
            raise SohoError(
                f"these pictures have different padded shapes ({shapes}), and a picture's result must not depend on "
                "the others; give one shape per call, or pass pad_to_largest=True to pad them all alike"
            )
        return max(width for width, _ in padded), max(height for _, height in padded)

    def fitted_size(self, width: int, height: int, canvas: Size) -> Size:
        """Return the `target_size`, made smaller where `canvas` (width, height) has no room for it."""
        width, height = self.target_size(width, height)
        if width > canvas[0] or height > canvas[1]:
            return _scaled(width, height, min(canvas[0] / width, canvas[1] / height))
        return width, height

    def resized(self, picture: Picture, canvas: Size) -> np.ndarray:
        """Return the picture in the size in which the model reads it: `fitted_size`.

        Args:
            picture: RGB Pillow image or (H, W, 3) uint8 array.
            canvas: (width, height) of the tensor that it is for.

        Returns:
            (h, w, 3) uint8, contiguous.
        """
        height, width = picture.shape[:2] if isinstance(picture, np.ndarray) else picture.size[::-1]
        size = self.fitted_size(width, height, canvas)
        if size == (width, height):
            return np.ascontiguousarray(picture)
        if self.resample == Image.Resampling.BILINEAR:
            return _bilinear(np.asarray(picture), size)
        whole = Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture
        return np.asarray(whole.resize(size, Image.Resampling(self.resample)))

    def write_normalised(self, picture: np.ndarray, out: np.ndarray) -> None:
        """Normalise a `resized` (h, w, 3) uint8 picture into the upper left corner of `out` (H, W, 3) float32.

        `out` must be contiguous; what is written is then seen by whoever holds it.
        """
        assert out.flags.c_contiguous
        height, width = picture.shape[:2]
        factor, offset = (np.tile(values, width) for values in self._scale())
        # One row of pixels at a time, colours included: three numbers alone would be too short for a fast loop.
        corner = out[:height].reshape(height, -1)[:, : 3 * width]
        np.multiply(picture.reshape(height, 3 * width), factor, out=corner)
        corner += offset

    def _write(self, picture: np.ndarray, values: np.ndarray, mask: np.ndarray) -> None:
        """Put a (h, w, 3) picture into the upper left corner of `values` (3, H, W) and `mask` (H, W)."""
        height, width = picture.shape[:2]
        factor, offset = (values[:, None, None] for values in self._scale())
        corner = values[:, :height, :width]
        np.multiply(picture.transpose(2, 0, 1), factor, out=corner)
        corner += offset
        mask[:height, :width] = True

    def _scale(self) -> tuple[np.ndarray, np.ndarray]:
        """Return (3,) factor and offset: (x / 255 - mean) / std as one multiplication and one addition."""
        std = np.asarray(self.image_std, dtype=np.float64)
        mean = np.asarray(self.image_mean, dtype=np.float64)
        return (1.0 / (255.0 * std)).astype(np.float32), (-mean / std).astype(np.float32)


def start_image_processor(folder: str | None, **changes: Any) -> SohoImageProcessor:
    """Return the image processor of a model folder or hub id with some settings changed.

    Args:
        folder: where a model starts from; None and one without image processor get the default settings.
        **changes: fields of `SohoImageProcessor`.
    """
    if folder is None:
        return SohoImageProcessor(**changes)
    try:
        found = SohoImageProcessor.from_pretrained(folder)
    except OSError:
        return SohoImageProcessor(**changes)
    fields = {name: getattr(found, name) for name in SohoImageKwargs.__annotations__}
    return SohoImageProcessor(**{**fields, **changes})


def _bilinear(pixels: np.ndarray, size: Size) -> np.ndarray:
    """Resize (H, W, 3) uint8 to (h, w, 3) as Pillow's bilinear filter does, three to eight times as fast.

    torch has the same integer arithmetic as Pillow, vectorised for pixels that lie channels last.
    """
    # torch warns of arrays that it may not write to, and silencing a warning is nothing for several threads.
    whole = torch.from_numpy(np.ascontiguousarray(pixels) if pixels.flags.writeable else np.array(pixels))
    # The batch dimension first, then the permutation: the other way round torch does not see that channels are last.
    found = F.interpolate(whole[None].permute(0, 3, 1, 2), size[::-1], mode="bilinear", antialias=True)
    return np.ascontiguousarray(found[0].permute(1, 2, 0).numpy())


def _scaled(width: int, height: int, scale: float) -> Size:
    return max(1, int(width * scale + 0.5)), max(1, int(height * scale + 0.5))


def _rgb(image: Any) -> Image.Image:
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] != 3):
            raise SohoError(
                f"an array of shape {image.shape} and type {image.dtype} is no picture; expected (H, W, 3) uint8"
            )
        image = Image.fromarray(image)
    if not isinstance(image, Image.Image):
        raise SohoError(f"{type(image).__name__} is no picture; expected a Pillow image or an (H, W, 3) uint8 array")
    return image if image.mode == "RGB" else image.convert("RGB")
