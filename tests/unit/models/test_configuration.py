"""What `SohoConfig` refuses, and how it says so."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest

from soho.errors import SohoError
from soho.models import SohoConfig
from soho.models.configuration_soho import check_config_fields
from tests.unit.models.tiny import tiny_config


def test_defaults_are_the_papers_r101_and_twelve_layers() -> None:
    config = SohoConfig()
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (768, 12, 12)
    assert (config.intermediate_size, config.vocab_size, config.dictionary_size) == (3072, 30522, 2048)
    assert config.visual_backbone is not None
    assert config.visual_backbone["depths"] == [3, 4, 23, 3]
    assert (config.mlm_weight, config.mvm_weight, config.itm_weight) == (1.0, 1.0, 1.0)
    assert config.dictionary_revive_after is None
    assert config.mvm_max_masked_share == 0.5


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_attention_heads": 3}, ["num_attention_heads=3", "hidden_size=16"]),
        ({"hidden_size": 18}, ["hidden_size=18", "multiple of 4"]),
        ({"hidden_size": 0}, ["hidden_size=0"]),
        ({"num_attention_heads": 0}, ["num_attention_heads=0"]),
        ({"num_hidden_layers": 0}, ["num_hidden_layers=0"]),
        ({"dictionary_size": "2048"}, ["dictionary_size='2048'", "whole number"]),
        ({"dictionary_momentum": 1.5}, ["dictionary_momentum=1.5", "[0, 1]"]),
        ({"mvm_max_masked_share": "half"}, ["mvm_max_masked_share='half'"]),
        ({"hidden_dropout_prob": -0.1}, ["hidden_dropout_prob=-0.1"]),
        ({"visual_feature_norm": "batch"}, ["visual_feature_norm='batch'", "layer, none"]),
        ({"visual_input": "pixels"}, ["visual_input='pixels'", "dictionary, features"]),
        ({"mask_token_id": 40}, ["mask_token_id=40", "vocab_size=40"]),
    ],
)
def test_wrong_values_name_the_field(changes: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(SohoError) as caught:
        tiny_config(**changes)
    message = str(caught.value)
    assert all(word in message for word in words), message
    assert "\n" not in message


def test_no_dictionary_means_features() -> None:
    assert tiny_config(use_dictionary=False).visual_input == "features"
    assert tiny_config().visual_input == "dictionary"


def test_unknown_field_names_the_nearest() -> None:
    with pytest.raises(SohoError) as caught:
        check_config_fields(["hidden_size", "dictionary_sise"])
    assert "'model.config.dictionary_sise'" in str(caught.value)
    assert "'model.config.dictionary_size'" in str(caught.value)


def test_every_documented_field_is_known() -> None:
    names = [name for name in inspect.signature(SohoConfig.__init__).parameters if name not in ("self", "kwargs")]
    assert len(names) > 30
    check_config_fields(names)
    documentation = SohoConfig.__doc__ or ""
    assert [name for name in names if f"        {name}: " not in documentation] == []


def test_round_trip_through_a_file(tmp_path: Path) -> None:
    config = tiny_config(
        dictionary_revive_after=7,
        visual_input="features",
        answers=["yes", "no"],
        backbone_factory="soho.models.backbones:efficientnet_lite0",
        mlm_weight=0.5,
    )
    config.save_pretrained(tmp_path)
    again = SohoConfig.from_pretrained(tmp_path)
    saved, loaded = config.to_dict(), again.to_dict()
    assert {k: v for k, v in loaded.items() if k != "transformers_version"} == {
        k: v for k, v in saved.items() if k != "transformers_version"
    }
    assert again.visual_backbone is None
    assert again.answers == ["yes", "no"]
