"""A Hugging Face hub on 127.0.0.1, as far as uploading and reading model repositories need one."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlparse

TOKEN = "hf_writes"


class FakeHub(ThreadingHTTPServer):
    """Keeps repositories in memory and remembers every request.

    Attributes:
        repos: id -> name of a file -> its bytes.
        private: id -> whether it was made private.
        messages: of the commits.
        requests: (method, path) in order.
        large: what came by the LFS route, by SHA-256.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repos: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        self.messages: list[str] = []
        self.requests: list[tuple[str, str]] = []
        self.large: dict[str, bytes] = {}

    @property
    def url(self) -> str:
        """The endpoint."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def commit_of(self, repo: str) -> str:
        """Return a name for the repository's content, 40 hexadecimal digits."""
        files = sorted((name, hashlib.sha1(data).hexdigest()) for name, data in self.repos[repo].items())
        return hashlib.sha1(json.dumps(files).encode()).hexdigest()


@contextmanager
def fake_hub() -> Iterator[FakeHub]:
    """Run a hub until the end of the block."""
    hub = FakeHub()
    thread = threading.Thread(target=hub.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    server: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._read()

    def do_HEAD(self) -> None:
        self._read()

    def do_PUT(self) -> None:
        path, body = self._begin()
        self.server.large[path.rsplit("/", 1)[-1]] = body
        self._answer(200, {})

    def do_POST(self) -> None:
        path, body = self._begin()
        hub = self.server
        if path == "/api/validate-yaml":
            return self._answer(200, {"errors": [], "warnings": []})
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._answer(401, {"error": "Invalid username or password."})
        if path == "/api/repos/create":
            asked = json.loads(body)
            repo = f"{asked.get('organization') or 'somebody'}/{asked['name']}"
            if repo in hub.repos:
                return self._answer(409, {"error": "You already created this model repo", "url": f"{hub.url}/{repo}"})
            if repo.startswith("others/"):
                return self._answer(403, {"error": "You don't have the rights to create a model under others"})
            hub.repos[repo], hub.private[repo] = {}, asked.get("visibility") == "private" or bool(asked.get("private"))
            return self._answer(200, {"url": f"{hub.url}/{repo}", "name": repo})
        if path.endswith("/preupload/main"):
            files = json.loads(body)["files"]
            modes = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular",
                    "shouldIgnore": False,
                }
                for file in files
            ]
            return self._answer(200, {"files": modes})
        if path.endswith("/info/lfs/objects/batch"):
            objects = [
                {**one, "actions": {"upload": {"href": f"{hub.url}/lfs/{one['oid']}"}}}
                for one in json.loads(body)["objects"]
            ]
            return self._answer(200, {"transfer": "basic", "objects": objects})
        if path.endswith("/commit/main"):
            repo = path.removeprefix("/api/models/").removesuffix("/commit/main")
            for line in map(json.loads, body.decode().splitlines()):
                value = line["value"]
                if line["key"] == "header":
                    hub.messages.append(value["summary"])
                elif line["key"] == "file":
                    hub.repos[repo][value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    data = hub.large[value["oid"]]
                    assert hashlib.sha256(data).hexdigest() == value["oid"]
                    hub.repos[repo][value["path"]] = data
                else:
                    raise AssertionError(line)
            oid = hub.commit_of(repo)
            answer = {"success": True, "commitOid": oid, "commitUrl": f"{hub.url}/{repo}/commit/{oid}"}
            return self._answer(200, answer)
        self._answer(404, {"error": f"no POST {path}"})

    def _read(self) -> None:
        path, _ = self._begin()
        hub = self.server
        parts = path.strip("/").split("/")
        if parts[:2] == ["api", "models"] and len(parts) >= 4:
            repo, rest = "/".join(parts[2:4]), parts[4:]
            if repo not in hub.repos:
                return self._answer(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
            if rest[:1] == ["tree"]:
                return self._answer(200, [_entry(name, data) for name, data in sorted(hub.repos[repo].items())])
            if not rest or rest[0] == "revision":
                siblings = [{"rfilename": name} for name in sorted(hub.repos[repo])]
                return self._answer(200, {"id": repo, "sha": hub.commit_of(repo), "siblings": siblings, "tags": []})
        if len(parts) >= 5 and parts[2] == "resolve":
            repo, name = "/".join(parts[:2]), unquote("/".join(parts[4:]))
            if repo not in hub.repos:
                return self._answer(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
            headers = {"X-Repo-Commit": hub.commit_of(repo)}
            if name not in hub.repos[repo]:
                return self._answer(404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound", **headers})
            data = hub.repos[repo][name]
            return self._answer(200, data, {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', **headers})
        self._answer(404, {"error": f"no {self.command} {path}"})

    def _begin(self) -> tuple[str, bytes]:
        path = urlparse(self.path).path
        self.server.requests.append((self.command, path))
        return path, self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _answer(self, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header(
            "Content-Type", "application/octet-stream" if isinstance(content, bytes) else "application/json"
        )
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _entry(name: str, data: bytes) -> dict[str, Any]:
    oid = hashlib.sha1(data).hexdigest()
    entry: dict[str, Any] = {"type": "file", "path": name, "size": len(data), "oid": oid}
    if name.endswith(".safetensors"):
        entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
    return entry
