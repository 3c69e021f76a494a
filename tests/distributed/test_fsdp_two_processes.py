"""A model that two gloo processes share (`training.fsdp`) must train as a whole one does.

Small steps are compared with data parallelism on the same two processes, where even the CNN's batch norm sees the same
pictures; whole runs with one process on the joined batch. The file is both the test and, under torchrun, the program of
each process.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from soho.models import SohoForImageTextRetrieval, SohoForPreTraining
from soho.runs import train
from soho.training.checkpoint import list_checkpoints, load_state
from soho.training.optimizer_step import FSDP_TORCH, OptimizerStep
from soho.training.processes import make_accelerator
from soho.training.recipe import TrainingSection, load_recipe
from soho.training.tensor_parts import is_split
from soho.training.tracking import read_log
from tests.support import ROOT
from tests.tiny_recipes import tiny_values, write_recipe
from tests.unit.models.released import released_model
from tests.unit.models.tiny import filler_of, half_of, pretraining_batch, stirred, tiny_config
from tests.unit.training.toy import ToyOutput

OLD = tuple(map(int, torch.__version__.split(".")[:2])) < FSDP_TORCH
SKIP = pytest.mark.skipif(OLD, reason=f"training.fsdp needs torch {FSDP_TORCH}; this is {torch.__version__}")
pytestmark = [pytest.mark.distributed, pytest.mark.slow, SKIP]
Result = dict[str, Any]

# Small steps: case -> changes of the configuration, changes of the settings -----------------------------------------

CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "plain": ({}, {}),
    # The layers run three times in a forward pass; the temperature is a scalar.
    "contrast": ({"itc_weight": 1.0, "itc_pooling": "fusion"}, {"clip_norm": None}),
    "recomputed": ({"itc_weight": 1.0, "itc_pooling": "fusion"}, {"gradient_checkpointing": True}),
    "bf16": ({}, {"precision": "bf16"}),
    "released": ({}, {}),  # another wiring, whose dictionary moves in the forward pass
    "partly frozen": (
        {"fusion_start": 1},
        {
            "frozen": ["soho.fusion.layers.0", "mvm_head.dense"],
            "lr_factors": {"soho.embeddings": 0.1, "match_head": 3.0},
            "backbone_optimizer": {"name": "adamw", "lr": 1e-3},
        },
    ),
}


def settings_of(**changes: Any) -> TrainingSection:
    values = {"clip_norm": 0.5, "optimizer": {"lr": 1e-3}, "backbone_optimizer": {"lr": 1e-2}}
    return TrainingSection.model_validate({**values, **changes})


def micro_batches(number: int, rank: int) -> list[dict[str, Tensor]]:
    """Return two micro-batches of a process for a step."""
    batches = [half_of(pretraining_batch(4, seed=10 * number + place), rank) for place in range(2)]
    if number == 1 and rank == 1:
        batches = [filler_of(batch) for batch in batches]
    if number == 2:  # nobody hides a cell: a head without gradient on any process, which must not decay either
        for batch in batches:
            del batch["mvm_draws"]
    return batches


def run_steps(case: str, rank: int, fsdp: bool) -> Result:
    """Do three steps, the first with the CNN frozen."""
    config, changes = CASES[case]
    settings = settings_of(fsdp=fsdp, **changes)
    torch.manual_seed(3)
    model = released_model("pretraining") if case == "released" else stirred(SohoForPreTraining(tiny_config(**config)))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += rank  # the main process's weights count
    step = OptimizerStep(model, settings, make_accelerator(settings.precision))
    measured = []
    for number in range(3):
        step.training_mode(frozen=number == 0)
        result = step.run(micro_batches(number, rank), 1.0, f"step {number + 1}")
        measured.append(
            {"loss": result.loss, "norm": result.gradient_norm}
            | {name: mean for name, (mean, _) in result.parts.items()}
            | {name: total for name, (total, _) in result.metrics.items()}
        )
    parts = [part for group in step.optimizers["rest"].param_groups for part in group["params"]]
    moments = [value["exp_avg"] for value in step.optimizers["rest"].state_dict()["state"].values()]
    return {
        "measured": measured,
        "state": step.state_dict(),
        "weights held": sum(part.numel() for part in parts),
        "moments held": sum(moment.numel() for moment in moments),
        "split": sum(map(is_split, model.parameters())),
        "gathered one by one": [name for name, module in model.named_modules() if "FSDP" in type(module).__name__],
        "dictionary": model.soho.visual_dictionary.state_dict(),
    }


class Layer(nn.Module):
    """A layer with a weight that only some batches use."""

    def __init__(self) -> None:
        super().__init__()
        self.always, self.sometimes = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, hidden: Tensor, more: bool) -> Tensor:
        hidden = self.always(hidden).tanh()
        return self.sometimes(hidden) if more else hidden


class Fickle(nn.Module):
    """A model that uses other parts of itself for every batch, and whose loss may have no term at all."""

    _no_split_modules = ("Layer",)

    def __init__(self) -> None:
        super().__init__()
        self.cnn = nn.Linear(4, 4)
        self.layers = nn.ModuleList(Layer() for _ in range(2))
        self.head, self.other_head, self.no_head = nn.Linear(4, 1), nn.Linear(4, 1), nn.Linear(4, 1)

    def forward(self, loss_denominators: Any = None, **batch: Tensor) -> ToyOutput:
        kind = int(batch["kind"][0])
        hidden = self.cnn(batch["pixel_values"])
        for layer in self.layers:
            hidden = layer(hidden, kind == 0)
        loss = (self.head if kind == 0 else self.other_head)(hidden).square().sum()
        return ToyOutput(torch.zeros(()) if kind == 2 else loss, {}, {})

    def loss_counts(self, batch: Any) -> dict[str, Tensor]:
        return {}

    def visual_backbone(self) -> nn.Module:
        return self.cnn

    def freeze_visual_backbone(self, frozen: bool) -> None:
        pass

    def after_optimizer_step(self) -> None:
        pass


def run_fickle(rank: int, fsdp: bool) -> Result:
    """Let the processes use different parts; in the last step one of them has no loss."""
    torch.manual_seed(5)
    step = OptimizerStep(Fickle(), settings_of(fsdp=fsdp, channels_last=False), make_accelerator())
    step.training_mode(frozen=False)
    generator = torch.Generator().manual_seed(rank)
    norms = []
    for kinds in ((0, 1), (1, 1), (1, 2)):
        batch = {"pixel_values": torch.randn(3, 4, generator=generator), "kind": torch.tensor([kinds[rank]])}
        norms.append({"norm": step.run([batch], 1.0, "step").gradient_norm})
    return {"measured": norms, "state": step.state_dict()}


# Whole runs ---------------------------------------------------------------------------------------------------------


def run_of(task: str, world: Path, output: Path, batch_size: int, **training: Any) -> Path:
    """Train by a recipe, without dropout; returns the folder of the run."""
    values = tiny_values(task, world, output)
    dropouts = ("hidden_dropout_prob", "attention_probs_dropout_prob", "answer_head_dropout")
    values["model"]["config"] |= dict.fromkeys(dropouts, 0.0)
    values["data"]["train"][0]["limit"] = 19 if task == "pretraining" else 24
    values["data"] |= {"captions_per_image_per_epoch": 2, "test": []}
    if task == "pretraining":
        values["data"]["validation"] = []
    else:
        values["data"]["validation"][0]["limit"] = 12
    values["training"] |= {"batch_size": batch_size, "freeze_backbone_epochs": -1, **training}
    # A file for each process: one must not read what the other is just writing.
    recipe = write_recipe(Path(f"{output}-{os.environ.get('RANK', '0')}.yaml"), values)
    train(load_recipe(recipe))
    return output


EVALUATED = {"epochs": 1, "evaluate_every": 0.5, "accumulation": 2}


def main(world: Path, folder: Path) -> None:
    accelerator = make_accelerator()
    rank = accelerator.process_index
    results: dict[str, Result] = {}
    for way in ("whole", "shared"):
        fsdp = way == "shared"
        results |= {f"{case}, {way}": run_steps(case, rank, fsdp) for case in CASES}
        results[f"fickle, {way}"] = run_fickle(rank, fsdp)
        # Its CNN is not frozen: both ways see the same batch norm.
        run_of("retrieval", world, folder / f"retrieval-{way}", 4, fsdp=fsdp, freeze_backbone_epochs=0, **EVALUATED)
    run_of("nlvr2", world, folder / "nlvr2", 4, fsdp=True, **EVALUATED)
    for steps, fsdp in ((2, False), (4, True), (6, False)):
        run_of("pretraining", world, folder / "pretraining", 4, fsdp=fsdp, max_steps=steps, epochs=9)
    torch.save(results, folder / f"rank{rank}.pt")


# The tests ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two(world: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Result]]]:
    """The folder of what two processes did, and what each of them saw."""
    folder = tmp_path_factory.mktemp("two")
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "src"))),
        "OMP_NUM_THREADS": "1",
        "ACCELERATE_USE_CPU": "1",
    }
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command = [*launcher, __file__, str(world), str(folder)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-8000:]
    return folder, [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(2)]


def assert_same(actual: Any, expected: Any, name: str, tolerance: float) -> None:
    """Compare two trees of tensors and values."""
    if isinstance(expected, dict):
        assert actual.keys() == expected.keys(), name
        for key, value in expected.items():
            assert_same(actual[key], value, f"{name}/{key}", tolerance)
    elif isinstance(expected, (list, tuple)):
        assert len(actual) == len(expected), name
        for place, value in enumerate(expected):
            assert_same(actual[place], value, f"{name}/{place}", tolerance)
    elif isinstance(expected, Tensor) and name.endswith(("/exp_avg", "/exp_avg_sq", "/momentum_buffer")):
        # Far below one: what counts is how far they are off in proportion. Below the floor is the noise of gradients
        # that are zero by theory (a bias of keys).
        assert actual.shape == expected.shape, name
        floor = 1e-15 if name.endswith("_sq") else 1e-8
        assert (actual - expected).norm() <= 10 * tolerance * expected.norm() + floor, name
    elif isinstance(expected, Tensor):
        assert (actual.shape, actual.dtype) == (expected.shape, expected.dtype), name
        torch.testing.assert_close(actual, expected, atol=tolerance, rtol=tolerance, msg=name)
    elif isinstance(expected, float):
        assert actual == pytest.approx(expected, rel=tolerance, abs=tolerance), name
    else:
        assert actual == expected, name


@pytest.mark.parametrize("case", [*CASES, "fickle"])
def test_steps_are_those_of_data_parallelism(two: tuple[Path, list[dict[str, Result]]], case: str) -> None:
    _, (main_one, other) = two
    whole, shared = main_one[f"{case}, whole"], main_one[f"{case}, shared"]
    assert_same(shared["measured"], whole["measured"], case, 1e-5)
    # Weights, buffers, moments and settings of the optimizers; gathered on the main process alone.
    assert_same(shared["state"], whole["state"], case, 1e-5)
    assert other[f"{case}, shared"]["state"]["model"] is None
    assert other[f"{case}, shared"]["measured"] == shared["measured"]
    if case != "fickle":
        for name, value in shared["dictionary"].items():
            assert torch.equal(value, other[f"{case}, shared"]["dictionary"][name]), name


def test_each_process_holds_half(two: tuple[Path, list[dict[str, Result]]]) -> None:
    _, ranks = two
    whole = ranks[0]["plain, whole"]
    shares = [one["plain, shared"] for one in ranks]
    assert whole["split"] == 0
    assert shares[0]["split"] > 50
    # The fusion layers, not what a CNN of transformers names; the root is what holds the model.
    layers = shares[0]["gathered one by one"]
    assert layers
    assert all(name.startswith("soho.fusion.layers.") for name in layers)
    for key in ("weights held", "moments held"):
        # Together they hold all of it once; a weight of an odd number of rows is half a row more on the first.
        assert sum(share[key] for share in shares) == whole[key]
        assert shares[0][key] == pytest.approx(0.5 * whole[key], rel=0.02)


def test_runs_equal_one_process_and_go_on_with_the_switch_and_without(
    two: tuple[Path, list[dict[str, Result]]], world: Path, tmp_path: Path
) -> None:
    folder, _ = two
    run_of("pretraining", world, tmp_path / "pretraining", 8, max_steps=6, epochs=9)
    run_of("nlvr2", world, tmp_path / "nlvr2", 8, **EVALUATED)
    for task in ("pretraining", "nlvr2"):
        records, expected = read_log(folder / task), read_log(tmp_path / task)
        assert_same(records, expected, task, 1e-4)
        assert [record["kind"] for record in expected].count("evaluation") == (2 if task == "nlvr2" else 0)
    state, reference = (load_state(list_checkpoints(one / "pretraining")[-1]) for one in (folder, tmp_path))
    # Where a gradient is all but zero its sign may differ, and AdamW makes a whole step of it; moments do not jump.
    assert_same(state["model"], reference["model"], "checkpoint", 2e-3)
    assert_same(state["optimizers"], reference["optimizers"], "optimizers", 1e-3)
    weights, whole = (load_file(one / "nlvr2" / "model" / "model.safetensors") for one in (folder, tmp_path))
    assert_same(weights, whole, "model", 2e-3)


def test_evaluation_during_training_sees_the_whole_model(two: tuple[Path, list[dict[str, Result]]]) -> None:
    folder, _ = two
    runs = [folder / f"retrieval-{way}" for way in ("shared", "whole")]
    records, expected = map(read_log, runs)
    assert [record["kind"] for record in expected].count("evaluation") == 2
    assert_same(records, expected, "retrieval", 1e-5)
    models = [SohoForImageTextRetrieval.from_pretrained(run / "model") for run in runs]
    assert models[0].config.architectures == models[1].config.architectures == ["SohoForImageTextRetrieval"]
    assert_same(models[0].state_dict(), models[1].state_dict(), "model", 1e-5)
    states = [load_state(list_checkpoints(run)[-1]) for run in runs]
    for part in ("model", "optimizers"):
        assert_same(states[0][part], states[1][part], "checkpoint", 1e-5)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
