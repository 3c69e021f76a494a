"""SOHO: end-to-end vision-language pre-training with a visual dictionary (Huang et al., CVPR 2021)."""

from transformers import AutoImageProcessor, AutoProcessor

from soho.models import (
    SohoConfig,
    SohoForImageTextRetrieval,
    SohoForPreTraining,
    SohoForQuestionAnswering,
    SohoForVisualEntailment,
    SohoForVisualReasoning,
    SohoModel,
    SohoReleasedConfig,
    SohoReleasedForPreTraining,
    SohoReleasedModel,
)
from soho.pipelines import SohoPipeline, load
from soho.processing import SohoImageProcessor, SohoProcessor

__version__ = "0.1.0"

for _config in (SohoConfig, SohoReleasedConfig):
    AutoImageProcessor.register(_config, image_processor_classes={"pil": SohoImageProcessor}, exist_ok=True)
    AutoProcessor.register(_config, SohoProcessor, exist_ok=True)

__all__ = [
    "SohoConfig",
    "SohoForImageTextRetrieval",
    "SohoForPreTraining",
    "SohoForQuestionAnswering",
    "SohoForVisualEntailment",
    "SohoForVisualReasoning",
    "SohoImageProcessor",
    "SohoModel",
    "SohoPipeline",
    "SohoProcessor",
    "SohoReleasedConfig",
    "SohoReleasedForPreTraining",
    "SohoReleasedModel",
    "load",
]
