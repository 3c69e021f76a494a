"""Two gloo processes must do what one does on the joined batch: dictionary, losses, gradients.

The file is both the test and, under torchrun, the program of each process.
"""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from soho.models import SohoForPreTraining, VisualDictionary
from soho.models.released.dictionary import ReleasedDictionary
from tests.support import ROOT
from tests.unit.models.tiny import filler_of, gradients, half_of, pretraining_batch, stirred, tiny_config

State = dict[str, Any]


def snapshot(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


# One scenario, run by one process on everything (world 1) or by each of two on its part ------------------------------


def eq4_steps() -> list[list[tuple[Tensor, Tensor]]]:
    """Return optimizer steps of micro-batches of 4 rows; rank r of 2 gets rows 2r and 2r + 1."""
    generator = torch.Generator().manual_seed(0)
    steps = []
    for micro_batches in (2, 1, 1, 1, 2):
        features = [torch.randn(4, 5, 6, generator=generator) for _ in range(micro_batches)]
        masks = [torch.rand(4, 5, generator=generator) < 0.6 for _ in range(micro_batches)]
        steps.append(list(zip(features, masks)))
    steps[1][0][1][2:] = False  # step 1: process 1 gets padding only
    steps[2][0][1][2:] = False  # step 2: process 1 gets nothing, see below
    steps[3][0][1][:] = False  # step 3: nobody sees a thing
    return steps


def run_eq4(rank: int, world: int) -> list[State]:
    torch.manual_seed(1)
    dictionary = VisualDictionary(7, 6, momentum=0.7, ramp_steps=3).train()
    states = []
    for number, step in enumerate(eq4_steps()):
        for features, mask in step:
            rows = slice(None) if world == 1 else slice(2 * rank, 2 * rank + 2)
            if number == 2 and rank == 1:
                continue  # no forward at all in this process
            dictionary(features[rows], mask[rows])
        dictionary.after_optimizer_step()
        states.append(snapshot(dictionary))
    return states


def run_revival(rank: int, world: int) -> list[State]:
    """More codes than features, so that every step revives; processes bring different numbers of features."""
    generator = torch.Generator().manual_seed(2)
    torch.manual_seed(1)
    dictionary = VisualDictionary(9, 6, ramp_steps=0, revive_after=1).train()
    states = []
    for number in range(3):
        features = torch.randn(2, 4, 6, generator=generator)
        mask = torch.tensor([[True, True, True, False], [number == 0, number < 2, False, False]])
        rows = slice(None) if world == 1 else slice(rank, rank + 1)
        dictionary(features[rows], mask[rows])
        dictionary.after_optimizer_step()
        states.append(snapshot(dictionary))
    return states


def run_training(rank: int, world: int) -> list[State]:
    """Three steps: frozen backbone; frozen, process 1 has fillers only; thawed, the same (not compared with one)."""
    torch.manual_seed(3)
    model = stirred(SohoForPreTraining(tiny_config(dictionary_ramp_steps=2))).train()
    states: list[State] = []
    for number in range(3):
        batch = pretraining_batch(4, seed=number)
        frozen = number < 2
        if world == 2:
            batch = half_of(batch, rank)
            batch = filler_of(batch) if number and rank else batch
        elif number:
            batch = half_of(batch, 0)
        model.freeze_visual_backbone(frozen)
        wrapped: nn.Module = model
        if world == 2:
            wrapped = DistributedDataParallel(model, find_unused_parameters=frozen)
        counts = model.loss_counts(batch)
        if world == 2:
            for value in counts.values():
                dist.all_reduce(value)
        model.zero_grad(set_to_none=True)
        output = wrapped(**batch, loss_denominators=counts)
        (output.loss * world).backward()  # DistributedDataParallel averages
        parts = {name: value.clone() for name, value in output.loss_parts.items()}
        if world == 2:
            for value in parts.values():
                dist.all_reduce(value)
        states.append({"parts": parts, "gradients": gradients(model)})
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.grad is not None:
                    parameter -= 0.05 * parameter.grad
        model.after_optimizer_step()
        states[-1]["model"] = snapshot(model)
        states[-1]["health"] = model.health()
    return states


def run_released(rank: int, world: int) -> list[State]:
    """The released wiring moves its codes at every forward pass; in pass 1 process 1 has a filler, in 2 everybody."""
    generator = torch.Generator().manual_seed(4)
    torch.manual_seed(1)
    dictionary = ReleasedDictionary(7, 6, momentum=0.4, epsilon=1e-5).train()
    states = []
    for number in range(4):
        features = torch.randn(4, 5, 6, generator=generator)
        mask = torch.rand(4, 5, generator=generator) < 0.6
        mask[:, 0] = True
        if number == 1:
            mask[2:] = False
        if number == 2:
            mask[:] = False
        rows = slice(None) if world == 1 else slice(2 * rank, 2 * rank + 2)
        dictionary(features[rows], mask[rows])
        states.append(snapshot(dictionary))
    return states


SCENARIOS = {"eq4": run_eq4, "revival": run_revival, "training": run_training, "released": run_released}


def main(folder: Path) -> None:
    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    torch.save({name: run(rank, world) for name, run in SCENARIOS.items()}, folder / f"rank{rank}.pt")
    dist.destroy_process_group()


# The test ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, list[State]]]:
    """What each of two processes saw."""
    folder = tmp_path_factory.mktemp("two")
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "src"))),
        "OMP_NUM_THREADS": "1",
        "ACCELERATE_USE_CPU": "1",
    }
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    done = subprocess.run(
        [*launcher, __file__, str(folder)], env=environment, cwd=ROOT, capture_output=True, text=True, timeout=180
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(2)]


