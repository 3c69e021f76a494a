"""What a stranger may send: bombs, false names, long texts, crowds, other sites. Every loop here is bounded."""

from __future__ import annotations

import http.client
import io
import json
import socket
import struct
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
from PIL import Image

from soho.serving.command import open_house
from soho.serving.limits import Limits, Refusal, Settings
from soho.serving.pictures import check_picture, decode_picture
from tests.unit.serving.small import Answer, Client, serving

File = tuple[str, bytes]


def png_header(width: int, height: int) -> bytes:
    """Return a PNG file that says it is huge and holds next to nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def stands(client: Client, jpeg: File) -> None:
    """The server is there, empty, and still answers."""
    assert client.get("/healthz").json["requests"] == 0
    assert client.post("/api/answer", [("image", jpeg), ("question", "is there a ball?")]).status == 200


def ask(client: Client, data: bytes, question: str = "what?") -> Answer:
    return client.post("/api/answer", [("image", ("photo.jpg", data)), ("question", question)])


@pytest.mark.parametrize(
    ("data", "status", "said"),
    [
        (png_header(60_000, 60_000), 413, "image has more than 40 million pixels, the most allowed"),
        (png_header(8_000, 8_000), 413, "image has 8000 x 8000 pixels; expected at most 40 million of them"),
        (png_header(20_000, 100), 422, "image has 20000 x 100 pixels; expected sides of at most 50 to 1"),
        (
            b"this is no picture, whatever it is called\n" * 50,
            415,
            "image is not a JPEG, PNG or WebP picture, whatever",
        ),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", 415, "image is not a JPEG, PNG or WebP picture, whatever"),
        (b"GIF89a\x01\x00\x01\x00\x00\x00\x00;", 415, "image is not a JPEG, PNG or WebP picture, whatever"),
    ],
    ids=["bomb", "large", "oblong", "text", "svg", "gif"],
)
def test_what_is_no_picture_or_too_large_a_one_is_refused(
    client: Client, jpeg: File, data: bytes, status: int, said: str
) -> None:
    answer = ask(client, data)
    assert answer.status == status
    assert answer.json["error"].startswith(said)
    stands(client, jpeg)


def test_a_bomb_that_is_whole_is_never_decoded(client: Client, jpeg: File, monkeypatch: pytest.MonkeyPatch) -> None:
    """64 million pixels of one colour in 63 kB."""
    buffer = io.BytesIO()
    Image.new("1", (8_000, 8_000)).save(buffer, "PNG")
    assert len(buffer.getvalue()) < 100_000
    decoded: list[str] = []
    monkeypatch.setattr("soho.serving.pictures.upright_rgb", lambda picture, name: decoded.append(name))
    assert ask(client, buffer.getvalue()).status == 413
    assert decoded == []
    monkeypatch.undo()
    stands(client, jpeg)


def test_a_question_of_ten_thousand_words(client: Client, jpeg: File) -> None:
    answer = ask(client, jpeg[1], "what " * 10_000)
    assert (answer.status, answer.json) == (
        422,
        {"error": "question has 49,999 characters; expected at most 500 (one sentence)"},
    )
    huge = ask(client, jpeg[1], "what " * 1_000_000)  # above what a field of a form may hold
    assert huge.status in (400, 413)
    assert list(huge.json) == ["error"]
    stands(client, jpeg)


def test_uploads_are_bounded_told_or_untold(runs: Path, jpeg: File) -> None:
    limits = Limits(upload_bytes=20_000)
    with serving(open_house([runs / "vqa"], None, None, Settings(limits))) as client:
        assert "expected at most 0.0190735 MiB" in ask(client, jpeg[1] + bytes(20_001)).json["error"]
        told = ask(client, bytes(5_000_000))
        assert (told.status, told.json["error"]) == (413, "the request is too large; expected at most 0.2 MiB")
        chunks = (bytes(100_000) for _ in range(50))
        untold = client.send("POST", "/api/answer", chunks, {"Content-Type": "multipart/form-data; boundary=x"})
        assert (untold.status, untold.json) == (413, told.json)
        stands(client, jpeg)


def crowd(client: Client, jpeg: File, count: int) -> list[Answer]:
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(lambda _: ask(client, jpeg[1]), range(count)))


def test_fifty_at_once_are_answered_or_told_to_come_back(runs: Path, jpeg: File) -> None:
    house = open_house([runs / "vqa"], None, None, Settings(Limits(waiting=3)))
    hold = threading.Event()
    with serving(house) as client:
        blocked = house.desk._worker.submit(hold.wait, 30)  # the model is at work
        try:
            with ThreadPoolExecutor(50) as pool:
                asked = [pool.submit(ask, client, jpeg[1]) for _ in range(50)]
                until = time.monotonic() + 30
                while sum(one.done() for one in asked) < 46 and time.monotonic() < until:
                    time.sleep(0.02)
                assert client.get("/healthz").json == {"status": "ok", "requests": 4, "places": 4}
                hold.set()
                answers = [one.result(timeout=30) for one in asked]
        finally:
            hold.set()
            blocked.result()
        assert sorted(one.status for one in answers) == [200] * 4 + [503] * 46
        for refused in (one for one in answers if one.status == 503):
            assert refused.json["error"].startswith("the server is busy with 4 requests; ask again in ")
            assert 1 <= int(refused.headers["retry-after"]) <= 10
        stands(client, jpeg)


def test_a_crowd_before_a_server_in_its_default_settings(client: Client, jpeg: File) -> None:
    answers = crowd(client, jpeg, 50)
    statuses = [one.status for one in answers]
    assert set(statuses) <= {200, 503}
    assert statuses.count(200) >= 9
    assert len({one.body.split(b'"answers"')[-1] for one in answers if one.status == 200}) == 1
    stands(client, jpeg)


def test_a_request_that_never_arrives_gives_its_place_back(runs: Path, jpeg: File) -> None:
    limits = Limits(waiting=0, upload_seconds=0.3)
    with serving(open_house([runs / "vqa"], None, None, Settings(limits))) as client:
        head = b"POST /api/answer HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000\r\n\r\n"
        with socket.create_connection(("127.0.0.1", client.port), timeout=30) as slow:
            slow.sendall(head + b"little")
            time.sleep(0.1)
            assert ask(client, jpeg[1]).status == 503
            time.sleep(0.4)
            assert ask(client, jpeg[1]).status == 200
        with socket.create_connection(("127.0.0.1", client.port), timeout=30) as gone:
            gone.sendall(head)
        time.sleep(0.1)
        stands(client, jpeg)


@pytest.mark.parametrize(
    "path",
    [
        "/../pyproject.toml",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/page/../command.py",
        "/index.html",
        "/api/pictures/..%2f..%2fp00.jpg",
        "/api/pictures/p00.jpg",
        "/api/pictures/-1",
        "/api/pictures/4294967999",
        "/api/pictures/9223372036854775807",
        "/api/pictures/99999999999999999999999999",
        "/api/examples/0/1",
        "/api/pictures/4294967296?size=/etc/passwd",
    ],
)
def test_no_file_is_served_by_its_path(client: Client, path: str) -> None:
    answer = client.get(path)
    assert answer.status in (404, 422)
    assert list(answer.json) == ["error"]
    assert "/tmp" not in answer.json["error"]


def test_a_picture_that_is_gone_names_no_path(client: Client, runs: Path) -> None:
    found = client.post("/api/search", [("text", "snow"), ("top", "11")]).json["found"]
    last = next(one for one in found if one["name"] == "b/c/p08.jpg")
    file = runs / "pictures" / last["name"]
    data = file.read_bytes()
    file.unlink()
    try:
        answer = client.get(f"/{last['picture']}")
    finally:
        file.write_bytes(data)
    assert (answer.status, answer.json["error"]) == (404, f"the index has no readable picture {last['entry']} now")


def test_other_sites_and_other_names_are_refused(client: Client, jpeg: File) -> None:
    fields = [("image", jpeg), ("question", "what?")]
    own = f"http://127.0.0.1:{client.port}"
    assert client.post("/api/answer", fields, Origin=own).status == 200
    foreign = client.post("/api/answer", fields, Origin="https://example.org")
    assert (foreign.status, foreign.json["error"][:40]) == (403, "this request comes from the page of anot")
    assert client.post("/api/answer", fields, Origin="null").status == 403
    rebound = client.get("/", Host="attacker.example.org")
    assert (rebound.status, list(rebound.json)) == (421, ["error"])
    assert client.get("/healthz", Host=f"localhost:{client.port}").status == 200
    assert "access-control-allow-origin" not in client.get("/healthz", Origin=own).headers


def test_headers_of_all_answers(client: Client) -> None:
    from soho.serving.gate import HEADERS

    for path in ("/", "/api/models", "/nothing"):
        headers = client.get(path).headers
        assert {name: headers[name.lower()] for name in HEADERS} == HEADERS
        assert "server" not in headers


def test_a_failure_inside_is_told_without_its_insides(runs: Path, jpeg: File, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(open_house([runs / "vqa"], None, None, Settings())) as client:
        with monkeypatch.context() as patch:
            patch.setattr("soho.serving.verbs.answer", lambda *_: 1 / 0)
            answer = ask(client, jpeg[1])
        assert (answer.status, list(answer.json)) == (500, ["error"])
        assert "division" not in answer.json["error"]
        stands(client, jpeg)


def test_the_page_needs_nothing_from_elsewhere(client: Client) -> None:
    for path in ("/", "/page.css", "/page.js", "/draw.js", "/icon.svg"):
        answer = client.get(path)
        assert answer.status == 200
        text = answer.body.decode().replace("http://www.w3.org/2000/svg", "")
        assert "//" not in text.replace("// ", "").replace("data:", ""), path


def test_a_connection_goes_on_after_a_refused_upload(client: Client) -> None:
    """One connection: a request from another site's page, whose megabyte nobody wants, and then a good one."""
    connection = http.client.HTTPConnection("127.0.0.1", client.port, timeout=30)
    try:
        connection.request("POST", "/api/answer", bytes(1_000_000), {"Origin": "https://example.org"})
        refused = connection.getresponse()
        assert (refused.status, list(json.loads(refused.read()))) == (403, ["error"])
        first = connection.sock
        connection.request("GET", "/healthz")
        answer = connection.getresponse()
        assert (answer.status, json.loads(answer.read())["requests"]) == (200, 0)
        assert connection.sock is first is not None  # http.client opens another one without a word
    finally:
        connection.close()


