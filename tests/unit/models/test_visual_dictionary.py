"""The visual dictionary (Eq. 2-5), with numbers worked out by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from soho.models import visual_dictionary
from soho.models.visual_dictionary import LOOKUP_CHUNK, VisualDictionary, nearest_code


def dictionary_of(codes: list[list[float]], **options: Any) -> VisualDictionary:
    settings = {"momentum": 0.9, "ramp_steps": 0, **options}
    dictionary = VisualDictionary(len(codes), len(codes[0]), **settings)
    dictionary.codes.copy_(torch.tensor(codes))
    return dictionary


def see(dictionary: VisualDictionary, rows: list[list[float]], valid: list[bool] | None = None) -> Tensor:
    mask = torch.ones(1, len(rows), dtype=torch.bool) if valid is None else torch.tensor([valid])
    return dictionary(torch.tensor([rows]), mask).indices[0]


# Eq. 2 -------------------------------------------------------------------------------------------------------------


def test_nearest_code_and_ties_go_to_the_lowest_index() -> None:
    codes = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0], [2.0, 0.0]])
    features = torch.tensor(
        [
            [1.0, 0.0],  # 1 from codes 0, 1, 3
            [2.0, 0.0],  # 0 from codes 1, 3
            [1.0, 1.0],  # equally far from all
            [0.0, 1.1],  # 1.1 from code 0, 0.9 from code 2
            [5.0, 5.0],  # 34 (squared) from codes 1, 2, 3; 50 from code 0
            [-3.0, -3.0],
        ]
    )
    assert nearest_code(features, codes).tolist() == [0, 1, 0, 2, 1, 0]


def test_nearest_is_by_distance_and_not_by_inner_product() -> None:
    codes = torch.tensor([[1.0, 0.0], [100.0, 0.0]])
    assert nearest_code(torch.tensor([[2.0, 0.0]]), codes).tolist() == [0]


def test_equal_codes_at_the_ends_of_a_large_dictionary_tie_to_the_first() -> None:
    codes = torch.randn(1, 96, generator=torch.Generator().manual_seed(0)).expand(2049, 96).contiguous()
    features = torch.randn(50, 96, generator=torch.Generator().manual_seed(1))
    assert nearest_code(features, codes).eq(0).all()


def test_chunks_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(3)
    features, codes = torch.randn(25, 8, generator=generator), torch.randn(11, 8, generator=generator)
    expected = torch.cdist(features.double(), codes.double()).argmin(1)
    monkeypatch.setattr(visual_dictionary, "LOOKUP_CHUNK", 4)
    assert torch.equal(nearest_code(features, codes), expected)
    assert nearest_code(features[:0], codes).tolist() == []


# Eq. 3 and 5 -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_value_is_the_code_and_gradient_is_that_of_the_feature(dtype: torch.dtype) -> None:
    dictionary = dictionary_of([[0.1, 0.2], [3.3, -1.7]])
    features = torch.tensor([[[0.3, 0.1], [2.9, 0.4], [7.0, 7.0]]], dtype=dtype, requires_grad=True)
    mask = torch.tensor([[True, True, False]])
    lookup = dictionary(features, mask)
    assert lookup.indices.tolist() == [[0, 1, -1]]
    # Exactly, not up to a rounding error of v + (d - v).
    expected = torch.tensor([[[0.1, 0.2], [3.3, -1.7], [0.0, 0.0]]]).to(dtype)
    assert lookup.embeddings.dtype == dtype
    assert torch.equal(lookup.embeddings, expected)
    weights = torch.tensor([[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]], dtype=dtype)
    (lookup.embeddings * weights).sum().backward()
    assert features.grad is not None
    assert features.grad.tolist() == [[[1.0, 2.0], [3.0, 4.0], [0.0, 0.0]]]


def test_no_gradient_and_no_optimizer_can_reach_a_code() -> None:
    dictionary = dictionary_of([[0.0, 0.0], [1.0, 1.0]])
    assert list(dictionary.parameters()) == []
    features = torch.randn(1, 3, 2, requires_grad=True)
    dictionary(features, torch.ones(1, 3, dtype=torch.bool)).embeddings.sum().backward()
    assert not dictionary.codes.requires_grad
    assert dictionary.codes.grad is None


# Eq. 4 -------------------------------------------------------------------------------------------------------------


def test_moving_average_by_hand_only_hit_codes_move_and_padding_never_enters() -> None:
    dictionary = dictionary_of([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    indices = see(dictionary, [[1.0, 0.0], [9.0, 0.0], [3.0, 0.0], [0.0, 8.0]], [True, False, True, True])
    assert indices.tolist() == [0, -1, 0, 2]
    # Nothing moves in forward.
    assert dictionary.codes.tolist() == [[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]]
    dictionary.after_optimizer_step()
    # 0.9 * 0 + 0.1 * mean(1, 3) = 0.2;  0.9 * 10 + 0.1 * 8 = 9.8;  code 1 saw only a padding cell.
    torch.testing.assert_close(dictionary.codes, torch.tensor([[0.2, 0.0], [10.0, 0.0], [0.0, 9.8]]))
    assert dictionary.codes[1].tolist() == [10.0, 0.0]
    assert dictionary.idle.tolist() == [0, 1, 0]
    assert int(dictionary.updates) == 1
    torch.testing.assert_close(dictionary.usage, torch.tensor([2 / 3, 0.0, 1 / 3]))
    see(dictionary, [[12.0, 0.0]])
    dictionary.after_optimizer_step()
    torch.testing.assert_close(dictionary.codes, torch.tensor([[0.2, 0.0], [10.2, 0.0], [0.0, 9.8]]))
    assert dictionary.idle.tolist() == [1, 0, 1]
    torch.testing.assert_close(dictionary.usage, torch.tensor([0.98 * 2 / 3, 0.02, 0.98 / 3]))


def test_what_was_seen_counts_once() -> None:
    dictionary = dictionary_of([[0.0]])
    see(dictionary, [[1.0]])
    dictionary.after_optimizer_step()
    assert dictionary.codes.item() == pytest.approx(0.1)
    dictionary.after_optimizer_step()  # nothing was seen since
    assert dictionary.codes.item() == pytest.approx(0.1)
    assert int(dictionary.updates) == 1
    assert dictionary.idle.tolist() == [0]


def test_evaluation_neither_moves_nor_collects() -> None:
    dictionary = dictionary_of([[0.0, 0.0], [10.0, 0.0]]).eval()
    before = {name: value.clone() for name, value in dictionary.state_dict().items()}
    assert see(dictionary, [[4.0, 0.0], [6.0, 0.0]]).tolist() == [0, 1]
    dictionary.train().after_optimizer_step()
    assert all(torch.equal(before[name], value) for name, value in dictionary.state_dict().items())


def test_padding_only_is_no_update() -> None:
    dictionary = dictionary_of([[0.0, 0.0], [10.0, 0.0]])
    lookup = dictionary(torch.full((1, 2, 2), 3.0), torch.zeros(1, 2, dtype=torch.bool))
    assert lookup.indices.tolist() == [[-1, -1]]
    assert lookup.embeddings.abs().sum() == 0
    dictionary.after_optimizer_step()
    assert dictionary.codes.tolist() == [[0.0, 0.0], [10.0, 0.0]]
    assert int(dictionary.updates) == 0


def test_two_micro_batches_equal_the_joined_batch() -> None:
    generator = torch.Generator().manual_seed(5)
    codes = torch.randn(6, 4, generator=generator)
    features = torch.randn(4, 5, 4, generator=generator)
    mask = torch.rand(4, 5, generator=generator) < 0.7
    joined, parts = (VisualDictionary(6, 4, revive_after=1) for _ in range(2))
    for dictionary in (joined, parts):
        dictionary.codes.copy_(codes)
    for _ in range(3):
        joined(features, mask)
        joined.after_optimizer_step()
        parts(features[:1], mask[:1])
        parts(features[1:], mask[1:])
        parts.after_optimizer_step()
        features = features.flip(0) + 0.1
        mask = mask.flip(0)
    for name, value in joined.state_dict().items():
        torch.testing.assert_close(parts.state_dict()[name], value, msg=name)
    assert int(joined.updates) == 3


def test_lookup_of_the_second_micro_batch_sees_the_codes_of_before_the_step() -> None:
    dictionary = dictionary_of([[0.0], [10.0]], momentum=0.0)
    see(dictionary, [[4.9]])
    assert see(dictionary, [[5.1]]).tolist() == [1]
    dictionary.after_optimizer_step()
    torch.testing.assert_close(dictionary.codes, torch.tensor([[4.9], [5.1]]))


def test_momentum_ramp_by_hand() -> None:
    dictionary = dictionary_of([[0.0]], momentum=0.99, ramp_steps=10)
    expected = 0.0
    for gamma in (1 / 10, 2 / 11, 3 / 12):
        see(dictionary, [[1.0]])
        dictionary.after_optimizer_step()
        expected = gamma * expected + (1 - gamma)
        assert dictionary.codes.item() == pytest.approx(expected, abs=1e-6)
    for updates, gamma in ((880, 881 / 890), (5000, 0.99)):
        dictionary.updates.fill_(updates)
        dictionary.codes.zero_()
        see(dictionary, [[1.0]])
        dictionary.after_optimizer_step()
        assert dictionary.codes.item() == pytest.approx(1 - gamma, abs=1e-6)


def test_overflow_in_one_step_does_not_stay_in_the_codes() -> None:
    dictionary = dictionary_of([[0.0, 0.0], [10.0, 0.0], *[[99.0, 99.0]] * 5], revive_after=1)
    see(dictionary, [[math.nan, 1.0], [math.inf, 0.0], [9.0, 0.0]])
    dictionary.after_optimizer_step()  # there is room to revive five codes
    assert dictionary.codes.isfinite().all()
    assert dictionary.codes[1].tolist() == pytest.approx([9.9, 0.0])


# Revival -----------------------------------------------------------------------------------------------------------


def test_without_revival_idle_codes_stay_exactly() -> None:
    dictionary = dictionary_of([[0.0, 0.0], [10.0, 3.3], [0.0, 10.0]])
    for _ in range(250):
        see(dictionary, [[0.5, 0.5]])
        dictionary.after_optimizer_step()
    assert torch.equal(dictionary.codes[1:], torch.tensor([[10.0, 3.3], [0.0, 10.0]]))
    assert dictionary.idle.tolist() == [0, 250, 250]


def test_first_update_with_revival_starts_unhit_codes_on_real_features() -> None:
    dictionary = dictionary_of([[0.0], [100.0], [200.0]], revive_after=50)
    see(dictionary, [[1.0], [2.0]])
    dictionary.after_optimizer_step()
    assert dictionary.codes[0].item() == pytest.approx(0.15)  # hit: Eq. 4
    assert sorted(dictionary.codes[1:, 0].tolist()) == [1.0, 2.0]
    assert dictionary.idle.tolist() == [0, 0, 0]


def test_only_codes_idle_for_long_enough_are_revived() -> None:
    dictionary = dictionary_of([[0.0], [100.0], [200.0]], revive_after=3)
    dictionary.updates.fill_(7)
    dictionary.idle.copy_(torch.tensor([0, 2, 1]))
    see(dictionary, [[0.5], [0.5]])
    dictionary.after_optimizer_step()
    torch.testing.assert_close(dictionary.codes, torch.tensor([[0.05], [0.5], [200.0]]))
    assert dictionary.idle.tolist() == [0, 0, 2]


def test_more_dead_codes_than_features() -> None:
    dictionary = dictionary_of([[0.0], [100.0], [200.0], [300.0]], revive_after=1)
    dictionary.updates.fill_(1)
    see(dictionary, [[0.5]])
    dictionary.after_optimizer_step()
    torch.testing.assert_close(dictionary.codes, torch.tensor([[0.05], [0.5], [200.0], [300.0]]))
    assert dictionary.idle.tolist() == [0, 0, 1, 1]


def test_material_for_revival_is_bounded_and_evenly_spread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(visual_dictionary, "MAX_CANDIDATES", 2)
    dictionary = dictionary_of([[0.0], [100.0], [200.0], [300.0]], revive_after=1)
    see(dictionary, [[1.0], [2.0], [3.0], [4.0], [5.0]])
    dictionary.after_optimizer_step()
    assert sorted(dictionary.codes[1:3, 0].tolist()) == [1.0, 4.0]  # every third of five
    assert dictionary.codes[3].item() == 300.0


# Precision and memory ------------------------------------------------------------------------------------------------


def test_lookup_and_update_are_float32_under_bf16_autocast() -> None:
    codes = [[1.0], [1.003]]  # one number in bf16, whose steps are 1/128 here
    dictionary = dictionary_of(codes, momentum=0.0)
    with torch.autocast("cpu", torch.bfloat16):
        assert nearest_code(torch.tensor([[1.0026]]), torch.tensor(codes)).tolist() == [0]  # what must not happen
        assert see(dictionary, [[1.0026]]).tolist() == [1]
        dictionary.after_optimizer_step()
    assert dictionary.codes.dtype == torch.float32
    torch.testing.assert_close(dictionary.codes, torch.tensor([[1.0], [1.0026]]), rtol=0, atol=1e-7)


def _precisions() -> list[str]:
    if hasattr(torch.backends.cuda.matmul, "fp32_precision"):
        return [torch.backends.cuda.matmul.fp32_precision, torch.backends.mkldnn.matmul.fp32_precision]  # type: ignore[attr-defined]
    return [torch.get_float32_matmul_precision()]


def test_lookup_runs_with_full_precision_products_and_restores_the_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    inside: list[str] = []

    def watched(features: Tensor, codes: Tensor) -> Tensor:
        inside.extend(_precisions())
        assert not torch.is_autocast_enabled("cpu")
        assert features.dtype == codes.dtype == torch.float32
        return nearest_code(features, codes)

    monkeypatch.setattr(visual_dictionary, "nearest_code", watched)
    dictionary = dictionary_of([[0.0], [1.0]])
    previous = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        outside = _precisions()
        with torch.autocast("cpu", torch.bfloat16):
            see(dictionary, [[0.9]])
        assert _precisions() == outside
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(previous)
    assert inside
    assert set(inside) <= {"ieee", "highest"}


def test_lookup_works_where_the_caller_uses_the_newer_precision_switches() -> None:
    switch: Any = getattr(torch.backends.mkldnn, "matmul", None)
    if switch is None or not hasattr(switch, "fp32_precision"):
        pytest.skip("this torch has only the one old switch")
    previous = switch.fp32_precision
    try:
        switch.fp32_precision = "bf16"  # from here on torch.get_float32_matmul_precision() raises
        assert see(dictionary_of([[0.0], [1.0]]), [[0.9]]).tolist() == [1]
        assert switch.fp32_precision == "bf16"
    finally:
        switch.fp32_precision = previous


class LargestTensor(TorchDispatchMode):
    """Remembers the number of elements of the largest tensor that any operation made."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self.elements = max(self.elements, leaf.numel())
        return result


