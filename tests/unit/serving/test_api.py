"""The API answers as the pipelines do, says what it needs, and describes itself."""

from __future__ import annotations

import base64
import io
import json
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from soho.inspection.attention import word_maps
from soho.inspection.code_map import code_map
from soho.pipelines import SohoPipeline
from soho.search import PictureIndex, picture_of
from soho.serving.command import open_house
from soho.serving.house import NEEDS
from soho.serving.limits import Settings
from tests.unit.serving.small import Client, serving

File = tuple[str, bytes]


@pytest.fixture(scope="module")
def picture(runs: Path) -> Path:
    return runs / "pictures" / "p00.jpg"


def near(reply: list[dict[str, object]], expected: list) -> None:  # type: ignore[type-arg]
    assert [one["text"] for one in reply] == [one.text for one in expected]
    assert [one["probability"] for one in reply] == pytest.approx([one.probability for one in expected], abs=2e-5)


def test_every_verb_gives_what_the_pipeline_gives(client: Client, runs: Path, jpeg: File, picture: Path) -> None:
    vqa, nlvr2, snli_ve, retrieval = (
        SohoPipeline.from_pretrained(runs / name / "model") for name in ("vqa", "nlvr2", "snli_ve", "retrieval")
    )
    other = runs / "pictures" / "b" / "p01.png"
    said = client.post("/api/answer", [("image", jpeg), ("question", " is there a ball? "), ("top", "2")]).json
    near(said["answers"], vqa.answer(picture, "is there a ball?", top=2))
    assert said["seconds"] > 0
    said = client.post("/api/match", [("image", jpeg), ("texts", "snow"), ("texts", "a red ball")]).json
    near(said["matches"], retrieval.match(picture, ["snow", "a red ball"]))
    pair = [("left", jpeg), ("right", ("x", other.read_bytes())), ("text", "a ball")]
    near(client.post("/api/compare", pair).json["classes"], nlvr2(picture, "a ball", other))
    near(client.post("/api/entails", [("image", jpeg), ("text", "a ball")]).json["classes"], snli_ve(picture, "a ball"))


def test_search_finds_what_the_index_finds_and_serves_pictures_by_number(client: Client, runs: Path) -> None:
    expected = PictureIndex.open(runs / "index").search("snow on a red house", top=4)[0]
    said = client.post("/api/search", [("text", "snow on a red house"), ("top", "4")]).json
    assert [one["name"] for one in said["found"]] == [
        one.path.relative_to((runs / "pictures").resolve()).as_posix() for one in expected
    ]
    assert [one["probability"] for one in said["found"]] == pytest.approx([one.probability for one in expected])
    assert said["pictures"] == 11
    small = client.get(f"/{said['found'][0]['picture']}")
    assert (small.status, small.headers["content-type"]) == (200, "image/jpeg")
    shown = np.asarray(Image.open(io.BytesIO(small.body)).convert("RGB"), dtype=float)
    original = Image.open(expected[0].path).convert("RGB")
    assert shown.shape[:2] == original.size[::-1]  # below 360 pixels nothing is scaled
    assert np.abs(shown - np.asarray(original, dtype=float)).mean() < 8
    vectors = client.post("/api/search", [("text", "snow"), ("top", "1"), ("rerank", "0")]).json["found"][0]
    assert vectors["probability"] is None


def test_looking_inside(client: Client, runs: Path, jpeg: File, picture: Path) -> None:
    pipeline = SohoPipeline.from_pretrained(runs / "vqa" / "model")
    expected = word_maps(pipeline, picture, "is there a red star")
    said = client.post("/api/attention", [("image", jpeg), ("text", "is there a red star"), ("verb", "answer")]).json
    maps = said["pictures"][0]
    assert [one["word"] for one in maps["words"]] == ["is", "there", "a", "red", "star"]
    assert np.array([one["attention"] for one in maps["words"]]) == pytest.approx(expected.attention, abs=1e-5)
    assert np.array(maps["whole"]["gradient"]) == pytest.approx(expected.whole_gradient, abs=1e-7)
    assert (said["target"], said["layer"], maps["read_size"]) == (expected.target, expected.layer, [128, 192])
    pair = [("image", jpeg), ("second", jpeg), ("text", "a ball"), ("verb", "compare"), ("target", "false")]
    said = client.post("/api/attention", pair).json
    assert (len(said["pictures"]), said["target"]) == (2, "false")

    grid = code_map(SohoPipeline.from_pretrained(runs / "pretrain" / "model"), picture)
    said = client.post("/api/codes", [("image", jpeg)]).json
    assert (said["codes"], said["size"], said["notes"]) == (grid.tolist(), 8, [])


def test_patches_of_a_code_come_from_the_pictures_of_the_index(client: Client, runs: Path) -> None:
    until = time.monotonic() + 30
    while (entry := client.get("/api/codes/0").json)["read"] < 11 and time.monotonic() < until:
        time.sleep(0.05)
    assert (entry["read"], entry["total"]) == (11, 11)
    pipeline = SohoPipeline.from_pretrained(runs / "pretrain" / "model")
    files = [picture_of(runs / "index", int(entry)) for entry in PictureIndex.open(runs / "index").entries()]
    assert len(set(files)) == 11
    grids = [code_map(pipeline, one) for one in files]
    for code in range(8):
        entry = client.get(f"/api/codes/{code}").json
        assert entry["hits"] == sum(int((grid == code).sum()) for grid in grids)
        assert entry["images"] == sum(bool((grid == code).any()) for grid in grids)
        assert len(entry["patches"]) == min(8, entry["images"])
        for patch in entry["patches"]:
            data = base64.b64decode(patch.removeprefix("data:image/jpeg;base64,"), validate=True)
            assert Image.open(io.BytesIO(data)).size == (96, 96)
    assert client.get("/api/codes/8").status == 404


