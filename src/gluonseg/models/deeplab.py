"""DeepLabV3: Chen, Papandreou, Schroff, Adam, arXiv:1706.05587, with GluonCV's parameter names."""

from __future__ import annotations

from typing import Any

from gluoncv.model_zoo.deeplabv3 import _ASPPConv
from gluoncv.model_zoo.pspnet import _PSP1x1Conv
from mxnet.gluon import contrib, nn

from gluonseg.models.network import SegmentationNetwork
from gluonseg.models.psp import build_classifier

CHANNELS = 256
_RATES = (12, 24, 36)
"""At output stride 8, as in the paper; at 16 and 32 the same distances in pixels of the photo."""


class _ImagePooling(nn.HybridBlock):  # type: ignore[misc]
    """The image-level branch of ASPP: one value a channel, spread over the whole map."""

    def __init__(self, in_channels: int, channels: int, **norm: Any) -> None:
        super().__init__()
        self.gap = nn.HybridSequential()
        with self.gap.name_scope():
            self.gap.add(nn.GlobalAvgPool2D(), *_PSP1x1Conv(in_channels, channels, **norm))

    def hybrid_forward(self, F: Any, x: Any) -> Any:
        return F.broadcast_like(self.gap(x), x, lhs_axes=(2, 3), rhs_axes=(2, 3))


class ASPP(nn.HybridBlock):  # type: ignore[misc]
    """Atrous spatial pyramid pooling: 1x1, three dilated 3x3, and the mean of the whole map, side by side."""

    def __init__(self, in_channels: int, output_stride: int, **norm: Any) -> None:
        super().__init__()
        rates = [rate * 8 // output_stride for rate in _RATES]
        # "concurent" is GluonCV's spelling; parameter files carry it.
        self.concurent = contrib.nn.HybridConcurrent(axis=1)
        with self.concurent.name_scope():
            self.concurent.add(
                _PSP1x1Conv(in_channels, CHANNELS, **norm),
                *(_ASPPConv(in_channels, CHANNELS, rate, **norm) for rate in rates),
                _ImagePooling(in_channels, CHANNELS, **norm),
            )
        self.project = nn.HybridSequential()
        with self.project.name_scope():
            self.project.add(*_PSP1x1Conv(5 * CHANNELS, CHANNELS, **norm), nn.Dropout(0.5))

    def hybrid_forward(self, _F: Any, x: Any) -> Any:
        return self.project(self.concurent(x))


class _DeepLabHead(nn.HybridBlock):  # type: ignore[misc]
    def __init__(self, in_channels: int, num_classes: int, output_stride: int, **norm: Any) -> None:
        super().__init__()
        with self.name_scope():
            self.aspp = ASPP(in_channels, output_stride, **norm)
            self.block = build_classifier(CHANNELS, CHANNELS, num_classes, **norm)

    def hybrid_forward(self, _F: Any, x: Any) -> Any:
        return self.block(self.aspp(x))


class DeepLabV3(SegmentationNetwork):
    """Atrous spatial pyramid pooling on the encoder's last features."""

    def build_heads(self, channels: tuple[int, ...], num_classes: int, **norm: Any) -> None:
        self.head = _DeepLabHead(channels[-1], num_classes, self.output_stride, **norm)
        super().build_heads(channels, num_classes, **norm)
