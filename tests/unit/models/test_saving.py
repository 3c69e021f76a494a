"""Model folders: round trips for every class, the Auto classes, tied weights, factories from elsewhere."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModel

from soho.errors import SohoError
from soho.models import (
    SohoConfig,
    SohoForImageTextRetrieval,
    SohoForPreTraining,
    SohoForQuestionAnswering,
    SohoForVisualEntailment,
    SohoForVisualReasoning,
    SohoModel,
    SohoPreTrainedModel,
)
from soho.models.initialization import load_model, new_model, quiet_transformers
from tests.unit.models.tiny import change_weights, picture_batch, second_pictures, stirred, tiny_config

CLASSES: list[type[SohoPreTrainedModel]] = [
    SohoModel,
    SohoForPreTraining,
    SohoForImageTextRetrieval,
    SohoForQuestionAnswering,
    SohoForVisualReasoning,
    SohoForVisualEntailment,
]


def build(model_class: type[SohoPreTrainedModel], **changes: Any) -> SohoPreTrainedModel:
    torch.manual_seed(0)
    model: SohoPreTrainedModel = stirred(model_class(tiny_config(answers=["yes", "no", "two"], **changes)))
    model.eval()
    dictionary = model.trunk.visual_dictionary
    if dictionary is not None:
        dictionary.updates.fill_(12)
        dictionary.idle.copy_(torch.arange(8))
        dictionary.usage.copy_(torch.arange(8) / 28)
    return model


def first_output(model: SohoPreTrainedModel) -> torch.Tensor:
    batch = picture_batch(2)
    if isinstance(model, SohoForVisualReasoning):
        batch |= second_pictures(2)
    with torch.no_grad():
        result = model(**batch)
    return result.last_hidden_state if isinstance(model, SohoModel) else result.logits


@pytest.mark.parametrize("model_class", CLASSES)
def test_round_trip(model_class: type[SohoPreTrainedModel], tmp_path: Path) -> None:
    model = build(model_class)
    model.save_pretrained(tmp_path)
    with quiet_transformers():
        again = model_class.from_pretrained(tmp_path)
    assert not again.training
    ours, theirs = model.state_dict(), again.state_dict()
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert torch.equal(theirs[name], value), name
    assert torch.equal(first_output(again), first_output(model))
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".json", ".safetensors"]


def test_dictionary_counters_are_saved_as_whole_numbers(tmp_path: Path) -> None:
    build(SohoModel).save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    assert tensors["visual_dictionary.updates"].item() == 12
    assert tensors["visual_dictionary.idle"].dtype == torch.int64
    assert {name for name in tensors if "dictionary" in name} == {
        f"visual_dictionary.{name}" for name in ("codes", "idle", "usage", "updates")
    }


@pytest.mark.parametrize("model_class", CLASSES)
def test_auto_classes(model_class: type[SohoPreTrainedModel], tmp_path: Path) -> None:
    model = build(model_class)
    model.save_pretrained(tmp_path)
    assert type(AutoConfig.from_pretrained(tmp_path)) is SohoConfig
    with quiet_transformers():
        trunk = AutoModel.from_pretrained(tmp_path)
    assert type(trunk) is SohoModel
    for name, value in model.trunk.state_dict().items():
        assert torch.equal(trunk.state_dict()[name], value), name


def test_mlm_weight_is_the_word_embedding_stored_once(tmp_path: Path) -> None:
    model = build(SohoForPreTraining)
    assert isinstance(model, SohoForPreTraining)
    assert model.mlm_head.decoder.weight is model.soho.embeddings.word_embeddings.weight
    assert model.get_input_embeddings() is model.soho.embeddings.word_embeddings
    assert model.get_output_embeddings() is model.mlm_head.decoder
    model.save_pretrained(tmp_path)
    names = set(load_file(tmp_path / "model.safetensors"))
    assert "soho.embeddings.word_embeddings.weight" in names
    assert "mlm_head.decoder.weight" not in names
    assert "mlm_head.decoder.bias" in names
    with quiet_transformers():
        again = SohoForPreTraining.from_pretrained(tmp_path)
    assert again.mlm_head.decoder.weight is again.soho.embeddings.word_embeddings.weight
    with torch.no_grad():
        again.soho.embeddings.word_embeddings.weight.fill_(3.0)
    assert again.mlm_head.decoder.weight.eq(3.0).all()


def test_another_tasks_folder_gives_the_trunk_and_says_which_heads_are_new(tmp_path: Path) -> None:
    pretrained = build(SohoForPreTraining)
    pretrained.save_pretrained(tmp_path / "pretraining")
    source = str(tmp_path / "pretraining")
    model, report = load_model(
        SohoForQuestionAnswering, source, answers=["a", "b", "c", "d", "e"], visual_input="features"
    )
    assert isinstance(model, SohoForQuestionAnswering)
    assert model.config.visual_input == "features"
    assert model.answer_head[-1].out_features == 5
    for name, value in pretrained.trunk.state_dict().items():
        assert torch.equal(model.soho.state_dict()[name], value), name
    assert set(report.initialised) == {"answer_head"}
    assert set(report.left_over) == {"match_head", "mlm_head", "mvm_head"}
    assert report.loaded["model"] == (source, len(model.soho.state_dict()))
    # The heads that both have come along.
    retrieval, report = load_model(SohoForImageTextRetrieval, source)
    assert isinstance(pretrained, SohoForPreTraining)
    assert isinstance(retrieval, SohoForImageTextRetrieval)
    assert torch.equal(retrieval.match_head.weight, pretrained.match_head.weight)
    assert report.initialised == {}


@pytest.mark.parametrize(
    ("model_class", "head"),
    [(SohoForVisualReasoning, "reasoning_head"), (SohoForVisualEntailment, "entailment_head")],
)
def test_pre_training_starts_the_classifiers_of_two_tasks_and_back(
    model_class: type[SohoPreTrainedModel], head: str, tmp_path: Path
) -> None:
    build(SohoForPreTraining).save_pretrained(tmp_path / "pretraining")
    model, report = load_model(model_class, str(tmp_path / "pretraining"), visual_input="features")
    assert set(report.initialised) == {head}
    assert set(report.left_over) == {"match_head", "mlm_head", "mvm_head"}
    model.save_pretrained(tmp_path / "tuned")
    _, report = load_model(SohoForImageTextRetrieval, str(tmp_path / "tuned"))
    assert set(report.initialised) == {"match_head"}
    assert set(report.left_over) == {head}


def test_a_new_tied_head_does_not_overwrite_the_loaded_word_embedding(tmp_path: Path) -> None:
    retrieval = build(SohoForImageTextRetrieval)
    retrieval.save_pretrained(tmp_path)
    model, report = load_model(SohoForPreTraining, str(tmp_path))
    assert isinstance(model, SohoForPreTraining)
    expected = retrieval.trunk.embeddings.word_embeddings.weight
    assert torch.equal(model.soho.embeddings.word_embeddings.weight, expected)
    assert model.mlm_head.decoder.weight is model.soho.embeddings.word_embeddings.weight
    assert set(report.initialised) == {"mlm_head", "mvm_head"}
    # New heads are initialised, not left as whatever was in memory.
    for parameter in (*model.mlm_head.parameters(), *model.mvm_head.parameters()):  # type: ignore[union-attr]
        assert parameter.abs().max() < 2.0
    assert model.mlm_head.norm.weight.eq(1).all()
    assert model.mlm_head.decoder.bias.eq(0).all()


def test_a_bare_trunk_starts_any_task(tmp_path: Path) -> None:
    trunk = build(SohoModel)
    trunk.save_pretrained(tmp_path)
    model, report = load_model(SohoForImageTextRetrieval, str(tmp_path))
    for name, value in trunk.state_dict().items():
        assert torch.equal(model.trunk.state_dict()[name], value), name
    assert set(report.initialised) == {"match_head"}


def test_dictionary_can_be_left_behind_at_load(tmp_path: Path) -> None:
    build(SohoForPreTraining).save_pretrained(tmp_path)
    model, report = load_model(SohoForPreTraining, str(tmp_path), use_dictionary=False)
    assert model.trunk.visual_dictionary is None
    assert model.config.visual_input == "features"
    assert first_output(model).shape == (2, 2)
    assert "mvm_head" in report.left_over


@pytest.mark.parametrize("name", ["soho.fusion.layers.1.query.weight", "soho.visual_encoder.projection.bias"])
def test_missing_and_left_over_tensors_are_errors(name: str, tmp_path: Path) -> None:
    build(SohoForPreTraining).save_pretrained(tmp_path)
    change_weights(tmp_path, without=name)
    with pytest.raises(SohoError) as caught:
        load_model(SohoForPreTraining, str(tmp_path))
    assert name in str(caught.value)
    assert "missing" in str(caught.value)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)
    build(SohoForPreTraining).save_pretrained(tmp_path)
    change_weights(tmp_path, plus={"soho.fusion.layers.7.query.weight": torch.zeros(2)})
    with pytest.raises(SohoError, match=r"soho\.fusion\.layers\.7\.query\.weight.* is left over"):
        load_model(SohoForPreTraining, str(tmp_path))


def test_another_shape_names_the_tensor(tmp_path: Path) -> None:
    build(SohoForQuestionAnswering).save_pretrained(tmp_path)
    with pytest.raises(SohoError) as caught:
        load_model(SohoForQuestionAnswering, str(tmp_path), answers=["yes", "no"])
    assert "answer_head.4" in str(caught.value)
    assert "(3" in str(caught.value)
    assert "(2" in str(caught.value)


def test_broken_folders_give_one_sentence(tmp_path: Path) -> None:
    build(SohoModel).save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    content = weights.read_bytes()
    for broken in (content[: len(content) // 2], content[:4], b""):
        weights.write_bytes(broken)
        with pytest.raises(SohoError) as caught:
            load_model(SohoModel, str(tmp_path))
        assert str(tmp_path) in str(caught.value)
        assert "\n" not in str(caught.value)
    weights.unlink()
    with pytest.raises(SohoError, match=r"model\.safetensors"):
        load_model(SohoModel, str(tmp_path))
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(SohoError, match=r"config\.json"):
        load_model(SohoModel, str(tmp_path))
    for folder in ("nowhere", "./nowhere", str(tmp_path / "nowhere")):
        with pytest.raises(SohoError, match="is not a folder"):
            load_model(SohoModel, folder)


def test_changed_fields_are_checked_at_load(tmp_path: Path) -> None:
    build(SohoModel).save_pretrained(tmp_path)
    with pytest.raises(SohoError, match="visual_input='featurs'"):
        load_model(SohoModel, str(tmp_path), visual_input="featurs")
    with pytest.raises(SohoError, match=r"'model\.config\.visual_input'"):
        load_model(SohoModel, str(tmp_path), visual_inptu="features")


def test_half_precision_loads_keep_the_dictionary_in_float32(tmp_path: Path) -> None:
    model = build(SohoForImageTextRetrieval)
    model.save_pretrained(tmp_path)
    with quiet_transformers():
        half = SohoForImageTextRetrieval.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert half.match_head.weight.dtype == torch.bfloat16
    assert half.soho.visual_dictionary.codes.dtype == torch.float32
    assert torch.equal(half.soho.visual_dictionary.codes, model.trunk.visual_dictionary.codes)  # type: ignore[union-attr]
    batch = picture_batch(2)
    batch["pixel_values"] = batch["pixel_values"].bfloat16()
    for reduced in (half, build(SohoForImageTextRetrieval).bfloat16()):
        assert reduced(**batch).logits.isfinite().all()


# Backbone factories ------------------------------------------------------------------------------------------------

FACTORY = """
import torch


