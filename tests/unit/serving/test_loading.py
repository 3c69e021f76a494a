"""Which folders are served as what, and how the command begins and ends."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from soho.errors import SohoError
from soho.pipelines import SohoPipeline
from soho.search import PictureIndex
from soho.serving.app import create_app
from soho.serving.command import is_local, listen, local_names, open_house
from soho.serving.examples import read_examples
from soho.serving.limits import Limits, Settings
from soho.serving.shelf import Shelf, find_models
from tests.support import ROOT, Soho
from tests.unit.search.small import fill, make_model


def test_folders_of_runs_runs_and_models_are_found(runs: Path) -> None:
    below = find_models([runs])
    assert [one.path.parent.name for one in below] == [
        "nlvr2",
        "pretrain",
        "retrieval",
        "snli_ve",
        "vqa",
        "vqa_text_only",
    ]
    assert not any(one.named for one in below)
    assert [one.path for one in find_models([runs / "vqa", runs / "nlvr2" / "model"])] == [
        runs / "vqa" / "model",
        runs / "nlvr2" / "model",
    ]


def test_a_retrieval_model_matches_and_a_pretraining_model_gives_the_codes(runs: Path) -> None:
    shelf = Shelf(find_models([runs]))
    assert shelf.folders["match"].path == runs / "retrieval" / "model"
    assert shelf.codes is shelf.exact[runs / "pretrain" / "model"]
    assert shelf.left_out == [runs / "vqa_text_only" / "model"]
    alone = Shelf(find_models([runs / "pretrain"]))
    assert list(alone.folders) == ["match"]
    assert alone.codes is alone.of("match")


def test_fast_settings_answer_and_the_exact_model_is_looked_into(runs: Path) -> None:
    shelf = Shelf(find_models([runs / "vqa"]), fast=True)
    quick, exact = shelf.of("answer"), shelf.of("answer", exact=True)
    assert quick is not None
    assert exact is not None
    assert (quick.fast is None, exact.fast is None) == (False, True)
    picture = runs / "pictures" / "p00.jpg"
    pairs = zip(quick.answer(picture, "a ball?", 3), exact.answer(picture, "a ball?", 3))
    assert all(abs(one.probability - other.probability) < 0.05 for one, other in pairs)


def test_bad_places_are_one_sentence(runs: Path, tmp_path: Path) -> None:
    with pytest.raises(SohoError, match=r"nowhere is not a folder; expected one that a SOHO run wrote"):
        find_models([tmp_path / "nowhere"])
    with pytest.raises(SohoError, match=r"holds no SOHO model; expected a model folder, the output of a run, or"):
        find_models([tmp_path])
    (tmp_path / "config.json").write_text('{"architectures": ["BertModel"]}')
    with pytest.raises(SohoError, match="holds no SOHO model"):
        find_models([tmp_path])
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(SohoError, match=r"config\.json cannot be read"):
        find_models([tmp_path])
    twice = find_models([runs / "vqa", runs / "vqa_text_only"])
    with pytest.raises(SohoError, match=r"vqa_text_only/model and .*vqa/model are models for the same task"):
        Shelf(twice)
    with pytest.raises(SohoError, match="is no index; make one with"):
        open_house([runs / "vqa"], tmp_path, None, Settings())
    with pytest.raises(SohoError, match="waiting=-1 must be at least 0"):
        Limits(waiting=-1)
    with pytest.raises(SohoError, match="pixels=0 must be at least 1"):
        Limits(pixels=0)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ({}, "holds no list of at most 48 examples"),
        ([{"kind": "guess", "text": "a"}], 'example 0: expected an object with "kind", one of search, answer'),
        ([{"kind": "search"}], 'example 0: expected "text"'),
        ([{"kind": "compare", "text": "a", "pictures": ["x.jpg"]}], 'expected "pictures", a list of 2 paths'),
        ([{"kind": "answer", "text": "a", "pictures": ["x.jpg"]}], "x.jpg: the file is not there"),
    ],
)
def test_bad_examples_are_one_sentence(tmp_path: Path, rows: object, said: str) -> None:
    (tmp_path / "e.json").write_text(json.dumps(rows))
    with pytest.raises(SohoError, match=re.escape(said)):
        read_examples(tmp_path / "e.json")


def test_an_index_of_another_model_brings_its_own(runs: Path, tmp_path: Path) -> None:
    house = open_house([runs / "pretrain"], runs / "index", None, Settings())
    assert house.index is not None
    assert house.index.pipeline.folder == runs / "retrieval" / "model"
    house.close()


def test_the_index_own_model_loads_as_the_command_says(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = []
    original = SohoPipeline.from_pretrained

    def from_pretrained(folder: Path, trust_remote_code: bool, device: str) -> SohoPipeline:
        loaded.append((Path(folder).parent.name, trust_remote_code, device))
        return original(folder)  # whether there is such a device is not the question

    monkeypatch.setattr(SohoPipeline, "from_pretrained", from_pretrained)
    monkeypatch.setattr("soho.serving.shelf.SohoPipeline.from_pretrained", from_pretrained)
    house = open_house([runs / "vqa"], runs / "index", None, Settings(), "meta", True)
    house.close()
    assert loaded == [("vqa", True, "meta"), ("retrieval", True, "meta")]


def test_an_index_whose_model_has_moved(runs: Path, tmp_path: Path) -> None:
    make_model(tmp_path / "model", seed=3)
    library = fill(tmp_path / "pictures")
    PictureIndex.build(library, tmp_path / "model", tmp_path / "index", progress=False)
    (tmp_path / "model").rename(tmp_path / "elsewhere")
    with pytest.raises(SohoError, match=r"is no longer in .*/model; name its folder among the MODELs$"):
        open_house([runs / "vqa"], tmp_path / "index", None, Settings())
    with pytest.raises(SohoError, match=r"is no longer in .*/model; say where with --model$"):
        PictureIndex.open(tmp_path / "index")
    house = open_house([runs / "vqa", tmp_path / "elsewhere"], tmp_path / "index", None, Settings())
    house.close()
    assert house.index is not None
    assert house.index.pipeline.folder == tmp_path / "elsewhere"


def test_a_picture_that_breaks_the_reader_is_left_out_of_the_corpus(
    runs: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    house = open_house([runs / "pretrain"], runs / "index", None, Settings())
    assert house.book is not None
    original, asked = house.book.add, []

    def add(picture: object) -> None:
        asked.append(picture)
        if len(asked) == 3:
            raise ZeroDivisionError
        original(picture)  # type: ignore[arg-type]

    monkeypatch.setattr(house.book, "add", add)
    asyncio.run(house.read_corpus())
    house.close()
    assert (len(asked), house.book.read, house.book.total) == (11, 10, 10)
    assert [record.exc_info is not None for record in caplog.records if record.name == "soho.serving.house"] == [True]


def test_the_threads_end_also_where_the_reading_failed(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    house = open_house([runs / "vqa"], None, None, Settings())

    async def broken() -> None:
        raise ZeroDivisionError

    async def live() -> None:
        async with app.router.lifespan_context(app):
            await asyncio.sleep(0.01)

    monkeypatch.setattr(house, "read_corpus", broken)
    app = create_app(house)
    with pytest.raises(ZeroDivisionError):
        asyncio.run(live())
    with pytest.raises(RuntimeError, match="after shutdown"):
        house.desk.wait_for(int)


def test_what_is_local() -> None:
    assert [is_local(host) for host in ("127.0.0.1", "localhost", "::1", "127.8.8.8", "0.0.0.0", "::")] == [
        *[True] * 4,
        *[False] * 2,
    ]
    assert local_names("127.8.8.8") == {"localhost", "127.0.0.1", "[::1]", "127.8.8.8"}


def test_a_port_that_is_taken(soho: Soho, runs: Path) -> None:
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        code, _, said = soho("serve", runs, "--port", port)
    assert code == 1
    assert said == (
        f"soho: cannot listen on 127.0.0.1 port {port} (Address already in use); choose another --host or --port\n"
    )


@pytest.mark.skipif(shutil.which("kill") is None, reason="needs signals")
def test_the_command_serves_until_it_is_interrupted(runs: Path) -> None:
    command = [sys.executable, "-m", "soho", "serve", str(runs), "--port", "0", "--corpus", "0"]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ)
    ) as server:
        assert server.stdout is not None
        lines = []
        try:
            until = time.monotonic() + 60
            while time.monotonic() < until and not (lines and lines[-1].startswith("http://")):
                lines.append(server.stdout.readline().strip())
                assert lines[-1], server.communicate(timeout=10)[1]
            address = lines[-1].split()[0]
            assert address.startswith("http://127.0.0.1:")
            with urllib.request.urlopen(f"{address}/healthz", timeout=30) as answer:
                assert json.load(answer)["status"] == "ok"
        finally:
            server.send_signal(signal.SIGINT)
            _, errors = server.communicate(timeout=60)
        assert (server.returncode, errors) == (0, "")
    assert f"search: {runs / 'index'}" in lines
