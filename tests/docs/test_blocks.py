"""Every code block of README and docs is executed here, or says to the reader why not."""

from __future__ import annotations

import json
import socket
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import yaml
from typer.main import get_command

from soho.cli import app
from soho.data.sources import Source
from soho.training.recipe import Recipe, load_recipe
from tests.docs.conftest import draw_named
from tests.docs.pages import (
    EXECUTED,
    PAGES,
    REASONS,
    SHOWN,
    Block,
    blocks_of,
    commands_in_block,
    commands_in_text,
    name_of,
    read_blocks,
)
from tests.docs.shell import Shell, in_folder
from tests.support import ROOT

# How many blocks are not run, page by page and reason by reason. A new one has to be written down here.
NOT_RUN = {
    ("README.md", "cluster"): 1,
    ("README.md", "minutes"): 1,
    ("README.md", "real data"): 1,
    ("README.md", "runs until stopped"): 1,
    ("docs/index.md", "network"): 1,
    ("docs/export.md", "minutes"): 1,
    ("docs/performance.md", "minutes"): 1,
    ("docs/results/daquar.md", "real data"): 1,
    ("docs/results/flickr8k.md", "real data"): 1,
    ("docs/results/snli_ve.md", "real data"): 1,
    ("docs/scale.md", "cluster"): 3,
    ("docs/scale.md", "real data"): 2,
    ("docs/search.md", "real data"): 1,
    ("docs/serve.md", "runs until stopped"): 2,
    ("docs/share.md", "network"): 3,
    ("docs/tour.md", "minutes"): 1,
    ("docs/tour.md", "runs until stopped"): 1,
}

BLOCKS = [block for page in PAGES for block in read_blocks(page)]
# Named on a page instead of a place on the reader's own machine.
PLACES = {"/path/to/": "./"}


def test_as_many_blocks_are_not_run_as_are_written_down() -> None:
    assert len(BLOCKS) > 40
    assert Counter((block.page, block.reason) for block in BLOCKS if block.reason is not None) == NOT_RUN


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.place)
def test_a_block_has_a_language_and_a_reason_that_is_known(block: Block) -> None:
    assert block.language in (*EXECUTED, *SHOWN), "say what the block is: ```bash, python, yaml, json or text"
    assert block.reason is None or block.reason in REASONS
    if block.language in SHOWN:
        programs = ("soho ", "python ", "make ", "pip ", "torchrun ", "$ ")
        assert not [line for line in block.code.splitlines() if line.startswith(programs)], "commands are ```bash"


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="needs bash and Unix sockets")
@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_the_blocks_of_a_page_run_one_after_the_other(page: Path, request: pytest.FixtureRequest) -> None:
    blocks = [block for block in read_blocks(page) if block.reason is None and block.language in EXECUTED]
    runs = [block for block in blocks if block.language in ("bash", "python") or block.title]
    for block in blocks:
        if block.language == "yaml":
            check_recipe_part(block)
        if block.language == "json":
            assert [json.loads(line) for line in block.code.splitlines()], block.place
    if not runs:
        return
    folder: Path = request.getfixturevalue("reader")
    names: dict[str, Any] = {"__name__": "__main__"}
    with Shell(folder) as shell, in_folder(folder), own_modules(folder):
        for block in runs:
            draw_named(folder, block.code)
            code = block.code
            for place, here in PLACES.items():
                code = code.replace(place, here)
            if block.title:
                Path(block.title).parent.mkdir(parents=True, exist_ok=True)
                Path(block.title).write_text(block.code, encoding="utf-8")
            elif block.language == "bash":
                shell.run(code, block.place)
            else:
                exec(compile("\n" * (block.line - 1) + code, str(ROOT / block.page), "exec"), names)


@contextmanager
def own_modules(folder: Path) -> Iterator[None]:
    """Let Python blocks import the files of a folder, and forget them afterwards."""
    with mock.patch.object(sys, "path", [str(folder), *sys.path]):
        yield
    for name, module in list(sys.modules.items()):
        if Path(getattr(module, "__file__", None) or "/").is_relative_to(folder):
            del sys.modules[name]


def check_recipe_part(block: Block) -> None:
    """Check YAML as a recipe, the sections of one, or a list of sources.

    Raises:
        ValueError: pydantic's, for keys and values that a recipe does not have.
    """
    values = yaml.safe_load(block.code.replace("{root}", "/data"))
    if isinstance(values, list):
        for source in values:
            Source.model_validate(source)
        return
    values.pop("base", None)
    Recipe.model_validate({"task": "vqa", "output": "out", **values})