class Strided(torch.nn.Module):
    out_channels = 4

    def __init__(self, kernel):
        super().__init__()
        self.convolution = torch.nn.Conv2d(3, 4, kernel, stride=32)
        self.register_buffer("scale", torch.full((1,), 2.0), persistent=False)

    def forward(self, pixel_values):
        return self.scale * self.convolution(pixel_values)


def build(pretrained=False, kernel=32):
    network = Strided(kernel)
    if pretrained:
        torch.nn.init.constant_(network.convolution.weight, 0.25)
    return network


def number(pretrained=False):
    return 3
"""


@pytest.fixture
def foreign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module outside this package; its name."""
    name = f"foreign_{tmp_path.name}".replace("-", "_")
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / f"{name}.py").write_text(FACTORY)
    monkeypatch.syspath_prepend(tmp_path / "code")
    return name


def test_a_folder_never_runs_foreign_code_unless_it_is_trusted(foreign: str, tmp_path: Path) -> None:
    model = build(SohoForImageTextRetrieval, backbone_factory=f"{foreign}:build", backbone_factory_args={"kernel": 32})
    folder = tmp_path / "model"
    model.save_pretrained(folder)
    assert json.loads((folder / "config.json").read_text())["backbone_factory"] == f"{foreign}:build"
    del sys.modules[foreign]
    for load in (
        lambda: SohoForImageTextRetrieval.from_pretrained(folder),
        lambda: AutoModel.from_pretrained(folder),
        lambda: load_model(SohoForImageTextRetrieval, str(folder)),
        lambda: SohoForImageTextRetrieval.from_pretrained(folder, trust_remote_code=False),
    ):
        with pytest.raises(SohoError, match="trust_remote_code=True") as caught:
            load()
        assert f"{foreign}:build" in str(caught.value)
        assert foreign not in sys.modules
    for trusted in (
        SohoForImageTextRetrieval.from_pretrained(folder, trust_remote_code=True),
        load_model(SohoForImageTextRetrieval, str(folder), trust_remote_code=True)[0],
    ):
        assert torch.equal(first_output(trusted), first_output(model))
        # A buffer that the author did not mean to be saved would come back as garbage.
        assert trusted.visual_backbone().get_buffer("scale").tolist() == [2.0]
    assert type(AutoModel.from_pretrained(folder, trust_remote_code=True)) is SohoModel
    # Trust in one folder is no trust in the next.
    del sys.modules[foreign]
    with pytest.raises(SohoError, match="trust_remote_code=True"):
        SohoForImageTextRetrieval.from_pretrained(folder)
    assert foreign not in sys.modules


