"""Indexing that kills itself: `python -m tests.unit.search.killed_index LIBRARY MODEL OUT WINDOW PLACE NUMBER`."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from soho.evaluation.scoring_engine import Engine
from soho.evaluation.token_store import TokenStore
from soho.search import PictureIndex, encoding
from soho.search.catalogue import Catalogue

PLACES: dict[str, tuple[Any, str]] = {
    "batch": (Engine, "image_tokens"),  # before a batch is encoded
    "journal": (TokenStore, "_note"),  # its numbers are on the disk, but not the line that says so
    "vectors": (encoding, "write_vectors"),  # all tokens are there
    "commit": (Catalogue, "commit"),  # the segment is whole, the catalogue does not know it
    "placed": (Catalogue, "_place"),  # inside the transaction
    "gone": (Catalogue, "drop_gone"),
}


def kill_at(place: str, number: int) -> None:
    """Have this process killed, with no chance to save anything, at the n-th call of a function."""
    owner, name = PLACES[place]
    original, calls = getattr(owner, name), 0

    def call(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **kwargs)

    setattr(owner, name, call)


if __name__ == "__main__":
    library, model, out, window, place, number = sys.argv[1:]
    kill_at(place, int(number))
    PictureIndex.build(library, model, out, batch_size=2, window=int(window), progress=False)
