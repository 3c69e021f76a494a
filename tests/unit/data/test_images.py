from __future__ import annotations

import io
import os
import pickle
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from soho.data.images import ImageDecodeError, ImageStore, decode, image_size, read_bytes
from soho.data.schema import ImageRef
from soho.errors import SohoError
from tests.unit.data.pictures import write_picture, zip_folder


def test_folder_finds_exact_nested_and_absolute_names(tmp_path: Path) -> None:
    top = write_picture(tmp_path / "photos" / "a.jpg")
    deep = write_picture(tmp_path / "photos" / "sub" / "deeper" / "b.jpg")
    outside = write_picture(tmp_path / "c.jpg")
    store = ImageStore([tmp_path / "photos"])
    assert store.find("a.jpg") == ImageRef(str(top))
    assert store.find("./a.jpg") == ImageRef(str(top))
    assert store.find("sub/deeper/b.jpg") == ImageRef(str(deep))
    assert store.find("sub\\deeper\\b.jpg") == ImageRef(str(deep))
    assert store.find("b.jpg") == ImageRef(str(deep))
    assert store.find("photos/a.jpg") == ImageRef(str(top))  # the location's own last folder repeated
    assert store.find(str(outside)) == ImageRef(str(outside))
    assert store.find("c.jpg") is None
    assert store.find("other/a.jpg") is None  # a written folder must agree


def test_zip_finds_members_and_ignores_macos_shadows(tmp_path: Path) -> None:
    write_picture(tmp_path / "in" / "Flicker8k_Dataset" / "a.jpg")
    (tmp_path / "in" / "__MACOSX").mkdir()
    (tmp_path / "in" / "__MACOSX" / "._a.jpg").write_bytes(b"shadow")
    archive = zip_folder(tmp_path / "in", tmp_path / "photos.zip")
    store = ImageStore([str(archive)])
    expected = ImageRef("Flicker8k_Dataset/a.jpg", archive=str(archive))
    assert store.find("a.jpg") == expected
    assert store.find("Flicker8k_Dataset/a.jpg") == expected
    assert store.find("._a.jpg") is None
    assert str(expected) == f"{archive}!Flicker8k_Dataset/a.jpg"
    assert image_size(expected) == (8, 6)
    assert decode(expected).size == (8, 6)


def test_first_location_wins(tmp_path: Path) -> None:
    first = write_picture(tmp_path / "one" / "a.png")
    write_picture(tmp_path / "two" / "a.png")
    only_second = write_picture(tmp_path / "two" / "b.png")
    store = ImageStore([tmp_path / "one", tmp_path / "two"])
    assert store.find("a.png") == ImageRef(str(first))
    assert store.find("b.png") == ImageRef(str(only_second))


def test_a_name_that_stands_for_two_files_is_an_error(tmp_path: Path) -> None:
    write_picture(tmp_path / "cats" / "1.jpg")
    dog = write_picture(tmp_path / "dogs" / "1.jpg")
    store = ImageStore([tmp_path])
    with pytest.raises(SohoError, match=r'"1.jpg" stands for 2 files .*cats/1.jpg, dogs/1.jpg'):
        store.find("1.jpg")
    assert store.find("dogs/1.jpg") == ImageRef(str(dog))


def test_similar_names_differ_in_case_or_extension(tmp_path: Path) -> None:
    write_picture(tmp_path / "Photo.PNG")
    store = ImageStore([tmp_path])
    assert store.find("photo.jpg") is None
    assert store.similar("photo.jpg") == "Photo.PNG"
    assert store.similar("nothing.jpg") is None


def test_a_link_that_leads_back_up_does_not_loop(tmp_path: Path) -> None:
    write_picture(tmp_path / "photos" / "sub" / "a.jpg")
    os.symlink(tmp_path / "photos", tmp_path / "photos" / "sub" / "up")
    assert ImageStore([tmp_path / "photos"]).find("a.jpg") is not None


def test_bad_locations(tmp_path: Path) -> None:
    with pytest.raises(SohoError, match=r"nowhere does not exist"):
        ImageStore([tmp_path / "nowhere"])
    (tmp_path / "x.zip").write_bytes(b"not a zip")
    with pytest.raises(SohoError, match=r"x\.zip is neither a folder nor a readable \.zip"):
        ImageStore([tmp_path / "x.zip"])


def test_a_store_can_be_pickled_and_archives_read_after_a_fork(tmp_path: Path) -> None:
    write_picture(tmp_path / "in" / "a.png", colour="blue")
    archive = zip_folder(tmp_path / "in", tmp_path / "a.zip")
    store = pickle.loads(pickle.dumps(ImageStore([archive])))
    ref = store.find("a.png")
    parent = read_bytes(ref)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:  # the parent's handle is open; the child must not move its position
        os.write(writer, str(len(read_bytes(ref))).encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reader, 100).decode() == str(len(parent))
    assert read_bytes(ref) == parent
    os.close(reader)
    os.close(writer)


