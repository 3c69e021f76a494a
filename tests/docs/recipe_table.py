"""The table of docs/recipes.md, made from the recipes' own headers: `python -m tests.docs.recipe_table` writes it."""

from __future__ import annotations

import re
from pathlib import Path

from soho.training.recipe import load_recipe
from tests.support import ROOT

PAGE = ROOT / "docs" / "recipes.md"
BEGIN, END = "<!-- recipes: begin -->\n", "<!-- recipes: end -->\n"
RECIPES = sorted((ROOT / "recipes").rglob("*.yaml"))


def header_of(text: str) -> dict[str, str]:
    """Return the fields of a recipe's header: "About" is its first sentence, the others are its words in column 3."""
    fields = {"About": ""}
    name = "About"
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        field = re.match(r"# ([A-Z][a-z]+) {2,}(.*)", line)
        if field:
            name = field[1]
            fields[name] = field[2]
        elif line.strip() == "#":
            name = ""  # what stands apart belongs to no field
        elif name:
            fields[name] = f"{fields[name]} {line[1:].strip()}".strip()
    fields["About"] = re.split(r"(?<=\.) (?=[A-Z])", fields["About"])[0]
    return fields


def row_of(path: Path) -> str:
    """Return a recipe's row: file, task, what it is, what to expect."""
    fields = header_of(path.read_text(encoding="utf-8"))
    task = load_recipe(path, ["data.root=/data"]).task
    expected = re.sub(r"[;,]? ?docs/results/\w+\.md", "", fields["Expected"])
    return f"| `{path.relative_to(ROOT / 'recipes').as_posix()}` | {task} | {fields['About']} | {expected} |"


def table() -> str:
    """Return the whole table."""
    head = ["| below `recipes/` | `task` | what it is | what to expect |", "|---|---|---|---|"]
    return "\n".join([*head, *map(row_of, RECIPES)]) + "\n"


def written(page: str) -> str:
    """Return the page with the present table in its place."""
    before, rest = page.split(BEGIN)
    return before + BEGIN + table() + END + rest.split(END)[1]


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
