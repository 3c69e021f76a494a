"""Folding of batch norms and the fast copy of a model: the same numbers, up to the rounding of the type."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from soho.models import SohoForImageTextRetrieval, SohoForPreTraining, SohoForQuestionAnswering, SohoPreTrainedModel
from soho.models.fast import Compiled, FastReport, fast_copy, fast_dtype
from soho.models.folding import folded, watched_pairs
from soho.models.pair_scorer import GridScorer
from tests.unit.models.released import released_config
from tests.unit.models.tiny import picture_batch, stirred, tiny_config


def moved_norms(model: nn.Module) -> nn.Module:
    """Give every batch norm statistics of its own: those of a fresh one fold into nothing."""
    generator = torch.Generator().manual_seed(5)
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.copy_(0.3 * torch.randn(part.num_features, generator=generator))
            part.running_var.copy_(0.5 + torch.rand(part.num_features, generator=generator))
    return model


def tiny_model(kind: type[SohoPreTrainedModel] = SohoForQuestionAnswering, **changes: Any) -> Any:
    torch.manual_seed(0)
    return moved_norms(stirred(kind(tiny_config(answers=["yes", "no", "two"], **changes)))).eval()


class TwoReaders(nn.Module):
    """A convolution whose output goes into a norm and past it."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, pixels: Tensor) -> Tensor:
        hidden = self.convolution(pixels)
        return self.norm(hidden) + hidden