def is_closed(connection: socket.socket) -> bool:
    """Read what was sent, until the server closes; the socket's own time limit bounds it."""
    try:
        while connection.recv(65536):
            pass
    except ConnectionResetError:
        pass
    except TimeoutError:
        return False
    return True


SILENT = {
    "nothing": b"",
    "half a head": b"GET /healthz HTTP/1.1\r\nHost: 127",
    "half a second head": b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\nGET /hea",
    "a body that was not asked for": b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 99\r\n\r\n",
}


def test_silent_connections_do_not_keep_others_out(runs: Path, jpeg: File, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("soho.serving.command.CONNECTIONS", len(SILENT))
    with serving(open_house([runs / "vqa"], None, None, Settings(Limits(upload_seconds=3.0)))) as client:
        with ExitStack() as stack:
            opened = []
            for sent in SILENT.values():
                one = stack.enter_context(socket.create_connection(("127.0.0.1", client.port), timeout=12))
                one.sendall(sent)
                opened.append(one)
            assert {name: is_closed(one) for name, one in zip(SILENT, opened)} == dict.fromkeys(SILENT, True)
        stands(client, jpeg)


def test_a_request_that_waits_for_the_model_is_not_cut_off(runs: Path, jpeg: File) -> None:
    with serving(open_house([runs / "vqa"], None, None, Settings(Limits(upload_seconds=0.3)))) as client:
        client.house.desk._worker.submit(time.sleep, 1.0)
        begin = time.monotonic()
        assert ask(client, jpeg[1]).status == 200
        assert time.monotonic() - begin > 0.8


def two_pictures_in_one_file() -> bytes:
    """Return a WebP file of 40 x 30 pixels, with a chunk of no meaning in which PhotoCD finds 768 x 512 of them."""
    buffer = io.BytesIO()
    Image.new("RGB", (40, 30), (200, 30, 30)).save(buffer, "WEBP", lossless=True)
    chunk = buffer.getvalue()[12:]
    start = 12 + 18 + 8
    junk = bytearray(96 * 2048 + 768 * 512 * 3 // 2)
    junk[2048 - start : 2052 - start] = b"PCD_"
    flags = struct.pack("<IHBHB", 0, 39, 0, 29, 0)
    body = b"WEBP" + b"VP8X" + struct.pack("<I", 10) + flags + b"JUNK" + struct.pack("<I", len(junk)) + junk + chunk
    return b"RIFF" + struct.pack("<I", len(body)) + body


def test_a_picture_is_decoded_as_the_one_that_was_looked_at(
    client: Client, jpeg: File, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = two_pictures_in_one_file()
    # A process that reads its first picture of a rare format has this order; one that wrote a WebP file before has not.
    Image.init()
    monkeypatch.setattr(Image, "ID", ["PCD", *Image.ID])
    check_picture(data, "image", Limits())
    with Image.open(io.BytesIO(data)) as any_decoder:
        assert any_decoder.format == "PCD"  # else this file shows nothing
    decoded = decode_picture(data, "image")
    assert (decoded.size, decoded.getpixel((20, 15))) == ((40, 30), (200, 30, 30))
    assert ask(client, data).status == 200
    stands(client, jpeg)


def test_damaged_pictures_are_one_sentence() -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (40, 30)).save(buffer, "PNG")
    with pytest.raises(Refusal, match=r"^image: ") as cut:
        decode_picture(buffer.getvalue()[:60], "image")
    assert cut.value.status == 422
    with pytest.raises(Refusal, match=r"^image is damaged; expected a JPEG, PNG or WebP picture$") as other:
        decode_picture(b"GIF89a\x01\x00\x01\x00\x00\x00\x00;", "image")
    assert other.value.status == 422
