"""SegNet as in image-segmentation-keras: https://github.com/divamgupta/image-segmentation-keras

The network of the paper (Badrinarayanan, Kendall, Cipolla, PAMI 2017) enlarges by the places that its poolings have
kept, for which MXNet has no operator. This one, as the Keras project's, has neither those nor ReLUs in its decoder.
"""

from __future__ import annotations

from typing import Any

from mxnet.gluon import nn

from gluonseg.models.network import SegmentationNetwork

_CHANNELS = (512, 256, 128, 64)


class _Block(nn.HybridBlock):  # type: ignore[misc]
    """Repeat each place twofold on both sides, at most to the size of ``reference``; 3x3 convolution, batch norm."""

    def __init__(self, in_channels: int, channels: int, norm_layer: Any, norm_kwargs: Any) -> None:
        super().__init__()
        with self.name_scope():
            self.convolution = nn.Conv2D(channels, kernel_size=3, padding=1, in_channels=in_channels)
            self.norm = norm_layer(in_channels=channels, **(norm_kwargs or {}))

    def hybrid_forward(self, F: Any, x: Any, reference: Any = None) -> Any:
        if reference is not None:
            x = F.slice_like(F.UpSampling(x, scale=2, sample_type="nearest"), reference, axes=(2, 3))
        return self.norm(self.convolution(x))


class SegNet(SegmentationNetwork):
    """From the features of stride 16 to logits of stride 2 by nearest enlargement and 3x3 convolutions."""

    encoder_stride = 32
    encoder_stages = 4

    def build_heads(self, channels: tuple[int, ...], num_classes: int, **norm: Any) -> None:
        self.decoder = nn.HybridSequential()
        for in_channels, out_channels in zip((channels[-1], *_CHANNELS), _CHANNELS, strict=False):
            self.decoder.add(_Block(in_channels, out_channels, **norm))
        self.classifier = nn.Conv2D(num_classes, kernel_size=3, padding=1, in_channels=_CHANNELS[-1])

    def decode(self, features: list[Any]) -> Any:
        first, *others = self.decoder
        x = first(features[-1])
        for block, finer in zip(others, features[3:0:-1], strict=True):
            x = block(x, finer)
        return self.classifier(x)
