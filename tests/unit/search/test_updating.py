"""An index follows its library: only what is new is encoded, and a kill changes nothing."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from soho.errors import SohoError
from soho.evaluation.scoring_engine import Engine
from soho.pipelines import SohoPipeline
from soho.search import PictureIndex, UpdateReport
from soho.search.catalogue import NAME, only_writer
from tests.support import ROOT
from tests.unit.search.small import PORTRAIT, draw, make_model

QUIET = {"progress": False, "batch_size": 2}


def build(library: Path, model: Path | SohoPipeline, out: Path, **options: object) -> tuple[PictureIndex, UpdateReport]:
    index = PictureIndex.build(library, model, out, **{**QUIET, **options})
    assert index.last_update is not None
    return index, index.last_update


def did(report: UpdateReport) -> tuple[int, int, int, int, int]:
    return report.files, report.contents, report.encoded, report.known, report.dropped


def everything(out: Path) -> dict[str, object]:
    """Return the catalogue as statements, and the bytes of all other files."""
    base = sqlite3.connect(out / NAME)
    dump = list(base.iterdump())
    base.close()
    others = {file.name: file.read_bytes() for file in sorted(out.iterdir()) if "sqlite" not in file.name}
    return {"catalogue": dump, **others}


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of the batches that go through the CNN."""
    sizes: list[int] = []
    original = Engine.image_tokens

    def count(self: Engine, pixel_values: object, pixel_mask: object) -> object:
        sizes.append(len(pixel_values))  # type: ignore[arg-type]
        return original(self, pixel_values, pixel_mask)  # type: ignore[arg-type]

    monkeypatch.setattr(Engine, "image_tokens", count)
    return sizes


def test_pictures_and_nothing_else(library: Path, pipeline: SohoPipeline, tmp_path: Path, encoded: list[int]) -> None:
    index, report = build(library, pipeline, tmp_path / "index")
    assert did(report) == (11, 11, 11, 0, 0)
    assert report.broken == []
    # 4 portraits and 7 landscapes, two of one shape at a time
    assert sorted(encoded) == [1, 2, 2, 2, 2, 2]
    found = index.search("a red ball", top=20)[0]
    assert {one.path.relative_to(library).as_posix() for one in found} == {
        "p00.jpg", "b/p01.png", "b/c/p02.webp", "p03.JPEG", "b/p04.jpg", "b/c/p05.png",
        "p06.webp", "b/p07.JPEG", "b/c/p08.jpg", "p09.png", "b/p10.webp",
    }  # fmt: skip
    vectors = index.segments[0].vectors
    assert vectors.shape == (11, 16)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-6)


def test_only_what_is_new_is_encoded(library: Path, pipeline: SohoPipeline, tmp_path: Path, encoded: list[int]) -> None:
    out = tmp_path / "index"
    build(library, pipeline, out)
    encoded.clear()
    assert did(build(library, pipeline, out)[1]) == (11, 11, 0, 0, 0)

    draw(library / "new" / "added.png", 50)
    assert did(build(library, pipeline, out)[1]) == (12, 12, 1, 0, 0)

    before = {one.path.name: one.score for one in PictureIndex.open(out, pipeline).search("two dogs", top=20)[0]}
    draw(library / "b" / "p01.png", 51, PORTRAIT)  # changed
    index, report = build(library, pipeline, out)
    assert did(report) == (12, 12, 1, 0, 0)
    after = {one.path.name: one.score for one in index.search("two dogs", top=20)[0]}
    assert before.pop("p01.png") != pytest.approx(after.pop("p01.png"), abs=1e-4)
    assert after == pytest.approx(before, abs=1e-5)

    (library / "p00.jpg").unlink()  # removed
    index, report = build(library, pipeline, out)
    assert did(report) == (11, 11, 0, 0, 1)
    assert "p00.jpg" not in {one.path.name for one in index.search("two dogs", top=20)[0]}
    assert sum(encoded) == 2


def test_moved_and_copied_files_cost_nothing(
    library: Path, pipeline: SohoPipeline, tmp_path: Path, encoded: list[int]
) -> None:
    out = tmp_path / "index"
    build(library, pipeline, out)
    encoded.clear()
    (library / "p03.JPEG").rename(library / "b" / "elsewhere.jpg")
    shutil.copy(library / "b" / "p04.jpg", library / "twin.jpg")
    os.utime(library / "b" / "p07.JPEG", ns=(1, 1))  # touched
    index, report = build(library, pipeline, out)
    assert did(report) == (12, 11, 0, 3, 1)
    assert encoded == []
    found = {one.path.name: one.copies for one in index.search("snow", top=20)[0]}
    assert len(found) == 11
    assert found["p04.jpg"] == (library.resolve() / "twin.jpg",)
    assert found["elsewhere.jpg"] == ()
    # A file that comes back is known as well, as long as its segment was not rewritten.
    data = (library / "p00.jpg").read_bytes()
    (library / "p00.jpg").unlink()
    assert did(build(library, pipeline, out)[1]) == (11, 10, 0, 0, 1)
    (library / "again.jpg").write_bytes(data)
    assert did(build(library, pipeline, out)[1]) == (12, 11, 0, 1, 0)
    assert encoded == []


