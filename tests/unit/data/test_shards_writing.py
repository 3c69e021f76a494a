from __future__ import annotations

import gzip
import hashlib
import json
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from soho.data.images import ImageDecodeError, image_size, read_bytes
from soho.data.schema import photos_of
from soho.data.shards import layout, writing
from soho.data.shards.tar import TarShard
from soho.data.shards.writing import WrittenSection, write_shards
from soho.data.sources import Source, load_captions
from soho.errors import SohoError
from soho.tasks import task_class
from tests.support import Soho
from tests.tiny_recipes import tiny_values, write_recipe
from tests.unit.data.pictures import write_jsonl, write_picture


def world_source(task: str, world: Path) -> Source:
    values = tiny_values(task, world, world)["data"]["train"][0]
    return Source.model_validate(
        {key: value.replace("{root}", str(world)) if isinstance(value, str) else value for key, value in values.items()}
    )


def own(folder: Path, count: int = 6, **more: Any) -> Source:
    """Pictures of 30 x 20 noise-free pixels, one caption each; the format needs no size, so headers are read."""
    names = [f"p{number}.png" for number in range(count)]
    for number, name in enumerate(names):
        write_picture(folder / name, size=(30 + number, 20), colour=f"rgb({number * 9},0,90)")
    rows = [{"image": name, "caption": f"picture {number}"} for number, name in enumerate(names)]
    return Source(format="jsonl", annotations=write_jsonl(folder / "own.jsonl", rows), **more)


def write(source: Source, out: Path, **more: Any) -> WrittenSection:
    return write_shards({"train": [source]}, load_captions, out, **more)[0]


@pytest.mark.parametrize("task", ["pretraining", "vqa", "nlvr2", "snli_ve"])
def test_every_kind_of_example_comes_back(task: str, world: Path, tmp_path: Path) -> None:
    source, load = world_source(task, world), task_class(task).read
    written = write_shards({"train": [source]}, load, tmp_path, megabytes=1)[0]
    expected = load(source)[0]
    again, notes = load(Source(format="shards", shards=tmp_path / "train"))
    assert len(again) == len(expected) == notes.used > 20
    assert written.sound
    assert notes.lines() == []
    for one, other in zip(again, expected):
        for mine, upstream in zip(photos_of(one), photos_of(other)):
            assert (mine.width, mine.height) == image_size(upstream.image)
            assert read_bytes(mine.image) == read_bytes(upstream.image)
        same = {"image": other.image, "width": other.width, "height": other.height}
        if task == "nlvr2":
            same |= {name: getattr(other, name) for name in ("second_image", "second_width", "second_height")}
        assert replace(one, **same) == other
    pictures = {photo.image for example in again for photo in photos_of(example)}
    assert len(pictures) == sum(shard.pictures for shard in written.index.shards)


def test_what_lies_where(tmp_path: Path) -> None:
    write(own(tmp_path / "own", 2), tmp_path, seed=1)
    folder = tmp_path / "train"
    assert sorted(path.name for path in folder.iterdir()) == ["000000.jsonl.gz", "000000.tar", "index.json"]
    index = json.loads((folder / "index.json").read_text())
    tar = (folder / "000000.tar").read_bytes()
    entry = index["shards"][0]
    assert entry["sha256"] == hashlib.sha256(tar).hexdigest()
    assert entry["lines_sha256"] == hashlib.sha256((folder / "000000.jsonl.gz").read_bytes()).hexdigest()
    assert (entry["size"], entry["samples"], entry["pictures"], entry["records"]) == (10240, 2, 2, 2)
    head, first, second = map(json.loads, gzip.decompress((folder / "000000.jsonl.gz").read_bytes()).splitlines())
    assert (head["first"], head["next"]) == (0, 2)
    # Header, one block of JSON, header, then the picture.
    assert first["spans"][0][0] == 3 * 512
    assert first["files"] == ["png"]
    with tarfile.open(folder / "000000.tar") as archive:
        names = ["000000000.json", "000000000.png", "000000001.json", "000000001.png"]
        assert archive.getnames() == names
        for line in (first, second):
            start, length = line["spans"][0]
            number = line["records"][0]["number"]
            assert tar[start : start + length] == (tmp_path / "own" / f"p{number}.png").read_bytes()
            member = archive.extractfile(f"{line['key']}.json")
            assert member is not None
            assert json.loads(member.read()) == {"key": line["key"], "records": line["records"], "files": ["png"]}
    assert first["records"][0]["width"] in (30, 31)


