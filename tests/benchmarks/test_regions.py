"""The region-based pipeline does what it says: suppression, RoI features, boxes, and its numbers of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from benchmarks import nms, regions
from benchmarks.inference import vqa_batch
from benchmarks.options import Options
from benchmarks.region_pipeline import RegionPipeline, RegionSizes
from benchmarks.subjects import TINY
from benchmarks.timing import Clock

# The second box overlaps the first by 8/12 (IoU), the third touches nobody.
BOXES = np.array([[0, 0, 10, 10], [0, 2, 10, 12], [20, 20, 30, 30]], dtype=np.float32)


def random_boxes(count: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    corner = 100 * torch.rand(count, 2, generator=generator)
    return torch.cat((corner, corner + 10 + 60 * torch.rand(count, 2, generator=generator)), dim=1)


@pytest.fixture(params=["C", "NumPy"])
def either(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "NumPy":
        monkeypatch.setattr(nms, "compiled", lambda: None)
    elif nms.compiled() is None:
        pytest.skip("needs a C compiler")
    return str(request.param)


def test_suppression_by_hand(either: str) -> None:
    assert float(nms.overlaps(*(torch.from_numpy(BOXES[:2]),) * 2)[0, 1]) == pytest.approx(8 / 12)
    scores = np.array([0.5, 0.9, 0.1], dtype=np.float32)
    assert nms.suppress(BOXES, scores, 0.6, 10).tolist() == [1, 2]
    assert nms.suppress(BOXES, scores, 0.7, 10).tolist() == [1, 0, 2]
    assert nms.suppress(BOXES, scores, 0.7, 2).tolist() == [1, 0]


def test_c_and_numpy_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    if nms.compiled() is None:
        pytest.skip("needs a C compiler")
    boxes = random_boxes(200).numpy()
    scores = np.random.default_rng(0).random(200, dtype=np.float32)
    fast = nms.suppress(boxes, scores, 0.4, 200)
    monkeypatch.setattr(nms, "compiled", lambda: None)
    assert fast.tolist() == nms.suppress(boxes, scores, 0.4, 200).tolist()
    assert 5 < len(fast) < 150


def test_flags_are_packed_from_the_lowest_bit() -> None:
    flags = torch.zeros(2, 66, dtype=torch.bool)
    flags[0, [0, 2, 65]] = True
    flags[1, 63] = True
    assert nms.packed(flags).tolist() == [[5, 2], [-(2**63), 0]]


@pytest.mark.parametrize("count", [60, 150])
def test_all_classes_in_step_give_what_class_by_class_gives(count: int) -> None:
    boxes = random_boxes(count, seed=1)
    scores = torch.rand(count, 9, generator=torch.Generator().manual_seed(2))
    by_class = nms.best_by_class(boxes, scores, 0.3)
    torch.testing.assert_close(nms.best_batched(boxes, scores, 0.3), by_class)
    assert 0 < int((by_class > 0).sum()) <= count
    assert by_class.max() == scores.max()


def test_roi_align_is_sampling_from_a_grid() -> None:
    maps = torch.randn(1, 5, 9, 12, generator=torch.Generator().manual_seed(0))
    boxes = torch.tensor([[0.0, 0.0, 192.0, 144.0], [33.0, 17.0, 90.5, 101.0], [150.0, 100.0, 192.0, 144.0]])
    found = regions.roi_align(maps, boxes, bins=4, chunk=2)
    assert found.is_contiguous(memory_format=torch.channels_last)
    steps = (torch.arange(8) + 0.5) / 8
    for box, cut in zip(boxes, found):
        x = (box[0] + (box[2] - box[0]) * steps) / 192 * 2 - 1
        y = (box[1] + (box[3] - box[1]) * steps) / 144 * 2 - 1
        grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)[None]
        sampled = F.grid_sample(maps, grid, align_corners=False, padding_mode="border")
        torch.testing.assert_close(cut, F.avg_pool2d(sampled, 2)[0], rtol=1e-4, atol=1e-5)


def test_anchors_and_moves_by_hand() -> None:
    found = regions.anchors(2, 3, torch.device("cpu")).view(2, 3, regions.ANCHORS, 4)
    assert found[1, 2, 1].tolist() == [40 - 32, 24 - 32, 40 + 32, 24 + 32]  # 64 pixels square, around cell (1, 2)
    box = torch.tensor([[10.0, 20.0, 30.0, 40.0]])
    assert regions.moved(box, torch.zeros(1, 4), 100, 100).tolist() == box.tolist()
    shifted = regions.moved(box, torch.tensor([[1.0, -2.0, 0.0, 0.0]]), 100, 45)
    assert shifted.tolist() == [[30.0, 0.0, 45.0, 0.0]]  # clipped on both sides


def test_the_pipeline_reads_the_boxes_that_survive() -> None:
    torch.manual_seed(0)
    config = TINY.config(visual_input="features", answers=["a", "b", "c"])
    pipeline = RegionPipeline(config, RegionSizes(200, 20, 16, 5), torch.float32, compiled=False)
    questions, clock = vqa_batch(2, Options(quick=True), config.vocab_size), Clock(torch.device("cpu"))
    seen: list[tuple[int, ...]] = []
    pipeline.fusion.register_forward_pre_hook(lambda _module, inputs: seen.append(tuple(inputs[0].shape)))
    with torch.inference_mode():
        clock.start()
        batched = pipeline.answer(questions, clock, by_class=False)
        counts = dict(pipeline.counts)
        by_class = pipeline.answer(questions, clock, by_class=True)
    torch.testing.assert_close(by_class, batched)
    assert pipeline.counts == counts
    assert counts["proposals"] == 20
    assert 5 <= counts["kept in some class"] <= 20
    assert counts["read"] == 5
    assert seen == [(2, 16 + 5, 32)] * 2
    assert list(clock.laps) == ["cnn", "proposals", "regions", "suppression", "fusion", "head"]
    assert pipeline.report.folded_norms > 8
