"""What a person reads about a recipe: the list of its keys, and one sentence per mistake."""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Union

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from soho.training.recipe_files import RecipeValues


def describe(schema: type[BaseModel], title: str) -> str:
    """Return every key below `schema` with its type, default and one-line description, laid out like the YAML."""
    lines = [title, ""]
    for key, field, indent in _walk(schema):
        margin = "  " * indent
        if _section_of(field.annotation) is not None:
            several = "a list, entries numbered from 0; " if typing.get_origin(field.annotation) is list else ""
            lines.append(f"{margin}{key}:  # {several}{field.description}")
        else:
            default = (
                "required"
                if field.is_required()
                else f"default {_yaml_text(field.get_default(call_default_factory=True))}"
            )
            lines.append(f"{margin}{key}: {_type_text(field.annotation)}, {default}")
            lines.append(f"{margin}    {field.description or ''}".rstrip())
    return "\n".join(lines)


def error_sentence(error: ValidationError, found: RecipeValues, schema: type[BaseModel]) -> str:
    """Tell the first mistake in a recipe: the key, where it was written, and what was expected."""
    # An unknown key is told first: a misspelt key also makes the right one "missing".
    problem = sorted(error.errors(), key=lambda entry: entry["type"] != "extra_forbidden")[0]
    location = [part for part in problem["loc"] if not (isinstance(part, str) and part.startswith("function-"))]
    dotted, place = ".".join(str(part) for part in location), found.place(location)
    if problem["type"] == "extra_forbidden":
        nearest = _nearest_key(location, schema)
        return f"unknown key '{dotted}' in {place}; {nearest}"
    if problem["type"] == "missing":
        return f"the key '{dotted}' is missing in {found.layers[0][0]}"
    message = problem["msg"]
    if problem["type"] == "value_error":
        return f"'{dotted or 'the recipe'}' in {place}: {message.removeprefix('Value error, ')}"
    if problem["type"] == "path_type":
        message = "Input should be a path"
    elif problem["type"] == "model_type":
        message = "Input should be a section of keys"
    message = message.replace("Input should", "should")
    return f"'{dotted}' in {place} {message[:1].lower() + message[1:]}, got {problem['input']!r}"


def _nearest_key(location: Sequence[str | int], schema: type[BaseModel]) -> str:
    """Name the valid key nearest to a misspelt or misplaced one, or all keys of its section."""
    section = schema
    for part in location[:-1]:
        if isinstance(part, str) and part in section.model_fields:
            section = _section_of(section.model_fields[part].annotation) or section
    parent = ".".join(str(part) for part in location[:-1])
    name = str(location[-1])
    near = difflib.get_close_matches(name, section.model_fields, n=1, cutoff=0.6)
    if near:
        return f"did you mean '{parent}.{near[0]}'?" if parent else f"did you mean '{near[0]}'?"
    elsewhere = [key for key in _dotted_keys(schema) if key.rsplit(".", 1)[-1] == name]
    if elsewhere:
        return f"did you mean '{elsewhere[0]}'?"
    return f"valid keys{' of ' + parent if parent else ''} are: {', '.join(section.model_fields)}"


def _section_of(annotation: Any) -> type[BaseModel] | None:
    """Return the section class inside `Section`, `list[Section]` or `Section | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for part in typing.get_args(annotation):
        found = _section_of(part)
        if found is not None:
            return found
    return None


def _walk(section: type[BaseModel], indent: int = 0) -> Iterator[tuple[str, FieldInfo, int]]:
    described: set[type[BaseModel]] = set()
    for key, field in section.model_fields.items():
        yield key, field, indent
        below = _section_of(field.annotation)
        if below is not None and below not in described:
            described.add(below)  # data.train, data.validation and data.test hold the same fields: told once
            yield from _walk(below, indent + 1)


def _dotted_keys(section: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for key, field in section.model_fields.items():
        yield prefix + key
        below = _section_of(field.annotation)
        if below is not None and typing.get_origin(field.annotation) is not list:
            yield from _dotted_keys(below, f"{prefix}{key}.")


_TYPE_NAMES = {int: "integer", float: "number", str: "text", bool: "true/false", Path: "path", type(None): "null"}


def _type_text(annotation: Any) -> str:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        return _type_text(arguments[0])
    if origin is Literal:
        return "|".join(str(value) for value in arguments)
    if origin is Union or origin is types.UnionType:
        return " or ".join(_type_text(part) for part in arguments)
    if origin in (list, tuple):
        return f"list of {_type_text(arguments[0])}"
    if origin is dict or annotation is dict:
        return "mapping"
    return _TYPE_NAMES.get(annotation, getattr(annotation, "__name__", str(annotation)))


def _yaml_text(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)
