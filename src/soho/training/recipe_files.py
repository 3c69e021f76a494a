"""Reads recipe files: YAML, `base:` chains, `key=value` overrides and the `{root}/` prefix. Knows no field names."""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from soho.errors import SohoError


class _RecipeLoader(yaml.SafeLoader):
    """YAML as people write it in recipes: `1e-4` is a number, and a key stands only once."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                raise yaml.constructor.ConstructorError(None, None, f"{key!r} is no key", key_node.start_mark)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key!r} stands twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


# PyYAML follows YAML 1.1, where a float needs a dot: `1e-4` would be a string. This is YAML 1.2's rule.
_RecipeLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"^(?:[-+]?(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)?"
        r"|[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
    ),
    list("-+0123456789."),
)


@dataclass(frozen=True)
class RecipeValues:
    """The values of a recipe before they are checked.

    Attributes:
        values: the merged tree.
        layers: (file name, its own tree) from the recipe itself to its furthest base, to name the file of a key.
        overrides: dotted key -> the `key=value` text given on the command line.
    """

    values: dict[str, Any]
    layers: tuple[tuple[str, dict[str, Any]], ...]
    overrides: dict[str, str]

    def place(self, location: Sequence[str | int]) -> str:
        """Say where the key at `location` was written: an override or a file."""
        dotted = ".".join(str(part) for part in location)
        for key, text in self.overrides.items():
            if dotted == key or dotted.startswith(f"{key}.") or key.startswith(f"{dotted}."):
                return f"the override {text!r}"
        for name, tree in self.layers:
            node: Any = tree
            try:
                for part in location:
                    node = node[part]
            except (KeyError, IndexError, TypeError):
                continue
            return name
        return self.layers[0][0]


def read_recipe_values(path: Path, overrides: Sequence[str] = ()) -> RecipeValues:
    """Read a recipe file, what it is based on, and the overrides.

    Args:
        path: the YAML file. `base: other.yaml` (relative to this file) names a recipe whose values it overrides:
            sections are merged key by key, lists are replaced.
        overrides: `dotted.key=value` texts; the value is YAML, list items are named by index
            (`data.train.0.limit=50`).

    Returns:
        The merged values, with `{root}/` at the start of any text replaced by `data.root`.

    Raises:
        SohoError: a missing or broken file, a circular base, or a malformed override.
    """
    layers: list[tuple[str, dict[str, Any]]] = []
    visited: list[Path] = []
    current: Path | None = Path(path)
    while current is not None:
        if current.resolve() in visited:
            raise SohoError(f"{visited[-1]}: 'base' goes round in a circle, back to {current}")
        visited.append(current.resolve())
        tree = _read_yaml(current)
        base = tree.pop("base", None)
        if base is not None and not isinstance(base, str):
            raise SohoError(f"{current}: 'base' must be the path of another recipe, got {base!r}")
        layers.append((str(current), tree))
        current = current.parent / base if base is not None else None

    values: dict[str, Any] = {}
    for _, tree in reversed(layers):
        values = _merge(values, tree)
    given: dict[str, str] = {}
    for text in overrides:
        given[_apply_override(values, text)] = text
    return RecipeValues(_fill_root(values), tuple(layers), given)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise SohoError(f"there is no recipe {path}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SohoError(f"the recipe {path} cannot be read: {error}") from None
    tree = _parse(text, str(path))
    if tree is None:
        tree = {}
    if not isinstance(tree, dict):
        raise SohoError(f"the recipe {path} must hold sections (key: value), got a {type(tree).__name__}")
    return tree


def _parse(text: str, name: str) -> Any:
    try:
        return yaml.load(text, Loader=_RecipeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or str(error).replace("\n", " ")
        where = f"{name}, line {mark.line + 1}" if mark is not None else name
        quotes = re.search(r"[:\-\[,=]\s*\{root\}", text)
        hint = '; write paths with {root} in quotes: "{root}/..."' if quotes or text.startswith("{root}") else ""
        raise SohoError(f"{where}: not valid YAML: {problem}{hint}") from None


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        merged[key] = _merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def _apply_override(values: dict[str, Any], text: str) -> str:
    key, equals, raw = text.partition("=")
    key = key.strip()
    if not equals or not key or "" in key.split("."):
        raise SohoError(f"the override {text!r} must have the form key=value, for instance training.epochs=3")
    value = raw if raw.startswith("{root}") else _parse(raw, f"the override {text!r}")
    parts = key.split(".")
    node: Any = values
    for position, part in enumerate(parts):
        last = position == len(parts) - 1
        if isinstance(node, list):
            above = ".".join(parts[:position])
            if not part.isdigit() or int(part) >= len(node):
                size = f"numbered from 0, and there are {len(node)}"
                raise SohoError(f"the override {text!r} names entry {part!r} of {above}: its entries are {size}")
            step: Any = int(part)
        elif isinstance(node, dict):
            step = part
            if not last and node.get(part) is None:
                node[part] = {}
        else:
            above = ".".join(parts[:position])
            raise SohoError(f"the override {text!r} names a part of {above}, which is a single value ({node!r})")
        if last:
            node[step] = value
        else:
            node = node[step]
    return key


def _fill_root(values: dict[str, Any]) -> dict[str, Any]:
    data = values.get("data")
    root = data.get("root") if isinstance(data, dict) else None

    def fill(node: Any, dotted: str) -> Any:
        if isinstance(node, dict):
            return {key: fill(value, f"{dotted}.{key}" if dotted else str(key)) for key, value in node.items()}
        if isinstance(node, list):
            return [fill(value, f"{dotted}.{index}") for index, value in enumerate(node)]
        if isinstance(node, str) and (node == "{root}" or node.startswith("{root}/")) and dotted != "data.root":
            if not isinstance(root, str):
                raise SohoError(f"'{dotted}' begins with {{root}}, but data.root is not set; give data.root=FOLDER")
            return str(Path(root)) + node[len("{root}") :]
        return node

    filled = fill(values, "")
    assert isinstance(filled, dict)
    return filled
