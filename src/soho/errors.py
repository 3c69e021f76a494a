"""The one exception a user is meant to read."""

from __future__ import annotations


class SohoError(ValueError):
    """Bad input, told in one sentence that names the file, row or key and what was expected.

    The command line prints only the message and exits with code 1; from Python it is a `ValueError`.
    """
