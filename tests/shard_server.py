"""A file server on this machine's loopback address, with and without byte ranges."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


class _Handler(SimpleHTTPRequestHandler):
    """Serves files; ranges where `ranges` says so; the first `busy` requests are answered 503."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else each answer waits 40 ms for an acknowledgement

    def __init__(self, *arguments: Any, state: dict[str, Any], **more: Any) -> None:
        self.state = state
        super().__init__(*arguments, **more)

    def do_GET(self) -> None:
        self.state["requests"].append(self.path)
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if self.state["busy"] > 0:
            self.state["busy"] -= 1
            self._answer(503, b"later")
        elif wanted and self.state["ranges"] and Path(self.translate_path(self.path)).is_file():
            data = Path(self.translate_path(self.path)).read_bytes()
            first, last = map(int, wanted.groups())
            part = data[first : last + 1]
            self._answer(206 if part else 416, part, f"bytes {first}-{first + len(part) - 1}/{len(data)}")
        else:
            super().do_GET()

    def _answer(self, status: int, data: bytes, content_range: str = "") -> None:
        self.send_response(status)
        if content_range:
            self.send_header("Content-Range", content_range)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def serve(folder: Path, *, ranges: bool = True, busy: int = 0) -> Iterator[tuple[str, dict[str, Any]]]:
    """Serve a folder; yields its address, and the state with the paths of all requests."""
    state: dict[str, Any] = {"requests": [], "ranges": ranges, "busy": busy}
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, directory=str(folder), state=state))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
