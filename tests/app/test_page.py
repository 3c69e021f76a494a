"""The page in a real browser, end to end: four places, uploads, errors, progress, a phone's width."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.app.browser import DESKTOP, MISSING, PHONE, chromium, find_chromium

pytest.importorskip("fastapi", reason="needs the extra 'serve'")
pytest.importorskip("playwright", reason="needs the extra 'browser'; `make test-app` sets it up")
if find_chromium() is None:
    pytest.skip(MISSING, allow_module_level=True)

from soho.serving.command import open_house
from soho.serving.house import NEEDS
from soho.serving.limits import Limits, Settings
from tests.unit.serving.small import Client, make_runs, serving

pytestmark = pytest.mark.app
PANEL = {"search": "search", "ask": "answer", "compare": "compare", "inside": "inspect"}
SECONDS = 20_000  # milliseconds that anything may take


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_runs(tmp_path_factory.mktemp("app") / "runs")


@pytest.fixture(scope="module")
def client(runs: Path) -> Iterator[Client]:
    with serving(open_house([runs], None, None, Settings(Limits(waiting=1)))) as one:
        yield one


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as one:
        yield one


@pytest.fixture
def page(browser: Any, client: Client) -> Iterator[Any]:
    """A page that must neither complain nor ask anybody else."""
    one = browser.new_page(viewport=DESKTOP)
    one.set_default_timeout(SECONDS)
    asked: list[str] = []
    said: list[str] = []
    one.on("request", lambda request: asked.append(request.url))
    one.on("pageerror", lambda error: said.append(str(error)))
    # A status that is an error is told on the console too; what the page makes of it is what counts.
    one.on("console", lambda message: said.append(message.text) if "Content Security" in message.text else None)
    yield one
    one.close()
    own = (f"http://127.0.0.1:{client.port}/", "blob:", "data:")
    assert [url for url in asked if not url.startswith(own)] == []
    assert said == []


def visit(page: Any, client: Client, place: str) -> str:
    """Open a place; returns the selector of its panel."""
    page.goto(f"http://127.0.0.1:{client.port}/#{place}")
    page.wait_for_selector("html[data-ready]")
    return f"#{place} [data-kind={PANEL[place]}]"


def texts(page: Any, selector: str) -> list[str]:
    page.wait_for_selector(selector)
    return [one.strip() for one in page.locator(selector).all_inner_texts()]


def until(page: Any, happens: Callable[[], bool]) -> None:
    """Wait for something; the page's own policy forbids the driver's way of evaluating conditions."""
    for _ in range(SECONDS // 50):
        if happens():
            return
        page.wait_for_timeout(50)
    raise AssertionError("it did not happen")


def test_search_and_from_a_picture_that_was_found_to_a_question(page: Any, client: Client) -> None:
    panel = visit(page, client, "search")
    page.click(f"{panel} .example")
    names = texts(page, f"{panel} .found li p")
    expected = client.post("/api/search", [("text", "two dogs in the snow")]).json["found"]
    assert [name.split()[-1] for name in names] == [one["name"] for one in expected]
    page.fill(f"{panel} input", "a red house")
    page.keyboard.press("Enter")
    page.click(f"{panel} .found li:nth-child(2) button:text('ask')")
    page.wait_for_selector("#ask .picker img")
    page.fill("#ask [name=question]", "is there a ball?")
    page.click("#ask button:text('Ask')")
    assert sorted(texts(page, "#ask .answers .word")) == ["no", "two", "yes"]


def test_ask_an_own_picture(page: Any, client: Client, runs: Path) -> None:
    panel = visit(page, client, "ask")
    file = runs / "pictures" / "p00.jpg"
    page.fill(f"{panel} [name=question]", "is there a ball?")
    page.click(f"{panel} button:text('Ask')")
    assert texts(page, f"{panel} .trouble") == ["Picture: choose a picture first."]
    page.set_input_files(f"{panel} input[type=file]", file)
    page.click(f"{panel} button:text('Ask')")
    words, shares = texts(page, f"{panel} .answers .word"), texts(page, f"{panel} .share")
    fields = [("image", ("a", file.read_bytes())), ("question", "is there a ball?")]
    expected = client.post("/api/answer", fields).json["answers"]
    assert words == [one["text"] for one in expected]
    for shown, one in zip(shares, expected):
        assert abs(float(shown.removesuffix(" %")) / 100 - one["probability"]) <= 0.006


def test_compare_in_three_ways(page: Any, client: Client) -> None:
    visit(page, client, "compare")
    for kind, words in {
        "compare": {"true", "false"},
        "entails": {"entailment", "neutral", "contradiction"},
        "match": {"a red ball"},
    }.items():
        page.click(f"[data-shows={kind}]")
        page.click(f"#compare [data-kind={kind}] .example")
        assert set(texts(page, f"#compare [data-kind={kind}] .answers .word")) == words


def test_look_inside(page: Any, client: Client) -> None:
    panel = visit(page, client, "inside")
    page.click(f"{panel} .example")
    assert texts(page, f"{panel} .words .chip") == ["whole text", "a", "red", "ball"]
    drawn = f"document.querySelector('{panel} .maps canvas').toDataURL()"
    whole = page.evaluate(drawn)
    page.click(f"{panel} .chip:text-is('ball')")
    ball = page.evaluate(drawn)
    page.click(f"{panel} .chip:text('gradient')")
    assert len({whole, ball, page.evaluate(drawn)}) == 3
    said = texts(page, f"{panel} .maps ~ .note")[0]
    assert said.startswith("What of its attention speaks for “match”")

    page.wait_for_selector(f"{panel} .patches img")
    canvas = page.locator(f"{panel} .codes canvas")
    grid = canvas.get_attribute("aria-label").removeprefix("codes of the cells: ").split(", ")
    box = canvas.bounding_box()
    canvas.click(position={"x": box["width"] * 0.25, "y": box["height"] * 0.9})  # the first cell of the last row
    code = grid[-1].split()[0]
    page.wait_for_selector(f"{panel} .codes p:text('Code {code}:')")
    entry = client.get(f"/api/codes/{code}").json
    assert page.locator(f"{panel} .patches img").count() == len(entry["patches"])

    page.select_option(f"{panel} select", "compare")
    assert page.locator(f"{panel} .picker[data-name=second]").is_visible()


def test_what_is_wrong_is_said_in_the_servers_words(page: Any, client: Client, tmp_path: Path) -> None:
    panel = visit(page, client, "ask")
    (tmp_path / "photo.jpg").write_text("no picture")
    page.set_input_files(f"{panel} input[type=file]", tmp_path / "photo.jpg")
    page.fill(f"{panel} [name=question]", "<b>what</b>?")
    page.click(f"{panel} button:text('Ask')")
    assert texts(page, f"{panel} .trouble") == ["image is not a JPEG, PNG or WebP picture, whatever its name says"]
    page.fill(f"{panel} [name=question]", "x" * 600)
    assert len(page.input_value(f"{panel} [name=question]")) == 500


def test_progress_is_seen_and_a_busy_server_is_asked_again(page: Any, browser: Any, client: Client, runs: Path) -> None:
    panel, hold = visit(page, client, "ask"), threading.Event()
    blocked = client.house.desk._worker.submit(hold.wait, 30)
    others: list[threading.Thread] = []
    try:
        page.click(f"{panel} .example")
        assert texts(page, f"{panel} .progress p")[0].startswith("the model reads: ")
        assert page.locator(f"{panel} form > button").is_disabled()
        until(page, lambda: float(texts(page, f"{panel} .progress p")[0].split()[3]) > 0.3)
        # The page has one of two places; somebody else takes the other, and a second page finds none.
        data = (runs / "pictures" / "p00.jpg").read_bytes()
        fields = [("image", ("a", data)), ("question", "what?")]
        others.append(threading.Thread(target=lambda: client.post("/api/answer", fields)))
        others[0].start()
        second = browser.new_page(viewport=DESKTOP)
        second.set_default_timeout(SECONDS)
        second_panel = visit(second, client, "ask")
        until(second, lambda: client.get("/healthz").json["requests"] == 2)
        second.click(f"{second_panel} .example")
        second.wait_for_selector(f"{second_panel} .progress p:text('the server is busy; asking again in')")
    finally:
        hold.set()
        blocked.result()
        for other in others:
            other.join(timeout=30)
    for one in (page, second):
        assert len(texts(one, f"{panel} .answers .word")) == 3
        assert one.locator(f"{panel} form > button").is_enabled()
    second.close()


def test_a_place_that_is_absent_says_what_it_needs(browser: Any, runs: Path) -> None:
    with serving(open_house([runs / "vqa"], None, None, Settings())) as client:
        page = browser.new_page(viewport=DESKTOP)
        page.set_default_timeout(SECONDS)
        visit(page, client, "search")
        assert texts(page, "#search .needs") == [NEEDS["search"].replace("`", "")]
        page.click("nav a:text('Compare')")
        assert texts(page, "#compare [data-kind=compare] .needs") == [NEEDS["compare"].replace("`", "")]
        assert texts(page, "nav a.missing") == ["Search", "Compare"]
        page.goto("about:blank")
        page.goto(f"http://127.0.0.1:{client.port}/")
        page.wait_for_selector("html[data-ready]")
        assert page.locator("#ask h1").is_visible()  # the first place that is there
        page.close()


@pytest.mark.parametrize("place", list(PANEL))
def test_a_phones_width_needs_no_scrolling_sideways(browser: Any, client: Client, place: str) -> None:
    page = browser.new_page(viewport=PHONE, has_touch=True, is_mobile=True)
    page.set_default_timeout(SECONDS)
    panel = visit(page, client, place)
    page.tap(f"{panel} .example")
    page.wait_for_selector(f"{panel} output :is(.answers, .found, .patches img)")
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    button = page.locator(f"{panel} form > button").bounding_box()
    assert button["height"] >= 40
    page.close()
