"""What `soho serve` does: load, listen, answer until it is told to end."""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from soho.errors import SohoError
from soho.serving.examples import read_examples
from soho.serving.house import House
from soho.serving.limits import Settings
from soho.serving.shelf import EXAMPLES, INDEX, Shelf, beside, find_models

# Connections, idle ones included; beyond them uvicorn itself says 503.
CONNECTIONS = 256


def serve(
    places: Sequence[Path],
    index: Path | None,
    host: str,
    port: int,
    settings: Settings,
    *,
    examples: Path | None = None,
    device: str = "cpu",
    trust_remote_code: bool = False,
    say: Callable[[str], None] = print,
) -> None:
    """Serve models until the process is interrupted.

    Args:
        places: model folders, outputs of runs, or folders of runs.
        index: folder of an index; None: `index` in the first folder of runs that has one.
        host: name or address to listen on.
        port: 0 takes any free one.
        settings: of the server.
        examples: file of examples; None: `examples.json` likewise.
        device: where the models compute.
        trust_remote_code: let a model folder's own CNN code run.
        say: prints a line.

    Raises:
        SohoError: the extra `serve` is not installed, the port is taken, or see `find_models`, `Shelf`, `House`.
    """
    try:
        import uvicorn

        from soho.serving.app import create_app
    except ImportError as error:
        raise SohoError(f"`soho serve` needs {error.name}; install it with pip install 'soho-vlp[serve]'") from None
    listening = listen(host, port)  # first, so that a taken port is told before minutes of loading
    try:
        house = open_house(places, index, examples, settings, device, trust_remote_code)
        lines = [*house.shelf.lines()]
        lines += [f"search: {house.index_folder}"] if house.index_folder is not None else []
        for line in lines:
            say(line)
        name, taken = listening.getsockname()[:2]
        local = is_local(host)
        config = server_config(create_app(house, local_names(host) if local else None), house.limits.upload_seconds)
        say(f"http://{f'[{name}]' if ':' in name else name}:{taken} (Ctrl+C ends it)")
        if not local:
            say("Everybody who reaches this address can use it; it knows no users and no passwords.")
        with suppress(KeyboardInterrupt):  # uvicorn ends in good order and then raises it again
            uvicorn.Server(config).run(sockets=[listening])
    finally:
        listening.close()


def open_house(
    places: Sequence[Path],
    index: Path | None,
    examples: Path | None,
    settings: Settings,
    device: str = "cpu",
    trust_remote_code: bool = False,
) -> House:
    """Load all that is to be served; see `serve`."""
    found = find_models(places)
    chosen = examples or beside(places, EXAMPLES)
    clickable = read_examples(chosen) if chosen is not None else []
    shelf = Shelf(found, settings.fast, device, trust_remote_code)
    return House(shelf, index or beside(places, INDEX), clickable, settings, device, trust_remote_code)


def server_config(app: Any, seconds: float) -> Any:
    """Return uvicorn's settings for an application, and for connections that ask nothing within so many seconds."""
    import uvicorn

    from soho.serving.connections import patient_for

    return uvicorn.Config(
        app,
        http=patient_for(seconds),
        ws="none",
        log_level="warning",
        access_log=False,
        server_header=False,
        limit_concurrency=CONNECTIONS,
        timeout_keep_alive=5,
        timeout_graceful_shutdown=5,
    )


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens.

    Raises:
        SohoError: the host is not known or the port is taken.
    """
    if not 0 <= port <= 65535:
        raise SohoError(f"--port {port} is out of range; expected 0 to 65535")
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family, backlog=128)  # type: ignore[arg-type]
    except OSError as error:
        # Numbers of unknown names are not the system's; words of a taken port come twice.
        why = error.strerror if isinstance(error, socket.gaierror) else os.strerror(error.errno or 0)
        raise SohoError(f"cannot listen on {host} port {port} ({why}); choose another --host or --port") from None


def is_local(host: str) -> bool:
    """Say whether only this machine reaches a host."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def local_names(host: str) -> frozenset[str]:
    """Return the names under which a server that listens to this machine alone is asked."""
    own = f"[{host}]" if ":" in host else host.lower()
    return frozenset({"localhost", "127.0.0.1", "[::1]", own})