def same(actual: State, expected: State, tolerance: float = 1e-6) -> None:
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(actual[name], value, atol=tolerance, rtol=1e-4, msg=name)


@pytest.mark.distributed
@pytest.mark.parametrize("scenario", ["eq4", "revival"])
def test_dictionary_of_two_processes_equals_one(two: list[dict[str, list[State]]], scenario: str) -> None:
    expected = SCENARIOS[scenario](0, 1)
    for rank in range(2):
        for actual, state in zip(two[rank][scenario], expected):
            same(actual, state)
    for left, right in zip(two[0][scenario], two[1][scenario]):
        assert all(torch.equal(left[name], right[name]) for name in left)  # bit for bit between processes
    moved = [not torch.equal(a["codes"], b["codes"]) for a, b in pairwise(expected)]
    assert moved == ([True, True, False, True] if scenario == "eq4" else [True, True])
    assert expected[-1]["updates"].item() == (4 if scenario == "eq4" else 3)


@pytest.mark.distributed
def test_the_released_dictionary_of_two_processes_equals_one(two: list[dict[str, list[State]]]) -> None:
    expected = run_released(0, 1)
    for rank in range(2):
        for actual, state in zip(two[rank]["released"], expected):
            same(actual, state)
    for left, right in zip(two[0]["released"], two[1]["released"]):
        assert all(torch.equal(left[name], right[name]) for name in left)
    assert [not torch.equal(a["codes"], b["codes"]) for a, b in pairwise(expected)] == [True, False, True]


@pytest.mark.distributed
def test_wrapped_model_of_two_processes_equals_one(two: list[dict[str, list[State]]]) -> None:
    expected = run_training(0, 1)
    for rank in range(2):
        for number in range(2):
            actual, state = two[rank]["training"][number], expected[number]
            same(actual["parts"], state["parts"])
            same(actual["gradients"], state["gradients"], 1e-5)
            assert not any(".backbone." in name for name in actual["gradients"])
            same(actual["model"], state["model"], 1e-5)
            assert actual["health"] == pytest.approx(state["health"], rel=1e-4)
    moved = [int(state["model"]["soho.visual_dictionary.updates"]) for state in expected]
    assert moved == [1, 2, 3]


@pytest.mark.distributed
def test_processes_stay_in_step_when_the_backbone_is_thawed(two: list[dict[str, list[State]]]) -> None:
    left, right = (states["training"][2] for states in two)
    assert any(".backbone." in name for name in left["gradients"])
    for name, value in left["gradients"].items():
        assert value.isfinite().all(), name
        assert torch.equal(right["gradients"][name], value), name
    for name, value in left["model"].items():
        if "running_" not in name:  # batch norm keeps what each process saw until the next forward pass
            assert torch.equal(right["model"][name], value), name


if __name__ == "__main__":
    main(Path(sys.argv[1]))
