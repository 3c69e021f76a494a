"""The `soho` command: a thin layer over `soho.runs`, `soho.data`, `soho.pipelines` and the rooms that use a model."""

from __future__ import annotations

import sys

from soho.cli.base import app
from soho.errors import SohoError

# Importing these registers their commands, in the order in which `soho --help` lists them.
# isort: off
import soho.cli.training
import soho.cli.models
import soho.cli.data  # noqa: F401
# isort: on

__all__ = ["app", "main"]


def main() -> None:
    """Run the command line; bad input ends in one sentence on stderr and exit code 1."""
    try:
        app()
    except SohoError as error:
        print(f"soho: {error}", file=sys.stderr)
        sys.exit(1)
    except (FileExistsError, NotADirectoryError, PermissionError) as error:
        # A folder to write into that is a file, or somebody else's.
        print(f"soho: {error.filename or error} cannot be used: {error.strerror}", file=sys.stderr)
        sys.exit(1)