def test_models_and_examples(client: Client, runs: Path) -> None:
    said = client.get("/api/models").json
    assert {one["verb"]: one["folder"] for one in said["models"]} == {
        "answer": "vqa/model",
        "match": "retrieval/model",
        "compare": "nlvr2/model",
        "entails": "snli_ve/model",
    }
    assert set(said["needs"].values()) == {""}
    assert str(runs) not in json.dumps(said)
    kinds = [one["kind"] for one in said["examples"]]
    assert kinds == ["search", "answer", "compare", "entails", "match", "inspect"]
    for address in [*said["examples"][2]["pictures"], *said["samples"]]:
        assert client.get(f"/{address}").headers["content-type"] == "image/jpeg"
    assert client.get("/api/examples/0/0").status == 404
    assert client.get("/api/examples/99/0").status == 404


def test_what_is_not_there_says_what_it_needs(runs: Path, jpeg: File) -> None:
    with serving(open_house([runs / "vqa"], None, None, Settings())) as client:
        needs = client.get("/api/models").json["needs"]
        assert needs == {**NEEDS, "answer": "", "inspect": "", "codes": ""}
        for path, fields in {
            "match": [("image", jpeg), ("texts", "x")],
            "compare": [("left", jpeg), ("right", jpeg), ("text", "x")],
            "entails": [("image", jpeg), ("text", "x")],
            "search": [("text", "x")],
        }.items():
            answer = client.post(f"/api/{path}", fields)
            assert (answer.status, answer.json) == (404, {"error": NEEDS[path]})
        assert client.get("/api/pictures/1").status == 404
        assert client.post("/api/attention", [("image", jpeg), ("text", "a ball")]).json["verb"] == "answer"
        notes = client.post("/api/codes", [("image", jpeg)]).json["notes"]
        assert notes[0].startswith("This model reads the features before the dictionary")


def test_the_schema_describes_every_route_and_its_errors(client: Client) -> None:
    schema = client.get("/openapi.json").json
    assert set(schema["paths"]) == {
        "/api/answer",
        "/api/attention",
        "/api/codes",
        "/api/codes/{code}",
        "/api/compare",
        "/api/entails",
        "/api/examples/{number}/{place}",
        "/api/match",
        "/api/models",
        "/api/pictures/{entry}",
        "/api/search",
        "/healthz",
    }
    answer = schema["paths"]["/api/answer"]["post"]
    assert list(answer["requestBody"]["content"]) == ["multipart/form-data"]
    for status in ("404", "413", "415", "422", "503"):
        reply = answer["responses"][status]["content"]["application/json"]["schema"]
        assert reply == {"$ref": "#/components/schemas/ErrorReply"}
    fields = schema["components"]["schemas"]["Body_answer_api_answer_post"]
    assert sorted(fields["required"]) == ["image", "question"]


def test_faults_of_a_request_are_one_sentence_with_the_status_that_fits(client: Client, jpeg: File) -> None:
    def said(status: int, sentence: str, fields: list, path: str = "/api/answer") -> None:  # type: ignore[type-arg]
        answer = client.post(path, fields)
        assert answer.status == status, answer.body
        assert list(answer.json) == ["error"]
        assert sentence in answer.json["error"]

    said(422, "image is missing; expected it as a field", [("question", "what?")])
    said(422, "question is empty", [("image", jpeg), ("question", "  ")])
    said(422, "top=0 is out of range; expected 1 to 48", [("image", jpeg), ("question", "what?"), ("top", "0")])
    said(422, "top cannot be used", [("image", jpeg), ("question", "what?"), ("top", "many")])
    said(422, "image is empty", [("image", ("a.jpg", b"")), ("question", "what?")])
    said(422, "image: cannot be decoded", [("image", ("a.jpg", jpeg[1][: len(jpeg[1]) // 2])), ("question", "what?")])
    said(422, "there are 33 texts", [("image", jpeg), *[("texts", "a")] * 33], "/api/match")
    said(422, "give the right picture too", [("image", jpeg), ("text", "a"), ("verb", "compare")], "/api/attention")
    said(422, "has no output 'maybe'", [("image", jpeg), ("text", "a ball"), ("target", "maybe")], "/api/attention")
    said(422, "verb cannot be used", [("image", jpeg), ("text", "a"), ("verb", "guess")], "/api/attention")
    said(422, "rerank=-1 is out of range", [("text", "a"), ("rerank", "-1")], "/api/search")
    said(404, "nothing at this address", [], "/api/nothing")
    assert client.get("/api/answer").status == 405
    broken = client.send("POST", "/api/answer", b"nonsense", {"Content-Type": "multipart/form-data; boundary=x"})
    assert (broken.status, list(broken.json)) == (400, ["error"])
    assert client.get("/healthz").json == {"status": "ok", "requests": 0, "places": 9}
