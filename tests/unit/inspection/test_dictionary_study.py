"""Codes of known pictures, crops at the right pixels, figures over all cells."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from soho.data.picture_list import PictureList
from soho.data.schema import ImageRef
from soho.data.sources import Source
from soho.errors import SohoError
from soho.inspection.code_map import code_map, grid_shape
from soho.inspection.dictionary import cell_square, cut_cell
from soho.inspection.dictionary_study import (
    captions_among,
    choose_codes,
    study_dictionary,
    write_dictionary,
)
from soho.models import SohoForImageTextRetrieval, SohoForPreTraining
from tests.unit.inspection.tiny_pipeline import COLOURS, colour_pipeline, painted, tiny_pipeline
from tests.unit.models.released import released_config

WIDE, TALL = [[0, 1, 2], [1, 1, 0]], [[0, 1], [1, 2], [2, 2]]


def test_code_map_of_known_pictures() -> None:
    pipeline = colour_pipeline()
    assert code_map(pipeline, painted(WIDE, (192, 128), 64)).tolist() == WIDE
    assert code_map(pipeline, painted(TALL, (256, 384), 128)).tolist() == TALL  # read in half its size
    # Read as 152 x 128, padded to 192: the third column holds 24 pixels of picture.
    assert code_map(pipeline, painted(WIDE, (152, 128), 64)).tolist() == WIDE
    with_summary = colour_pipeline(visual_summary=True)
    assert code_map(with_summary, painted(WIDE, (192, 128), 64)).tolist() == WIDE
    reads_features = colour_pipeline(visual_input="features")
    assert code_map(reads_features, painted(WIDE, (192, 128), 64)).tolist() == WIDE


def test_padding_has_no_code() -> None:
    pipeline = colour_pipeline()
    pipeline.processor.image_processor.size_divisor = 128
    grid = code_map(pipeline, painted(WIDE, (192, 128), 64))
    assert grid.tolist() == [[0, 1, 2, -1], [1, 1, 0, -1]]


def test_the_grid_of_both_wirings() -> None:
    assert grid_shape(640, 1024, 160) == (10, 16)
    assert grid_shape(96, 160, 6) == (2, 3)  # 3 x 5 cells of the CNN, pooled with ceil
    assert grid_shape(96, 160, 2) == (1, 2)  # and with floor
    with pytest.raises(SohoError, match="160 x 96 pixels gave 5 cells"):
        grid_shape(96, 160, 5)


def test_squares_of_cells_in_the_original() -> None:
    assert cell_square((192, 128), 0, 1, context=0.0) == (64, 0, 128, 64)
    # Read as 192 x 123: 2.083 pixels of the original for one that was read.
    assert cell_square((400, 256), 0, 0, (192, 123), context=0.0) == (0, 0, 133, 133)
    assert cell_square((400, 256), 1, 2, (192, 123), context=0.0) == (267, 123, 400, 256)
    assert cell_square((256, 400), 2, 1, (123, 192), context=0.0) == (123, 267, 256, 400)
    # The last column of a padded picture holds 24 pixels: the square moves in from the right.
    assert cell_square((152, 128), 1, 2, (152, 128), context=0.0) == (88, 64, 152, 128)
    assert cell_square((60, 40), 0, 0, (192, 128), context=0.5) == (0, 0, 40, 40)


@pytest.mark.parametrize(("grid", "size"), [(WIDE, (576, 384)), (TALL, (384, 576))])
def test_a_crop_shows_its_cell_and_nothing_else(grid: list[list[int]], size: tuple[int, int]) -> None:
    picture, read = painted(grid, size, 192), (size[0] // 3, size[1] // 3)
    for row, codes in enumerate(grid):
        for column, code in enumerate(codes):
            patch = np.asarray(cut_cell(picture, row, column, read, context=0.0, patch_size=32))
            assert patch.reshape(-1, 3).tolist() == [list(COLOURS[code])] * 1024


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four pictures that hold 10 x code 1, 9 x code 2 and 5 x code 0; one broken; one file that is no picture."""
    images = tmp_path / "images"
    (images / "more").mkdir(parents=True)
    for name, grid, size in (
        ("a.png", WIDE, (576, 384)),
        ("b.png", TALL, (384, 576)),
        ("more/c.png", [[1, 1, 1], [2, 2, 2]], (192, 128)),
        ("more/d.png", [[0, 1, 2], [0, 2, 2]], (192, 128)),
    ):
        painted(grid, size, size[0] / len(grid[0])).save(images / name)
    (images / "broken.jpg").write_bytes(b"\xff\xd8\xff no picture")
    (images / "notes.txt").write_text("no picture")
    return images


def test_the_study_by_hand(folder: Path) -> None:
    pictures = PictureList([folder])
    assert [Path(ref.path).name for ref in pictures.refs] == ["a.png", "b.png", "broken.jpg", "c.png", "d.png"]
    options = {"codes": 4, "per_code": 3, "order": "use", "context": 0.0, "progress": False}
    study = study_dictionary(colour_pipeline(), pictures.refs, **options)
    assert study.counts.tolist() == [5, 9, 10, 0, 0]
    assert study.images.tolist() == [3, 4, 4, 0, 0]
    assert (study.health.size, study.health.used, study.health.dead) == (5, 3, 2)
    shares = np.array([5, 9, 10]) / 24
    assert study.health.perplexity == pytest.approx(float(np.exp(-(shares * np.log(shares)).sum())))
    assert study.health.majority_share == pytest.approx(10 / 24)
    assert [(entry.code, entry.hits, len(entry.patches)) for entry in study.codes] == [(2, 10, 3), (1, 9, 3), (0, 5, 3)]
    for entry in study.codes:
        assert entry.words is None
        for patch in entry.patches:
            assert patch.size == (96, 96)
            assert patch.getcolors() == [(96 * 96, COLOURS[entry.code])]
    assert (study.pictures, study.broken) == (4, 1)
    assert "1 broken picture left out" in study.lines()[2]
    assert "broken.jpg" in study.lines()[2]


