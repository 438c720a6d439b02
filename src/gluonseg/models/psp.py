"""PSPNet: Zhao, Shi, Qi, Wang, Jia, CVPR 2017, with GluonCV's parameter names."""

from __future__ import annotations

from typing import Any

from gluoncv.model_zoo.pspnet import _PSP1x1Conv
from mxnet.gluon import nn

from gluonseg.models.network import SegmentationNetwork, resize_like


def build_classifier(in_channels: int, channels: int, num_classes: int, norm_layer: Any, norm_kwargs: Any) -> Any:
    """3x3 convolution, norm, ReLU, dropout, 1x1 convolution to one map a class."""
    block = nn.HybridSequential()
    with block.name_scope():
        block.add(
            nn.Conv2D(in_channels=in_channels, channels=channels, kernel_size=3, padding=1, use_bias=False),
            norm_layer(in_channels=channels, **(norm_kwargs or {})),
            nn.Activation("relu"),
            nn.Dropout(0.1),
            nn.Conv2D(in_channels=channels, channels=num_classes, kernel_size=1),
        )
    return block


class _PyramidPooling(nn.HybridBlock):  # type: ignore[misc]
    """The features, and beside them their means over 1, 2, 3 and 6 bins a side, each enlarged again."""

    def __init__(self, in_channels: int, **norm: Any) -> None:
        super().__init__()
        with self.name_scope():
            for index in range(1, 5):
                setattr(self, f"conv{index}", _PSP1x1Conv(in_channels, in_channels // 4, **norm))

    def hybrid_forward(self, F: Any, x: Any) -> Any:
        levels = [
            resize_like(F, convolution(F.contrib.AdaptiveAvgPooling2D(x, output_size=bins)), x)
            for bins, convolution in zip((1, 2, 3, 6), (self.conv1, self.conv2, self.conv3, self.conv4), strict=True)
        ]
        return F.concat(x, *levels, dim=1)


class _PSPHead(nn.HybridBlock):  # type: ignore[misc]
    def __init__(self, in_channels: int, num_classes: int, **norm: Any) -> None:
        super().__init__()
        with self.name_scope():
            self.psp = _PyramidPooling(in_channels, **norm)
            self.block = build_classifier(in_channels * 2, in_channels // 4, num_classes, **norm)

    def hybrid_forward(self, _F: Any, x: Any) -> Any:
        return self.block(self.psp(x))


class PSPNet(SegmentationNetwork):
    """Pyramid pooling on the encoder's last features."""

    def build_heads(self, channels: tuple[int, ...], num_classes: int, **norm: Any) -> None:
        self.head = _PSPHead(channels[-1], num_classes, **norm)
        super().build_heads(channels, num_classes, **norm)
