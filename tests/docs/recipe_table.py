"""Two pages on recipes, made from their headers and keys; `python -m tests.docs.recipe_table` writes them."""

from __future__ import annotations

import re
from pathlib import Path

from soho.training.recipe import describe_recipe, load_recipe
from tests.support import ROOT

PAGE = ROOT / "docs" / "recipes.md"
KEYS_PAGE = ROOT / "docs" / "recipe_keys.md"
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


def keys_page() -> str:
    """Return the whole page of keys."""
    return (
        "# Every key of a recipe\n\n"
        "What `soho recipe` prints; [Recipes](recipes.md) says how a recipe is made and changed.\n\n"
        f"```text\n{describe_recipe().strip()}\n```\n"
    )


if __name__ == "__main__":
    KEYS_PAGE.write_text(keys_page(), encoding="utf-8")
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
