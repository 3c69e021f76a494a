"""The map of the house, held by reading the source: who may import whom, file lengths, docstrings."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.support import ROOT

SOURCE = ROOT / "src"
MODULES = sorted((SOURCE / "soho").rglob("*.py"))

# Room -> the rooms it may import. Two modules stand for themselves because many may read them: what a recipe is
# (`soho.training.recipe`) and how an answer is normalised (`soho.data.answer_text`).
ALLOWED: dict[str, set[str]] = {
    "soho.errors": set(),
    "soho.randomness": set(),
    "soho.memory": set(),
    "soho.data": {"soho.errors", "soho.randomness"},
    "soho.processing": {"soho.data", "soho.errors", "soho.randomness"},
    "soho.models": {"soho.errors"},
    "soho.training": {"soho.data", "soho.errors", "soho.randomness"},
    "soho.evaluation": {"soho.data.answer_text", "soho.errors", "soho.memory", "soho.randomness"},
    "soho.inspection": {
        "soho.data",
        "soho.errors",
        "soho.evaluation",
        "soho.models",
        "soho.pipelines",
        "soho.processing",
        "soho.randomness",
    },
    "soho.tasks": {
        "soho.data",
        "soho.errors",
        "soho.evaluation",
        "soho.models",
        "soho.processing",
        "soho.randomness",
        "soho.training.recipe",
    },
    "soho.folders": {"soho.errors"},
    "soho.conversion": {"soho.errors", "soho.folders", "soho.models", "soho.processing"},
    "soho.pipelines": {"soho.data", "soho.errors", "soho.models", "soho.processing"},
    "soho.search": {
        "soho.data",
        "soho.errors",
        "soho.evaluation",
        "soho.inspection",
        "soho.memory",
        "soho.models",
        "soho.pipelines",
        "soho.processing",
    },
    "soho.sharing": {"soho.errors", "soho.folders", "soho.models", "soho.pipelines", "soho.processing"},
    "soho.runs": {
        "soho.data",
        "soho.errors",
        "soho.evaluation",
        "soho.memory",
        "soho.models",
        "soho.sharing",
        "soho.tasks",
        "soho.training",
    },
    "soho.export": {
        "soho.data",
        "soho.errors",
        "soho.evaluation",
        "soho.folders",
        "soho.models",
        "soho.pipelines",
        "soho.processing",
        "soho.runs",
        "soho.tasks",
        "soho.training",
    },
    "soho.demo": {
        "soho.data",
        "soho.errors",
        "soho.evaluation",
        "soho.inspection",
        "soho.models",
        "soho.processing",
        "soho.randomness",
        "soho.runs",
        "soho.search",
        "soho.serving",
        "soho.tasks",
        "soho.training",
    },
    "soho.serving": {
        "soho.data",
        "soho.errors",
        "soho.inspection",
        "soho.models",
        "soho.pipelines",
        "soho.search",
    },
    "soho.cli": {
        "soho.conversion",
        "soho.data",
        "soho.demo",
        "soho.errors",
        "soho.evaluation",
        "soho.export",
        "soho.inspection",
        "soho.pipelines",
        "soho.runs",
        "soho.search",
        "soho.serving",
        "soho.sharing",
        "soho.tasks",
        "soho.training",
    },
    "soho.__main__": {"soho.cli"},
    "soho": {"soho.models", "soho.pipelines", "soho.processing"},
}


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__")


NAMES = {name_of(path): path for path in MODULES}


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


@cache
def imports_of(module: str) -> frozenset[str]:
    """Return the modules of this package that a module imports, also inside functions and for type checking."""
    found = set()
    for node in ast.walk(tree_of(NAMES[module])):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative imports hide where a name comes from"
            assert node.module is not None
            # `from soho.data import answer_text` imports a module, `from soho.models import SohoModel` a name.
            members = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {member if member in NAMES else node.module for member in members}
    return frozenset(name for name in found if name == "soho" or name.startswith("soho."))


def room_of(module: str) -> str:
    return ".".join(module.split(".")[:2])


def within(module: str, place: str) -> bool:
    return module == place or module.startswith(f"{place}.")


def test_the_reader_sees_the_imports() -> None:
    assert len(NAMES) > 60
    assert "soho.data.schema" in imports_of("soho.data.dataset")
    assert "soho.demo" in imports_of("soho.cli.training")  # inside a function
    assert {room_of(name) for name in NAMES} == set(ALLOWED), "a new room: say here what it may import"


@pytest.mark.parametrize("module", sorted(NAMES))
def test_a_module_imports_only_what_its_room_may(module: str) -> None:
    room = room_of(module)
    for other in imports_of(module):
        if not within(other, room) or (room == "soho" and other != "soho"):
            assert any(within(other, place) for place in ALLOWED[room]), f"{module} must not import {other}"


def test_data_flows_from_schema_over_readers_to_the_data_set() -> None:
    assert imports_of("soho.data.schema") <= {"soho.errors"}
    readers = [name for name in NAMES if within(name, "soho.data.readers")]
    assert len(readers) > 7
    later = {"soho.data.sources", "soho.data.dataset", "soho.data.batching", "soho.data.check", "soho.data.miniature"}
    for reader in readers:
        assert not {other for other in imports_of(reader) if any(within(other, place) for place in later)}, reader
    for module in ("soho.data.dataset", "soho.data.batching"):
        assert not {other for other in imports_of(module) if within(other, "soho.data.readers")}, module


def test_nobody_imports_the_command_line_or_the_recipes() -> None:
    for module, path in NAMES.items():
        if module != "soho.__main__" and not within(module, "soho.cli"):
            assert not any(within(other, "soho.cli") for other in imports_of(module)), module
        for node in ast.walk(tree_of(path)):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not [name for name in names if name.split(".")[0] in ("recipes", "tests", "benchmarks")], module


def test_the_demonstration_and_the_runs_are_leaves() -> None:
    def importers(place: str) -> set[str]:
        return {
            room_of(module)
            for module in NAMES
            if any(within(other, place) for other in imports_of(module)) and not within(module, place)
        }

    assert importers("soho.demo") <= {"soho.cli"}
    assert importers("soho.export") <= {"soho.cli"}
    assert importers("soho.runs") <= {"soho.cli", "soho.demo", "soho.export"}
    assert importers("soho.conversion") <= {"soho.cli"}
    assert importers("soho.pipelines") <= {
        "soho",
        "soho.cli",
        "soho.demo",
        "soho.export",
        "soho.inspection",
        "soho.search",
        "soho.serving",
        "soho.sharing",
    }
    assert importers("soho.search") <= {"soho.cli", "soho.demo", "soho.serving"}
    assert importers("soho.serving") <= {"soho.cli", "soho.demo"}
    assert importers("soho.sharing") <= {"soho.cli", "soho.runs"}


# Modules of the inspection that look inside a model; all others are given arrays and pictures.
LOOKS_INSIDE = {
    "attention",
    "attention_page",
    "attention_targets",
    "code_map",
    "dictionary_study",
    "look",
    "text_words",
}


def test_drawing_and_the_report_know_no_model() -> None:
    for module in NAMES:
        if within(module, "soho.inspection") and module.split(".")[-1] not in LOOKS_INSIDE:
            rooms = {room_of(other) for other in imports_of(module)} - {"soho.inspection"}
            assert rooms <= {"soho.errors", "soho.evaluation", "soho.randomness"}, module
            insides = {other.split(".")[-1] for other in imports_of(module) if within(other, "soho.inspection")}
            assert not insides & LOOKS_INSIDE, module


def cycle(graph: dict[str, set[str]]) -> list[str]:
    """Return the nodes of some cycle, empty where there is none."""
    done: set[str] = set()

    def walk(node: str, path: list[str]) -> list[str]:
        if node in path:
            return [*path[path.index(node) :], node]
        if node in done:
            return []
        for other in sorted(graph.get(node, ())):
            if found := walk(other, [*path, node]):
                return found
        done.add(node)
        return []

    return next((found for node in sorted(graph) if (found := walk(node, []))), [])


def test_cycles_are_found() -> None:
    assert cycle({"a": {"b"}, "b": {"c"}, "c": set()}) == []
    assert cycle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]


def test_no_cycle_between_rooms_nor_between_modules() -> None:
    rooms: dict[str, set[str]] = {}
    for module in NAMES:
        room = room_of(module)
        rooms.setdefault(room, set()).update(room_of(other) for other in imports_of(module) if not within(other, room))
    # `import soho` runs soho/__init__.py, which gathers public names; importing a room below it is no dependence on it.
    for others in rooms.values():
        others.discard("soho")
    rooms.pop("soho")
    assert cycle(rooms) == []
    assert cycle({module: set(imports_of(module)) - {module} for module in NAMES}) == []


@pytest.mark.parametrize("module", sorted(NAMES))
def test_no_file_is_longer_than_500_lines(module: str) -> None:
    assert len(NAMES[module].read_text(encoding="utf-8").splitlines()) <= 500


def public_definitions(node: ast.AST, name: str) -> Iterator[tuple[str, ast.AST]]:
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) or child.name.startswith("_"):
            continue
        if any(isinstance(mark, ast.Name) and mark.id == "overload" for mark in child.decorator_list):
            continue
        yield f"{name}.{child.name}", child
        if isinstance(child, ast.ClassDef):
            yield from public_definitions(child, f"{name}.{child.name}")


@pytest.mark.parametrize("module", sorted(NAMES))
def test_every_public_name_has_a_docstring(module: str) -> None:
    tree = tree_of(NAMES[module])
    assert ast.get_docstring(tree), f"{module} has none"
    missing = [name for name, node in public_definitions(tree, module) if not ast.get_docstring(node)]  # type: ignore[arg-type]
    assert missing == []
