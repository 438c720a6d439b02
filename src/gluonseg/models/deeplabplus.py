"""DeepLabV3+: Chen, Zhu, Papandreou, Schroff, Adam, ECCV 2018, on any dilated encoder; logits of stride 4."""

from __future__ import annotations

from typing import Any

from gluoncv.model_zoo.pspnet import _PSP1x1Conv
from mxnet.gluon import nn

from gluonseg.models.deeplab import ASPP, CHANNELS
from gluonseg.models.network import SegmentationNetwork, resize_like

_LOW_CHANNELS = 48
"""To which the features of stride 4 are reduced, so that they do not outweigh the others (section 4.1)."""


class _PlusHead(nn.HybridBlock):  # type: ignore[misc]
    """ASPP of the last features, enlarged to those of stride 4 and joined with them; two 3x3 convolutions."""

    def __init__(self, low: int, last: int, num_classes: int, stride: int, norm_layer: Any, norm_kwargs: Any) -> None:
        super().__init__()
        norm = {"norm_layer": norm_layer, "norm_kwargs": norm_kwargs}
        with self.name_scope():
            self.aspp = ASPP(last, stride, **norm)
            self.low = nn.HybridSequential()
            self.low.add(*_PSP1x1Conv(low, _LOW_CHANNELS, **norm))
            self.block = nn.HybridSequential()
            for in_channels in (CHANNELS + _LOW_CHANNELS, CHANNELS):
                self.block.add(
                    nn.Conv2D(CHANNELS, kernel_size=3, padding=1, in_channels=in_channels, use_bias=False),
                    norm_layer(in_channels=CHANNELS, **(norm_kwargs or {})),
                    nn.Activation("relu"),
                )
            self.block.add(nn.Dropout(0.1), nn.Conv2D(num_classes, kernel_size=1, in_channels=CHANNELS))

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
