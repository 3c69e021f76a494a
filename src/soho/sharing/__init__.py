"""Passing a trained model on: what its folder says of itself, the model card, several heads in one folder, the hub."""

from soho.sharing.card import refresh_card, write_card
from soho.sharing.facts import record_measurement, record_training
from soho.sharing.hub import push_folder
from soho.sharing.joining import join_heads

__all__ = ["join_heads", "push_folder", "record_measurement", "record_training", "refresh_card", "write_card"]
