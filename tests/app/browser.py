"""A headless Chromium that is installed on this machine, driven by playwright; no browser is downloaded."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
MISSING = "needs a Chromium on the PATH: `apt-get install chromium`, or name one in SOHO_CHROMIUM"
DESKTOP, PHONE = {"width": 1280, "height": 860}, {"width": 375, "height": 760}


def find_chromium() -> str | None:
    """Return the program, None where there is none."""
    named = os.environ.get("SOHO_CHROMIUM")
    return named or next((path for name in NAMES if (path := shutil.which(name))), None)


@contextmanager
def chromium() -> Iterator[Any]:
    """Run a headless browser."""
    from playwright.sync_api import sync_playwright

    # Root, as in a container, has no sandbox.
    arguments = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=find_chromium(), args=arguments)
        try:
            yield browser
        finally:
            browser.close()


if __name__ == "__main__" and find_chromium() is None:
    sys.exit(f"make test-app {MISSING}")