def test_a_change_that_size_and_time_hide_needs_rehash(library: Path, pipeline: SohoPipeline, tmp_path: Path) -> None:
    out, file = tmp_path / "index", library / "flat.png"
    Image.new("RGB", (128, 128), (200, 10, 10)).save(file)
    build(library, pipeline, out)
    stat = file.stat()
    Image.new("RGB", (128, 128), (10, 200, 10)).save(file)
    assert file.stat().st_size == stat.st_size
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert did(build(library, pipeline, out)[1]) == (12, 12, 0, 0, 0)
    assert did(build(library, pipeline, out, rehash=True)[1]) == (12, 12, 1, 11, 0)


def test_dropped_pictures_leave_the_disk(library: Path, pipeline: SohoPipeline, tmp_path: Path) -> None:
    out = tmp_path / "index"
    index, _ = build(library, pipeline, out)
    size = (out / "segment-000001.bin").stat().st_size
    kept = {one.path.name: one.score for one in index.search("snow", top=20)[0]}
    (library / "p00.jpg").unlink()  # one of eleven: the segment stays as it is
    build(library, pipeline, out)
    assert (out / "segment-000001.bin").stat().st_size == size
    index, report = build(library, pipeline, out, compact=True)
    assert did(report) == (10, 10, 0, 0, 0)
    assert [file.name for file in sorted(out.glob("segment-*"))] == [
        "segment-000002.bin", "segment-000002.jsonl", "segment-000002.npy"
    ]  # fmt: skip
    assert (out / "segment-000002.bin").stat().st_size == size * 10 // 11
    del kept["p00.jpg"]
    assert {one.path.name: one.score for one in index.search("snow", top=20)[0]} == pytest.approx(kept, abs=1e-5)
    for number in (1, 2, 4):  # 3 of the 10: less than three quarters are left
        next(library.rglob(f"p{number:02}.*")).unlink()
    build(library, pipeline, out)
    assert (out / "segment-000003.npy").exists()
    assert not (out / "segment-000002.npy").exists()


def test_many_small_segments_are_joined(library: Path, pipeline: SohoPipeline, tmp_path: Path) -> None:
    out = tmp_path / "index"
    whole, _ = build(library, pipeline, out)
    expected = {one.path.name: one.score for one in whole.search("snow", top=20)[0]}
    index, report = build(library, pipeline, tmp_path / "small", window=1)
    assert did(report) == (11, 11, 11, 0, 0)
    assert len(index.segments) == 11  # no segment is below half of a window of 1
    index, _ = build(library, pipeline, tmp_path / "small", window=6)
    assert [len(segment.live) for segment in index.segments] == [6, 5]
    assert {one.path.name: one.score for one in index.search("snow", top=20)[0]} == pytest.approx(expected, abs=1e-4)


def test_exif_orientation_is_obeyed(pipeline: SohoPipeline, tmp_path: Path) -> None:
    upright = Image.open(draw(tmp_path / "drawn" / "a.png", 3, (120, 180)))
    (tmp_path / "library").mkdir()
    upright.save(tmp_path / "library" / "upright.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its side; to be turned clockwise
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "library" / "turned.png", exif=exif)
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "library" / "lying.png")
    index, _ = build(tmp_path / "library", pipeline, tmp_path / "index")
    scores = {one.path.stem: one.score for one in index.search("two dogs")[0]}
    assert scores["turned"] == pytest.approx(scores["upright"], abs=1e-6)
    assert abs(scores["lying"] - scores["upright"]) > 1e-3


