"""The decoders of CSAIL's semantic-segmentation-pytorch: https://github.com/CSAILVision/semantic-segmentation-pytorch

Every enlargement there has its corners not aligned, so the declarations say ``align_corners=False``.
"""

from __future__ import annotations

from typing import Any

from mxnet.gluon import nn

from gluonseg.models.network import SegmentationNetwork, resize_like

BINS = (1, 2, 3, 6)
"""Of the pyramid pooling, on a side."""
PPM_CHANNELS = 512


def build_convolution(in_channels: int, channels: int, kernel: int, norm_layer: Any, norm_kwargs: Any) -> Any:
    """Convolution without bias, batch norm, ReLU."""
    block = nn.HybridSequential()
    with block.name_scope():
        block.add(
            nn.Conv2D(channels, kernel_size=kernel, padding=kernel // 2, in_channels=in_channels, use_bias=False),
            norm_layer(in_channels=channels, **(norm_kwargs or {})),
            nn.Activation("relu"),
        )
    return block


def build_head(in_channels: int, channels: int, num_classes: int, dropout: float = 0.0, **norm: Any) -> Any:
    """3x3 convolution to ``channels``, batch norm, ReLU, 1x1 convolution to one map a class."""
    head = build_convolution(in_channels, channels, 3, **norm)
    with head.name_scope():
        if dropout:
            head.add(nn.Dropout(dropout))
        head.add(nn.Conv2D(num_classes, kernel_size=1, in_channels=channels))
    return head


def resize_all(F: Any, features: list[Any], reference: Any) -> list[Any]:
    """The features, each at the size of ``reference``, corners not aligned."""
    return [resize_like(F, feature, reference, align_corners=False) for feature in features]


class C1(SegmentationNetwork):
    """One 3x3 convolution on the encoder's last features; with ``aux`` the same on those before (C1_deepsup)."""

    def build_heads(self, channels: tuple[int, ...], num_classes: int, **norm: Any) -> None:
        self.head = build_head(channels[-1], channels[-1] // 4, num_classes, **norm)
        if self.aux:
            self.auxlayer = build_head(channels[-2], channels[-1] // 4, num_classes, **norm)


class _PyramidHead(nn.HybridBlock):  # type: ignore[misc]
    """Means over 1, 2, 3 and 6 bins a side, each a 1x1 convolution, enlarged, and joined with the features."""

    def __init__(self, in_channels: int, num_classes: int, **norm: Any) -> None:
        super().__init__()
        with self.name_scope():
            self.ppm = nn.HybridSequential()
            for _ in BINS:
                self.ppm.add(build_convolution(in_channels, PPM_CHANNELS, 1, **norm))
            joined = in_channels + len(BINS) * PPM_CHANNELS
            self.conv_last = build_head(joined, PPM_CHANNELS, num_classes, dropout=0.1, **norm)

    def hybrid_forward(self, F: Any, x: Any) -> Any:
        means = [F.contrib.AdaptiveAvgPooling2D(x, output_size=bins) for bins in BINS]
        levels = [convolution(mean) for convolution, mean in zip(self.ppm, means, strict=True)]
        return self.conv_last(F.concat(x, *resize_all(F, levels, x), dim=1))


class PPM(SegmentationNetwork):
    """Pyramid pooling of 512 channels a level (GluonCV's PSP has a quarter of the input's); ``aux``: PPM_deepsup."""

    def build_heads(self, channels: tuple[int, ...], num_classes: int, **norm: Any) -> None:
        self.head = _PyramidHead(channels[-1], num_classes, **norm)
        if self.aux:
            self.auxlayer = build_head(channels[-2], channels[-1] // 4, num_classes, dropout=0.1, **norm)


class _UPerHead(nn.HybridBlock):  # type: ignore[misc]
    """Pyramid pooling on the last features and a feature pyramid over all, fused at the finest."""

    def __init__(self, in_channels: tuple[int, ...], channels: int, num_classes: int, **norm: Any) -> None:
        super().__init__()
        last, levels = in_channels[-1], len(in_channels)
        with self.name_scope():
            self.ppm_conv, self.fpn_in, self.fpn_out = (nn.HybridSequential() for _ in range(3))
            for _ in BINS:
                self.ppm_conv.add(build_convolution(last, PPM_CHANNELS, 1, **norm))
            self.ppm_last_conv = build_convolution(last + len(BINS) * PPM_CHANNELS, channels, 3, **norm)
            for number in in_channels[:-1]:
                self.fpn_in.add(build_convolution(number, channels, 1, **norm))
                self.fpn_out.add(build_convolution(channels, channels, 3, **norm))
            self.conv_last = build_head(levels * channels, channels, num_classes, **norm)

    def hybrid_forward(self, F: Any, *features: Any) -> Any:
        *finer, x = features
        means = [F.contrib.AdaptiveAvgPooling2D(x, output_size=bins) for bins in BINS]
        # Enlarged first and convolved then: the other way round than in PPM.
        levels = [convolution(mean) for convolution, mean in zip(self.ppm_conv, resize_all(F, means, x), strict=True)]
        sums = [self.ppm_last_conv(F.concat(x, *levels, dim=1))]
        for convolution, feature in reversed(list(zip(self.fpn_in, finer, strict=True))):
            lateral = convolution(feature)
            sums.insert(0, lateral + resize_like(F, sums[0], lateral, align_corners=False))
        outputs = [convolution(level) for convolution, level in zip(self.fpn_out, sums[:-1], strict=True)]
        fused = [outputs[0], *resize_all(F, [*outputs[1:], sums[-1]], outputs[0])]
        return self.conv_last(F.concat(*fused, dim=1))


class UPerNet(SegmentationNetwork):
    """Xiao, Liu, Zhou, Jiang, Sun, ECCV 2018; logits at stride 4."""

    encoder_stride = 32
    fpn_channels = 512

    def build_heads(self, channels: tuple[int, ...], num_classes: int, **norm: Any) -> None:
        self.head = _UPerHead(channels[2:], self.fpn_channels, num_classes, **norm)

    def decode(self, features: list[Any]) -> Any:
        return self.head(*features[2:])


class UPerNetLite(UPerNet):
    """With 256 channels in the feature pyramid."""

    fpn_channels = 256


class _JoinedHead(nn.HybridBlock):  # type: ignore[misc]
    """C1 on features that are enlarged to the finest of them and joined."""

    def __init__(self, in_channels: tuple[int, ...], num_classes: int, **norm: Any) -> None:
        super().__init__()
        with self.name_scope():
            joined = sum(in_channels)
            self.c1 = build_head(joined, joined // 4, num_classes, **norm)

    def hybrid_forward(self, F: Any, *features: Any) -> Any:
        finest, *coarser = features
        return self.c1(F.concat(finest, *resize_all(F, coarser, finest), dim=1))


class HRNet(SegmentationNetwork):
    """C1 on the four branches of an HRNet; logits at stride 4."""

    encoder_stride = 32

    def build_heads(self, channels: tuple[int, ...], num_classes: int, **norm: Any) -> None:
        self.head = _JoinedHead(channels[2:], num_classes, **norm)

    def decode(self, features: list[Any]) -> Any:
        return self.head(*features[2:])