def test_a_configuration_that_was_read_is_no_word_of_its_reader(foreign: str, tmp_path: Path) -> None:
    fields = {"backbone_factory": f"{foreign}:build", "backbone_factory_args": {"kernel": 32}}
    build(SohoModel, **fields).save_pretrained(tmp_path)
    saved = tmp_path / "config.json"
    content = json.loads(saved.read_text())
    assert "trust_remote_code" not in content
    saved.write_text(json.dumps({**content, "trust_remote_code": True}))  # a folder cannot vouch for itself
    del sys.modules[foreign]
    for config in (AutoConfig.from_pretrained(tmp_path), SohoConfig.from_dict(json.loads(saved.read_text()))):
        for make in (SohoModel, AutoModel.from_config):
            with pytest.raises(SohoError, match="trust_remote_code"):
                make(config)
        assert foreign not in sys.modules
    config.trust_remote_code = True
    assert isinstance(AutoModel.from_config(config), SohoModel)
    # A model that was loaded with trust can be built again from its configuration.
    trusted = SohoModel.from_pretrained(tmp_path, trust_remote_code=True)
    assert isinstance(SohoForImageTextRetrieval(trusted.config), SohoForImageTextRetrieval)
    assert SohoConfig.from_dict(tiny_config().to_dict()).trust_remote_code


