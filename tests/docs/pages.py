"""Reads the pages of README and docs: code blocks, the reasons why some are not run, commands in the text, links."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from tests.support import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

# Why a block may stay unexecuted. The marker is a line of its own above the block, which the reader sees too:
#     *Not run by the tests: real data, three hours.*
REASONS = ("cluster", "GPU", "hours", "minutes", "network", "real data", "runs until stopped")
MARKER = re.compile(r"\*Not run by the tests: (.+)\.\*")

EXECUTED = ("bash", "python", "yaml", "json")
SHOWN = ("text", "bibtex", "html")  # what a reader does not type: output, trees of files
FENCE = re.compile(r"^( *)(```+)([^\n`]*)\n(.*?)^ *\2[ ]*$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block of a page.

    Attributes:
        page: where it stands, relative to the repository.
        line: number of its first line of code.
        language: the word behind the fence.
        title: of a file, where the fence says `title="name"`; the block is the content of that file.
        reason: why it is not run, one of `REASONS`, or None; what else the marker says where it is none of them.
        code: the text.
    """

    page: str
    line: int
    language: str
    title: str
    reason: str | None
    code: str

    @property
    def place(self) -> str:
        """Where it stands, for messages."""
        return f"{self.page}:{self.line}"


def name_of(page: Path) -> str:
    """Return a page relative to the repository, with slashes."""
    return page.relative_to(ROOT).as_posix()


def blocks_of(text: str, page: str) -> list[Block]:
    """Return the fenced blocks of a page in order."""
    found = []
    for match in FENCE.finditer(text):
        indent, _, info, code = match.groups()
        language, _, rest = info.strip().partition(" ")
        title = re.search(r'title="([^"]+)"', rest)
        above = text[: match.start()].rstrip().rpartition("\n")[2].strip()
        marker = MARKER.fullmatch(above)
        reason = None
        if marker:
            reason = next((word for word in REASONS if re.match(rf"{word}(?!\w)", marker[1])), marker[1])
        if indent:
            code = re.sub(rf"^{indent}", "", code, flags=re.MULTILINE)
        line = text[: match.start(4)].count("\n") + 1
        found.append(Block(page, line, language, title[1] if title else "", reason, code))
    return found


def read_blocks(page: Path) -> list[Block]:
    """Return the fenced blocks of a page file."""
    return blocks_of(page.read_text(encoding="utf-8"), name_of(page))


def prose_of(text: str) -> str:
    """Return a page without its fenced blocks."""
    return FENCE.sub("", text)


def commands_in_text(text: str) -> list[list[str]]:
    """Return the words of every `soho ...` in the running text; brackets around optional parts are dropped."""
    spans = re.findall(r"(?<!`)`(soho [^`]+)`(?!`)", prose_of(text))
    return [_words(re.sub(r"[\[\]]", "", span.replace("\n", " "))) for span in spans]


def commands_in_block(code: str) -> list[list[str]]:
    """Return the words of every line that begins a program, without comments and what stands before the program."""
    commands = []
    for line in re.sub(r"\\\n\s*", " ", code).splitlines():
        words = _words(line, comments=True)
        if "-m" in words and "soho" in words:  # torchrun ... -m soho pretrain ...
            words = words[words.index("soho") :]
        if words:
            commands.append(words)
    return commands


def _words(line: str, comments: bool = False) -> list[str]:
    try:
        return shlex.split(line, comments=comments)
    except ValueError:  # an apostrophe, a quote that goes on in the next line
        return line.split()


def links_of(text: str) -> list[str]:
    """Return the targets of all links and pictures outside code."""
    plain = re.sub(r"`[^`\n]*`", "", prose_of(text))
    return re.findall(r"\]\(([^)\s]+)(?:\s+\"[^\"]*\")?\)", plain)


def anchors_of(text: str) -> set[str]:
    """Return the anchors of a page's headings as GitHub and the site make them."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ +(.+?) *#*$", prose_of(text), re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        slug = re.sub(r"[^\w\- ]", "", plain).strip().replace(" ", "-")
        number = 0
        while (name := f"{slug}-{number}" if number else slug) in found:
            number += 1
        found.add(name)
    return found
