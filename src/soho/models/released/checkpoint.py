"""Reads a released checkpoint file: tensors and plain values only, never code."""

from __future__ import annotations

import hashlib
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from soho.errors import SohoError

# What a checkpoint may hold beside its weights, and why it is not read.
SPARE = {
    "meta": "epoch, versions and the text of the settings",
    "optimizer": "state of the optimizer; fine-tuning starts its own",
    "amp": "state of the mixed-precision loss scale",
}


@dataclass
class ReleasedCheckpoint:
    """The content of a checkpoint file.

    Attributes:
        path: of the file.
        tensors: released key, without `module.`, -> tensor on the CPU.
        settings: the text of the settings it was trained with, empty where the file has none.
        ignored: what was left unread on purpose -> why.
        notes: remarks for the report.
    """

    path: Path
    tensors: dict[str, Tensor]
    settings: str = ""
    ignored: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def read_checkpoint(path: Path) -> ReleasedCheckpoint:
    """Read a `.pth` file that the release's saver wrote.

    Raises:
        SohoError: the file is absent, cut off, corrupted, holds code, or something else than a checkpoint.
    """
    content = _load(path)
    if not isinstance(content, Mapping):
        raise SohoError(f"{path} holds a {type(content).__name__}; expected a checkpoint with a state_dict")
    checkpoint = ReleasedCheckpoint(path, {})
    weights: Any = content
    if "state_dict" in content:
        weights = content["state_dict"]
        unknown = sorted(str(key) for key in content if key not in SPARE and key != "state_dict")
        if unknown:
            raise SohoError(
                f"{path} has an entry {unknown[0]!r} beside state_dict; expected {', '.join(SPARE)} at most"
            )
        checkpoint.ignored = {key: SPARE[key] for key in content if key in SPARE}
        checkpoint.settings = _settings_text(content.get("meta"))
    if not isinstance(weights, Mapping) or not weights:
        raise SohoError(f"{path} has no state_dict with weights in it")
    prefixed = [str(key).startswith("module.") for key in weights]
    if any(prefixed) and not all(prefixed):
        odd = next(key for key, has in zip(weights, prefixed) if not has)
        raise SohoError(f"{path}: some keys start with 'module.' and {odd!r} does not; expected all or none")
    if all(prefixed):
        checkpoint.notes.append("every key started with 'module.', which is taken off")
    for key, value in weights.items():
        name = str(key).removeprefix("module.") if all(prefixed) else str(key)
        checkpoint.tensors[name] = _checked(path, name, value)
    if found := re.search(r"-([0-9a-f]{8})\.pth$", path.name):
        agrees = _sha256(path).startswith(found[1])
        word = "agrees" if agrees else "does NOT agree"
        checkpoint.notes.append(f"the hash in the file's name, {found[1]}, {word} with the file's SHA-256")
    return checkpoint


def _load(path: Path) -> Any:
    if not path.is_file():
        raise SohoError(f"{path} is not a file; expected a checkpoint (.pth)")
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                # torch reads the records without looking at their checksums.
                broken = archive.testzip()
            if broken is not None:
                raise SohoError(f"{path} is corrupted: the record {broken!r} does not fit its checksum; get it again")
        return torch.load(path, map_location="cpu", weights_only=True)
    except SohoError:
        raise
    except Exception as error:  # a damaged pickle can raise anything
        text = " ".join(str(error).split())
        if found := re.search(r"GLOBAL ([\w.]+)|add_safe_globals`?,? but got (?:<class ')?([\w.]+)", text):
            raise SohoError(
                f"{path} would run code when it is loaded ({found[1] or found[2]}); expected tensors and plain values "
                "only, so nothing of it was run or read"
            ) from None
        raise SohoError(
            f"{path} is no whole checkpoint: cut off, corrupted or of another kind ({type(error).__name__})"
        ) from None


def _checked(path: Path, key: str, value: Any) -> Tensor:
    if not isinstance(value, Tensor):
        raise SohoError(f"{path}: {key!r} is a {type(value).__name__}; expected a tensor")
    wanted = torch.int64 if key.endswith("num_batches_tracked") else torch.float32
    if value.dtype != wanted:
        raise SohoError(f"{path}: tensor {key!r} is {value.dtype}; expected {wanted}")
    if not bool(value.isfinite().all()):
        raise SohoError(f"{path}: tensor {key!r} holds values that are not finite; the file is damaged")
    return value.detach()


def _settings_text(meta: Any) -> str:
    config = meta.get("config") if isinstance(meta, Mapping) else None
    return config if isinstance(config, str) else ""


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