def test_memory_does_not_grow_with_tokens_times_codes() -> None:
    tokens, codes = 60_000, 2048
    dictionary = VisualDictionary(codes, 8)
    features = torch.randn(1, tokens, 8, generator=torch.Generator().manual_seed(0))
    with LargestTensor() as seen:
        dictionary(features, torch.ones(1, tokens, dtype=torch.bool))
        dictionary.after_optimizer_step()
    assert seen.elements == LOOKUP_CHUNK * codes  # 64 MiB; a one-hot matrix would have 123 million elements


# State and health ----------------------------------------------------------------------------------------------------


def test_state_holds_everything_a_resumed_run_needs() -> None:
    generator = torch.Generator().manual_seed(9)
    straight, resumed = (VisualDictionary(6, 4, ramp_steps=5, revive_after=2) for _ in range(2))
    steps = [torch.randn(1, 3, 4, generator=generator) for _ in range(8)]
    mask = torch.ones(1, 3, dtype=torch.bool)
    for number, features in enumerate(steps):
        if number == 4:
            resumed.load_state_dict(straight.state_dict())
        for dictionary in (straight, resumed):
            dictionary(features, mask)
            dictionary.after_optimizer_step()
    for name, value in straight.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name
    assert straight.health() == resumed.health()


def test_health_by_hand() -> None:
    dictionary = dictionary_of([[0.0]] * 4, dead_after=100)
    assert dictionary.health() == {"codes_used": 0.0, "dead_codes": 0.0, "perplexity": 0.0}
    dictionary.usage.copy_(torch.tensor([0.5, 0.25, 0.25, 0.0]))
    dictionary.updates.fill_(3)
    dictionary.idle.copy_(torch.tensor([0, 2, 3, 3]))  # codes 2 and 3 were never hit
    health = dictionary.health()
    assert health["codes_used"] == 2.0
    assert health["dead_codes"] == 0.0
    assert health["perplexity"] == pytest.approx(2**1.5)  # entropy 0.5 ln 2 + 2 * 0.25 ln 4 = 1.5 ln 2
    dictionary.updates.fill_(300)
    dictionary.idle.copy_(torch.tensor([0, 99, 100, 250]))
    health = dictionary.health()
    assert (health["codes_used"], health["dead_codes"]) == (2.0, 2.0)


def test_health_of_one_code_and_of_even_use() -> None:
    dictionary = dictionary_of([[0.0], [10.0]])
    see(dictionary, [[0.0]])
    dictionary.after_optimizer_step()
    assert dictionary.health()["perplexity"] == pytest.approx(1.0)
    assert dictionary.health()["codes_used"] == 1.0
    even = dictionary_of([[0.0], [10.0]])
    see(even, [[0.0], [10.0]])
    even.after_optimizer_step()
    assert even.health()["perplexity"] == pytest.approx(2.0)
