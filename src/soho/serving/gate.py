"""What a request passes before the API sees it: whose it is, how large it is, and whether there is room for it."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from soho.serving.desk import Desk
from soho.serving.limits import MEBI, Limits, Refusal

# A refused upload is read to its end, up to this, and thrown away: who still sends would not hear the answer.
DRAINED_BYTES, DRAINED_SECONDS = 64 * MEBI, 10.0
HEADERS = {
    # The page is all its own: no script, style, font or picture of another place, and no frame around it.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data: blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


class Gate:
    """ASGI middleware around the API.

    Requests with a body get a place at the desk before their body is read, so that memory is bounded by places times
    `limits.body_bytes` whatever arrives; without a place they are told when to come back.

    Args:
        app: what is behind it.
        limits: of the server.
        desk: whose places are taken.
        hosts: names under which the server may be asked, without port; None: any. A page of another site that
            points a name of its own at this machine (DNS rebinding) comes with that name.
    """

    def __init__(self, app: ASGIApp, limits: Limits, desk: Desk, hosts: Collection[str] | None) -> None:
        self.app, self.limits, self.desk, self.hosts = app, limits, desk, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            self._check_sender(Headers(scope=scope))
            if scope["method"] in ("GET", "HEAD"):
                await self.app(scope, receive, send_with_headers)
                return
            with self.desk.place():
                body = await self._body(Headers(scope=scope), receive)
                await self.app(scope, _replay(body, receive), send_with_headers)
        except Refusal as refusal:
            await _drain(receive)
            answer = JSONResponse({"error": str(refusal)}, refusal.status, headers=refusal.headers)
            await answer(scope, receive, send_with_headers)

    def _check_sender(self, headers: Headers) -> None:
        host = headers.get("host", "").lower()
        if self.hosts is not None and _without_port(host) not in self.hosts:
            raise Refusal(421, f"this server answers for {', '.join(sorted(self.hosts))} only; start it with --host")
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc.lower() != host:
            raise Refusal(403, "this request comes from the page of another site; expected the server's own page")

    async def _body(self, headers: Headers, receive: Receive) -> bytes:
        most = self.limits.body_bytes
        told = headers.get("content-length", "0")
        if told.isdigit() and int(told) > most:
            raise _too_large(most)

        async def read() -> bytes:
            body = bytearray()
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise Refusal(400, "the request ended before it was complete")
                body += message.get("body", b"")
                if len(body) > most:
                    raise _too_large(most)
                if not message.get("more_body", False):
                    return bytes(body)

        try:
            return await asyncio.wait_for(read(), self.limits.upload_seconds)
        except asyncio.TimeoutError:
            raise Refusal(408, f"the request did not arrive within {self.limits.upload_seconds:g} s") from None


def _too_large(most: int) -> Refusal:
    return Refusal(413, f"the request is too large; expected at most {most / MEBI:.1f} MiB")


def _without_port(host: str) -> str:
    return host.rsplit(":", 1)[0] if host.rsplit(":", 1)[-1].isdigit() else host


def _replay(body: bytes, receive: Receive) -> Receive:
    waiting: list[dict[str, Any]] = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return waiting.pop() if waiting else await receive()

    return again


async def _drain(receive: Receive) -> None:
    async def read() -> None:
        seen = 0
        while seen < DRAINED_BYTES:
            message = await receive()
            if message["type"] == "http.disconnect" or not message.get("more_body", False):
                return
            seen += len(message.get("body", b""))

    try:
        await asyncio.wait_for(read(), DRAINED_SECONDS)
    except asyncio.TimeoutError:
        return
