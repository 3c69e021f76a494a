from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F
from transformers import AutoImageProcessor

from soho.errors import SohoError
from soho.models.configuration_soho import SohoConfig
from soho.processing.image_processing_soho import SohoImageProcessor


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.mark.parametrize(
    ("size", "target", "padded"),
    [
        ((1000, 600), (1000, 600), (1024, 640)),
        ((640, 427), (899, 600), (960, 640)),  # 600 / 427 * 640 = 899.297
        ((427, 640), (600, 899), (640, 960)),
        ((640, 480), (800, 600), (832, 640)),
        ((1000, 500), (1000, 500), (1024, 512)),  # the longer edge decides
        ((500, 100), (1000, 200), (1024, 256)),
        ((224, 224), (600, 600), (640, 640)),
        ((3000, 2000), (900, 600), (960, 640)),
        ((10000, 3), (1000, 1), (1024, 64)),  # never less than one pixel
    ],
)
def test_sizes(size: tuple[int, int], target: tuple[int, int], padded: tuple[int, int]) -> None:
    processor = SohoImageProcessor()
    assert processor.target_size(*size) == target
    assert processor.padded_size(*size) == padded


def test_shapes_and_mask_of_a_600_by_1000_picture() -> None:
    encoded = SohoImageProcessor()(picture(1000, 600))
    assert encoded["pixel_values"].shape == (1, 3, 640, 1024)
    assert encoded["pixel_values"].dtype == torch.float32
    assert encoded["pixel_values"].is_contiguous()
    assert encoded["pixel_mask"].shape == (1, 640, 1024)
    assert encoded["pixel_mask"].dtype == torch.bool
    assert encoded["pixel_mask"].sum() == 600 * 1000
    assert encoded["pixel_mask"][0, :600, :1000].all()
    assert encoded["pixel_values"][0, :, 600:].abs().max() == 0
    assert encoded["pixel_values"][0, :, :, 1000:].abs().max() == 0


def test_normalisation_by_hand() -> None:
    pixels = np.zeros((2, 3, 3), dtype=np.uint8)
    pixels[0, 0] = 255
    pixels[1, 2] = (51, 102, 204)  # 0.2, 0.4, 0.8
    processor = SohoImageProcessor(do_resize=False, size_divisor=4)
    values = processor(pixels)["pixel_values"][0]
    assert values.shape == (3, 4, 4)
    white = [(1 - 0.485) / 0.229, (1 - 0.456) / 0.224, (1 - 0.406) / 0.225]
    black = [-2.1179039, -2.0357143, -1.8044444]
    mixed = [(0.2 - 0.485) / 0.229, (0.4 - 0.456) / 0.224, (0.8 - 0.406) / 0.225]
    np.testing.assert_allclose(values[:, 0, 0], white, rtol=1e-6)
    np.testing.assert_allclose(values[:, 1, 0], black, rtol=1e-6)
    np.testing.assert_allclose(values[:, 1, 2], mixed, rtol=1e-5)
    # Zero padding comes after normalisation: it is the mean colour, not black.
    assert values[:, 2:].abs().max() == 0
    assert values[:, :, 3].abs().max() == 0


def test_resizing_is_pillows_bilinear() -> None:
    source = picture(30, 20)
    processor = SohoImageProcessor(shorter_edge=32, longer_edge=64, image_mean=(0, 0, 0), image_std=(1, 1, 1))
    values = processor(source)["pixel_values"][0, :, :32, :48]
    expected = np.asarray(source.resize((48, 32), Image.Resampling.BILINEAR)).transpose(2, 0, 1) / 255.0
    np.testing.assert_allclose(values, expected, atol=1e-6)


def test_a_picture_does_not_depend_on_its_batch_mates() -> None:
    processor = SohoImageProcessor(shorter_edge=60, longer_edge=100)
    first, second = picture(80, 60, 1), picture(81, 60, 2)
    both = processor([first, second])
    for row, alone in enumerate((processor(first), processor(second))):
        assert torch.equal(both["pixel_values"][row], alone["pixel_values"][0])
        assert torch.equal(both["pixel_mask"][row], alone["pixel_mask"][0])


def test_different_shapes_in_one_call() -> None:
    processor = SohoImageProcessor(shorter_edge=60, longer_edge=200)
    with pytest.raises(SohoError, match=r"different padded shapes \(64x128, 128x64\).*pad_to_largest=True"):
        processor([picture(60, 100), picture(100, 60)])
    encoded = processor([picture(60, 100), picture(100, 60)], pad_to_largest=True)
    assert encoded["pixel_values"].shape == (2, 3, 128, 128)
    assert encoded["pixel_mask"].sum((1, 2)).tolist() == [6000, 6000]


