from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from soho.inspection.markup import Html, aspect, join, paragraphs, picture, tag
from soho.inspection.report import (
    AnsweredQuestion,
    Candidate,
    CodeHealth,
    CodePatches,
    Curve,
    DictionaryPatches,
    Figure,
    Item,
    MetricColumn,
    MetricRow,
    MetricTable,
    Note,
    RetrievalExample,
    Section,
    Series,
    write_report,
)

RED, BLUE = Image.new("RGB", (60, 40), (200, 0, 0)), Image.new("RGB", (40, 40), (0, 0, 200))
NASTY = '<script>alert("x")</script> & co'


class Reader(HTMLParser):
    """Checks that elements are closed in order and collects what matters."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words.append(data)


def read(tmp_path: Path, *items: Item, **options: object) -> tuple[str, Reader]:
    page = write_report(tmp_path / "new/report.html", "Title", [Section("Part", items)], **options).read_text("utf-8")
    reader = Reader()
    reader.feed(page)
    assert reader.open == []
    return page, reader


ALL_ITEMS: list[Item] = [
    Figure("31.2%", "first", "chance 0.2%"),
    Curve("Loss", [Series("MLM", [0, 1], [2.0, 1.0])]),
    MetricTable(
        "Recall", [MetricColumn("chance", "chance"), MetricColumn("us", "ours")], [MetricRow("R@1", [0.1, 0.5])]
    ),
    RetrievalExample("a dog", [Candidate(RED, True, 0.9), Candidate(BLUE)], rank=1),
    RetrievalExample(RED, [Candidate("a dog", True), Candidate("a cat")], rank=1),
    AnsweredQuestion(RED, "What colour?", "red", "red", [("red", 0.8), ("blue", 0.1)]),
    DictionaryPatches([CodePatches(7, 3, 2, 0.1, [RED, BLUE])], CodeHealth.of([3, 1, 0])),
    Note("First.\n\nSecond."),
]


def test_one_file_that_needs_nothing_else(tmp_path: Path) -> None:
    page, reader = read(tmp_path, *ALL_ITEMS, lead="A lead.", facts={"seed": "0"})
    assert page.startswith("<!doctype html>")
    assert list((tmp_path / "new").iterdir()) == [tmp_path / "new/report.html"]
    assert not re.search(r"https?://|@import|url\(|<script|<link|<iframe", page)
    sources = [attributes["src"] for name, attributes in reader.tags if name == "img"]
    assert len(sources) == 2 + 1 + 1 + 2
    assert all(source is not None and source.startswith("data:image/jpeg;base64,") for source in sources)
    assert all(attributes.get("alt") for name, attributes in reader.tags if name == "img")
    assert "prefers-color-scheme: dark" in page
    policy = next(a["content"] for n, a in reader.tags if n == "meta" and "http-equiv" in a)
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def test_everything_from_outside_is_escaped(tmp_path: Path) -> None:
    page, reader = read(
        tmp_path,
        Figure(NASTY, NASTY, NASTY),
        Curve(NASTY, [Series(NASTY, [0, 1], [0, 1])], NASTY, NASTY),
        MetricTable(NASTY, [MetricColumn(NASTY)], [MetricRow(NASTY, [0.5])], NASTY),
        RetrievalExample(NASTY, [Candidate(RED)], answer=BLUE),
        RetrievalExample(RED, [Candidate(NASTY)], answer=NASTY),
        AnsweredQuestion(RED, NASTY, NASTY, NASTY + "2", [(NASTY, 0.5)]),
        Note(NASTY),
        lead=NASTY,
        facts={NASTY: NASTY},
    )
    assert "<script" not in page
    assert NASTY in " ".join(reader.words)
    assert page.count("alert") == page.count("&lt;script&gt;alert")


def test_every_section_is_explained_and_reachable(tmp_path: Path) -> None:
    sections = [
        Section("Results", [ALL_ITEMS[2]]),
        Section("Results", [ALL_ITEMS[1]], explanation="Told by the caller."),
        Section("Nothing", []),
    ]
    page = write_report(tmp_path / "r.html", "T", sections).read_text("utf-8")
    assert "Recall at k (R@k) is the share of queries" in page
    assert "Told by the caller." in page
    assert "How training went" not in page
    assert "Nothing" not in page
    assert re.findall(r'href="#([^"]*)"', page) == ["results", "results-1"]
    assert re.findall(r'<section id="([^"]*)"', page) == ["results", "results-1"]


def test_table_highlights_ours_and_the_best(tmp_path: Path) -> None:
    columns = [MetricColumn("chance", "chance"), MetricColumn("other"), MetricColumn("SOHO", "ours")]
    rows = [MetricRow("R@1", [0.001, None, 0.25]), MetricRow("median rank", [500, 3, 4], "number", False)]
    page, _ = read(tmp_path, MetricTable("t", columns, rows))
    assert '<th class="ours" scope="col">SOHO</th>' in page
    assert '<td class="ours"><b>25.0%</b><i class="bar" style="width:25.0%"></i></td>' in page
    assert '<td class="baseline">–</td>' in page
    assert '<td class="baseline"><b>3</b></td><td class="ours">4</td>' in page


def test_right_candidates_are_framed_and_a_missed_one_is_shown(tmp_path: Path) -> None:
    hit = RetrievalExample("a dog", [Candidate(BLUE), Candidate(RED, True, 0.5)], rank=2, answer=RED)
    page, reader = read(tmp_path, hit)
    items = [attributes for name, attributes in reader.tags if name == "li"]
    assert items == [{"style": "--shape:1.000"}, {"class": "right", "style": "--shape:1.500"}]
    assert "right one at place 2" in page
    assert "would have been" not in page
    missed = RetrievalExample(RED, [Candidate("a cat")], rank=1234, answer="a dog")
    page, _ = read(tmp_path, missed)
    assert "right one at place 1,234" in page
    assert "the right one would have been</p><span>a dog</span>" in page
    first, _ = read(tmp_path, RetrievalExample("a dog", [Candidate(RED, True)], rank=1))
    assert "right at first place" in first


@pytest.mark.parametrize(
    ("answer", "score", "words"),
    [("red", None, "✓ right"), ("blue", None, "✗ wrong"), ("blue", 0.6, "60% right"), ("crimson", 1.0, "✓ right")],
)
def test_answers_are_judged(answer: str, score: float | None, words: str, tmp_path: Path) -> None:
    page, reader = read(tmp_path, AnsweredQuestion(RED, "q?", answer, "red", [(answer, 0.75)], score))
    assert words in reader.words
    assert ("people say" in page) == (words != "✓ right")
    assert '<i style="width:75.0%">' in page


def test_a_question_about_two_images_shows_both(tmp_path: Path) -> None:
    question = AnsweredQuestion(RED, "Both red.", "true", "false", second_image=BLUE, truth_words="in truth")
    page, reader = read(tmp_path, question)
    shown = [attributes["alt"] for name, attributes in reader.tags if name == "img"]
    assert shown == ["left image of the question: Both red.", "right image of the question: Both red."]
    shapes = [attributes.get("style") for name, attributes in reader.tags if name == "div" and "style" in attributes]
    assert shapes == ["--shape:1.500", "--shape:1.000"]
    assert " in truth " in page
    assert "people say" not in page
    alone, _ = read(tmp_path, AnsweredQuestion(RED, "q?", "red", "red"))
    assert 'alt="image of the question: q?"' in alone


def test_dictionary_shows_health_and_leaves_empty_codes_out(tmp_path: Path) -> None:
    codes = [CodePatches(7, 30, 12, 0.1, [RED]), CodePatches(9)]
    page, _ = read(tmp_path, DictionaryPatches(codes, CodeHealth.of([3, 1, 0, 0])))
    assert "of 4; 2 never seen" in page
    assert "index 7" in page
    assert "10.0% of cells · 12 images" in page
    assert "index 9" not in page


def test_tag_escapes_text_but_not_html() -> None:
    assert tag("p", "a < b", Html("<b>c</b>"), None, ["d", tag("br")], class_="x y") == (
        '<p class="x y">a &lt; b<b>c</b>d<br></p>'
    )
    assert tag("line", x1=1, stroke_width=2) == '<line x1="1" stroke-width="2"/>'
    assert tag("a", title='"', hidden=True, id=None) == '<a title="&quot;" hidden></a>'
    assert isinstance(join("a"), Html)
    assert paragraphs("one\ntwo\n\n\nthree") == "<p>one two</p><p>three</p>"


def test_pictures_are_made_small_and_their_source_is_left_alone(tmp_path: Path) -> None:
    large = Image.new("RGBA", (900, 300), (0, 200, 0, 255))
    large.save(tmp_path / "large.png")
    for source in (large, tmp_path / "large.png"):
        found = picture(source, "green", edge=90)
        assert 'width="90" height="30"' in found
        data = re.search(r"base64,([^\"]*)", found)
        assert data is not None
        shown = Image.open(io.BytesIO(base64.b64decode(data[1])))
        assert shown.size == (90, 30)
        assert shown.getpixel((45, 15))[1] == pytest.approx(200, abs=3)
        assert aspect(source) == 3.0
    assert large.size == (900, 300)
