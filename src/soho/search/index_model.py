"""The model behind an index: which can search, and how an index knows it again."""

from __future__ import annotations

from pathlib import Path

from soho.errors import SohoError
from soho.evaluation.pair_scoring import fingerprint_of
from soho.models.modeling_retrieval import SohoForImageTextRetrieval
from soho.pipelines import SohoPipeline
from soho.processing.image_processing_soho import SohoImageKwargs

# Of the files of an index.
FORMAT = "1"


def index_fingerprint(pipeline: SohoPipeline) -> str:
    """Return what names a model and how it reads pictures and texts: 32 hexadecimal digits.

    Raises:
        SohoError: the pipeline was sped up, so its weights are no longer those of the folder.
    """
    if pipeline.fast is not None:
        raise SohoError("an index needs the pipeline before `speed_up` (say fast=True to compute in those settings)")
    images, texts = pipeline.processor.image_processor, pipeline.processor.tokenizer
    picture = {name: getattr(images, name) for name in sorted(SohoImageKwargs.__annotations__)}
    return fingerprint_of(pipeline.model, picture, pipeline.processor.text_length, sorted(texts.get_vocab().items()))


def pipeline_of(model: str | Path | SohoPipeline, device: str, trust_remote_code: bool) -> SohoPipeline:
    """Return a pipeline that was given, or load that of a model folder; of several heads the one that scores pairs.

    The index knows its model by the weights of trunk and head, so one from a folder of its own and the same one joined
    with others are one model to it. Where no head scores pairs, `searcher` says so.
    """
    if isinstance(model, SohoPipeline):
        pipeline = model
    else:
        pipeline = SohoPipeline.from_pretrained(model, trust_remote_code, device)
    scores = any(isinstance(head, SohoForImageTextRetrieval) for head in (pipeline.model, *pipeline.heads))
    return pipeline.head("match") if scores else pipeline


def searcher(pipeline: SohoPipeline) -> SohoForImageTextRetrieval:
    """Return the model of a pipeline.

    Raises:
        SohoError: it scores no pairs, or has no contrastive head.
    """
    model, place = pipeline.model, pipeline.folder or "this model"
    if not isinstance(model, SohoForImageTextRetrieval):
        raise SohoError(f"{place} holds a {type(model).__name__}, which scores no pairs; expected a retrieval model")
    if model.contrast_head is None:
        raise SohoError(
            f"{place} has no contrastive head, which the first stage of a search needs; train it with "
            "model.config.itc_weight=1, or score pictures directly with SohoPipeline.search"
        )
    return model


def must_agree(folder: Path, settings: dict[str, str], fingerprint: str) -> None:
    """Refuse an index of another format or another model.

    Raises:
        SohoError: says what to do.
    """
    if settings.get("format") != FORMAT:
        raise SohoError(f"{folder} has format {settings.get('format')}, and this version reads {FORMAT}; make it anew")
    if settings["fingerprint"] != fingerprint:
        raise SohoError(
            f"{folder} was made with another model ({settings['model'] or 'given in Python'}, fingerprint "
            f"{settings['fingerprint'][:8]}) than this one ({fingerprint[:8]}); use that model, or make a new index "
            "of the pictures with `soho index` and another --out"
        )
