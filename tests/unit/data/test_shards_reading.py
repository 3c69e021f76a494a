from __future__ import annotations

import gzip
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest

from soho.data import remote
from soho.data.check import check
from soho.data.images import ImageDecodeError, read_bytes
from soho.data.readers.shards import read_photo_keys
from soho.data.schema import CaptionedImage, ImageRef
from soho.data.shards import layout, writing
from soho.data.shards.writing import write_shards
from soho.data.sources import Source, excluded_photographs, load_captions, load_questions
from soho.errors import SohoError
from tests.shard_server import serve
from tests.unit.data.pictures import write_jsonl


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 pictures that do not compress, about 9 KB each, in shards of at most 128 KB; `train` holds 4 or more."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("many")
    names = [f"p{number}.png" for number in range(40)]
    for number, name in enumerate(names):
        Image.frombytes("RGB", (60, 50), Random(number).randbytes(3 * 60 * 50)).save(folder / name)
    rows = [{"image": name, "caption": f"picture {number}"} for number, name in enumerate(names)]
    source = Source(format="jsonl", annotations=write_jsonl(folder / "own.jsonl", rows))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writing, "MEGABYTE", 2**17)
        section = write_shards({"train": [source]}, load_captions, folder / "shards", megabytes=1)[0]
    assert len(section.index.shards) >= 3
    return folder


@pytest.fixture
def own(many: Path, tmp_path: Path) -> Path:
    """A copy of the shards that a test may damage."""
    for path in (many / "shards" / "train").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def source(*places: Path | str, **more: Any) -> Source:
    return Source(format="shards", shards=list(map(str, places)), **more)


def readable(examples: list[CaptionedImage]) -> list[bool]:
    result = []
    for example in examples:
        try:
            read_bytes(example.image)
            result.append(True)
        except ImageDecodeError:
            result.append(False)
    return result


def test_some_of_the_shards_by_name(many: Path) -> None:
    folder = many / "shards" / "train"
    everything, _ = load_captions(source(folder))
    assert [example.captions for example in everything] == [(f"picture {number}",) for number in range(40)]
    two, notes = load_captions(source(f"{folder}/{{000000..000001}}.tar"))
    assert {Path(example.image.archive or "").name for example in two} == {"000000.tar", "000001.tar"}
    assert notes.rows == len(two) < 40
    assert two == [example for example in everything if example in two]  # still in the order of the recipe
    assert load_captions(source(folder, limit=3))[0] == everything[:3]
    one, _ = load_captions(source(folder / "000001.tar", folder / "000000.tar"))
    assert one == two
    with pytest.raises(SohoError, match=r"has no shard 000099\.tar; its index\.json names"):
        load_captions(source(folder / "000099.tar"))
    with pytest.raises(SohoError, match="has captions, but questions are needed here"):
        load_questions(source(folder))


def test_fields_that_do_not_belong_to_the_format() -> None:
    for values, message in (
        ({}, "format shards needs shards"),
        ({"shards": "a", "images": "b"}, "leave annotations and images out"),
        ({"shards": "a", "split": "train"}, "split belongs to format"),
    ):
        with pytest.raises(ValueError, match=message):
            Source.model_validate({"format": "shards", **values})
    with pytest.raises(ValueError, match="shards belongs to format shards, not to jsonl"):
        Source.model_validate({"format": "jsonl", "annotations": "a", "shards": "b"})


