"""Several heads on one trunk in one folder, where the trunks are the same to the last bit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from soho.errors import SohoError
from soho.folders import whole_folder
from soho.models.configuration_soho import SohoConfig
from soho.models.initialization import quiet_transformers
from soho.models.modeling_soho import SohoPreTrainedModel
from soho.pipelines.abilities import PREDICTORS
from soho.pipelines.reading import read_folder
from soho.processing.processing_soho import SohoProcessor
from soho.sharing.card import write_card
from soho.sharing.facts import weights_hash, write_facts
from soho.sharing.folder import view_folder

# Fields of the configuration that belong to one head; all others must agree.
HEAD_FIELDS = ("answers", "architectures", "_name_or_path", "transformers_version", "dtype")


def join_heads(folders: Sequence[Path], out: Path, trust_remote_code: bool = False) -> list[str]:
    """Write a folder with the heads of several model folders on their common trunk.

    Heads fit one trunk only if it was not trained with them: fine-tune each with `training.frozen=[soho]` and
    `training.freeze_backbone_epochs=-1` from the same start.

    Args:
        folders: model folders, each with one head.
        out: a new folder.
        trust_remote_code: let the folders' own CNN code run.

    Returns:
        The classes of the heads.

    Raises:
        SohoError: fewer than two folders, two with the same head, trunks, configurations or processors that differ,
            or `out` is there already.
    """
    if len(folders) < 2:
        raise SohoError("one folder has nothing to be joined with; name at least two")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise SohoError(f"{out} is there already; name a new folder")
    views = [view_folder(folder) for folder in folders]
    for folder, view in zip(folders, views):
        if len(view.abilities) != 1 or PREDICTORS[view.architectures[0]].__name__ != view.architectures[0]:
            kinds = ", ".join(view.architectures) or "no head"
            raise SohoError(f"{folder} holds {kinds}; expected one head of retrieval, vqa, nlvr2 or snli_ve")
        _same_settings(folders[0], views[0].config, folder, view.config)
    names = [view.architectures[0] for view in views]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise SohoError(f"two of the folders hold a {twice}; a folder has one head of each kind")
    model, processor = _read(folders[0], trust_remote_code)
    tensors = dict(model.state_dict())
    for folder in folders[1:]:
        other, words = _read(folder, trust_remote_code)
        _same_trunk(folders[0], model, folder, other)
        if words.to_dict() != processor.to_dict() or words.tokenizer.get_vocab() != processor.tokenizer.get_vocab():
            raise SohoError(f"{folders[0]} and {folder} have different processors; heads of one trunk read alike")
        tensors |= {name: value for name, value in other.state_dict().items() if not _of_trunk(name, model)}
    answers = next((view.config.answers for view in views if view.config.answers), [])
    with whole_folder(out) as new, quiet_transformers():
        model.config.answers = answers
        model.save_pretrained(new, state_dict=tensors)
        config = model.config
        config.architectures = names
        config.save_pretrained(new)
        processor.save_pretrained(new)
        weights = weights_hash(new)
        runs = [run for view in views for run in view.runs]
        for run in runs:  # the figures hold: neither trunk nor head has changed
            run["weights"] = weights
            run["measured"] = {split: {**one, "weights": weights} for split, one in run["measured"].items()}
        if len(runs) == len(views):
            write_facts(new, runs)
        write_card(new)
    return names


def _read(folder: Path, trust_remote_code: bool) -> tuple[SohoPreTrainedModel, SohoProcessor]:
    models, processor = read_folder(folder, trust_remote_code)
    return models[0], processor


def _of_trunk(name: str, model: SohoPreTrainedModel) -> bool:
    return name.startswith(f"{model.base_model_prefix}.")


def _same_settings(first: Path, ours: SohoConfig, second: Path, theirs: SohoConfig) -> None:
    left, right = ours.to_dict(), theirs.to_dict()
    for name in sorted(left.keys() | right.keys()):
        if name not in HEAD_FIELDS and left.get(name) != right.get(name):
            raise SohoError(
                f"{first} and {second} have different configurations: {name} is {left.get(name)!r} and "
                f"{right.get(name)!r}"
            )


def _same_trunk(first: Path, model: SohoPreTrainedModel, second: Path, other: SohoPreTrainedModel) -> None:
    ours: dict[str, Tensor] = model.trunk.state_dict()
    theirs: dict[str, Tensor] = other.trunk.state_dict()
    differing = [name for name in ours if name not in theirs or not torch.equal(ours[name], theirs[name])] + sorted(
        theirs.keys() - ours.keys()
    )
    if differing:
        some = ", ".join(differing[:3]) + (", ..." if len(differing) > 3 else "")
        raise SohoError(
            f"the trunks of {first} and {second} differ in {len(differing)} of {len(ours)} tensors ({some}): each was "
            "trained with its head; join heads that were fine-tuned on a frozen trunk (docs/share.md), or serve the "
            "folders side by side"
        )
