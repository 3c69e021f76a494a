"""What a model folder knows of its own making: `provenance.json`, written by the run and read by the model card.

It travels with the weights, so it holds no absolute path of the machine that trained them. Figures are kept together
with a hash of the weights that they were measured on, and count for no others.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from datetime import date
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import yaml

from soho.errors import SohoError

FACTS_NAME = "provenance.json"
FORMAT = 1
# What is kept of the first start of a run.
_VERSIONS = ("started", "device", "world_size", "python", "soho", "torch", "transformers", "git_commit")
# Keys that may differ between training and measuring without changing what a figure means.
_OF_NO_MATTER = (
    "output",
    "model.",
    "training.",
    "data.train",
    "data.validation",
    "data.test",
    "data.workers",
    "data.cache_megabytes",
    "evaluation.batch_size",
    "evaluation.pair_batch",
    "evaluation.baselines",
)


def read_facts(folder: Path) -> list[dict[str, Any]]:
    """Return what a model folder knows of its making: one entry for each run whose head it holds.

    Args:
        folder: a model folder.

    Returns:
        Empty where it knows nothing.

    Raises:
        SohoError: `provenance.json` is damaged or of another version.
    """
    path = folder / FACTS_NAME
    if not path.exists():
        return []
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        found = content["runs"] if content["format"] == FORMAT else None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise SohoError(f"{path} cannot be read: {error}") from None
    if not isinstance(found, list):
        raise SohoError(f"{path} has format {content['format']!r}; this version reads {FORMAT}")
    return found


def write_facts(folder: Path, runs: list[dict[str, Any]]) -> None:
    """Write `provenance.json` of a model folder."""
    text = json.dumps({"format": FORMAT, "runs": runs}, indent=1, ensure_ascii=False)
    (folder / FACTS_NAME).write_text(text + "\n", encoding="utf-8")


def record_training(folder: Path, counts: Mapping[str, Any]) -> None:
    """Write what a run knows into the model folder that it made; figures of the same weights are kept.

    Args:
        folder: `OUTPUT/model` of a finished run, beside the run's recipe.yaml, finished.json and versions.json.
        counts: of the training data: `examples`, `pictures`, `texts`, and `broken`, pictures that were skipped.
    """
    output, weights = folder.parent, weights_hash(folder)
    given = yaml.safe_load((output / "recipe.yaml").read_text(encoding="utf-8"))
    recipe = portable_recipe(given)
    finished = json.loads((output / "finished.json").read_text(encoding="utf-8"))
    starts = json.loads((output / "versions.json").read_text(encoding="utf-8"))
    before = _known(folder)
    measured = before[0]["measured"] if len(before) == 1 else {}
    run = {
        "task": recipe["task"],
        "weights": weights,
        "hub_starts": _hub_starts(given),
        "start": _start_facts(given["model"].get("start")) or (before[0].get("start") if len(before) == 1 else None),
        "data": dict(counts),
        "training": {name: finished.get(name) for name in ("steps", "epochs", "images", "seconds")},
        "versions": {name: starts[0].get(name) for name in _VERSIONS},
        "recipe": recipe,
        "measured": {split: one for split, one in measured.items() if one["weights"] == weights},
    }
    write_facts(folder, [run])


def _known(folder: Path) -> list[dict[str, Any]]:
    """Return what a folder knows; nothing where that is damaged, because a finished training must not fail by it."""
    try:
        return read_facts(folder)
    except SohoError:
        return []


def _start_facts(start: str | None) -> dict[str, Any] | None:
    """Return what the folder that a run starts from knows of its own data, and of its start, and so on."""
    folder = Path(start) if start else None
    if folder is None or not folder.is_dir() or not (runs := _known(folder)):
        return None
    weights = weights_hash(folder)
    known = [run for run in runs if run["weights"] == weights]
    if len(known) != 1:
        return None
    told = {name: known[0].get(name) for name in ("task", "data", "training", "hub_starts", "start")}
    return {**told, "sources": known[0]["recipe"]["data"]["train"]}


def record_measurement(folder: Path, split: str, figures: Mapping[str, float], recipe: Mapping[str, Any]) -> bool:
    """Write the figures of `soho evaluate` into the model folder that was measured.

    Args:
        folder: the model folder.
        split: train, validation or test.
        figures: name -> figure, baselines included.
        recipe: the resolved recipe that measured it, as JSON values.

    Returns:
        Whether the folder knows of its making, without which there is nowhere to write.

    Raises:
        SohoError: see `read_facts`.
    """
    runs = read_facts(folder)
    if len(runs) != 1:
        return False
    now = portable_recipe(recipe)
    runs[0]["measured"][split] = {
        "figures": dict(figures),
        "weights": weights_hash(folder),
        "date": date.today().isoformat(),
        "sources": now["data"][split],
        "other_settings": [
            f"{key}={json.dumps(value)}"
            for key, value in _differences(runs[0]["recipe"], now)
            if not key.startswith(_OF_NO_MATTER)
        ],
    }
    write_facts(folder, runs)
    return True


def weights_hash(folder: Path) -> str:
    """Return the SHA-256 of a folder's weights.

    Raises:
        SohoError: it holds none in the safetensors format.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise SohoError(f"{folder} holds no weights; expected model.safetensors")
    total = hashlib.sha256()
    for path in files:
        with open(path, "rb") as stream:
            while part := stream.read(1 << 20):
                total.update(part)
    return total.hexdigest()


