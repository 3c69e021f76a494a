"""The key lists of the official classes: names, shapes, types, what is trained, what is tied."""

from __future__ import annotations

import pytest
import torch

from soho.models import SohoForQuestionAnswering, SohoReleasedForPreTraining
from soho.models.released.checkpoint import ReleasedCheckpoint
from soho.models.released.conversion import config_of, parameter_names
from soho.models.released.keys import TIED_KEY, WORD_KEY
from tests.parity.official import COMMON, key_list

LISTS = [
    "official_r18_pretrain_keys.json",
    "official_r18_vqa_keys.json",
    "derived_r101_12l_pretrain_keys.json",
    "derived_r101_12l_vqa_keys.json",
]


@pytest.mark.parametrize("name", LISTS)
def test_a_model_has_exactly_the_listed_tensors(name: str) -> None:
    entries = {entry["key"]: entry for entry in key_list(name)}
    with torch.device("meta"):  # full size, but without memory
        tensors = {
            key: torch.empty(entry["shape"], dtype=getattr(torch, entry["dtype"])) for key, entry in entries.items()
        }
        config, _ = config_of(ReleasedCheckpoint(COMMON / name, tensors))
        model = (SohoReleasedForPreTraining if config.use_dictionary else SohoForQuestionAnswering)(config)
    names, state = parameter_names(model), model.state_dict()
    assert set(names) == set(entries)
    for key, entry in entries.items():
        assert list(state[names[key]].shape) == entry["shape"], key
        assert str(state[names[key]].dtype) == f"torch.{entry['dtype']}", key
    parameters = dict(model.named_parameters())
    trained = {key for key, ours in names.items() if ours in parameters and parameters[ours].requires_grad}
    # The second name of the tied matrix is no parameter of its own.
    wanted = {key for key, entry in entries.items() if entry.get("requires_grad") and key != TIED_KEY}
    assert trained - {TIED_KEY} == wanted
    assert {key for key, ours in names.items() if ours in parameters} - {TIED_KEY} == {
        key for key, entry in entries.items() if entry["kind"] == "parameter" and key != TIED_KEY
    }
    for entry in entries.values():
        if entry.get("tied_with"):
            assert {entry["key"], *entry["tied_with"]} == {TIED_KEY, WORD_KEY}
