"""A folder of runs with tiny random models of every task, and a server of it in a thread."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from soho.models import (
    SohoForImageTextRetrieval,
    SohoForPreTraining,
    SohoForQuestionAnswering,
    SohoForVisualEntailment,
    SohoForVisualReasoning,
)
from soho.search import PictureIndex
from soho.serving.examples import write_examples
from soho.serving.house import House
from soho.sharing import join_heads
from tests.unit.inspection.tiny_pipeline import save, tiny_pipeline
from tests.unit.search.small import draw, fill, make_model

KINDS = {
    "nlvr2": SohoForVisualReasoning,
    "pretrain": SohoForPreTraining,
    "snli_ve": SohoForVisualEntailment,
    "vqa": SohoForQuestionAnswering,
}

HEADS = {
    "vqa": SohoForQuestionAnswering,
    "nlvr2": SohoForVisualReasoning,
    "snli_ve": SohoForVisualEntailment,
    "retrieval": SohoForImageTextRetrieval,
}


def make_runs(folder: Path) -> Path:
    """Write what a demonstration leaves: runs, an index of 11 pictures, examples."""
    make_model(folder / "retrieval" / "model")
    for name, kind in KINDS.items():
        save(
            tiny_pipeline(kind, visual_input="dictionary" if name == "pretrain" else "features"),
            folder / name / "model",
        )
    save(tiny_pipeline(SohoForQuestionAnswering), folder / "vqa_text_only" / "model")
    library = fill(folder / "pictures")
    PictureIndex.build(library, folder / "retrieval" / "model", folder / "index", progress=False)
    one, other = library / "p00.jpg", draw(folder / "pictures" / "b" / "p01.png", 1)
    rows: list[tuple[str, str, Sequence[Path]]] = [
        ("search", "two dogs in the snow", ()),
        ("answer", "is there a red star?", (one,)),
        ("compare", "the ball is on a beach", (one, other)),
        ("entails", "a red ball", (one,)),
        ("match", "a red ball", (other,)),
        ("inspect", "a red ball", (one,)),
    ]
    write_examples(folder / "examples.json", rows)
    return folder


def make_joined(folder: Path) -> Path:
    """Write runs of all tasks on one trunk, and `joined` with all their heads, that of retrieval last."""
    fields = {"visual_input": "features", "itc_weight": 1.0, "match_adds_contrast": True}
    runs, trunk = [], None
    for name, kind in HEADS.items():
        pipeline = tiny_pipeline(kind, **fields)
        trunk = trunk or pipeline.model.trunk.state_dict()
        pipeline.model.trunk.load_state_dict(trunk)
        runs.append(save(pipeline, folder / name / "model"))
    join_heads(runs, folder / "joined")
    return folder


@dataclass
class Answer:
    """What a server said."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Client:
    """Sends requests to a server on this machine, each over a connection of its own."""

    port: int
    house: House

    def get(self, path: str, method: str = "GET", **headers: str) -> Answer:
        return self.send(method, path, None, headers)

    def post(self, path: str, fields: Sequence[tuple[str, str | tuple[str, bytes]]], **headers: str) -> Answer:
        kind, body = form(fields)
        return self.send("POST", path, body, {"Content-Type": kind, **headers})

    def send(self, method: str, path: str, body: Any, headers: dict[str, str]) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return Answer(answer.status, dict(answer.getheaders()), answer.read())
        finally:
            connection.close()


def form(fields: Sequence[tuple[str, str | tuple[str, bytes]]]) -> tuple[str, bytes]:
    """Return content type and body of multipart/form-data; a file is (name, bytes)."""
    mark, parts = uuid.uuid4().hex, []
    for name, value in fields:
        filename, data = ("", value.encode()) if isinstance(value, str) else value
        said = f'; filename="{filename}"\r\nContent-Type: application/octet-stream' if filename else ""
        parts.append(f'--{mark}\r\nContent-Disposition: form-data; name="{name}"{said}\r\n\r\n'.encode() + data)
    return f"multipart/form-data; boundary={mark}", b"\r\n".join([*parts, f"--{mark}--\r\n".encode()])


@contextmanager
def serving(house: House, hosts: frozenset[str] | None = frozenset({"127.0.0.1", "localhost"})) -> Iterator[Client]:
    """Run a server of a house in a thread, on a free port of this machine."""
    import uvicorn

    from soho.serving.app import create_app
    from soho.serving.command import listen, server_config

    listening: socket.socket = listen("127.0.0.1", 0)
    server = uvicorn.Server(server_config(create_app(house, hosts), house.limits.upload_seconds))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    until = time.monotonic() + 30
    while not server.started and time.monotonic() < until:
        time.sleep(0.02)
    assert server.started, "the server did not start within 30 s"
    try:
        yield Client(listening.getsockname()[1], house)
    finally:
        server.should_exit = True
        thread.join(timeout=30)
        listening.close()
        assert not thread.is_alive(), "the server did not end within 30 s"