def test_the_webdataset_library_reads_them(world: Path, tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset", reason="the package webdataset is not installed")
    source = world_source("pretraining", world)
    written = write(source, tmp_path, megabytes=1)
    last = len(written.index.shards) - 1
    samples = list(
        webdataset.WebDataset(f"{tmp_path}/train/{{000000..{last:06d}}}.tar", shardshuffle=False).decode("pil")
    )
    examples = load_captions(source)[0]
    assert len(samples) == len(examples)
    for sample in samples:
        (record,) = sample["json"]["records"]
        example = examples[record["number"]]
        assert record["captions"] == list(example.captions)
        picture = sample[sample["json"]["files"][0]]
        assert picture.size == image_size(example.image)


class Killed(BaseException):
    pass


def test_a_killed_writing_goes_on_and_ends_the_same(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # 84 pictures of about 10 KB are one shard of 1 MB; a smaller bound makes several.
    monkeypatch.setattr(writing, "MEGABYTE", 2**17)
    source = world_source("pretraining", world)
    whole = write(source, tmp_path / "whole", megabytes=1)
    assert len(whole.index.shards) >= 3
    finish, finished = TarShard.finish, []

    def stop(self: TarShard) -> tuple[int, str]:
        if len(finished) == 2:
            raise Killed
        finished.append(self.path.name)
        return finish(self)

    monkeypatch.setattr(TarShard, "finish", stop)
    with pytest.raises(Killed):
        write(source, tmp_path / "killed", megabytes=1)
    folder = tmp_path / "killed" / "train"
    assert finished == ["000000.tar", "000001.tar"]
    assert not (folder / "index.json").exists()
    with pytest.raises(SohoError, match=r"index\.json does not exist; a folder of shards is finished when"):
        load_captions(Source(format="shards", shards=folder))
    (folder / "000002.tar.partial").write_bytes(b"half")  # what a real kill leaves
    before = [(folder / name).stat().st_mtime_ns for name in finished]
    monkeypatch.setattr(TarShard, "finish", finish)
    again = write(source, tmp_path / "killed", megabytes=1)
    assert again.kept == 2
    assert [(folder / name).stat().st_mtime_ns for name in finished] == before
    names = sorted(path.name for path in (tmp_path / "whole" / "train").iterdir())
    assert sorted(path.name for path in folder.iterdir()) == names
    for name in names:
        assert (folder / name).read_bytes() == (tmp_path / "whole" / "train" / name).read_bytes(), name
    # A shard that is lost later is written again, the others are not.
    (folder / "000001.tar").unlink()
    third = write(source, tmp_path / "killed", megabytes=1)
    assert third.kept == len(third.index.shards) - 1
    assert (folder / "000001.tar").read_bytes() == (tmp_path / "whole" / "train" / "000001.tar").read_bytes()


def test_a_folder_of_other_shards_is_left_alone(tmp_path: Path) -> None:
    source = own(tmp_path / "own")
    write(source, tmp_path)
    before = (tmp_path / "train" / "000000.tar").read_bytes()
    with pytest.raises(SohoError, match="holds shards of other examples, another order or another size"):
        write(source.model_copy(update={"limit": 3}), tmp_path)
    with pytest.raises(SohoError, match="another size"):
        write(source, tmp_path, megabytes=2)
    assert (tmp_path / "train" / "000000.tar").read_bytes() == before
    with pytest.raises(SohoError, match="give at least 1"):
        write(source, tmp_path, megabytes=0)


def test_broken_pictures_are_counted_and_named_and_their_records_stay(tmp_path: Path) -> None:
    source = own(tmp_path / "own")
    path = tmp_path / "own" / "p2.png"
    path.write_bytes(path.read_bytes()[:60])  # the header is whole
    (tmp_path / "own" / "p4.png").write_bytes(b"no picture")
    written = write(source, tmp_path)
    assert written.index.broken == 2
    assert not written.sound
    assert written.lines()[0].startswith("train: 1 shard in ")
    assert "2 pictures cannot be read: more than 1 in 100: " in written.lines()[1]
    assert str(tmp_path) not in written.lines()[1]
    assert sorted(name.split(":")[0] for name in written.index.broken_names) == ["p2.png", "p4.png"]
    examples, _ = load_captions(Source(format="shards", shards=tmp_path / "train"))
    assert [example.captions[0] for example in examples] == [f"picture {number}" for number in range(6)]
    assert [(example.width, example.height) for example in examples][2:5] == [(32, 20), (33, 20), (0, 0)]
    for number in (2, 4):
        with pytest.raises(ImageDecodeError, match="could not be read when the shards were written"):
            read_bytes(examples[number].image)
    with tarfile.open(tmp_path / "train" / "000000.tar") as archive:
        assert len(archive.getnames()) == 2 * 4


def test_missing_pictures_are_what_on_missing_says(tmp_path: Path) -> None:
    source = own(tmp_path / "own")
    (tmp_path / "own" / "p0.png").unlink()
    with pytest.raises(SohoError, match=r'the image "p0\.png" is not in'):
        write(source, tmp_path)
    written = write(source.model_copy(update={"on_missing": "skip"}), tmp_path)
    assert written.notes == [f"jsonl ({tmp_path}/own/own.jsonl): 1 image not found: p0.png"]
    assert written.index.shards[0].records == 5


def test_photographs_of_exclude_stay_out_of_training_shards(world: Path, tmp_path: Path) -> None:
    source = world_source("pretraining", world)
    first = source.model_copy(update={"limit": 3})
    both = {"train": [source], "validation": [source]}
    written = write_shards(both, load_captions, tmp_path, exclude=[first])
    assert [section.index.shards[0].records for section in written] == [45, 48]
    assert "3 photographs left out because of data.exclude" in written[0].notes[0]


def test_no_path_of_the_machine_is_told(tmp_path: Path) -> None:
    source = own(tmp_path / "own")
    (tmp_path / "own" / "p4.png").write_bytes(b"no picture")
    write_shards({"train": [source], "test": [source]}, load_captions, tmp_path / "out")
    for path in (tmp_path / "out").rglob("*.*"):
        data = path.read_bytes()
        content = gzip.decompress(data) if path.suffix == ".gz" else data
        assert str(tmp_path).encode() not in content, path
    # Equal pictures keep equal keys, in every section and in another folder.
    write_shards({"train": [source]}, load_captions, tmp_path / "again")
    keys = {
        tuple(example.photo_key for example in load_captions(Source(format="shards", shards=tmp_path / place))[0])
        for place in ("out/train", "out/test", "again/train")
    }
    assert len(keys) == 1
    assert len(set(keys.pop())) == 6


def test_photographs_of_ones_own_are_excluded_before_writing(tmp_path: Path) -> None:
    source = own(tmp_path / "own")
    first = source.model_copy(update={"limit": 2})
    (written,) = write_shards({"train": [source]}, load_captions, tmp_path, exclude=[first])
    assert written.index.shards[0].records == 4
    assert "2 photographs left out because of data.exclude" in written.notes[0]
    # Shards know the same photographs as the files: either can be excluded from the other.
    shards = Source(format="shards", shards=tmp_path / "train")
    (rest,) = write_shards({"train": [source]}, load_captions, tmp_path / "rest", exclude=[shards])
    assert rest.index.shards[0].records == 2


def test_records_that_are_none_of_the_schema_are_told(tmp_path: Path) -> None:
    source = own(tmp_path / "own")
    with pytest.raises(
        SohoError, match=r"own\.jsonl\) is read as str, but shards hold only the records of soho\.data\.schema"
    ):
        write_shards({"train": [source]}, lambda source: (["a"], load_captions(source)[1]), tmp_path)  # type: ignore[list-item]


def test_a_list_that_could_not_be_read_again_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "LARGEST_LIST", 300)
    with pytest.raises(SohoError, match=r"records of 000000\.tar have more than 300 bytes; write smaller shards"):
        write(own(tmp_path / "own"), tmp_path)


def test_the_command(soho: Soho, world: Path, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "recipe.yaml", tiny_values("snli_ve", world, tmp_path / "run"))
    code, out, err = soho("data", "shard", recipe, tmp_path / "shards", "--shard-megabytes", "1")
    assert code == 0, err
    assert out.splitlines()[0].startswith("train: 1 shard in ")
    assert f"  train: [{{format: shards, shards: {tmp_path}/shards/train}}]" in out.splitlines()
    code, out, _ = soho("data", "shard", recipe, tmp_path / "shards", "--shard-megabytes", "1")
    assert code == 0
    assert out.splitlines()[0].split(", ")[2].startswith("1 of them there before")
    code, _, err = soho("data", "shard", recipe, tmp_path / "shards", "data.train.0.limit=3")
    assert code == 1
    assert "another size (--shard-megabytes)" in err


def test_a_source_that_is_refused_leaves_no_folder_behind(tmp_path: Path) -> None:
    nothing = Source(format="jsonl", annotations=tmp_path / "nothing.jsonl", images=[tmp_path])
    with pytest.raises(SohoError, match=r"nothing\.jsonl"):
        write_shards({"train": [nothing]}, load_captions, tmp_path / "shards")
    assert not (tmp_path / "shards").exists()
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "notes.txt").write_text("mine")
    with pytest.raises(SohoError, match=r"nothing\.jsonl"):
        write_shards({"train": [nothing]}, load_captions, kept)
    assert [path.name for path in kept.iterdir()] == ["notes.txt"]
