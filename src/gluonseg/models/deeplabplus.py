"""DeepLabV3+: Chen, Zhu, Papandreou, Schroff, Adam, ECCV 2018, on any dilated encoder; logits of stride 4."""

from __future__ import annotations

from typing import Any

from mxnet.gluon import nn

from gluonseg.models.csail import build_convolution
from gluonseg.models.deeplab import ASPP, CHANNELS
from gluonseg.models.network import SegmentationNetwork, resize_like

_LOW_CHANNELS = 48
"""To which the features of stride 4 are reduced, so that they do not outweigh the others (section 4.1)."""


class _PlusHead(nn.HybridBlock):  # type: ignore[misc]
    """ASPP of the last features, enlarged to those of stride 4 and joined with them; two 3x3 convolutions."""

    def __init__(self, low: int, last: int, num_classes: int, stride: int, **norm: Any) -> None:
        super().__init__()
        with self.name_scope():
            self.aspp = ASPP(last, stride, **norm)
            self.low = build_convolution(low, _LOW_CHANNELS, 1, **norm)
            self.block = nn.HybridSequential()
            self.block.add(
                build_convolution(CHANNELS + _LOW_CHANNELS, CHANNELS, 3, **norm),
                build_convolution(CHANNELS, CHANNELS, 3, **norm),
                nn.Dropout(0.1),
                nn.Conv2D(num_classes, kernel_size=1, in_channels=CHANNELS),
            )

    def hybrid_forward(self, F: Any, low: Any, last: Any) -> Any:
        return self.block(F.concat(self.low(low), resize_like(F, self.aspp(last), low), dim=1))


class DeepLabV3Plus(SegmentationNetwork):
    """The encoder has an output stride of 16; its features of stride 4 sharpen the outlines."""

    encoder_stride = 16

    def build_heads(self, channels: tuple[int, ...], num_classes: int, **norm: Any) -> None:
        self.head = _PlusHead(channels[2], channels[-1], num_classes, self.encoder_stride, **norm)
        super().build_heads(channels, num_classes, **norm)

    def decode(self, features: list[Any]) -> Any:
        return self.head(features[2], features[-1])
