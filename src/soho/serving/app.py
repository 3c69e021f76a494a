"""The application: gate, routes, the page's own files, and errors as JSON."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager, suppress
from importlib import resources

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from soho.serving.api import routes
from soho.serving.gate import Gate
from soho.serving.house import House
from soho.serving.limits import Refusal

# Address -> file of the folder `page` and its type. Nothing else on the disk has an address.
PAGE = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    **{f"/{name}.js": (f"{name}.js", "text/javascript; charset=utf-8") for name in ("page", "parts", "inside", "draw")},
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
ABOUT = (
    "Ask trained SOHO models. Pictures are sent as files of multipart/form-data, one field each; every error is "
    '{"error": "one sentence"} with the status code that fits.'
)


def create_app(house: House, hosts: Collection[str] | None = None) -> FastAPI:
    """Return the application around a house.

    Args:
        house: models, index and threads; they end with the application.
        hosts: names under which it may be asked; see `Gate`.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        reading = asyncio.create_task(house.read_corpus())
        yield
        reading.cancel()
        try:
            with suppress(asyncio.CancelledError):
                await reading
        finally:
            house.close()

    # The usual documentation pages load scripts from elsewhere; the schema itself does not.
    app = FastAPI(title="SOHO", description=ABOUT, version="1", docs_url=None, redoc_url=None, lifespan=lifespan)
    app.include_router(routes(house))
    for address, (name, kind) in PAGE.items():
        app.add_api_route(address, _file(name, kind), include_in_schema=False)
    app.add_exception_handler(Refusal, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _broken)
    app.add_middleware(Gate, limits=house.limits, desk=house.desk, hosts=hosts)
    return app


def _file(name: str, kind: str) -> Callable[[], Awaitable[Response]]:
    data = resources.files("soho.serving").joinpath("page", name).read_bytes()

    async def send() -> Response:
        return Response(data, media_type=kind, headers={"Cache-Control": "no-cache"})

    return send


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    return JSONResponse({"error": str(error)}, error.status, headers=error.headers)


async def _invalid(request: Request, error: Exception) -> Response:
    """Return the first of the faults as one sentence."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"][1:]) or "the request"
    if first["type"] == "missing":
        said = f"{field} is missing; expected it as a field of multipart/form-data"
    else:
        said = f"{field} cannot be used ({first['msg']})"
    return JSONResponse({"error": f"{said}; /openapi.json describes every field"}, 422)


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    said = {
        404: "there is nothing at this address; the page is at / and the schema at /openapi.json",
        405: f"{request.method} is not for this address; /openapi.json says what is",
    }.get(error.status_code, f"the request cannot be read: {error.detail}")
    return JSONResponse({"error": said}, error.status_code, headers=error.headers)


async def _broken(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": "the server failed at this request; its console says why"}, 500)