def parse(words: list[str]) -> dict[str, Any]:
    """Parse a `soho` command line without running it; returns the parameters.

    Raises:
        Exception: typer's usage error where there is no such option, `KeyError` where there is no such command.
    """
    command, rest = find(words)
    return {} if "--help" in rest else command.make_context(" ".join(words[: -len(rest)]), list(rest)).params


def find(words: list[str]) -> tuple[Any, list[str]]:
    """Return the (typer) command that the first words name, and the words after it."""
    command: Any = get_command(app)
    rest = words[1:]
    while hasattr(command, "commands") and rest and not rest[0].startswith("-"):
        if rest[0] not in command.commands:
            raise KeyError(f"there is no command {' '.join(words)!r}")
        command, *rest = command.commands[rest[0]], *rest[1:]
    return command, rest


SKIPPED = [block for block in BLOCKS if block.reason is not None and block.language == "bash"]


@pytest.mark.parametrize("block", SKIPPED, ids=lambda block: block.place)
def test_a_block_that_is_not_run_names_commands_options_recipes_and_keys_that_exist(block: Block) -> None:
    targets = (ROOT / "Makefile").read_text(encoding="utf-8")
    for words in commands_in_block(block.code):
        if words[0] == "soho":
            given = parse(words)
            recipe = given.get("recipe")
            if recipe is not None and str(recipe).startswith("recipes/"):
                load_recipe(ROOT / recipe, ["data.root=/data", *(given.get("overrides") or [])])
        elif words[0] == "make":
            for target in words[1:]:
                assert "=" in target or f"\n{target}:" in targets, f"{block.place}: there is no `make {target}`"
        elif words[0] == "python" and words[1].endswith(".py"):
            assert (ROOT / words[1]).is_file(), f"{block.place}: there is no {words[1]}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_in_the_text_have_options_that_exist(page: Path) -> None:
    for words in commands_in_text(page.read_text(encoding="utf-8")):
        command, _ = find(words)
        known = {name for option in command.params for name in (*option.opts, *option.secondary_opts)} | {"--help"}
        unknown = [word for word in words if word.startswith("--") and word.partition("=")[0] not in known]
        assert not unknown, f"{name_of(page)}: {' '.join(words)}"


# That the tests above can fail --------------------------------------------------------------------------------------

PAGE = """# A page
```bash
soho predict A B "c"
```

*Not run by the tests: hours, on a large machine.*

```bash
soho pretrain x.yaml training.batch_size=8 \\
    seed=1   # two lines
```

*Not run by the tests: no time.*
```python title="one.py"
1 / 0
```
"""


def test_blocks_markers_and_commands_are_read() -> None:
    first, second, third = blocks_of(PAGE, "p.md")
    assert (first.place, first.language, first.reason) == ("p.md:3", "bash", None)
    assert (second.place, second.reason) == ("p.md:9", "hours")
    assert (third.reason, third.title, third.code) == ("no time", "one.py", "1 / 0\n")
    words = ["soho", "pretrain", "x.yaml", "training.batch_size=8", "seed=1"]
    assert commands_in_block(second.code) == [words]
    assert parse(words)["overrides"] == ["training.batch_size=8", "seed=1"]
    assert commands_in_text("Say `soho evaluate RECIPE [--split test]`, not `make`.") == [
        ["soho", "evaluate", "RECIPE", "--split", "test"]
    ]


@pytest.mark.parametrize("words", [["soho", "train", "x"], ["soho", "predict", "--nothing", "1"]])
def test_an_unknown_command_or_option_is_found(words: list[str]) -> None:
    with pytest.raises(Exception, match=r"no command|[Nn]o such option"):
        parse(words)


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="needs bash and Unix sockets")
def test_a_block_speaks_with_the_command_and_fails_with_it(tmp_path: Path) -> None:
    with Shell(tmp_path) as shell:
        shell.run("x=recipe\nsoho $x | grep -c max_steps > found.txt", "here")
        assert int((tmp_path / "found.txt").read_text()) > 0
        with pytest.raises(AssertionError, match=r"here ended with 1:(?s:.*)there is no recipe nothing\.yaml"):
            shell.run("soho pretrain nothing.yaml\ntouch after", "here")
        assert not (tmp_path / "after").exists()
        with pytest.raises(AssertionError, match="mark the block: network"):
            shell.run("pip install numpy", "here")
        shell.run("pip install -e '.[search]'", "here")
        with pytest.raises(AssertionError, match="mark the block with a reason"):
            shell.run("make demo", "here")
