"""Folders that appear whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from soho.errors import SohoError


@contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
    """Yield the path of a folder to be made and filled; it becomes `out` at the end, and is gone after an exception.

    Args:
        out: must not exist, or be an empty folder.

    Raises:
        SohoError: it cannot be written.
    """
    new = out.with_name(f"{out.name}.partial-{os.getpid()}")
    try:
        yield new
        if out.exists():
            out.rmdir()  # empty
        new.replace(out)
    except OSError as error:
        raise SohoError(f"{out} cannot be written: {error}") from None
    finally:
        shutil.rmtree(new, ignore_errors=True)
