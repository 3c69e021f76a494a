"""Reading a model folder or a hub id: every head that it holds, and its processor."""

from __future__ import annotations

from pathlib import Path

from transformers import AutoConfig

from soho.errors import SohoError
from soho.models.initialization import load_model
from soho.models.modeling_soho import SohoPreTrainedModel
from soho.pipelines.abilities import PREDICTORS, abilities_of, chosen_ability
from soho.processing.processing_soho import SohoProcessor

PREDICTING_HEADS = ("match_head", "answer_head", "reasoning_head", "entailment_head")


def read_folder(
    folder: str | Path, trust_remote_code: bool, task: str | None = None
) -> tuple[list[SohoPreTrainedModel], SohoProcessor]:
    """Load what a folder holds.

    Args:
        folder: what a SOHO run wrote, or "owner/name" on the Hugging Face hub.
        trust_remote_code: let the folder's own CNN code run.
        task: only the head of this one; None: all heads.

    Returns:
        A model for each head, in the order in which config.json names them, and the processor.

    Raises:
        SohoError: the folder holds no SOHO model, one without (this) task head, or no processor.
    """
    there = Path(folder).is_dir()
    if not there and not _is_hub_id(str(folder)):
        raise SohoError(f"{folder} is not a folder; expected one that a SOHO run wrote (…/model), or a hub id")
    try:
        kinds = AutoConfig.from_pretrained(folder).architectures or ["none"]
    except (OSError, ValueError) as error:
        if not there:
            raise SohoError(
                f"{folder} is neither a folder that a SOHO run wrote (…/model) nor a model that the Hugging Face hub "
                f"shows: {' '.join(str(error).split())[:150]}"
            ) from None
        below = Path(folder) / "model"
        if (below / "config.json").is_file():
            raise SohoError(f"{folder} is the output of a run; its model is {below}") from None
        raise SohoError(f"{folder} holds no model configuration: {' '.join(str(error).split())[:150]}") from None
    offered = abilities_of(kinds)
    if not offered:
        raise SohoError(f"{folder} holds a {kinds[0]}, which cannot predict; expected one of {', '.join(PREDICTORS)}")
    if task is not None:
        offered = (chosen_ability(task, offered, str(folder)),)
    # A head that config.json promises but the weights lack would start at random.
    models = []
    for ability in offered:
        model, report = load_model(ability.model_class, str(folder), trust_remote_code=trust_remote_code)
        missing = [head for head in PREDICTING_HEADS if head in report.initialised]
        if missing:
            raise SohoError(f"{folder} says that it {ability.does}, but its weights hold no {missing[0]}")
        models.append(model)
    try:
        processor = SohoProcessor.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise SohoError(f"{folder} holds no tokenizer or picture settings: {str(error).splitlines()[0]}") from None
    return models, processor


def _is_hub_id(name: str) -> bool:
    """Say whether a name is one of the hub: exactly "owner/name".

    Anything deeper is a folder that is not there, and so is "runs/name" where a folder `runs` is.
    """
    local = Path(name).is_absolute() or name.startswith((".", "~")) or Path(name).parent.is_dir()
    return name.count("/") == 1 and not local