class SharedConvolution(nn.Module):
    """One convolution, used twice, before two norms."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 3, 3, padding=1)
        self.first, self.second = nn.BatchNorm2d(3), nn.BatchNorm2d(3)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.second(self.convolution(self.first(self.convolution(pixels))))


def test_every_norm_of_a_resnet_is_folded_and_the_maps_stay() -> None:
    backbone = tiny_model().visual_backbone()
    norms = sum(isinstance(part, nn.BatchNorm2d) for part in backbone.modules())
    fused, number = folded(backbone)
    assert number == norms > 8
    assert not any(isinstance(part, nn.BatchNorm2d) for part in fused.modules())
    pixels = torch.randn(2, 3, 64, 128)
    with torch.no_grad():
        torch.testing.assert_close(
            fused(pixels).feature_maps[-1], backbone(pixels).feature_maps[-1], rtol=1e-4, atol=1e-5
        )


def test_folding_changes_no_weight_of_the_original() -> None:
    backbone = tiny_model().visual_backbone()
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    folded(backbone)
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())


@pytest.mark.parametrize("kind", [TwoReaders, SharedConvolution])
def test_a_cnn_that_cannot_be_folded_comes_back_as_it_was(kind: type[nn.Module]) -> None:
    torch.manual_seed(0)
    module = moved_norms(kind()).eval()
    copy, number = folded(module)
    assert number == 0
    pixels = torch.randn(1, 3, 32, 32)
    torch.testing.assert_close(copy(pixels), module(pixels))


def test_a_norm_is_paired_with_the_convolution_whose_output_it_reads() -> None:
    assert watched_pairs(TwoReaders().eval(), torch.randn(1, 3, 32, 32)) == [("convolution", "norm")]


@pytest.mark.parametrize("changes", [{}, {"visual_input": "features"}, {"visual_feature_norm": "none"}])
def test_the_fast_copy_in_float32_gives_the_same_answers(changes: dict[str, Any]) -> None:
    model, batch = tiny_model(**changes), picture_batch(3)
    fast, report = fast_copy(model, dtype=torch.float32)
    assert type(fast) is type(model)
    assert report.folded_norms > 8
    with torch.no_grad():
        torch.testing.assert_close(fast(**batch).logits, model(**batch).logits, rtol=1e-3, atol=1e-4)


def test_the_fast_copy_in_bfloat16_stays_within_its_rounding() -> None:
    model, batch = tiny_model(visual_input="features"), picture_batch(6)
    fast, _ = fast_copy(model, dtype=torch.bfloat16)
    with torch.no_grad():
        exact, near = model(**batch).logits, fast(**batch).logits
    assert near.dtype == torch.float32
    assert not torch.equal(exact, near)  # it did compute in bfloat16
    scale = exact.std()
    # 8 bits of mantissa through two layers and a CNN: 2 per cent of the spread on average, hand-set bound.
    assert (exact - near).abs().mean() < 0.05 * scale
    assert (exact - near).abs().max() < 0.2 * scale


def test_codes_stay_in_float32_and_are_found_again() -> None:
    model, batch = tiny_model(SohoForPreTraining), picture_batch(4)
    fast, _ = fast_copy(model, dtype=torch.bfloat16)
    assert fast.soho.visual_dictionary.codes.dtype == torch.float32
    with torch.no_grad():
        exact = model.soho.encode_image(batch["pixel_values"], batch["pixel_mask"])
        near = fast.soho.encode_image(batch["pixel_values"], batch["pixel_mask"])
    assert exact.indices is not None
    assert near.indices is not None
    assert (exact.indices == near.indices).float().mean() > 0.8  # near ties may fall to the other side


def test_the_released_wiring_has_a_fast_copy_too() -> None:
    torch.manual_seed(0)
    config = released_config(visual_input="features", answers=["a", "b"])
    model = moved_norms(stirred(SohoForQuestionAnswering(config))).eval()
    batch = picture_batch(2)
    fast, _ = fast_copy(model, dtype=torch.float32)
    with torch.no_grad():
        torch.testing.assert_close(fast(**batch).logits, model(**batch).logits, rtol=1e-3, atol=1e-4)
        near = fast_copy(model, dtype=torch.bfloat16)[0](**batch).logits
    assert near.isfinite().all()


@pytest.mark.parametrize(
    "changes",
    [{}, {"itc_pooling": "fusion"}, {"itc_pooling": "dual_encoder", "visual_summary": True, "fusion_start": 1}],
)
def test_a_fast_retrieval_model_scores_pairs_and_grids(changes: dict[str, Any]) -> None:
    model = tiny_model(
        SohoForImageTextRetrieval, visual_input="features", itc_weight=1.0, match_adds_contrast=True, **changes
    )
    batch = picture_batch(2)
    fast, _ = fast_copy(model, dtype=torch.bfloat16)
    with torch.inference_mode():
        torch.testing.assert_close(fast(**batch).logits, model(**batch).logits, rtol=0.1, atol=0.1)
    grids = []
    for one, dtype in ((model, torch.float32), (fast, torch.bfloat16)):
        scorer = GridScorer(one, dtype)
        with torch.inference_mode():
            visual = scorer.image_tokens(batch["pixel_values"], batch["pixel_mask"])
            text = scorer.text_tokens(batch["input_ids"], batch["attention_mask"])
            grids.append(scorer.score_grid(*text, *visual))
    assert GridScorer(fast, torch.bfloat16).fusion is fast.soho.fusion  # no second copy of the weights
    torch.testing.assert_close(grids[0], grids[1], rtol=0.1, atol=0.1)


def test_a_module_that_cannot_be_compiled_runs_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise RuntimeError("no C++ compiler was found")

    monkeypatch.setattr(torch, "compile", refuse)
    model, batch = tiny_model(), picture_batch(2)
    fast, report = fast_copy(model, dtype=torch.float32, compiled=True)
    assert report.compiled
    with torch.no_grad():
        torch.testing.assert_close(fast(**batch).logits, model(**batch).logits, rtol=1e-3, atol=1e-4)
    assert not report.compiled
    assert any("no C++ compiler was found" in note for note in report.notes)


def test_a_compiled_module_passes_attributes_on() -> None:
    inner = nn.Sequential(nn.Linear(2, 2))
    inner.layers = "here"  # type: ignore[assignment]
    assert Compiled(inner, FastReport(torch.float32)).layers == "here"
    with pytest.raises(AttributeError):
        _ = Compiled(inner, FastReport(torch.float32)).nothing


def test_a_cnn_that_refuses_the_probe_is_only_not_folded() -> None:
    model, batch = tiny_model(), picture_batch(1)

    class Picky(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, pixels: Tensor) -> Tensor:
            if pixels.shape[-1] != 192:
                raise ValueError("192 pixels wide, please")
            return F.relu(self.inner(pixels).feature_maps[-1])

    model.soho.visual_encoder.backbone = Picky(model.soho.visual_encoder.backbone)
    fast, report = fast_copy(model, dtype=torch.float32)
    assert report.folded_norms == 0
    assert "192 pixels wide" in report.notes[0]
    with torch.no_grad():
        torch.testing.assert_close(fast(**batch).logits, model(**batch).logits, rtol=1e-4, atol=1e-5)


def test_the_device_decides_the_type() -> None:
    assert fast_dtype("meta") == torch.float32
    assert fast_dtype("cpu") in (torch.float32, torch.bfloat16)