def test_a_shard_that_is_cut_off_is_named_and_its_pictures_are_broken(own: Path) -> None:
    whole, _ = load_captions(source(own))
    tar = own / "000001.tar"
    size = tar.stat().st_size
    os.truncate(tar, size // 2)
    examples, notes = load_captions(source(own))
    assert examples == whole  # nothing about the plan of an epoch depends on a tar
    assert len(notes.lines()) == 1
    assert f"{tar} is cut off: it has {size // 2:,} of {size:,} bytes" in notes.lines()[0]
    inside = [example for example in examples if example.image.archive == str(tar)]
    expected = [sum(example.image.span or ()) <= size // 2 for example in inside]
    assert readable(inside) == expected
    assert 0 < sum(expected) < len(expected)
    assert all(readable([example for example in examples if example not in inside]))
    broken = inside[expected.index(False)]
    with pytest.raises(ImageDecodeError, match=rf"{tar}!{broken.image.path}: the shard ends before this picture does"):
        read_bytes(broken.image)

    report = check({"train": [source(own)]}, "pretraining")
    assert not report.sound
    fatal = [problem for problem in report.problems if problem.fatal]
    assert fatal[0].message == "1 shard not what the index says"
    assert fatal[0].examples == [f"{tar} is cut off: it has {size // 2:,} of {size:,} bytes"]
    assert report.counts[0].broken == expected.count(False)


def test_a_shard_with_another_content_is_found_by_its_digest(own: Path) -> None:
    tar = own / "000000.tar"
    data = bytearray(tar.read_bytes())
    data[600] ^= 1  # in the JSON of the first sample: every picture can still be read
    tar.write_bytes(data)
    lenient = check({"train": [source(own, on_missing="skip")]}, "pretraining")
    assert lenient.sound
    assert lenient.problems[0].examples == [f"{tar} does not hold what index.json says (sha256)"]
    assert not check({"train": [source(own)]}, "pretraining").sound


def test_a_shard_that_is_not_there_is_what_on_missing_says(own: Path) -> None:
    (own / "000000.tar").unlink()
    with pytest.raises(SohoError, match=r"000000\.tar is not there \(on_missing: skip goes on without its pictures\)"):
        load_captions(source(own))
    examples, notes = load_captions(source(own, on_missing="skip"))
    assert len(examples) == 40
    assert "1 shard with" in notes.lines()[0]
    assert not any(readable([example for example in examples if "000000" in (example.image.archive or "")]))
    assert len(read_photo_keys([str(own)])) == 40
    assert excluded_photographs([source(own)]) == read_photo_keys([str(own)])


def test_a_list_of_records_that_is_cut_off_is_an_error(own: Path) -> None:
    os.truncate(own / "000000.jsonl.gz", 100)
    with pytest.raises(SohoError, match=r"000000\.jsonl\.gz is not the file that index\.json names"):
        load_captions(source(own))
    (own / "index.json").write_text('{"format": "soho-shards", "version": 2}')
    with pytest.raises(SohoError, match="is not an index of shards that this version reads: version"):
        load_captions(source(own))


def with_list(folder: Path, change: Callable[[str], str]) -> None:
    """Change the last line of the first list of records, and the digest in the index with it."""
    path, index = folder / "000000.jsonl.gz", folder / "index.json"
    before = path.read_bytes()
    *lines, last = gzip.decompress(before).decode().splitlines()
    path.write_bytes(gzip.compress("\n".join([*lines, change(last)]).encode()))
    old, new = (hashlib.sha256(data).hexdigest() for data in (before, path.read_bytes()))
    index.write_text(index.read_text().replace(old, new))


def with_span(folder: Path, span: Any) -> None:
    with_list(folder, lambda line: json.dumps({**json.loads(line), "spans": [span]}))


@pytest.mark.parametrize(
    "span",
    [[0, -1], [-512, 100], [0, 10**13], [10**13, 1], [1.5, 2], [float("inf"), 1], ["0", 1], [True, 1], [0], 7, None],
)
def test_a_place_outside_of_the_shard_is_refused(own: Path, span: Any) -> None:
    with_span(own, span)
    with pytest.raises(SohoError, match=r"000000\.jsonl\.gz of .*: a sample is not of this version"):
        load_captions(source(own))


def test_a_place_may_end_with_the_shard(own: Path) -> None:
    size = (own / "000000.tar").stat().st_size
    with_span(own, [size - 100, 100])
    examples, _ = load_captions(source(own))
    assert [example.image.span for example in examples if example.image.span == (size - 100, 100)]
    with_span(own, [size - 100, 101])
    with pytest.raises(SohoError, match=rf"\[{size - 100}, 101\] is no part of a shard of {size:,} bytes"):
        load_captions(source(own))


def test_no_room_is_made_for_bytes_that_are_not_there(own: Path) -> None:
    tar = own / "000000.tar"
    with pytest.raises(ImageDecodeError, match="the shard ends before this picture does"):
        read_bytes(ImageRef("a.png", str(tar), (0, 10**13)))  # an index may name any size


@pytest.mark.parametrize("content", ["{", "[1, "])
def test_a_line_that_is_no_json_is_told(own: Path, content: str) -> None:
    with_list(own, lambda _: content)
    with pytest.raises(SohoError, match=r"000000\.jsonl\.gz is damaged or no file of records of a shard \(Expecting"):
        load_captions(source(own))


def test_a_list_whose_packing_is_damaged_is_told() -> None:
    with pytest.raises(SohoError, match="place is damaged or no file of records"):
        layout.read_lines(gzip.compress(b"a" * 50)[:10] + b"\xff" * 20, "place")


def test_what_is_read_whole_has_a_bound(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = gzip.compress(bytes(5000))
    monkeypatch.setattr(layout, "LARGEST_LIST", 4999)
    with pytest.raises(SohoError, match="place unpacks to more than 4,999 bytes, too many for the records of a shard"):
        layout.read_lines(bomb, "place")
    monkeypatch.setattr(remote, "LARGEST_FILE", 100)
    with (
        serve(own) as (address, _),
        pytest.raises(SohoError, match=r"index\.json: the server sends more than the 100 b"),
    ):
        load_captions(source(address))


def test_names_of_an_index_stay_in_their_folder(own: Path) -> None:
    text = (own / "index.json").read_text()
    (own / "index.json").write_text(text.replace('"000000.tar"', '"../000000.tar"'))
    with pytest.raises(SohoError, match=r"shards\.0\.name"):
        load_captions(source(own))


def test_behind_an_address_single_pictures_are_asked_for(many: Path) -> None:
    here, _ = load_captions(source(many / "shards" / "train"))
    with serve(many / "shards") as (address, state):
        there, _ = load_captions(source(f"{address}/train"))
        assert [example.image.archive for example in there][:1] == [
            f"{address}/train/{Path(here[0].image.archive or '').name}"
        ]
        assert [read_bytes(example.image) for example in there] == [read_bytes(example.image) for example in here]
        assert sum(path.endswith(".tar") for path in state["requests"]) == 40
        some, _ = load_captions(source(f"{address}/train/{{000000..000001}}.tar"))
        assert {example.image.path for example in some} < {example.image.path for example in there}
        with pytest.raises(SohoError, match=r"/none/index\.json does not exist"):
            load_captions(source(f"{address}/none"))
        assert check({"train": [source(f"{address}/train")]}, "pretraining").sound


def test_a_shard_is_cut_off_or_not_there_behind_an_address(own: Path) -> None:
    with serve(own) as (address, _):
        examples, _ = load_captions(source(address))
        os.truncate(own / "000001.tar", 3000)
        (own / "000000.tar").unlink()
        by_shard = {Path(example.image.archive or "").name: example for example in examples}
        late = max((e for e in examples if "000001.tar" in str(e.image)), key=lambda example: example.image.span or ())
        with pytest.raises(ImageDecodeError, match="the shard ends before this picture does"):
            read_bytes(late.image)
        with pytest.raises(ImageDecodeError, match="the server has no such shard"):
            read_bytes(by_shard["000000.tar"].image)
        report = check({"train": [source(address)]}, "pretraining")
        faults = next(problem for problem in report.problems if "index says" in problem.message)
        assert faults.examples[0] == f"{address}/000000.tar is not there"
        assert "/000001.tar is cut off: it has fewer than" in faults.examples[1]


def test_a_cache_fetches_every_shard_once(own: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    cache = tmp_path_factory.mktemp("cache")
    with serve(own, ranges=False) as (address, state):
        examples, _ = load_captions(source(address))
        with pytest.raises(SohoError, match=r"whole files only, .* name a folder as cache"):
            read_bytes(examples[0].image)
        state["requests"].clear()
        for _ in range(2):
            examples, notes = load_captions(source(address, cache=cache))
            assert notes.lines() == []
        tars = [path for path in state["requests"] if path.endswith(".tar")]
        assert len(tars) == len(set(tars)) >= 3
    assert all(readable(examples))  # the server has gone
    assert {Path(example.image.archive or "").parent for example in examples} == {cache}


def test_a_damaged_shard_does_not_enter_the_cache(own: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    cache = tmp_path_factory.mktemp("cache")
    data = bytearray((own / "000000.tar").read_bytes())
    data[600] ^= 1
    (own / "000000.tar").write_bytes(data)
    os.truncate(own / "000001.tar", 5000)
    with serve(own) as (address, _):
        with pytest.raises(
            SohoError, match=r"000000\.tar: its content is not what the index says \(sha256\) and 1 more"
        ):
            load_captions(source(address, cache=cache))
        examples, notes = load_captions(source(address, cache=cache, on_missing="skip"))
    assert "2 shards with" in notes.lines()[0]
    assert not [path.name for path in cache.iterdir() if "000000" in path.name or "partial" in path.name]
    assert 0 < sum(readable(examples)) < 40


def test_a_server_may_be_busy_but_not_away(many: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "_FIRST_WAIT", 0.001)
    with serve(many / "shards", busy=4) as (address, _):
        examples, _ = load_captions(source(f"{address}/train"))
        assert read_bytes(examples[0].image)
    with pytest.raises(SohoError, match=r"cannot be had, 5 attempts failed \(.*\); the same command tries again"):
        read_bytes(ImageRef("a.jpg", "http://127.0.0.1:9/000000.tar", (1536, 10)))  # nobody listens there
    with serve(many / "shards", busy=99) as (address, _), pytest.raises(SohoError, match="it answers 503"):
        load_captions(source(f"{address}/train"))