def test_broken_files_are_counted_named_and_listed(library: Path, pipeline: SohoPipeline, tmp_path: Path) -> None:
    out = tmp_path / "index"
    (library / "text.jpg").write_text("no picture")
    whole = draw(library / "cut.png", 60, (300, 200)).read_bytes()
    (library / "cut.png").write_bytes(whole[: len(whole) * 2 // 3])
    shutil.copy(library / "cut.png", library / "b" / "cut_too.png")
    (library / "b" / "empty.webp").touch()
    index, report = build(library, pipeline, out)
    assert did(report) == (11, 11, 11, 0, 0)
    assert [path for path, _ in report.broken] == ["b/cut_too.png", "b/empty.webp", "cut.png", "text.jpg"]
    assert index.broken() == report.broken
    lines = (out / "broken.txt").read_text().splitlines()
    assert lines[3] == "text.jpg\tis not a picture in any format that Pillow reads"
    said = report.lines(out, named=3)
    assert "4 broken" in said[0]
    assert said[1].startswith("broken: b/cut_too.png: cannot be decoded")
    assert said[-1] == f"broken: 1 more in {out / 'broken.txt'}"
    assert [one.path.suffix for one in index.search("snow", top=30)[0]].count(".png") == 3

    (library / "cut.png").write_bytes(whole)  # repaired
    index, report = build(library, pipeline, out)
    assert did(report) == (12, 12, 1, 0, 0)
    assert [path for path, _ in report.broken] == ["b/cut_too.png", "b/empty.webp", "text.jpg"]


def test_a_folder_of_broken_files_alone(pipeline: SohoPipeline, tmp_path: Path) -> None:
    (tmp_path / "library").mkdir()
    (tmp_path / "library" / "a.jpg").write_text("no picture")
    index, report = build(tmp_path / "library", pipeline, tmp_path / "index")
    assert did(report) == (0, 0, 0, 0, 0)
    assert len(report.broken) == 1
    assert index.search(["a", "b"]) == [[], []]
    assert not list((tmp_path / "index").glob("segment-*"))


@pytest.mark.parametrize(
    "stops",
    [
        [("batch", 3), ("journal", 4)],
        [("vectors", 1), ("commit", 1)],
        [("placed", 2), ("gone", 1)],
    ],
    ids=lambda stops: "-".join(place for place, _ in stops),
)
@pytest.mark.slow
def test_a_killed_indexing_ends_with_the_same_index(
    library: Path, model_folder: Path, tmp_path: Path, stops: list[tuple[str, int]]
) -> None:
    (library / "b" / "text.jpg").write_text("no picture")
    whole = draw(library / "cut.png", 60).read_bytes()
    (library / "cut.png").write_bytes(whole[: len(whole) * 2 // 3])
    build(library, model_folder, tmp_path / "whole", window=7)
    killed = tmp_path / "killed"
    for place, number in stops:
        command = [sys.executable, "-m", "tests.unit.search.killed_index"]
        command += [str(library), str(model_folder), str(killed), "7", place, str(number)]
        stopped = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)
        assert stopped.returncode == -signal.SIGKILL, stopped.stderr
    assert (killed / "segment-000001.jsonl").exists()
    _, report = build(library, model_folder, killed, window=7)
    assert report.files == 11
    assert everything(killed) == everything(tmp_path / "whole")


def test_refusals(library: Path, model_folder: Path, pipeline: SohoPipeline, tmp_path: Path) -> None:
    out = tmp_path / "index"
    build(library, model_folder, out)
    other = make_model(tmp_path / "other", seed=1)
    with pytest.raises(SohoError, match=r"index was made with another model \(.*model, fingerprint [0-9a-f]{8}\)"):
        build(library, other, out)
    with pytest.raises(SohoError, match="make a new index of the pictures with `soho index` and another --out"):
        PictureIndex.open(out, other)
    with pytest.raises(SohoError, match=r"plain has no contrastive head.*train it with model\.config\.itc_weight=1"):
        build(library, make_model(tmp_path / "plain", itc_weight=0.0, match_adds_contrast=False), tmp_path / "x")
    with pytest.raises(SohoError, match="gone is not a folder; expected one with pictures"):
        build(tmp_path / "gone", pipeline, out)
    with pytest.raises(SohoError, match="nothing is no index; make one with `soho index PICTURES"):
        PictureIndex.open(tmp_path / "nothing")
    with only_writer(out), pytest.raises(SohoError, match="another `soho index` is writing to"):
        build(library, pipeline, out)
    with pytest.raises(SohoError, match="needs the pipeline before `speed_up`"):
        PictureIndex.open(out, SohoPipeline.from_pretrained(model_folder).speed_up())
    shutil.move(library, tmp_path / "new place")
    with pytest.raises(SohoError, match=r"holds the pictures of .*library, not of .*add --moved"):
        build(tmp_path / "new place", pipeline, out)
    assert did(build(tmp_path / "new place", pipeline, out, moved=True)[1]) == (11, 11, 0, 0, 0)


def test_an_empty_library_does_not_empty_the_index(library: Path, pipeline: SohoPipeline, tmp_path: Path) -> None:
    index, _ = build(library, pipeline, tmp_path / "index")
    kept = everything(tmp_path / "index")
    away = tmp_path / "away"
    library.rename(away)
    library.mkdir()  # what a drive that is not mounted leaves
    with pytest.raises(SohoError, match=r"holds no picture now, but the index 11 of them; is the drive there\?"):
        index.update(**QUIET)
    assert everything(tmp_path / "index") == kept
    library.rmdir()
    away.rename(library)
    assert did(index.update(**QUIET)) == (11, 11, 0, 0, 0)


def test_tokens_of_another_type_are_refused(library: Path, pipeline: SohoPipeline, tmp_path: Path) -> None:
    build(library, pipeline, tmp_path / "index")
    with pytest.raises(SohoError, match=r"keeps tokens as float16; name it with --dtype"):
        build(library, pipeline, tmp_path / "index", dtype="float32")


def test_a_file_is_no_place_for_an_index(library: Path, pipeline: SohoPipeline, tmp_path: Path) -> None:
    (tmp_path / "index").write_text("mine")
    with pytest.raises(SohoError, match=r"index is a file; expected a folder"):
        build(library, pipeline, tmp_path / "index")
