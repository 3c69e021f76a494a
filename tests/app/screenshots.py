"""Pictures of the page for docs/serve.md: `python -m tests.app.screenshots runs/demo docs/images`."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from soho.serving.command import open_house
from soho.serving.limits import Settings
from tests.app.browser import DESKTOP, PHONE, chromium
from tests.unit.serving.small import Client, serving

KINDS = {"search": "search", "ask": "answer", "compare": "compare", "inside": "inspect"}


def shoot(page: Any, address: str, out: Path, suffix: str) -> None:
    """Click the first example of every place and take a picture of what comes."""
    for place, kind in KINDS.items():
        page.goto(f"{address}/#{place}")
        page.reload()
        page.wait_for_selector("html[data-ready]")
        panel = f"#{place} [data-kind={kind}]"
        page.click(f"{panel} .example >> nth=0")
        page.wait_for_selector(f"{panel} output :is(.answers, .found, .patches img)")
        page.wait_for_load_state("networkidle")
        page.wait_for_timeout(300)
        path = out / f"serve-{place}{suffix}.jpg"
        page.screenshot(path=path, type="jpeg", quality=80, full_page=bool(suffix) or place == "inside")


def wait_for_corpus(client: Client) -> None:
    """Wait until the patches of the codes are cut."""
    until = time.monotonic() + 60
    while (entry := client.get("/api/codes/0").json)["read"] < entry["total"] and time.monotonic() < until:
        time.sleep(0.1)


def main(runs: Path, out: Path) -> None:
    """Take all pictures."""
    out.mkdir(parents=True, exist_ok=True)
    with serving(open_house([runs], None, None, Settings())) as client, chromium() as browser:
        wait_for_corpus(client)
        for size, suffix in ((DESKTOP, ""), (PHONE, "-phone")):
            page = browser.new_page(viewport=size)
            shoot(page, f"http://127.0.0.1:{client.port}", out, suffix)
            page.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
