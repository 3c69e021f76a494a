"""HTTP/1.1 connections that ask for nothing: closed after a while, so that they do not keep others out."""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol


def patient_for(seconds: float) -> type[H11Protocol]:
    """Return uvicorn's protocol, which then waits only so long for the head of a request.

    uvicorn itself waits for ever for the first head, and for the rest of a later one once it has begun. The time runs
    while no request is being read or answered; a request that waits for the model is not cut off.

    Args:
        seconds: from the beginning of a connection, or from the end of the last answer.
    """

    class Patient(H11Protocol):
        watch: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self.look()

        def handle_events(self) -> None:
            super().handle_events()
            self.look()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            self.look()

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            self.stop()

        def look(self) -> None:
            if self.cycle is not None and not self.cycle.response_complete:
                self.stop()
            elif self.watch is None:
                # Not `close`, which waits for a client that does not read either.
                self.watch = self.loop.call_later(seconds, self.transport.abort)

        def stop(self) -> None:
            if self.watch is not None:
                self.watch.cancel()
                self.watch = None

    return Patient
