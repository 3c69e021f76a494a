"""Question answering against the official classes: every stage of the forward pass, gradients, both masks."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
import torch
from torch import Tensor

from soho.models.released.conversion import parameter_names
from tests.parity.official import (
    DEEP_VALUES,
    GRADIENTS,
    INPUTS,
    NO_DROPOUT,
    VALUES,
    Tap,
    arrays,
    assert_all_close,
    assert_gradient_norms,
    cases,
    convert,
    inputs_of,
    manifest,
    model_of,
    part,
    recipe,
    recipe_checkpoint,
    sizes_of,
)

STAGES = ("soho.visual_encoder.backbone", "soho.visual_encoder", "soho.visual_norm", "soho.embeddings")


def stages_of(model: Any, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Run a model; return every stage under the name it has in the files."""
    tap = Tap(model, STAGES)
    with torch.no_grad():
        image = model.soho.encode_image(inputs["pixel_values"], inputs["pixel_mask"])
        result = model.soho(**inputs, output_hidden_states=True)
        logits = model(**inputs).logits
    maps = tap.outputs["soho.visual_encoder"]
    return {
        "backbone_out": tap.outputs["soho.visual_encoder.backbone"].feature_maps[-1],
        "neck_conv_bn": maps,
        "pos_code": image.position.transpose(1, 2).unflatten(2, maps.shape[-2:]),
        "visual_mask": image.mask.long(),
        "visual_tokens": tap.outputs["soho.visual_norm"],
        "text_embedding": tap.outputs["soho.embeddings"],
        "hidden_1": result.hidden_states[1],
        "fused": result.last_hidden_state,
        "logits": logits,
    }


@pytest.mark.parametrize(("name", "limit"), [("vqa_eval", VALUES), ("vqa_eval_r101", DEEP_VALUES)])
def test_every_stage_in_evaluation(name: str, limit: float) -> None:
    stored = arrays(name)
    assert {key.split("/")[0] for key in stored} == set(cases(stored))
    defect, correct = model_of(name, mask_width_defect=True), model_of(name)
    for case in cases(stored):
        expected = part(stored, case)
        inputs = inputs_of(expected)
        ours = stages_of(defect, inputs)
        fixed = stages_of(correct, inputs)
        ours |= {f"widthfixed_{key}": fixed[key] for key in ("visual_mask", "logits")}
        assert_all_close(case, {key: value for key, value in ours.items() if key in expected}, expected, limit)


def test_the_masks_of_the_two_settings_differ_and_change_the_result() -> None:
    """Otherwise the test above could not tell them apart."""
    stored = arrays("vqa_eval")
    assert any(
        (stored[f"{case}/visual_mask"] != stored[f"{case}/widthfixed_visual_mask"]).any() for case in cases(stored)
    )


@pytest.mark.parametrize("name", ["vqa_eval", "vqa_eval_r101", "pretrain_eval"])
def test_sizes_are_read_off_the_tensors(name: str) -> None:
    sizes, config = sizes_of(name), model_of(name).config
    backbone = config.visual_backbone
    convolutions = 3 if backbone["layer_type"] == "bottleneck" else 2
    assert sum(backbone["depths"]) * convolutions + 2 == sizes["depth"]
    assert backbone["embedding_size"] == sizes["base"]
    assert backbone["hidden_sizes"][-1] == sizes["base"] * 8 * (4 if convolutions == 3 else 1)
    assert (config.hidden_size, config.num_attention_heads) == (sizes["hidden"], sizes["heads"])
    assert (config.intermediate_size, config.num_hidden_layers) == (sizes["inter"], sizes["layers"])
    assert (config.vocab_size, config.max_position_embeddings) == (sizes["vocab"], sizes["maxpos"])
    if name == "pretrain_eval":
        assert config.dictionary_size == sizes["tokens"]
    else:
        assert len(config.answers) == sizes["answers"]


def test_full_size() -> None:
    stored = arrays("vqa_full_recipe")
    model = convert(recipe_checkpoint("official_r18_vqa_keys.json", stored), mask_width_defect=True)
    maker, seed = recipe(), manifest()["seed"]
    for case in cases(stored):
        expected = part(stored, case)
        images, shapes, pads = maker.batch(f"full/{case}", [tuple(row) for row in expected["img_shape"]], seed)
        assert hashlib.sha256(images.tobytes()).hexdigest() == str(expected["image_sha256"])
        assert (images.shape == expected["batch_shape"]).all()
        assert (shapes == expected["img_shape"]).all()
        assert (pads == expected["pad_shape"]).all()
        stages = stages_of(model, inputs_of(expected, images))
        ours = {
            **{key: stages[key] for key in ("logits", "visual_mask", "visual_tokens")},
            "fused_cls": stages["fused"][:, 0],
            "fused_l2_per_position": stages["fused"].norm(dim=-1),
            "backbone_out_first16ch": stages["backbone_out"][:, :16],
            "backbone_out_channel_mean": stages["backbone_out"].mean(dim=(2, 3)),
        }
        assert_all_close(case, ours, expected, VALUES)
    used = {"recipe_sha256", *(key for key in stored if key.startswith("buffer/"))}
    assert {key for key in stored if key.split("/")[0] not in cases(stored)} == used


def test_loss_and_gradients(official_threads: None) -> None:
    stored = arrays("vqa_train_step")
    inputs = inputs_of(part(arrays("vqa_eval"), "wide"))
    model = model_of("vqa_eval", mask_width_defect=True, **NO_DROPOUT)
    model.train()
    targets = torch.from_numpy(stored["targets"])
    output = model(**inputs, labels=targets)
    output.loss.backward()
    total, count = output.metrics["vqa_score"]
    ours: dict[str, Any] = {
        "targets": targets,
        "logits": output.logits,
        "loss_cls": output.loss,
        "score_each": targets.gather(1, output.logits.argmax(1, keepdim=True)).squeeze(1),
        "score": total / count,
    }
    parameters = dict(model.named_parameters())
    names = parameter_names(model)
    for key in stored:
        kind, _, tensor = key.partition("/")
        if kind == "grad":
            ours[key] = parameters[names[tensor]].grad
    trained = {key for key, name in names.items() if name in parameters and parameters[name].requires_grad}
    assert {key.removeprefix("grad_norm/") for key in stored if key.startswith("grad_norm/")} == trained
    plain = {key: value for key, value in stored.items() if not key.startswith("grad_norm/")}
    assert INPUTS.isdisjoint(plain)
    assert_all_close("train step", ours, plain, VALUES, {key: GRADIENTS for key in plain if key.startswith("grad/")})
    assert_gradient_norms(stored, {key: parameters[names[key]].grad for key in trained})
