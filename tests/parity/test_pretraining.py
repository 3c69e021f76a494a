"""Pre-training against the official classes: every stage of the forward pass, two micro-batches and their step."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from soho.models.losses import IGNORE
from soho.models.released.conversion import parameter_names
from soho.models.released.modeling_released_pretraining import masked_cells
from soho.training.optimization import build_optimizers, clip_gradients
from tests.parity.official import (
    AFTER,
    EXACT,
    GRADIENTS,
    INPUTS,
    NO_DROPOUT,
    VALUES,
    Arrays,
    Tap,
    arrays,
    assert_all_close,
    assert_close,
    assert_gradient_norms,
    cases,
    convert,
    inputs_of,
    manifest,
    margins,
    model_of,
    part,
    recipe,
    recipe_checkpoint,
    release_training,
)

STAGES = (
    "soho.visual_encoder",
    "soho.visual_dictionary",
    "soho.code_gate.mapping",
    "soho.code_gate.norm",
    "soho.visual_norm",
)
# Given beside the inputs: the draws, and what follows from the shapes.
GIVEN = {"mlm_labels", "itm_labels", "num_captions", "location", "bernoulli", "location_range", "grid_hw"}


def step_inputs(case: Arrays, draws: Arrays, images: Any = None) -> dict[str, Tensor]:
    """Return what `forward` takes: each picture with its captions, the labels, the draws of the official run."""
    inputs = inputs_of(case, images)
    pictures, texts = len(inputs["pixel_values"]), len(inputs["input_ids"])
    return {
        **inputs,
        "pair_image_index": torch.arange(pictures).repeat_interleave(texts // pictures),
        "labels": torch.from_numpy(case["mlm_labels"]),
        "itm_labels": torch.from_numpy(case["itm_labels"]),
        "mvm_location": torch.tensor(int(draws["location"])),
        "mvm_chosen": torch.from_numpy(draws["bernoulli"]) == 1,
    }


def run(model: Any, inputs: dict[str, Tensor]) -> dict[str, Any]:
    """Run a model; return every stage and figure under the name it has in the files."""
    tap = Tap(model, STAGES)
    codes = model.soho.visual_dictionary.codes.clone()
    output = model(**inputs, output_hidden_states=True)
    maps, fused = tap.outputs["soho.visual_encoder"], output.hidden_states[-1]
    grid, width = maps.shape[-2:], maps.shape[1]
    lookup = tap.outputs["soho.visual_dictionary"]
    features = tap.inputs["soho.visual_dictionary"].flatten(0, 1)
    length = inputs["input_ids"].shape[1]
    indices = output.visual_indices
    masked = masked_cells(indices, inputs["mvm_location"], inputs["mvm_chosen"])
    labels = indices.masked_fill(~masked, IGNORE)
    assert torch.equal(output.mvm_labels, labels[masked])
    match = F.cross_entropy(output.logits, inputs["itm_labels"], reduction="none")

    def percent(name: str) -> float:
        total, count = output.metrics[name]
        return float(100 * total / count.clamp(min=1))

    gate = tap.outputs["soho.code_gate.norm"]
    return {
        "output": output,
        "neck_conv_bn": maps,
        "vq_input": features,
        "vq_indices": lookup.indices.flatten(),
        "vq_quantized": lookup.embeddings.flatten(0, 1),
        "vq_margin": margins(features, codes),
        "pos_line_out": tap.outputs["soho.code_gate.mapping"].flatten(0, 1),
        "gate_logits": gate,
        "gate_prob": gate.softmax(1),
        "neck_ln_in": tap.inputs["soho.visual_norm"].unflatten(1, grid),
        "visual_tokens": tap.outputs["soho.visual_norm"],
        "visual_mask": (indices >= 0).long(),
        "mvm_labels": labels,
        "mask_positions": masked,
        "fused": fused,
        "mlm_logits": model.mlm_head(fused[:, :length]),
        "mvm_logits": model.code_similarities(fused[:, length:]),
        "itm_logits": output.logits,
        "itm_loss_each": match,
        "loss_mlm": output.loss_parts["mlm"],
        "loss_mvm": output.loss_parts["mvm"],
        "loss_match": output.loss_parts["itm"],
        "loss": output.loss,
        "acc_l": percent("mlm_accuracy"),
        "acc_v": percent("mvm_accuracy"),
        "acc_match": percent("itm_accuracy"),
        "select": (inputs["labels"] != IGNORE).float().mean(),
        "grid": (*grid, width),
    }


def compared(ours: dict[str, Any], expected: Arrays) -> dict[str, Any]:
    return {name: ours[name] for name in expected if name not in INPUTS and name not in GIVEN}


@torch.no_grad()
def test_every_stage_in_evaluation() -> None:
    stored = arrays("pretrain_eval")
    assert {key.split("/")[0] for key in stored} == set(cases(stored))
    model = model_of("pretrain_eval", mask_width_defect=True)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for case in cases(stored):
        expected = part(stored, case)
        ours = run(model, step_inputs(expected, expected))
        rows, columns, _ = ours["grid"]
        assert expected["grid_hw"].tolist() == [rows, columns]
        assert int(expected["location_range"]) == rows * columns
        assert len(expected["input_ids"]) == int(expected["num_captions"]) * len(expected["images"])
        plain = {name: value for name, value in expected.items() if name not in GIVEN}
        assert_all_close(case, compared(ours, expected), plain, VALUES)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@torch.no_grad()
def test_the_corrected_mask_reaches_pre_training() -> None:
    """Pre-training has no stored arrays for the corrected mask; its mask must be that of question answering."""
    stored, other = arrays("pretrain_eval"), arrays("vqa_eval")
    model = model_of("pretrain_eval")
    shared = [case for case in cases(stored) if case in cases(other)]
    shared = [case for case in shared if np.array_equal(stored[f"{case}/img_shape"], other[f"{case}/img_shape"])]
    if not shared:
        pytest.skip("this set has no pictures of one size in both files")
    for case in shared:
        inputs = inputs_of(part(stored, case))
        mask = model.soho.encode_image(inputs["pixel_values"], inputs["pixel_mask"]).mask
        assert_close(case, mask.long(), other[f"{case}/widthfixed_visual_mask"], 0.0)


def settled(ours: Tensor, ids: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """Return our ranking with the stored order where neighbours are too close to be told apart."""
    scale = VALUES * np.abs(logits).max()
    tied = np.zeros(ids.shape, dtype=bool)
    tied[:, 1:] |= np.abs(np.diff(logits, axis=1)) <= scale
    tied[:, :-1] |= np.abs(np.diff(logits, axis=1)) <= scale
    assert tied.mean() < 0.1
    return np.where(tied, ids, ours.numpy())


@torch.no_grad()
def test_full_size() -> None:
    stored = arrays("pretrain_full_recipe")
    model = convert(recipe_checkpoint("official_r18_pretrain_keys.json", stored), mask_width_defect=True)
    maker, seed = recipe(), manifest()["seed"]
    for case in cases(stored):
        expected = part(stored, case)
        images, _, pads = maker.batch(f"full/{case}", [tuple(row) for row in expected["img_shape"]], seed)
        assert hashlib.sha256(images.tobytes()).hexdigest() == str(expected["image_sha256"])
        assert (images.shape == expected["batch_shape"]).all()
        assert (pads == expected["pad_shape"]).all()
        ours = run(model, step_inputs(expected, expected, images))
        assert expected["grid_hw"].tolist() == list(ours["grid"][:2])
        pairs, captions = len(expected["input_ids"]), len(expected["input_ids"]) // len(images)
        places = torch.from_numpy(expected["mlm_positions"])
        assert (places.numpy() == (torch.from_numpy(expected["mlm_labels"]) != IGNORE).nonzero().numpy()).all()
        words = ours["mlm_logits"][places[:, 0], places[:, 1]]
        labels = torch.from_numpy(expected["mlm_labels"])[places[:, 0], places[:, 1]]
        best = words.topk(expected["mlm_top20_ids"].shape[1], dim=1)
        cells = ours["mask_positions"].nonzero()
        reduced = {
            **{name: ours[name] for name in ("visual_mask", "mvm_labels", "itm_logits", "loss_mlm", "loss_mvm")},
            "vq_indices": ours["vq_indices"].view(pairs, -1),
            "vq_margin": ours["vq_margin"].reshape(pairs, -1),
            "gate_prob": ours["gate_prob"][::captions],
            "visual_tokens_pair0_pair1": ours["visual_tokens"][:2],
            "fused_cls": ours["fused"][:, 0],
            "mlm_positions": places,
            "mlm_logit_at_label": words.gather(1, labels.unsqueeze(1)).squeeze(1),
            "mlm_logsumexp": words.logsumexp(1),
            "mlm_top20_ids": settled(best.indices, expected["mlm_top20_ids"], expected["mlm_top20_logits"]),
            "mlm_top20_logits": best.values,
            "mvm_positions": cells,
            "mvm_logits": ours["mvm_logits"][cells[:, 0], cells[:, 1]],
            "loss_itm": ours["loss_match"],
        }
        plain = {name: value for name, value in expected.items() if name not in GIVEN}
        assert_all_close(case, reduced, plain, VALUES)
    used = {"recipe_sha256", *(key for key in stored if key.startswith("buffer/"))}
    assert {key for key in stored if key.split("/")[0] not in cases(stored)} == used


@pytest.fixture(scope="module")
def step(official_threads: None) -> dict[str, Any]:
    """Two micro-batches in training mode, accumulated, clipped and stepped."""
    stored, inputs = arrays("pretrain_train_step"), arrays("pretrain_eval")
    model = model_of("pretrain_eval", mask_width_defect=True, **NO_DROPOUT)
    names = parameter_names(model)
    settings = release_training("pretrain")
    optimizers = build_optimizers(model, model.visual_backbone(), settings)
    model.train()
    micro = []
    for number, case in enumerate(("wide", "tall")):
        draws = part(stored, f"micro{number}")
        ours = run(model, step_inputs(part(inputs, case), draws))
        (ours["output"].loss / 2).backward()
        dictionary = model.soho.visual_dictionary
        ours |= {
            "vq_embed_after": dictionary.codes.clone(),
            "vq_cluster_size_after": dictionary.counts.clone(),
            "vq_cluster_sum_after": dictionary.hits.clone(),
            "vq_embed_avg_after": dictionary.sums.clone(),
        }
        micro.append({name: value.detach() if isinstance(value, Tensor) else value for name, value in ours.items()})
    parameters = dict(model.named_parameters())
    gradients = {
        key: None if parameters[name].grad is None else parameters[name].grad.clone()
        for key, name in names.items()
        if name in parameters
    }
    norm = clip_gradients(model, float(stored["clip_max_norm"]))
    for optimizer in optimizers.values():
        optimizer.step()
    state = {key: value.detach() for key, value in ((k, model.state_dict()[n]) for k, n in names.items())}
    return {"micro": micro, "gradients": gradients, "norm": norm, "state": state, "clip": settings.clip_norm}


def test_micro_batches(step: dict[str, Any]) -> None:
    stored = arrays("pretrain_train_step")
    for number, ours in enumerate(step["micro"]):
        expected = part(stored, f"micro{number}")
        plain = {name: value for name, value in expected.items() if name not in GIVEN}
        limits = {name: EXACT for name in plain if name.endswith("_after")}
        assert_all_close(f"micro{number}", compared(ours, expected), plain, VALUES, limits)
    assert {key.split("/")[0] for key in stored if key.startswith("micro")} == {
        f"micro{number}" for number in range(len(step["micro"]))
    }


def test_gradients(step: dict[str, Any]) -> None:
    stored = arrays("pretrain_train_step")
    gradients = step["gradients"]
    for key, value in part(stored, "grad").items():
        assert_close(f"grad/{key}", gradients[key], value, GRADIENTS)
    trained = {key: value for key, value in gradients.items() if value is not None and key != "mask_l_fc.weight"}
    assert_gradient_norms(stored, trained)
    assert_close("total", step["norm"], stored["total_grad_norm_before_clip"], VALUES)
    frozen = {key for key, value in gradients.items() if value is None and key != "mask_l_fc.weight"}
    assert frozen == {str(key) for key in stored["frozen_params"]}
    assert [str(key) for key in stored["params_without_grad"] if str(key)] == []


def test_after_the_step(step: dict[str, Any]) -> None:
    """torch's AdamW differs from the release's by definition; see docs/deviations.md."""
    stored, state = arrays("pretrain_train_step"), step["state"]
    assert float(stored["clip_max_norm"]) == step["clip"]
    for key, value in part(stored, "after").items():
        assert_close(f"after/{key}", state[key], value, AFTER)
    for key, value in part(stored, "after_norm").items():
        assert_close(f"after_norm/{key}", state[key].double().norm(), value, AFTER)
    for key, value in part(stored, "buffer_after").items():
        assert_close(f"buffer_after/{key}", state[key], value, VALUES)


def test_no_array_of_the_step_is_left_out() -> None:
    kinds = {key.split("/")[0] for key in arrays("pretrain_train_step")}
    single = {"total_grad_norm_before_clip", "clip_max_norm", "frozen_params", "params_without_grad"}
    assert kinds == {"micro0", "micro1", "grad", "grad_norm", "after", "after_norm", "buffer_after", *single}
