"""Uploading to a hub and reading back from it, over HTTP, against a hub on this machine."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from soho.errors import SohoError
from soho.sharing import push_folder
from tests.support import ROOT
from tests.unit.sharing.fake_hub import TOKEN, FakeHub, fake_hub

UPLOADED = [
    "README.md",
    "config.json",
    "model.safetensors",
    "processor_config.json",
    "provenance.json",
    "tokenizer.json",
    "tokenizer_config.json",
]


class Visit(NamedTuple):
    """What `hub_client` found, and the hub and folder that it found it with."""

    found: dict[str, Any]
    hub: FakeHub
    folder: Path


@pytest.fixture(scope="module")
def visit(trained: Path, world: Path, tmp_path_factory: pytest.TempPathFactory) -> Visit:
    place = tmp_path_factory.mktemp("hub")
    folder = place / "model"
    shutil.copytree(trained / "vqa" / "model", folder)
    (folder / "notes.txt").write_text("mine alone")
    (folder / "onnx").mkdir()
    picture = sorted((world / "images" / "val2014").iterdir())[0]
    with fake_hub() as hub:
        environment = {
            **{name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")},
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(place / "home"),
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",  # weights go by the LFS route, which every version of the client knows
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_TOKEN": TOKEN,
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "src")]),
        }
        environment.pop("TRANSFORMERS_OFFLINE", None)
        command = [sys.executable, "-m", "tests.unit.sharing.hub_client", str(folder), str(picture)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=place, timeout=300)
        assert done.returncode == 0, done.stderr
    return Visit(json.loads(done.stdout.splitlines()[-1]), hub, folder)


def test_no_token_or_the_wrong_one_is_one_sentence(visit: Visit) -> None:
    assert visit.found["no_token"] == [
        1,
        "",
        "soho: there is no token of the Hugging Face hub; log in with `hf auth login` or set HF_TOKEN\n",
    ]
    code, out, err = visit.found["wrong_token"]
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert f"soho: {visit.hub.url} refuses somebody/vqa (401): " in err
    assert "Invalid username or password" in err
    assert err.endswith("; is the token valid?\n")
    code, out, err = visit.found["forbidden"]
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert "refuses others/vqa (403): " in err
    assert err.endswith("; may this token write there?\n")


def test_a_folder_is_uploaded_whole_and_nothing_else(visit: Visit) -> None:
    code, out, err = visit.found["push"]
    assert (code, err) == (0, "")
    assert "left here: notes.txt, onnx\n" in out
    assert f"uploaded {', '.join(UPLOADED)}\n" in out
    assert f"model: {visit.hub.url}/somebody/vqa/commit/" in out
    repo = visit.hub.repos["somebody/vqa"]
    assert sorted(repo) == UPLOADED
    for name, data in repo.items():
        assert data == (visit.folder / name).read_bytes()
    assert visit.hub.private["somebody/vqa"]
    assert visit.hub.messages[:2] == ["First", "Upload SOHO model"]
    assert visit.found["push_again"][0] == 0
    posts = [path for method, path in visit.hub.requests if method == "POST"]
    for step in ("/api/repos/create", "/api/models/somebody/vqa/preupload/main"):
        assert step in posts
    assert "/somebody/vqa.git/info/lfs/objects/batch" in posts
    assert ("PUT", f"/lfs/{next(iter(visit.hub.large))}") in visit.hub.requests


def test_it_is_read_back_from_there(visit: Visit) -> None:
    local, remote = visit.found["answers"]
    assert len(local) == 3
    assert remote == local
    code, out, err = visit.found["predict"]
    assert (code, err) == (0, "")
    document = json.loads(out)
    assert document["model"] == "somebody/vqa"
    assert [[one["text"], one["probability"]] for one in document["results"][0]["predictions"]] == local
    code, out, err = visit.found["absent"]
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert "somebody/nothing is neither a folder that a SOHO run wrote" in err


def test_push_to_hub_by_the_transformers_convention(visit: Visit) -> None:
    expected = dict(visit.found["answers"][0])
    for text, probability in visit.found["convention"]:  # in the fast settings
        assert probability == pytest.approx(expected.get(text, probability), abs=0.02)
    assert {"model.safetensors", "tokenizer.json", "README.md"} <= visit.hub.repos["somebody/by-convention"].keys()
    assert visit.found["auto"] == ["SohoConfig", "SohoProcessor", "SohoModel"]


def test_folders_that_are_not_uploaded(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(SohoError, match="'a/b/c' is no name of the hub; expected OWNER/NAME"):
        push_folder(trained / "vqa" / "model", "a/b/c", token=TOKEN)
    with pytest.raises(SohoError, match="gone is not a folder"):
        push_folder(tmp_path / "gone", "somebody/vqa", token=TOKEN)
    folder = tmp_path / "model"
    shutil.copytree(trained / "vqa" / "model", folder)
    (folder / "tokenizer_config.json").unlink()
    with pytest.raises(SohoError, match=r"holds no processor; expected processor_config\.json and the token"):
        push_folder(folder, "somebody/vqa", token=TOKEN)


def test_a_hub_out_of_reach_is_one_sentence(trained: Path) -> None:
    # The tests run with HF_HUB_OFFLINE=1.
    with pytest.raises(SohoError, match="HF_HUB_OFFLINE is set, so nothing can be uploaded; unset it"):
        push_folder(trained / "vqa" / "model", "somebody/vqa", token=TOKEN, endpoint="http://127.0.0.1:9")
