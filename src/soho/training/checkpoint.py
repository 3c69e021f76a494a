"""Checkpoints of a run: complete, written atomically, the newest few kept.

A checkpoint is a folder `checkpoints/step-00000100` with `state.pt` (weights and buffers, optimizers, gradient
scaler, the random states of every process) and `progress.json` (step, position in the data, settings, the running
averages of the log). It is written under a temporary name, flushed to the disk and only then renamed, so a folder
with its final name is always whole.
"""

from __future__ import annotations

import json
import os
import pickle
import random
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from soho.errors import SohoError

FOLDER = "checkpoints"
_NAME = re.compile(r"^step-(\d+)$")
_PARTIAL = ".partial-"


def checkpoint_folder(output: Path, step: int) -> Path:
    """Return where the checkpoint of a step lies."""
    return output / FOLDER / f"step-{step:08d}"


def list_checkpoints(output: Path) -> list[Path]:
    """Return the complete checkpoints of a run, oldest first."""
    folder = output / FOLDER
    if not folder.is_dir():
        return []
    found = [(int(match[1]), path) for path in folder.iterdir() if (match := _NAME.match(path.name))]
    return [path for _, path in sorted(found)]


def remove_partial(output: Path) -> list[Path]:
    """Delete what an interrupted write left behind; return the folders deleted."""
    left = sorted((output / FOLDER).glob(f"{_PARTIAL}*"))
    for path in left:
        shutil.rmtree(path)
    return left


def save_checkpoint(output: Path, step: int, state: Mapping[str, Any], progress: Mapping[str, Any], keep: int) -> Path:
    """Write a checkpoint so that a kill at any moment leaves either the old state of the disk or the new one.

    Only one process calls this.

    Args:
        output: folder of the run.
        step: optimizer steps done.
        state: tensors, numbers, texts and containers of them.
        progress: JSON values.
        keep: how many of the newest checkpoints stay.

    Returns:
        The folder; one that exists already is whole and of the same step, and stays as it is.

    Raises:
        SohoError: the disk is full or not writable.
    """
    final = checkpoint_folder(output, step)
    partial = final.with_name(_PARTIAL + final.name)
    if final.exists():
        return final
    try:
        if partial.exists():
            shutil.rmtree(partial)
        partial.mkdir(parents=True)
        with open(partial / "state.pt", "wb") as file:
            torch.save(dict(state), file)
            os.fsync(file.fileno())
        with open(partial / "progress.json", "w", encoding="utf-8") as text:
            json.dump(dict(progress), text, indent=1)
            text.flush()
            os.fsync(text.fileno())
        _folder_to_disk(partial)
        os.rename(partial, final)
        _folder_to_disk(final.parent)
    except OSError as error:
        raise SohoError(f"the checkpoint {final} cannot be written: {error.strerror or error}") from error
    for old in list_checkpoints(output)[:-keep]:
        shutil.rmtree(old)
    return final


def load_progress(checkpoint: Path) -> dict[str, Any]:
    """Read how far a checkpoint is.

    Raises:
        SohoError: it cannot be read.
    """
    try:
        progress = json.loads((checkpoint / "progress.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _unreadable(checkpoint, error) from error
    assert isinstance(progress, dict)
    return progress


def load_state(checkpoint: Path) -> dict[str, Any]:
    """Read the tensors of a checkpoint onto the CPU, without running any code stored in it.

    Raises:
        SohoError: it cannot be read.
    """
    try:
        state = torch.load(checkpoint / "state.pt", map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise _unreadable(checkpoint, error) from error
    assert isinstance(state, dict)
    return state


def random_state() -> dict[str, Any]:
    """Return the state of every random generator of this process, in types that load without pickled code."""
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    words = torch.from_numpy(np.asarray(keys).astype(np.int64))
    state = {
        "python": random.getstate(),
        "numpy": (str(name), words, int(position), int(has_gauss), float(cached)),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    if torch.backends.mps.is_available():
        state["mps"] = torch.mps.get_rng_state()
    return state


def set_random_state(state: Mapping[str, Any]) -> None:
    """Put every random generator of this process back to a state from `random_state`."""
    random.setstate(state["python"])
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state["torch"].cpu())
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"].cpu())
    if "mps" in state and torch.backends.mps.is_available():
        torch.mps.set_rng_state(state["mps"].cpu())


def write_text_atomically(path: Path, text: str) -> None:
    """Write a small file so that a reader sees the old content or the new, never a part."""
    partial = path.with_name(f"{_PARTIAL}{os.getpid()}-{path.name}")  # another process may write the same file
    with open(partial, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)
    _folder_to_disk(path.parent)


def _unreadable(checkpoint: Path, error: Exception) -> SohoError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return SohoError(
        f"the checkpoint {checkpoint} cannot be read ({reason}); delete this folder to continue from the one before it"
    )


def _folder_to_disk(folder: Path) -> None:
    # A rename is only safe once the folder that holds the name is on the disk too.
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
