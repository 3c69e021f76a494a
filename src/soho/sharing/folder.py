"""A model folder as the card and the hub see it: configuration, abilities, processor settings, facts."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from soho.errors import SohoError
from soho.models.configuration_soho import SohoConfig
from soho.models.initialization import read_config
from soho.pipelines.abilities import Ability, abilities_of
from soho.sharing.facts import read_facts, weights_hash


@dataclass(frozen=True)
class FolderView:
    """What a model folder says of itself.

    Attributes:
        config: the configuration.
        architectures: classes of its heads, as config.json names them.
        abilities: what they can do.
        processor: processor_config.json; empty where there is none.
        runs: what is known of the runs that made it (`soho.sharing.facts`), as far as it is about these weights.
    """

    config: SohoConfig
    architectures: tuple[str, ...]
    abilities: tuple[Ability, ...]
    processor: dict[str, Any]
    runs: list[dict[str, Any]]

    @property
    def title(self) -> str:
        """A name for the model: soho- and the tasks of its heads."""
        names = [run["task"] for run in self.runs] or [ability.task for ability in self.abilities] or ["trunk"]
        return f"soho-{'-'.join(names)}"


def view_folder(folder: Path) -> FolderView:
    """Read what a model folder says of itself; no weights are loaded.

    Raises:
        SohoError: it is no folder, or holds no SOHO model.
    """
    if not Path(folder).is_dir():
        raise SohoError(f"{folder} is not a folder; expected one that a SOHO run wrote (…/model)")
    if not (folder / "config.json").is_file():
        raise SohoError(f"{folder} holds no config.json; expected a folder that a SOHO run wrote (…/model)")
    config = read_config(str(folder))
    weights = weights_hash(folder)
    runs = [run for run in read_facts(folder) if run["weights"] == weights]
    for run in runs:
        run["measured"] = {split: one for split, one in run["measured"].items() if one["weights"] == weights}
    architectures = tuple(config.architectures or ())
    return FolderView(config, architectures, abilities_of(architectures), _processor_settings(folder), runs)


def _processor_settings(folder: Path) -> dict[str, Any]:
    path = folder / "processor_config.json"
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    except ValueError as error:
        raise SohoError(f"{path} cannot be read: {error}") from None
    return found
