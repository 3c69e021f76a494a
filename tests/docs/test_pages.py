"""Links of README and docs lead somewhere, the site knows its pages, and the table of recipes is that of the files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.docs import recipe_table
from tests.docs.pages import PAGES, anchors_of, links_of, name_of
from tests.support import ROOT

DOCS = ROOT / "docs"
WITH_LINKS = [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]


def broken_links(page: Path, text: str) -> list[str]:
    """Return the links of a page that lead nowhere; addresses on the web are not asked."""
    broken = []
    for link in links_of(text):
        if link.startswith(("http://", "https://", "mailto:")):
            continue
        target, _, anchor = link.partition("#")
        file = (page.parent / target).resolve() if target else page
        found = file.exists() and ROOT in (file, *file.parents)
        if found and anchor:
            found = file.suffix == ".md" and anchor in anchors_of(file.read_text(encoding="utf-8"))
        # The site holds docs/ and nothing else.
        if not found or (DOCS in page.parents and file != DOCS and DOCS not in file.parents):
            broken.append(link)
    return broken


@pytest.mark.parametrize("page", WITH_LINKS, ids=name_of)
def test_links_and_anchors_lead_somewhere(page: Path) -> None:
    assert broken_links(page, page.read_text(encoding="utf-8")) == []


def test_broken_links_are_found() -> None:
    text = "[a](data.md#photo-keys) [b](data.md#nothing) [c](none.md) [d](../README.md) [e](https://x.org) `[f](g)`"
    assert broken_links(DOCS / "page.md", text) == ["data.md#nothing", "none.md", "../README.md"]
    assert broken_links(ROOT / "page.md", "[d](README.md) [e](#here)\n\n# Not here\n") == ["#here"]


def test_anchors_are_those_of_github() -> None:
    page = "# A [link](x.md), `code` & more\n## Twice\n## Twice\n```bash\n# no heading\n```\n"
    assert anchors_of(page) == {"a-link-code--more", "twice", "twice-1"}


def pages_of(node: Any) -> list[str]:
    if isinstance(node, str):
        return [node]
    return [page for part in (node.values() if isinstance(node, dict) else node) for page in pages_of(part)]


def test_every_page_stands_in_the_sites_navigation_once() -> None:
    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    here = sorted(page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md"))
    assert sorted(pages_of(settings["nav"])) == here


def test_the_site_asks_no_other_host() -> None:
    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    assert settings["theme"]["font"] is False
    assert not [name for name in settings["extra_css"] if not (DOCS / name).is_file()]
    assert "extra_javascript" not in settings


def test_the_table_of_recipes_is_that_of_the_files() -> None:
    page = recipe_table.PAGE.read_text(encoding="utf-8")
    assert page == recipe_table.written(page), "run `python -m tests.docs.recipe_table`"
    assert len(recipe_table.RECIPES) > 20


def test_the_page_of_keys_is_what_the_command_prints() -> None:
    page = recipe_table.KEYS_PAGE.read_text(encoding="utf-8")
    assert page == recipe_table.keys_page(), "run `python -m tests.docs.recipe_table`"


def test_a_header_is_read() -> None:
    header = "# One thing. More of it.\n# Still.\n#\n# Command    soho x\n#            y\n"
    header += "# Expected   1 %;\n#            2 %\n#\n# Note.\n"
    assert recipe_table.header_of(header + "task: vqa\n") == {
        "About": "One thing.",
        "Command": "soho x y",
        "Expected": "1 %; 2 %",
    }
