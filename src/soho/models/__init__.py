"""The network: configuration, visual encoder, visual dictionary, fusion Transformer, one class per task."""

from transformers import AutoConfig, AutoModel, AutoModelForPreTraining, AutoModelForVisualQuestionAnswering

from soho.models.configuration_soho import SohoConfig
from soho.models.modeling_pretraining import SohoForPreTraining
from soho.models.modeling_question_answering import SohoForQuestionAnswering
from soho.models.modeling_retrieval import SohoForImageTextRetrieval
from soho.models.modeling_soho import SohoModel, SohoPreTrainedModel
from soho.models.modeling_visual_entailment import SohoForVisualEntailment
from soho.models.modeling_visual_reasoning import SohoForVisualReasoning
from soho.models.released import SohoReleasedConfig, SohoReleasedForPreTraining, SohoReleasedModel
from soho.models.visual_dictionary import VisualDictionary

AutoConfig.register(SohoConfig.model_type, SohoConfig, exist_ok=True)
AutoModel.register(SohoConfig, SohoModel, exist_ok=True)
AutoModelForPreTraining.register(SohoConfig, SohoForPreTraining, exist_ok=True)
AutoModelForVisualQuestionAnswering.register(SohoConfig, SohoForQuestionAnswering, exist_ok=True)

__all__ = [
    "SohoConfig",
    "SohoForImageTextRetrieval",
    "SohoForPreTraining",
    "SohoForQuestionAnswering",
    "SohoForVisualEntailment",
    "SohoForVisualReasoning",
    "SohoModel",
    "SohoPreTrainedModel",
    "SohoReleasedConfig",
    "SohoReleasedForPreTraining",
    "SohoReleasedModel",
    "VisualDictionary",
]