def test_equal_seeds_give_equal_patches(folder: Path) -> None:
    def shown(seed: int) -> list[bytes]:
        study = study_dictionary(colour_pipeline(), PictureList([folder]).refs, per_code=2, seed=seed, progress=False)
        return [patch.tobytes() for entry in study.codes for patch in entry.patches]

    assert shown(0) == shown(0)


def test_choice_of_codes() -> None:
    counts = [5, 0, 9, 5, 1]
    assert choose_codes(counts, 2, "use") == [2, 0]
    assert choose_codes(counts, 9, "random") == [0, 2, 3, 4]
    draws = {tuple(choose_codes(counts, 2, "random", seed)) for seed in range(40)}
    assert len(draws) == 6  # every pair of used codes comes
    with pytest.raises(SohoError, match="order 'best' is not known; expected random or use"):
        choose_codes(counts, 2, "best")  # type: ignore[arg-type]


def test_zips_and_single_files_are_the_same_pictures(folder: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        for path in sorted(folder.rglob("*.*")):
            archive.write(path, path.relative_to(folder).as_posix())
    zipped = PictureList([tmp_path / "images.zip"])
    files = PictureList([folder / "b.png", folder / "more" / "c.png", folder / "b.png"])
    assert [ref.path for ref in zipped.refs] == ["a.png", "b.png", "broken.jpg", "more/c.png", "more/d.png"]
    assert files.refs == [ImageRef(str(folder / "b.png")), ImageRef(str(folder / "more" / "c.png"))]
    assert files.find("c.png") == files.find("more/c.png") == files.refs[1]
    assert files.find("d.png") is None
    assert zipped.find("c.png") == ImageRef("more/c.png", str(tmp_path / "images.zip"))
    pipeline = colour_pipeline()
    studies = [study_dictionary(pipeline, one.refs, progress=False) for one in (zipped, PictureList([folder]))]
    assert studies[0].counts.tolist() == studies[1].counts.tolist()


def test_places_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(SohoError, match=r"gone does not exist; expected a picture, a folder or a \.zip file"):
        PictureList([tmp_path / "gone"])
    with pytest.raises(SohoError, match=r"no picture in .*; expected files that Pillow reads"):
        PictureList([tmp_path])
    (tmp_path / "x.jpg").write_text("no picture")
    with pytest.raises(SohoError, match=r"none of 1 picture could be read; the first is .*x\.jpg"):
        study_dictionary(colour_pipeline(), PictureList([tmp_path]).refs, progress=False)


def test_models_without_a_dictionary() -> None:
    with pytest.raises(SohoError, match="this model has no visual dictionary; expected a pre-training folder"):
        code_map(tiny_pipeline(SohoForPreTraining, use_dictionary=False), Image.new("RGB", (128, 128)))
    pipeline = tiny_pipeline(SohoForImageTextRetrieval)
    pipeline.model = SohoForImageTextRetrieval(released_config()).eval()
    grid = code_map(pipeline, Image.new("RGB", (152, 128)))
    assert grid.shape == (2, 3)
    assert 0 <= grid.min() <= grid.max() < 8


def test_captions_of_the_pictures(folder: Path, tmp_path: Path) -> None:
    many = tmp_path / "many"
    many.mkdir()
    rows = []
    for number in range(14):
        code = number % 2
        painted([[code] * 3, [code] * 3], (192, 128), 64).save(many / f"{number}.png")
        rows.append({"image": f"{number}.png", "caption": f"a {('red', 'green')[code]} wall"})
    rows.append({"image": "elsewhere.png", "caption": "a picture that is not given"})
    path = tmp_path / "captions.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    pictures = PictureList([many])
    captions, remarks = captions_among(pictures, [Source(format="jsonl", annotations=path)])
    assert len(captions) == 14
    assert remarks == []
    study = study_dictionary(colour_pipeline(), pictures.refs, captions, progress=False)
    assert study.captioned == 14
    assert {entry.code: [word.word for word in entry.words or ()] for entry in study.codes} == {
        0: ["red"],
        1: ["green"],
    }
    with pytest.raises(SohoError, match=r"captions\.jsonl"):
        captions_among(PictureList([folder]), [Source(format="jsonl", annotations=path)])
    page = write_dictionary(study, tmp_path / "out")[1].read_text(encoding="utf-8")
    for words in ("red", "green", "×2.0", "index 0", "with captions", "perplexity"):
        assert words in page
    assert "http" not in page.replace("http-equiv", "")
    sheet = Image.open(tmp_path / "out" / "dictionary.png")
    assert sheet.size == (6 + 176 + 7 * 102, 48 + 2 * 22 + 6 + 6 + 2 * 102)


def test_a_code_nearest_to_the_features_is_said_to_be_one(folder: Path) -> None:
    pipeline = colour_pipeline(visual_input="features")
    study = study_dictionary(pipeline, PictureList([folder / "a.png"]).refs, progress=False)
    assert study.counts.tolist() == [2, 3, 1, 0, 0]
    assert study.lines()[-1].startswith(
        "This model reads the features before the dictionary: shown is the code nearest"
    )
    with pytest.raises(SohoError, match="codes=0 and per_code=8 must be at least 1"):
        study_dictionary(pipeline, [], codes=0)
