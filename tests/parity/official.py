"""Numbers that the official classes gave, where they are at hand, and models built from them.

`SOHO_PARITY_DIR` names the folder of a set (`manifest.json` and arrays). `recipe.py` and the key lists lie in the
folder `parity` of the real-data collection. Sizes are read from the set; none is written here.
"""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from soho.models.modeling_soho import SohoPreTrainedModel
from soho.models.released.checkpoint import ReleasedCheckpoint
from soho.models.released.conversion import config_of, from_released
from soho.training.recipe import TrainingSection, load_recipe
from tests.support import ROOT, SHARED

COMMON = SHARED / "parity"
FOLDER = Path(os.environ.get("SOHO_PARITY_DIR", COMMON / "public"))

# Limits, as shares of the largest magnitude of an array.
VALUES, DEEP_VALUES, GRADIENTS, AFTER, EXACT = 1e-5, 5e-4, 5e-5, 5e-4, 1e-6

Arrays = dict[str, np.ndarray]


def present(path: Path) -> Path:
    """Return a path, or skip the test where it is absent."""
    if not path.exists():
        pytest.skip(f"needs the numbers of the official classes: {path.name} is not here (set SOHO_PARITY_DIR)")
    return path


@cache
def manifest() -> dict[str, Any]:
    return json.loads(present(FOLDER / "manifest.json").read_text(encoding="utf-8"))


@cache
def arrays(name: str) -> Arrays:
    with np.load(present(FOLDER / f"{name}.npz")) as stored:
        return {key: stored[key] for key in stored.files}


def part(stored: Arrays, prefix: str) -> Arrays:
    """Return the arrays below a prefix, without it."""
    return {key[len(prefix) + 1 :]: value for key, value in stored.items() if key.startswith(f"{prefix}/")}


def cases(stored: Arrays) -> list[str]:
    """Return the cases of a file, which have pictures of their own."""
    return sorted({key.split("/")[0] for key in stored if key.endswith("/img_shape")})


