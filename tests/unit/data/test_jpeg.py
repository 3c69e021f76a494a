"""JPEG at the size that is needed: upright, not below the wanted size, and Pillow's way for everything else."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from soho.data.images import ImageDecodeError, decode
from soho.data.jpeg import decode_at_least, require_simplejpeg
from soho.data.schema import ImageRef
from soho.errors import SohoError
from soho.processing import SohoImageProcessor
from soho.tasks.batches import PixelReader

pytest.importorskip("simplejpeg", reason="the extra soho-vlp[fast] is not installed")


def whole(width: int, height: int) -> tuple[int, int]:
    return width, height


def photo(path: Path, size: tuple[int, int] = (512, 384), **options: Any) -> ImageRef:
    """Write a smooth picture, red to the left and green below."""
    x, y = np.meshgrid(np.linspace(255, 0, size[0]), np.linspace(0, 255, size[1]))
    Image.fromarray(np.stack([x, y, 0 * x], -1).astype(np.uint8)).save(path, quality=95, **options)
    return ImageRef(str(path))


def test_at_full_size_it_is_what_pillow_decodes(tmp_path: Path) -> None:
    ref = photo(tmp_path / "a.jpg")
    assert np.abs(decode_at_least(ref, whole).astype(int) - np.asarray(decode(ref))).max() <= 1


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ((512, 384), (512, 384)),
        ((500, 375), (512, 384)),
        ((256, 192), (256, 192)),
        ((250, 180), (256, 192)),
        ((60, 40), (64, 48)),
    ],
)
def test_it_decodes_the_smallest_size_that_is_not_below(
    tmp_path: Path, wanted: tuple[int, int], expected: tuple[int, int]
) -> None:
    asked: list[tuple[int, int]] = []

    def size_of(width: int, height: int) -> tuple[int, int]:
        asked.append((width, height))
        return wanted

    found = decode_at_least(photo(tmp_path / "a.jpg"), size_of)
    assert found.shape == (expected[1], expected[0], 3)
    assert asked == [(512, 384)]


def test_a_picture_that_is_made_larger_is_decoded_whole(tmp_path: Path) -> None:
    assert decode_at_least(photo(tmp_path / "a.jpg"), lambda *_: (2000, 1500)).shape == (384, 512, 3)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_obeyed(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    ref = photo(tmp_path / "a.jpg", exif=exif.tobytes())
    upright = decode(ref)
    found = decode_at_least(ref, lambda width, height: (width // 2, height // 2))
    assert found.shape == (upright.height // 2, upright.width // 2, 3)
    assert found.flags.c_contiguous
    assert np.abs(found.astype(int) - np.asarray(upright.resize(found.shape[1::-1]))).mean() < 2


def test_everything_else_goes_pillows_way(tmp_path: Path) -> None:
    layer = Image.new("RGBA", (40, 30), (10, 20, 30, 0))
    layer.save(tmp_path / "clear.png")
    Image.new("CMYK", (40, 30), (0, 255, 255, 0)).save(tmp_path / "ink.jpg")
    Image.new("L", (40, 30), 77).save(tmp_path / "grey.jpg")
    for name in ("clear.png", "ink.jpg", "grey.jpg"):
        ref = ImageRef(str(tmp_path / name))
        np.testing.assert_array_equal(decode_at_least(ref, whole), np.asarray(decode(ref)))


def test_a_damaged_file_has_the_usual_message(tmp_path: Path) -> None:
    data = (tmp_path / "a.jpg").read_bytes() if photo(tmp_path / "a.jpg") else b""
    for name, content in (("cut.jpg", data[: len(data) // 2]), ("text.jpg", b"\xff\xd8\xffhello"), ("none.jpg", b"")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ImageDecodeError, match=name) as expected:
            decode(ImageRef(str(tmp_path / name)))
        with pytest.raises(ImageDecodeError, match=name) as found:
            decode_at_least(ImageRef(str(tmp_path / name)), whole)
        assert str(found.value) == str(expected.value)


def test_a_reader_with_the_fast_decoder_gives_nearly_the_same_picture(tmp_path: Path) -> None:
    ref = photo(tmp_path / "a.jpg", (1024, 768))
    processor = SohoImageProcessor(shorter_edge=128, longer_edge=256)
    plain, fast = (PixelReader(processor, decoder=name)(ref, (1024, 768)).pixels for name in ("pillow", "simplejpeg"))
    assert plain is not None
    assert fast is not None
    assert plain.shape == fast.shape == (128, 171, 3)
    difference = np.abs(plain.astype(int) - fast)
    assert 0 < difference.mean() < 2


def test_without_the_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def refuse(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "simplejpeg":
            raise ImportError(name)
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(SohoError, match=r"data\.decoder=simplejpeg needs .*soho-vlp\[fast\]"):
        PixelReader(SohoImageProcessor(), decoder="simplejpeg")
    with pytest.raises(SohoError, match="simplejpeg"):
        require_simplejpeg()
