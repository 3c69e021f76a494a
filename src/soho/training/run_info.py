"""Saves with every run what is needed to repeat it: the resolved recipe, the versions, the command."""

from __future__ import annotations

import json
import platform
import shlex
import subprocess
import sys
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
import yaml
from accelerate import Accelerator

from soho.errors import SohoError
from soho.training.checkpoint import list_checkpoints, write_text_atomically
from soho.training.recipe import LENGTHS, Recipe, resume_differences

RECIPE_NAME = "recipe.yaml"
VERSIONS_NAME = "versions.json"


def save_run_info(output: Path, recipe: Recipe, accelerator: Accelerator) -> None:
    """Write `recipe.yaml` and `versions.json` into the folder of a run; every process calls it.

    Args:
        output: folder of the run.
        recipe: the resolved recipe.
        accelerator: names the device and the number of processes.

    Raises:
        SohoError: the folder holds checkpoints of a recipe that trains differently; the differing keys are named.
    """
    check_same_recipe(output, recipe)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        output.mkdir(parents=True, exist_ok=True)
        write_text_atomically(output / RECIPE_NAME, recipe.to_yaml())
        starts = [*_earlier_starts(output), describe_start(accelerator)]
        write_text_atomically(output / VERSIONS_NAME, json.dumps(starts, indent=1) + "\n")
    accelerator.wait_for_everyone()


def check_output(output: Path) -> None:
    """Refuse an `output` that cannot be a run's folder.

    Raises:
        SohoError: it is a file.
    """
    if output.exists() and not output.is_dir():
        raise SohoError(f"output={output} is a file; expected a folder for the run, which is made where it is missing")


def check_same_recipe(output: Path, recipe: Recipe) -> None:
    """Refuse to continue a run with a recipe that trains differently.

    Raises:
        SohoError: `output` is a file, or holds checkpoints and its `recipe.yaml` differs in more than
            `recipe.FREE_TO_CHANGE`.
    """
    check_output(output)
    stored = output / RECIPE_NAME
    if not list_checkpoints(output) or not stored.exists():
        return
    before = yaml.safe_load(stored.read_text(encoding="utf-8"))
    keys = resume_differences(before, recipe.model_dump(mode="json"))
    if keys:
        raise different_settings(output, keys)


def different_settings(output: Path, keys: list[str]) -> SohoError:
    """Return the error for a run that cannot continue because `keys` changed."""
    why = ""
    if any(key in LENGTHS for key in keys):
        why = " (a cosine or linear schedule ends at the last step, so the rates of the steps done would have differed)"
    return SohoError(
        f"{output} holds a run with other values of {', '.join(keys)}{why}; "
        "take these back to continue it, or choose another output"
    )


def describe_start(accelerator: Accelerator) -> dict[str, Any]:
    """Return versions, command, processes, device and time of one start of a run, as JSON values."""
    device = accelerator.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": shlex.join(sys.argv),
        "world_size": accelerator.num_processes,
        "device": f"{device.type} ({name})",
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "soho": _version("soho-vlp"),
        "torch": torch.__version__,
        "transformers": _version("transformers"),
        "accelerate": _version("accelerate"),
        "git_commit": git_commit(),
    }


def git_commit() -> str | None:
    """Return the commit of this package's source, with "+changes" where files differ; None outside a repository."""
    here = Path(__file__).resolve()

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(here.parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        # An environment inside somebody's repository is not that repository's source.
        git("ls-files", "--error-unmatch", here.name)
        changed = "+changes" if git("status", "--porcelain", "--untracked-files=no") else ""
        return git("rev-parse", "HEAD") + changed
    except (OSError, subprocess.SubprocessError):
        return None


def _earlier_starts(output: Path) -> list[dict[str, Any]]:
    path = output / VERSIONS_NAME
    if not path.exists() or not list_checkpoints(output):
        return []
    starts = json.loads(path.read_text(encoding="utf-8"))
    assert isinstance(starts, list)
    return starts


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