def test_only_the_factory_that_the_caller_names_is_trusted(foreign: str, tmp_path: Path) -> None:
    fields = {"backbone_factory": f"{foreign}:build", "backbone_factory_args": {"kernel": 32}}
    build(SohoModel, **fields).save_pretrained(tmp_path)
    del sys.modules[foreign]
    with pytest.raises(SohoError, match="trust_remote_code=True"):
        load_model(SohoModel, str(tmp_path), trusted_factory="another:build")
    assert foreign not in sys.modules
    assert load_model(SohoModel, str(tmp_path), trusted_factory=f"{foreign}:build")[1].loaded


def test_factories_of_this_package_need_no_trust(tmp_path: Path) -> None:
    pytest.importorskip("efficientnet_lite_pytorch")
    model = build(SohoModel, backbone_factory="soho.models.backbones:efficientnet_lite0")
    model.save_pretrained(tmp_path)
    with quiet_transformers():
        again = SohoModel.from_pretrained(tmp_path)
    assert torch.equal(first_output(again), first_output(model))
    image = model.trunk.encode_image(torch.zeros(1, 3, 192, 320))
    assert image.tokens.shape == (1, 3 * 5, 16)


def test_a_factory_brings_its_pretrained_weights_into_a_new_model(foreign: str) -> None:
    model, report = new_model(SohoModel, tiny_config(backbone_factory=f"{foreign}:build"))
    assert model.visual_backbone().convolution.weight.eq(0.25).all()  # type: ignore[union-attr, operator]
    assert report.loaded["visual backbone"] == (f"{foreign}:build", 3)
    plain, report = new_model(SohoModel, tiny_config(backbone_factory=f"{foreign}:build"), pretrained_factory=False)
    assert not plain.visual_backbone().convolution.weight.eq(0.25).any()  # type: ignore[union-attr, operator]
    assert "visual backbone" in report.initialised


@pytest.mark.parametrize(
    ("factory", "arguments", "words"),
    [
        ("nothing", {}, "must read package.module:function"),
        ("no_such_module_x:build", {}, "cannot be imported"),
        ("{foreign}:absent", {}, "cannot be imported"),
        ("{foreign}:number", {}, "must return an nn.Module with an integer out_channels"),
        ("{foreign}:build", {"kernal": 3}, "kernal"),
    ],
)
def test_wrong_factories_give_one_sentence(factory: str, arguments: dict[str, Any], words: str, foreign: str) -> None:
    name = factory.format(foreign=foreign)
    with pytest.raises(SohoError) as caught:
        SohoModel(tiny_config(backbone_factory=name, backbone_factory_args=arguments))
    assert words in str(caught.value)
    assert repr(name) in str(caught.value)
    assert "\n" not in str(caught.value)
