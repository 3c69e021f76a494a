"""The network: configuration, visual encoder, visual dictionary, fusion Transformer, one class per task."""

from transformers import AutoConfig, AutoModel

from soho.models.configuration_soho import SohoConfig
from soho.models.modeling_soho import (
    SohoForImageTextRetrieval,
    SohoForPreTraining,
    SohoForQuestionAnswering,
    SohoModel,
    SohoPreTrainedModel,
)
from soho.models.visual_dictionary import VisualDictionary

AutoConfig.register(SohoConfig.model_type, SohoConfig, exist_ok=True)
AutoModel.register(SohoConfig, SohoModel, exist_ok=True)

__all__ = [
    "SohoConfig",
    "SohoForImageTextRetrieval",
    "SohoForPreTraining",
    "SohoForQuestionAnswering",
    "SohoModel",
    "SohoPreTrainedModel",
    "VisualDictionary",
]
