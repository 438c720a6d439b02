"""UNet: Ronneberger, Fischer, Brox, MICCAI 2015, on a classification network as its encoder.

The decoder is that of segmentation_models.pytorch's ``Unet``: https://github.com/qubvel-org/segmentation_models.pytorch
"""

from __future__ import annotations

from typing import Any

from mxnet.gluon import nn

from gluonseg.models.network import SegmentationNetwork

_CHANNELS = (256, 128, 64, 32, 16)


class _Block(nn.HybridBlock):  # type: ignore[misc]
    """Enlarge twofold, join the encoder's features of that size, and two 3x3 convolutions."""

    def __init__(self, in_channels: int, skip_channels: int, channels: int, norm_layer: Any, norm_kwargs: Any) -> None:
        super().__init__()
        self._has_skip = skip_channels > 0
        with self.name_scope():
            self.convolutions = nn.HybridSequential()
            for number in (in_channels + skip_channels, channels):
                self.convolutions.add(
                    nn.Conv2D(channels, kernel_size=3, padding=1, in_channels=number, use_bias=False),
                    norm_layer(in_channels=channels, **(norm_kwargs or {})),
                    nn.Activation("relu"),
                )

    def hybrid_forward(self, F: Any, x: Any, skip: Any) -> Any:
        # The encoder rounds odd sizes up, so what is twice as large can have a row or column too many.
        x = F.slice_like(F.UpSampling(x, scale=2, sample_type="nearest"), skip, axes=(2, 3))
        return self.convolutions(F.concat(x, skip, dim=1) if self._has_skip else x)


class UNet(SegmentationNetwork):
    """A decoder that joins the encoder's features of every stride, down to the photo's own size."""

    encoder_stride = 32

    def build_heads(self, channels: tuple[int, ...], num_classes: int, **norm: Any) -> None:
        inputs = (channels[-1], *_CHANNELS)
        # The photo itself, the first of the features, is not joined: it only gives the size.
        skips = (*reversed(channels[1:-1]), 0)
        self.decoder = nn.HybridSequential()
        for in_channels, skip_channels, out_channels in zip(inputs, skips, _CHANNELS, strict=False):
            self.decoder.add(_Block(in_channels, skip_channels, out_channels, **norm))
        self.classifier = nn.Conv2D(num_classes, kernel_size=3, padding=1, in_channels=_CHANNELS[-1])

    def decode(self, features: list[Any]) -> Any:
        x = features[-1]
        for block, skip in zip(self.decoder, reversed(features[:-1]), strict=True):
            x = block(x, skip)
        return self.classifier(x)
