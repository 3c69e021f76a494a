"""Pictures and texts to tensors: pure functions of a record and a random key; knows no model and no loop."""

from soho.processing.image_processing_soho import SohoImageProcessor
from soho.processing.pairing import CaptionIndex, draw_negatives, epoch_groups
from soho.processing.processing_soho import SohoProcessor, pad_rows
from soho.processing.text_masking import mask_tokens
from soho.processing.vocabulary import train_wordpiece

__all__ = [
    "CaptionIndex",
    "SohoImageProcessor",
    "SohoProcessor",
    "draw_negatives",
    "epoch_groups",
    "mask_tokens",
    "pad_rows",
    "train_wordpiece",
]
