"""The models of a server: found in folders, one for each verb, loaded once."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from soho.errors import SohoError
from soho.pipelines import SohoPipeline
from soho.serving.verbs import VERBS, verbs_of

CONFIG = "config.json"
# What a folder of runs may hold beside its models; the demonstration makes both.
INDEX, EXAMPLES = "index", "examples.json"


@dataclass(frozen=True)
class ModelFolder:
    """A model folder that was found.

    Attributes:
        path: of it.
        verbs: what it can be asked.
        pretraining: whether it is a pre-training model, which matches too but less well than a retrieval model.
        named: whether the user named it himself, and not a folder above.
    """

    path: Path
    verbs: tuple[str, ...]
    pretraining: bool
    named: bool


def find_models(places: Sequence[Path]) -> list[ModelFolder]:
    """Find the model folders that places name.

    Args:
        places: each a model folder, the output of a run (`model` lies in it), or a folder with such outputs in it.

    Raises:
        SohoError: a place is not a folder, or there is no SOHO model in it.
    """
    found: list[ModelFolder] = []
    for place in places:
        if not place.is_dir():
            raise SohoError(f"{place} is not a folder; expected one that a SOHO run wrote, or a folder of such runs")
        own = [folder for folder in (place, place / "model") if (folder / CONFIG).is_file()][:1]
        below = sorted(path.parent for path in place.glob(f"*/model/{CONFIG}")) if not own else []
        models = [model for folder in own or below if (model := _look_at(folder, bool(own))) is not None]
        if not models:
            raise SohoError(
                f"{place} holds no SOHO model; expected a model folder, the output of a run, or a folder of runs"
            )
        found += models
    return found


def _look_at(folder: Path, named: bool) -> ModelFolder | None:
    try:
        kinds = json.loads((folder / CONFIG).read_text(encoding="utf-8")).get("architectures") or []
    except (OSError, ValueError, AttributeError) as error:
        raise SohoError(f"{folder / CONFIG} cannot be read ({error}); expected a model's configuration") from None
    verbs = verbs_of(kinds)
    return ModelFolder(folder, verbs, "PreTraining" in kinds[0], named) if verbs else None


def beside(places: Sequence[Path], name: str) -> Path | None:
    """Return what lies under a name in the first place that has it: the index or the examples of a folder of runs."""
    return next((place / name for place in places if (place / name).exists()), None)


class Shelf:
    """The models of a server.

    Args:
        found: folders; of several for one verb the first is taken, a retrieval model before a pre-training model.
        fast: answer in the fastest settings of the device; looking inside stays in float32.
        device: where the models compute.
        trust_remote_code: let a model folder's own CNN code run.

    Attributes:
        folders: verb -> its folder.
        left_out: folders whose verbs others have; only among those that were found below a folder of runs.
        exact: folder -> pipeline in float32.
        quick: folder -> pipeline that answers; the same one where `fast` is off.
        codes: the pipeline whose visual dictionary is shown, None where no model has one.

    Raises:
        SohoError: a folder that the user named has nothing to do, or a model cannot be loaded.
    """

    def __init__(
        self,
        found: Sequence[ModelFolder],
        fast: bool = False,
        device: str = "cpu",
        trust_remote_code: bool = False,
    ) -> None:
        self.folders: dict[str, ModelFolder] = {}
        for verb in VERBS:
            able = sorted((one for one in found if verb in one.verbs), key=lambda one: one.pretraining)
            if able:
                self.folders[verb] = able[0]
        chosen = {one.path: one for one in self.folders.values()}
        # A pre-training model is worth loading for its dictionary: fusion of the others does not read the codes.
        chosen |= {one.path: one for one in [one for one in found if one.pretraining][:1]}
        self.left_out = [one.path for one in found if one.path not in chosen]
        for one in found:
            if one.named and one.path not in chosen:
                rival = next(taken.path for taken in chosen.values() if set(one.verbs) & set(taken.verbs))
                raise SohoError(f"{one.path} and {rival} are models for the same task; give one folder a task")
        self.exact = {path: SohoPipeline.from_pretrained(path, trust_remote_code, device) for path in chosen}
        self.quick = {
            one.path: _sped_up(self.exact[one.path], device) if fast else self.exact[one.path]
            for one in self.folders.values()
        }
        with_codes = [one for one in chosen.values() if self.exact[one.path].model.trunk.visual_dictionary is not None]
        with_codes.sort(key=lambda one: not one.pretraining)
        self.codes = self.exact[with_codes[0].path] if with_codes else None

    def of(self, verb: str, exact: bool = False) -> SohoPipeline | None:
        """Return the pipeline for a verb, None where there is none."""
        folder = self.folders.get(verb)
        return None if folder is None else (self.exact if exact else self.quick)[folder.path]

    def lines(self) -> list[str]:
        """Return which folder does what, for a console."""
        said = [f"{verb}: {folder.path}" for verb, folder in self.folders.items()]
        said += [f"codes: {path}" for path, pipeline in self.exact.items() if pipeline is self.codes]
        if self.left_out:
            said.append(f"left out, other models have their tasks: {', '.join(map(str, self.left_out))}")
        return said


def _sped_up(exact: SohoPipeline, device: str) -> SohoPipeline:
    return SohoPipeline(exact.model, exact.processor, device, exact.heads).speed_up()
