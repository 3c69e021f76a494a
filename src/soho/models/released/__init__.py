"""The wiring of the code released in 2021, for the weights that were trained with it.

Everything that only those weights need is here; what both wirings share (text embedding, fusion Transformer, position
code, losses, task heads) is imported from `soho.models`. `docs/deviations.md` lists how the two differ.
"""

from transformers import (
    MODEL_FOR_VISUAL_QUESTION_ANSWERING_MAPPING,
    AutoConfig,
    AutoModel,
    AutoModelForPreTraining,
)

from soho.models.modeling_question_answering import SohoForQuestionAnswering
from soho.models.released.configuration_released import SohoReleasedConfig
from soho.models.released.modeling_released import SohoReleasedModel
from soho.models.released.modeling_released_pretraining import SohoReleasedForPreTraining

AutoConfig.register(SohoReleasedConfig.model_type, SohoReleasedConfig, exist_ok=True)
AutoModel.register(SohoReleasedConfig, SohoReleasedModel, exist_ok=True)
AutoModelForPreTraining.register(SohoReleasedConfig, SohoReleasedForPreTraining, exist_ok=True)
# Not by the Auto class, which wants one configuration class a model: this model serves both wirings.
MODEL_FOR_VISUAL_QUESTION_ANSWERING_MAPPING.register(SohoReleasedConfig, SohoForQuestionAnswering, exist_ok=True)

__all__ = ["SohoReleasedConfig", "SohoReleasedForPreTraining", "SohoReleasedModel"]
