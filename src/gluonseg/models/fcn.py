"""FCN: Long, Shelhamer, Darrell, CVPR 2015, with GluonCV's head and parameter names."""

from __future__ import annotations

from typing import Any

from gluoncv.model_zoo.fcn import _FCNHead

from gluonseg.models.network import SegmentationNetwork


class FCN(SegmentationNetwork):
    """A 3x3 and a 1x1 convolution on the encoder's last features."""

    def build_heads(self, channels: tuple[int, ...], num_classes: int, **norm: Any) -> None:
        self.head = _FCNHead(channels[-1], num_classes, **norm)
        super().build_heads(channels, num_classes, **norm)