def recipe() -> ModuleType:
    spec = importlib.util.spec_from_file_location("parity_recipe", present(COMMON / "recipe.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def key_list(name: str) -> list[dict[str, Any]]:
    return json.loads(present(COMMON / name).read_text(encoding="utf-8"))["entries"]


# -- Models ----------------------------------------------------------------------------------------------------------


def sizes_of(name: str) -> dict[str, Any]:
    """Return the configuration that the manifest tells of a set of weights."""
    told = manifest()
    return told.get(name, {}).get("config") or told["small_config"]


def stored_weights(name: str) -> ReleasedCheckpoint:
    path = present(FOLDER / f"{name}_weights.safetensors")
    return ReleasedCheckpoint(path, load_file(path))


def model_of(name: str, **changes: Any) -> SohoPreTrainedModel:
    """Convert the stored weights of a set; `changes` are fields of the configuration."""
    return convert(stored_weights(name), heads=sizes_of(name)["heads"], **changes)


def convert(checkpoint: ReleasedCheckpoint, heads: int | None = None, **changes: Any) -> SohoPreTrainedModel:
    config, _ = config_of(checkpoint, heads=heads)
    for field, value in changes.items():
        assert hasattr(config, field)
        setattr(config, field, value)
    model, _ = from_released(checkpoint, config)
    return model


def release_training(task: str) -> TrainingSection:
    """Return the release's training settings as a shipped recipe has them: "pretrain" or "vqa"."""
    return load_recipe(ROOT / "recipes" / "released" / f"{task}.yaml", ["data.root=/data"]).training


NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "answer_head_dropout": 0.0}


def recipe_checkpoint(key_file: str, stored: Arrays) -> ReleasedCheckpoint:
    """Rebuild the weights of the full-size sets: parameters by rule, running statistics as stored."""
    maker, seed = recipe(), manifest()["seed"]
    values, digest = maker.all_parameters(str(present(COMMON / key_file)), seed)
    assert digest == str(stored["recipe_sha256"])
    tensors: dict[str, Tensor] = {}
    for entry in key_list(key_file):
        key, shape = entry["key"], entry["shape"]
        if key in values:
            value = values[key]
        elif entry.get("tied_with") and entry["tied_with"][0] in values:
            value = values[entry["tied_with"][0]]
        elif key == "neck.vq.embed":
            value = maker.dictionary(*shape, seed)
        elif f"buffer/{key}" in stored:
            value = stored[f"buffer/{key}"]
        else:  # counters that an evaluation does not read
            assert entry["kind"] == "buffer"
            value = np.zeros(shape, dtype=entry["dtype"])
        tensors[key] = torch.from_numpy(np.array(value))
    return ReleasedCheckpoint(COMMON / key_file, tensors)


# -- Inputs ----------------------------------------------------------------------------------------------------------

# Arrays that go into the model; what comes out of it is every other one.
INPUTS = {"images", "img_shape", "pad_shape", "batch_shape", "image_sha256", "input_ids", "attention_mask"}


def inputs_of(case: Arrays, images: np.ndarray | None = None) -> dict[str, Tensor]:
    """Return a case's pictures, masks and texts as the model takes them."""
    pixels = torch.from_numpy(case["images"] if images is None else images)
    mask = torch.zeros(pixels.shape[0], *pixels.shape[2:], dtype=torch.bool)
    for row, (height, width) in enumerate(case["img_shape"]):
        mask[row, :height, :width] = True
    assert pixels.shape[2:] == tuple(case["pad_shape"].max(axis=0))
    return {
        "pixel_values": pixels,
        "pixel_mask": mask,
        "input_ids": torch.from_numpy(case["input_ids"]),
        "attention_mask": torch.from_numpy(case["attention_mask"]),
    }


class Tap:
    """Keeps what goes into and comes out of named submodules during a forward pass."""

    def __init__(self, model: nn.Module, names: Iterable[str]) -> None:
        self.inputs: dict[str, Any] = {}
        self.outputs: dict[str, Any] = {}
        for name in names:
            model.get_submodule(name).register_forward_hook(self._keeper(name))

    def _keeper(self, name: str) -> Any:
        def keep(_: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            self.inputs[name], self.outputs[name] = inputs[0], output

        return keep


# -- Comparison ------------------------------------------------------------------------------------------------------


def difference(ours: np.ndarray, stored: np.ndarray) -> float:
    """Return the largest difference as a share of the largest magnitude."""
    scale = np.abs(stored).max() if stored.size else 0.0
    error = np.abs(ours.astype(np.float64) - stored.astype(np.float64)).max() if stored.size else 0.0
    return float(error / scale) if scale else float(error)


def assert_close(name: str, ours: Any, stored: np.ndarray, limit: float) -> None:
    """Whole numbers and truth values exactly, others to `limit` of the largest magnitude."""
    value = ours.detach().cpu().numpy() if isinstance(ours, Tensor) else np.asarray(ours)
    assert value.shape == stored.shape, f"{name}: shape {value.shape}, expected {stored.shape}"
    if stored.dtype.kind in "iub":
        wrong = int((value != stored).sum())
        assert wrong == 0, f"{name}: {wrong} of {stored.size} differ"
        return
    assert np.isfinite(value).all(), f"{name} is not finite"
    error = difference(value, stored)
    assert error <= limit, f"{name}: {error:.2e} of the largest magnitude, allowed {limit:.0e}"


def assert_all_close(
    title: str, ours: Mapping[str, Any], stored: Arrays, limit: float, limits: Mapping[str, float] | None = None
) -> None:
    """Compare every stored array that is no input; none may be left out on either side."""
    expected = {name for name in stored if name not in INPUTS}
    assert expected, f"{title} holds nothing to compare"
    assert set(ours) == expected, f"{title}: not compared {expected - set(ours)}, not stored {set(ours) - expected}"
    for name in sorted(expected):
        assert_close(f"{title}/{name}", ours[name], stored[name], (limits or {}).get(name, limit))


def margins(features: Tensor, codes: Tensor) -> np.ndarray:
    """Return (M,) squared distance of the second nearest code less that of the nearest, in float64."""
    distances = (
        torch.cdist(features.detach().double(), codes.double(), compute_mode="donot_use_mm_for_euclid_dist") ** 2
    )
    nearest = distances.topk(2, dim=1, largest=False).values
    return (nearest[:, 1] - nearest[:, 0]).numpy()


def assert_gradient_norms(stored: Arrays, gradients: Mapping[str, Tensor | None]) -> None:
    """Compare the norms of all gradients: each to a share of itself, or to rounding noise beside the whole."""
    norms = {key.removeprefix("grad_norm/"): float(value) for key, value in stored.items() if "grad_norm/" in key}
    assert set(norms) == set(gradients)
    whole = sum(norm**2 for norm in norms.values()) ** 0.5
    for key, gradient in gradients.items():
        norm = 0.0 if gradient is None else float(gradient.double().norm())
        # The gradient of a key's bias is nothing but rounding: a softmax does not see it.
        allowed = GRADIENTS * norms[key] + 1e-7 * whole
        assert abs(norm - norms[key]) <= allowed, f"grad_norm/{key}: {norm}, expected {norms[key]}"
