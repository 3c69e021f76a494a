"""`soho index` and `soho search`: what they print and write."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from soho.errors import SohoError
from soho.search import PictureIndex
from soho.search.measure import measure
from soho.search.show import read_queries
from tests.support import Soho
from tests.unit.search.small import WORDS


def test_from_a_folder_to_a_page(soho: Soho, library: Path, model_folder: Path, tmp_path: Path) -> None:
    out, page = tmp_path / "index", tmp_path / "pages" / "snow.html"
    (library / "text.jpg").write_text("no picture")
    code, said, bar = soho("index", library, "--model", model_folder, "--out", out, "--dtype", "float32")
    assert code == 0, bar
    assert said.startswith(
        f"{out}: 11 pictures, 11 of them different; 11 encoded, 0 known by content, 0 dropped, 1 broken"
    )
    assert "broken: text.jpg: is not a picture" in said
    assert "12/12" in bar
    assert "picture/s" in bar

    expected = PictureIndex.open(out).search(WORDS[1], top=3)[0]
    code, said, _ = soho("search", WORDS[1], "--index", out, "--top", 3)
    assert code == 0
    assert said.splitlines() == [f"{one.probability:.3f}  {one.path}" for one in expected]

    code, said, _ = soho("search", WORDS[1], "<snow> & dogs", "--index", out, "--top", 3, "--json", "--html", page)
    first, second = json.loads(said)
    assert (first["text"], second["text"]) == (WORDS[1], "<snow> & dogs")
    assert [one["path"] for one in first["found"]] == [str(one.path) for one in expected]
    assert first["found"][0]["score"] == pytest.approx(expected[0].score, abs=1e-5)
    html = page.read_text()
    assert html.count("data:image/jpeg;base64,") == 6
    assert "&lt;snow&gt; &amp; dogs" in html
    assert "<snow>" not in html

    exact = soho("search", WORDS[1], "--index", out, "--top", 3, "--exact")
    assert exact[1].splitlines() == [f"{one.probability:.3f}  {one.path}" for one in expected]
    vectors = soho("search", WORDS[1], "--index", out, "--top", 1, "--rerank", 0)[1]
    assert float(vectors.split()[0]) <= 1.0

    code, said, err = soho("search", "--index", out)
    assert (code, said) == (1, "")
    assert err == "soho: there is no text to search for; give one, or a file of them with --queries\n"


def test_measuring(soho: Soho, library: Path, model_folder: Path, tmp_path: Path) -> None:
    out, queries = tmp_path / "index", tmp_path / "texts.txt"
    soho("index", library, "--model", model_folder, "--out", out)
    queries.write_text("\n".join(WORDS) + "\n")
    code, said, _ = soho("search", "--index", out, "--measure", "--queries", queries, "--json")
    assert code == 0
    figures = json.loads(said)
    assert (figures["pictures"], figures["texts"]) == (11, 4)
    assert list(figures["recall"]) == ["10"]
    # Ten of eleven are candidates: at most one of the exact ten can be missing for each text.
    assert 0.9 <= figures["recall"]["10"] <= 1.0
    found = PictureIndex.open(out)
    wanted = [found.search(text, top=10, exact=True)[0] for text in WORDS]
    near = [found.search(text, top=10, rerank=0)[0] for text in WORDS]
    shared = sum(len({a.path for a in left} & {b.path for b in right}) for left, right in zip(wanted, near))
    assert figures["recall"]["10"] == pytest.approx(shared / 40)
    for name in ("cold_load", "cold_first_stage", "cold_second_stage", "first_stage", "exact"):
        assert figures[name] > 0
    lines = measure(out, WORDS, lambda: PictureIndex.open(out), progress=False)[0].lines()
    assert lines[0] == "11 pictures, 4 texts"
    assert "cold start" in lines[1]
    for options in (("--html", tmp_path / "a.html"), ("--exact",), ("--top", 3, "--rerank", 20)):
        code, said, err = soho("search", "--index", out, "--measure", "--queries", queries, *options)
        assert (code, said) == (1, "")
        named = ", ".join(str(one) for one in options if str(one).startswith("--"))
        assert err == (f"soho: --measure tries fixed numbers of candidates and shows no pictures; leave out {named}\n")


def test_files_of_texts(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one dog\n\n  two dogs \n")
    assert read_queries(tmp_path / "a.txt") == ["one dog", "two dogs"]
    (tmp_path / "a.jsonl").write_text('"one dog"\n{"text": "two dogs", "id": 3}\n')
    assert read_queries(tmp_path / "a.jsonl") == ["one dog", "two dogs"]
    (tmp_path / "b.jsonl").write_text('"one dog"\n{"caption": "two dogs"}\n')
    with pytest.raises(SohoError, match=r"b\.jsonl, line 2: holds no text; expected a string or"):
        read_queries(tmp_path / "b.jsonl")
    (tmp_path / "c.jsonl").write_text("one dog\n")
    with pytest.raises(SohoError, match=r"c\.jsonl, line 1: is no JSON"):
        read_queries(tmp_path / "c.jsonl")
    (tmp_path / "d.txt").write_text("\n")
    with pytest.raises(SohoError, match=r"d\.txt holds no text"):
        read_queries(tmp_path / "d.txt")