def test_canvas_settles_the_shape_and_shrinks_what_does_not_fit() -> None:
    processor = SohoImageProcessor(shorter_edge=60, longer_edge=100)
    encoded = processor(picture(60, 80), canvas=(128, 64))  # as if the annotation had said 80 x 60
    assert encoded["pixel_values"].shape == (1, 3, 64, 128)
    rows, columns = encoded["pixel_mask"][0].any(1).sum(), encoded["pixel_mask"][0].any(0).sum()
    assert (int(rows), int(columns)) == (64, 48)  # 80 -> 64 keeps the aspect ratio
    fitting = processor(picture(80, 60), canvas=(128, 64))
    assert torch.equal(fitting["pixel_values"], processor(picture(80, 60))["pixel_values"])


def test_other_modes_become_rgb() -> None:
    processor = SohoImageProcessor(shorter_edge=8, longer_edge=16, size_divisor=8)
    grey = Image.fromarray(np.full((8, 8), 51, dtype=np.uint8))
    expected = [(0.2 - 0.485) / 0.229, (0.2 - 0.456) / 0.224, (0.2 - 0.406) / 0.225]
    np.testing.assert_allclose(processor(grey)["pixel_values"][0, :, 3, 3], expected, rtol=1e-5)
    np.testing.assert_allclose(processor(np.asarray(grey))["pixel_values"][0, :, 3, 3], expected, rtol=1e-5)


def test_numpy_output() -> None:
    encoded = SohoImageProcessor(shorter_edge=8, longer_edge=16)(picture(8, 8), return_tensors="np")
    assert isinstance(encoded["pixel_values"], np.ndarray)
    assert encoded["pixel_values"].shape == (1, 3, 64, 64)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([], "no picture was given"),
        ("a.jpg", "str is no picture"),
        (np.zeros((4, 4, 3), dtype=np.float32), r"shape \(4, 4, 3\) and type float32 is no picture"),
        (np.zeros((3, 4, 4), dtype=np.uint8), r"expected \(H, W, 3\) uint8"),
    ],
)
def test_what_is_no_picture(images: object, message: str) -> None:
    with pytest.raises(SohoError, match=message):
        SohoImageProcessor()(images)  # type: ignore[arg-type]


@pytest.mark.parametrize("fields", [{"shorter_edge": 0}, {"shorter_edge": 9, "longer_edge": 8}, {"size_divisor": 0}])
def test_fields_out_of_range(fields: dict[str, int]) -> None:
    with pytest.raises(SohoError, match=next(iter(fields))):
        SohoImageProcessor(**fields)


def test_save_and_load(tmp_path) -> None:
    processor = SohoImageProcessor(shorter_edge=224, longer_edge=384, size_divisor=32)
    processor.save_pretrained(tmp_path)
    AutoImageProcessor.register(SohoConfig, image_processor_classes={"pil": SohoImageProcessor}, exist_ok=True)
    for loaded in (SohoImageProcessor.from_pretrained(tmp_path), AutoImageProcessor.from_pretrained(tmp_path)):
        assert isinstance(loaded, SohoImageProcessor)
        assert loaded.to_dict() == processor.to_dict()
        assert loaded.padded_size(640, 480) == (320, 224)
    assert SohoImageProcessor.from_pretrained(tmp_path, shorter_edge=128).shorter_edge == 128


def test_enlarging_is_the_plain_bilinear_filter() -> None:
    """Where a picture grows, Pillow's filter is the one of other libraries, up to rounding; it averages to shrink."""
    picture = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    plain = torch.from_numpy(picture).permute(2, 0, 1)[None].float()
    neutral = {"image_mean": (0.0,) * 3, "image_std": (1 / 255,) * 3, "size_divisor": 1}
    for edge, worst in ((48, 1.0), (15, 20.0)):
        processor = SohoImageProcessor(shorter_edge=edge, longer_edge=100, **neutral)
        ours = processor(picture)["pixel_values"]
        expected = F.interpolate(plain, size=ours.shape[-2:], mode="bilinear", align_corners=False)
        difference = float((ours - expected).abs().max())
        assert difference <= worst if edge > 30 else difference > worst


@pytest.mark.parametrize("size", [(640, 480), (375, 500), (37, 211), (1999, 31), (8, 8), (1200, 900)])
def test_resizing_is_that_of_pillow(size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    pixels[: size[1] // 2] = 255  # a hard edge, at which filters would ring
    picture = Image.fromarray(pixels)
    processor = SohoImageProcessor(shorter_edge=96, longer_edge=160)
    target = processor.target_size(*size)
    expected = np.asarray(picture.resize(target, Image.Resampling.BILINEAR)).astype(int)
    for given in (picture, pixels):
        found = processor.resized(given, processor.padded_size(*size))
        assert found.flags.c_contiguous
        assert np.abs(found - expected).max() <= 1
    bicubic = SohoImageProcessor(shorter_edge=96, longer_edge=160, resample=int(Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(
        bicubic.resized(pixels, bicubic.padded_size(*size)),
        np.asarray(picture.resize(target, Image.Resampling.BICUBIC)),
    )
