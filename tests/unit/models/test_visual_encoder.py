"""The visual encoder: order of its parts, shapes, masks, freezing."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from soho.models import SohoModel
from soho.models.visual_encoder import VisualEncoder
from tests.unit.models.tiny import blocks, layer_normed, picture_batch, tiny_config

R18 = {
    "model_type": "resnet",
    "embedding_size": 8,
    "hidden_sizes": [8, 8, 8, 16],
    "depths": [2, 2, 2, 2],
    "layer_type": "basic",
}


def known_encoder(norm: str = "none") -> VisualEncoder:
    """Return an encoder whose CNN takes block means and whose 1x1 convolution is written down."""
    config = tiny_config(
        hidden_size=4,
        num_attention_heads=1,
        backbone_factory="tests.unit.models.tiny:block_mean",
        visual_feature_norm=norm,
    )
    encoder = VisualEncoder(config)
    weight = torch.tensor([[1.0, 0, 0], [-1.0, 0, 0], [0, 1.0, 0], [1.0, 1.0, 0]])
    with torch.no_grad():
        encoder.projection.weight.copy_(weight[:, :, None, None])
        assert encoder.projection.bias is not None
        encoder.projection.bias.copy_(torch.tensor([0.0, 0.0, 0.0, 10.0]))
    return encoder


def everywhere(pixels: Tensor) -> Tensor:
    return torch.ones_like(pixels[:, 0], dtype=torch.bool)


ZERO = [[0.0, 0.0], [0.0, 0.0]]


@pytest.mark.parametrize("norm", ["none", "layer"])
def test_convolution_comes_before_max_pooling(norm: str) -> None:
    pixels = blocks([[[1.0, 2.0], [3.0, 4.0]], [[4.0, 3.0], [2.0, 1.0]], ZERO])
    features, mask, grid, _ = known_encoder(norm)(pixels, everywhere(pixels))
    # max(x), max(-x), max(y), max(x + y) + 10; pooling first would give -4 and 18 for the second and the last.
    expected = [4.0, -1.0, 4.0, 15.0]
    if norm == "layer":
        expected = layer_normed(expected)
        assert expected == pytest.approx([-0.256307, -1.110665, -0.256307, 1.623280], abs=1e-5)
    assert (tuple(features.shape), mask.tolist(), grid) == ((1, 1, 4), [[True]], (1, 1))
    torch.testing.assert_close(features[0, 0], torch.tensor(expected))


def test_ceil_keeps_the_last_odd_row_and_column() -> None:
    pixels = blocks([[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 9.0]], [[0.0] * 3] * 3, [[0.0] * 3] * 3])
    features, mask, grid, _ = known_encoder()(pixels, everywhere(pixels))
    assert grid == (2, 2)
    assert mask.all()
    assert features[0, :, 0].tolist() == [5.0, 6.0, 8.0, 9.0]  # row by row


def test_padding_stays_out_of_the_pooling() -> None:
    # The CNN sees something in padding cells too (here 9); only the top left cell is picture.
    pixels = blocks([[[1.0, 9.0], [9.0, 9.0]], [[0.0, 9.0], [9.0, 9.0]], ZERO])
    mask = torch.zeros(1, 64, 64, dtype=torch.bool)
    mask[:, :32, :32] = True
    features, token_mask, *_ = known_encoder()(pixels, mask)
    assert token_mask.tolist() == [[True]]
    assert features[0, 0].tolist() == [1.0, -1.0, 0.0, 11.0]


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [
        (64, 64, [True, False, False, False]),
        (64, 65, [True, True, False, False]),  # one pixel of the next block is enough
        (1, 1, [True, False, False, False]),
        (96, 96, [True, True, True, True]),
        (128, 64, [True, False, True, False]),
    ],
)
def test_token_mask(height: int, width: int, expected: list[bool]) -> None:
    pixels = torch.ones(1, 3, 128, 128)
    mask = torch.zeros(1, 128, 128, dtype=torch.bool)
    mask[:, :height, :width] = True
    for norm in ("none", "layer"):
        features, token_mask, grid, _ = known_encoder(norm)(pixels, mask)
        assert grid == (2, 2)
        assert token_mask.tolist() == [expected]
        assert features[0].abs().sum(1).gt(0).tolist() == expected  # exactly zero at padding


def test_nothing_but_padding_is_zero_with_finite_gradients() -> None:
    encoder = known_encoder("layer")
    features, mask, *_ = encoder(torch.zeros(1, 3, 64, 64), torch.zeros(1, 64, 64, dtype=torch.bool))
    features.sum().backward()
    assert not mask.any()
    assert features.abs().sum() == 0
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_600_by_1000_gives_160_tokens() -> None:
    encoder = VisualEncoder(tiny_config(visual_backbone=R18)).eval()
    with torch.no_grad():
        for height, width in ((600, 1000), (640, 1024)):  # as it is, and padded to multiples of 64
            pixels = torch.zeros(1, 3, height, width)
            mask = torch.zeros(1, height, width, dtype=torch.bool)
            mask[:, :600, :1000] = True
            features, token_mask, grid, _ = encoder(pixels, mask)
            assert grid == (10, 16)
            assert features.shape == (1, 160, 16)
            assert token_mask.sum() == 160


def test_layer_norm_of_features_has_no_parameters_and_unit_length() -> None:
    encoder = VisualEncoder(tiny_config()).eval()
    pixels = torch.randn(1, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    features, *_ = encoder(pixels, everywhere(pixels))
    assert {name.split(".")[0] for name, _ in encoder.named_parameters()} == {"backbone", "projection"}
    torch.testing.assert_close(features.mean(-1), torch.zeros(1, 4), atol=1e-5, rtol=0)
    torch.testing.assert_close(features.var(-1, unbiased=False), torch.ones(1, 4), atol=1e-3, rtol=0)


def statistics(encoder: VisualEncoder) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in encoder.backbone.named_buffers()}


def step(encoder: VisualEncoder) -> None:
    encoder.zero_grad()
    pixels = torch.randn(2, 3, 128, 128, generator=torch.Generator().manual_seed(1))
    encoder(pixels, everywhere(pixels)).features[:, :, 0].sum().backward()


def test_frozen_cnn_has_no_gradient_and_fixed_statistics_until_it_is_thawed() -> None:
    encoder = VisualEncoder(tiny_config()).train()
    before = statistics(encoder)
    encoder.freeze(True)
    encoder.train()  # what a training loop does at every epoch
    step(encoder)
    assert all(torch.equal(before[name], value) for name, value in statistics(encoder).items())
    assert all(parameter.grad is None for parameter in encoder.backbone.parameters())
    assert all(parameter.requires_grad for parameter in encoder.backbone.parameters())
    assert encoder.projection.weight.grad is not None
    assert not any(module.training for module in encoder.backbone.modules())
    encoder.freeze(False)
    step(encoder)
    assert all(parameter.grad is not None for parameter in encoder.backbone.parameters())
    norms = [module for module in encoder.backbone.modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms
    assert all(int(norm.num_batches_tracked or 0) == 1 for norm in norms)


def test_freezing_in_evaluation_stays_in_evaluation() -> None:
    encoder = VisualEncoder(tiny_config()).eval()
    encoder.freeze(True)
    encoder.freeze(False)
    assert not any(module.training for module in encoder.modules())


def test_the_summary_weighs_the_cells_of_the_picture_alone() -> None:
    config = tiny_config(
        hidden_size=4,
        num_attention_heads=1,
        backbone_factory="tests.unit.models.tiny:block_mean",
        visual_summary=True,
    )
    encoder = VisualEncoder(config).eval()
    assert encoder.summary is not None
    with torch.no_grad():
        encoder.summary.attention.weight.copy_(torch.tensor([[1.0, 0.0, 0.0]]))
        table = torch.tensor([[1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0], [0, 0, 0]])
        encoder.projection.weight.copy_(table[..., None, None])
        encoder.projection.bias.copy_(torch.tensor([0.0, 0.0, 0.0, 7.0]))
    three = math.log(3.0)
    pixels = blocks([[[0.0, three], [9.0, 9.0]], [[4.0, 8.0], [9.0, 9.0]], [[0.0, 0.0], [9.0, 9.0]]])
    mask = everywhere(pixels)
    mask[:, 32:] = False
    # Weights 1 : 3 of the upper two cells; the lower two are padding.
    expected = torch.tensor([[0.75 * three, 0.25 * 4 + 0.75 * 8, 0.0, 7.0]])
    torch.testing.assert_close(encoder(pixels, mask).summary, expected)


def test_the_summary_is_the_first_visual_token_without_place_and_code() -> None:
    torch.manual_seed(0)
    plain = SohoModel(tiny_config()).eval()
    model = SohoModel(tiny_config(visual_summary=True)).eval()
    assert not model.load_state_dict(plain.state_dict(), strict=False).unexpected_keys
    batch = picture_batch(2)
    without = plain.encode_image(batch["pixel_values"], batch["pixel_mask"])
    image = model.encode_image(batch["pixel_values"], batch["pixel_mask"])
    summary = model.visual_encoder(batch["pixel_values"], batch["pixel_mask"]).summary
    assert summary is not None
    assert summary.std() > 0.01
    torch.testing.assert_close(image.tokens[:, 0], summary)
    torch.testing.assert_close(image.features[:, 0], summary)
    assert image.mask[:, 0].all()
    assert (image.position[:, 0] == 0).all()
    assert (image.indices[:, 0] == -1).all()
    for ours, theirs in zip(image, without, strict=True):
        torch.testing.assert_close(ours[:, 1:], theirs)