def test_threads_share_one_archive(tmp_path: Path) -> None:
    for index in range(20):
        write_picture(tmp_path / "in" / f"{index}.png", size=(index + 1, 5))
    archive = str(zip_folder(tmp_path / "in", tmp_path / "a.zip"))
    refs = [ImageRef(f"{index}.png", archive) for index in range(20)] * 10
    with ThreadPoolExecutor(4) as pool:
        sizes = list(pool.map(lambda ref: decode(ref).size, refs))
    assert sizes == [(index + 1, 5) for index in range(20)] * 10


def _save(tmp_path: Path, picture: Image.Image, name: str, **options: object) -> ImageRef:
    picture.save(tmp_path / name, **options)
    return ImageRef(str(tmp_path / name))


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tiff"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_obeyed_and_size_agrees(tmp_path: Path, orientation: int, suffix: str) -> None:
    # Upright, the picture is 48 wide, 32 high and red in its top left quarter alone.
    upright = np.zeros((32, 48, 3), np.uint8)
    upright[:16, :24, 0] = 255
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, 3),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = Image.fromarray(np.ascontiguousarray(stored))
    ref = _save(tmp_path, picture, f"a.{suffix}", exif=exif.tobytes())
    result = decode(ref)
    assert image_size(ref) == result.size == (48, 32)
    values = np.asarray(result).astype(int)
    assert values[4:12, 4:20, 0].min() > 200
    assert values[20:, :, 0].max() < 60
    assert values[:, 30:, 0].max() < 60
    assert result.getexif().get(0x0112, 1) == 1


def test_transparent_parts_become_white(tmp_path: Path) -> None:
    layer = Image.new("RGBA", (4, 4), (10, 20, 30, 0))
    layer.putpixel((0, 0), (10, 20, 30, 255))
    for picture, name in ((layer, "rgba.png"), (layer.convert("LA"), "la.png")):
        result = decode(_save(tmp_path, picture, name))
        assert result.mode == "RGB"
        assert result.getpixel((3, 3)) == (255, 255, 255)
    assert decode(ImageRef(str(tmp_path / "rgba.png"))).getpixel((0, 0)) == (10, 20, 30)
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([0, 0, 0, 200, 100, 50])
    palette.putpixel((1, 1), 1)
    result = decode(_save(tmp_path, palette, "p.png", transparency=0))
    assert result.getpixel((0, 0)) == (255, 255, 255)
    assert result.getpixel((1, 1)) == (200, 100, 50)


def test_sixteen_bit_grey_is_scaled_not_clipped(tmp_path: Path) -> None:
    values = np.array([[0, 257, 32896, 65535]], np.uint16)
    result = decode(_save(tmp_path, Image.fromarray(values), "deep.png"))
    assert np.asarray(result)[0, :, 0].tolist() == [0, 1, 128, 255]


@pytest.mark.parametrize(
    ("mode", "colour", "name", "expected"),
    [
        ("L", 77, "l.png", (77, 77, 77)),
        ("1", 1, "one.png", (255, 255, 255)),
        ("CMYK", (0, 255, 255, 0), "cmyk.tiff", (255, 0, 0)),
        ("F", 0.5, "f.tiff", (128, 128, 128)),
    ],
)
def test_other_modes(tmp_path: Path, mode: str, colour: object, name: str, expected: tuple[int, int, int]) -> None:
    result = decode(_save(tmp_path, Image.new(mode, (3, 2), colour), name))  # type: ignore[arg-type]
    assert result.mode == "RGB"
    assert result.getpixel((1, 1)) == expected


def test_broken_pictures_are_named(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(noise).save(stream, "JPEG")
    (tmp_path / "cut.jpg").write_bytes(stream.getvalue()[:2000])
    (tmp_path / "text.jpg").write_bytes(b"<html>not found</html>")
    (tmp_path / "empty.jpg").write_bytes(b"")
    cut = ImageRef(str(tmp_path / "cut.jpg"))
    assert image_size(cut) == (64, 64)  # the header is whole
    with pytest.raises(ImageDecodeError, match=r"cut\.jpg: cannot be decoded \(.*truncated"):
        decode(cut)
    for name in ("text.jpg", "empty.jpg"):
        ref = ImageRef(str(tmp_path / name))
        for function in (decode, image_size):
            with pytest.raises(ImageDecodeError, match=rf"{name}: is not a picture"):
                function(ref)
    with pytest.raises(ImageDecodeError, match=r"gone\.jpg: the file is not there"):
        decode(ImageRef(str(tmp_path / "gone.jpg")))


def test_broken_archives_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.jpg", b"x" * 100)
    with pytest.raises(ImageDecodeError, match=r"a\.zip!b\.jpg: the archive has no such member"):
        read_bytes(ImageRef("b.jpg", str(path)))
    with pytest.raises(ImageDecodeError, match=r"gone\.zip!b\.jpg: the file is not there"):
        image_size(ImageRef("b.jpg", str(tmp_path / "gone.zip")))
    data = bytearray(path.read_bytes())
    data[40] ^= 255  # damages the member, not the directory
    (tmp_path / "b.zip").write_bytes(bytes(data))
    with pytest.raises(ImageDecodeError, match=r"b\.zip!a\.jpg: cannot be decoded \(Bad CRC"):
        read_bytes(ImageRef("a.jpg", str(tmp_path / "b.zip")))
