"""One call: a picture (or two, or a list) and a text in; match scores, answers or judgements out."""

from soho.pipelines.abilities import ABILITIES, PREDICTORS, TASK_NAMES, Ability, abilities_of
from soho.pipelines.pictures import Picture, Pictures, Texts, open_picture
from soho.pipelines.pipeline import SohoPipeline, load
from soho.pipelines.predictions import Hit, Prediction, as_document

__all__ = [
    "ABILITIES",
    "PREDICTORS",
    "TASK_NAMES",
    "Ability",
    "Hit",
    "Picture",
    "Pictures",
    "Prediction",
    "SohoPipeline",
    "Texts",
    "abilities_of",
    "as_document",
    "load",
    "open_picture",
]
