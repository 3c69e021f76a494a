"""The CNNs that transformers does not bring, and the memory of a frozen one."""

from __future__ import annotations

import pytest
import torch

from soho.errors import SohoError
from soho.models import SohoForPreTraining
from soho.models.backbones import compact_resnet
from soho.models.initialization import new_model
from soho.models.visual_encoder import FeatureMemory, VisualEncoder
from tests.unit.models.tiny import tiny_config

FACTORY = "soho.models.backbones:compact_resnet"


def test_the_compact_cnn_has_stride_32_and_needs_four_widths() -> None:
    cnn = compact_resnet(widths=[8, 8, 12, 20])
    assert cnn.out_channels == 20
    assert cnn(torch.zeros(2, 3, 64, 96)).shape == (2, 20, 2, 3)
    with pytest.raises(SohoError, match=r"four positive widths .* not \[8, 0\]"):
        compact_resnet(widths=[8, 0])


def test_a_cnn_without_learned_weights_is_reported_as_new() -> None:
    config = tiny_config(backbone_factory=FACTORY, backbone_factory_args={"widths": [8, 8, 8, 8]})
    _, report = new_model(SohoForPreTraining, config)
    assert "visual backbone: new (no pre-trained CNN was named)" in report.lines()


def test_a_frozen_cnn_sees_a_picture_once() -> None:
    config = tiny_config(backbone_factory=FACTORY, backbone_factory_args={"widths": [8, 8, 8, 8]})
    torch.manual_seed(0)
    encoder = VisualEncoder(config).train()
    encoder.freeze(True)
    pictures, masks = torch.randn(3, 3, 64, 64), torch.ones(3, 64, 64, dtype=torch.bool)
    wanted = encoder(pictures, masks).features
    encoder.memory = FeatureMemory(1)
    seen: list[int] = []
    encoder.backbone.register_forward_hook(lambda module, inputs, output: seen.append(len(inputs[0])))
    for rows in ([0, 1], [1, 2], [2, 0], [0, 0]):
        got = encoder(pictures[rows], masks[rows]).features
        torch.testing.assert_close(got, wanted[rows], rtol=1e-5, atol=1e-5)
    assert seen == [2, 1]
    # What comes after the CNN goes on learning.
    encoder(pictures, masks).features.square().sum().backward()
    assert encoder.projection.weight.grad is not None
    encoder.freeze(False)
    encoder(pictures, masks)
    assert seen == [2, 1, 3]
    # A CNN that is frozen again has other weights by then.
    encoder.freeze(True)
    encoder(pictures, masks)
    assert seen == [2, 1, 3, 3]


def test_a_full_memory_computes_anew() -> None:
    memory = FeatureMemory(1)
    calls: list[int] = []

    def compute(pictures: torch.Tensor) -> torch.Tensor:
        calls.append(len(pictures))
        return pictures.repeat(1, 16, 1, 1)  # 48 x 64 x 64 x 4 bytes = 0.75 MiB a picture

    pictures = torch.randn(2, 3, 64, 64)
    for _ in range(2):
        assert torch.equal(memory.recall(pictures, compute), pictures.repeat(1, 16, 1, 1))
    assert calls == [2, 1]  # the second picture did not fit