def file_of(source: Mapping[str, Any]) -> str:
    """Return the name of the file that lists the examples of a recipe's source.

    Of shards it is the end of their places: the last folder is mostly "train", so the one before it is told too.
    """
    if places := source.get("shards"):
        many = [places] if isinstance(places, str) else places
        return ", ".join(dict.fromkeys(_last_parts(str(place), 2) for place in many))
    return _last_parts(str(source.get("questions") or source.get("annotations") or "?"), 1)


def _last_parts(place: str, count: int) -> str:
    """Return the last parts of a path or address, without what stands for folders of the machine."""
    parts = [part for part in place.replace("\\", "/").split("/") if part not in ("", ".", "..", "~", "…", "{root}")]
    return "/".join(parts[-count:])


def portable_recipe(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Return a recipe without absolute paths: `{root}/...` below data.root, else the last name alone (of shards two).

    Args:
        recipe: a resolved recipe as JSON values.
    """
    root = (recipe.get("data") or {}).get("root")
    found: dict[str, Any] = _portable(dict(recipe), str(root).rstrip("/\\") if root else None)
    if root and _is_absolute(str(root)):
        found["data"]["root"] = "{root}"
    return found


def _portable(value: Any, root: str | None, names: int = 1) -> Any:
    if isinstance(value, Mapping):
        return {key: _portable(inner, root, 2 if key == "shards" else 1) for key, inner in value.items()}
    if isinstance(value, list):
        return [_portable(inner, root, names) for inner in value]
    if not isinstance(value, str) or not _is_absolute(value):
        return value
    if root and _is_absolute(root) and value.startswith((f"{root}/", f"{root}\\")):
        return "{root}/" + value[len(root) + 1 :]
    return "/".join(("…", *PureWindowsPath(value).parts[1:][-names:]))  # it knows both kinds of slashes


def _is_absolute(value: str) -> bool:
    return value.startswith("~") or PurePosixPath(value).is_absolute() or PureWindowsPath(value).is_absolute()


def _hub_starts(recipe: Mapping[str, Any]) -> list[str]:
    """Return the hub ids that the weights started from: "owner/name" that is no folder here.

    Args:
        recipe: as it was given: in a portable one a folder of the machine can look like an id.
    """
    named = [recipe["model"].get(key) for key in ("start", "text", "backbone")]
    return [one for one in named if one and one.count("/") == 1 and one[0] not in "./~{…" and not Path(one).exists()]


def _differences(before: Any, now: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for name in now:
            yield from _differences(before.get(name), now[name], f"{key}.{name}" if key else name)
    elif before != now:
        yield key, now
