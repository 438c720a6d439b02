"""Encoders: GluonCV's backbones, as features of several strides.

An encoder is a block with four things. Called with photos (N, 3, H, W) it returns a list of features, the photos
themselves first. Feature ``i`` has ``channels[i]`` channels and ceil(H / ``strides[i]``) rows. ``parts`` names the
children that hold its parameters; the segmentation network takes them over, so a parameter has the name that it has in
GluonCV. With an output stride of 8 or 16 the last stages are dilated instead of strided (Yu and Koltun,
arXiv:1511.07122). ``stages`` below 5 leaves the last stages out, with their parameters.
"""

from __future__ import annotations

from typing import Any

from gluoncv.model_zoo.hrnet import HRNET_SPEC, HighResolutionBaseNet
from gluoncv.model_zoo.mobilenet import MobileNet, MobileNetV2
from gluoncv.model_zoo.resnetv1b import BasicBlockV1b, BottleneckV1b, ResNetV1b
from gluoncv.model_zoo.vgg import vgg_spec
from mxnet.gluon import nn

from gluonseg.errors import ModelError

_LAYERS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
_STRIDES = (1, 2, 4, 8, 16, 32)
_DILATIONS = {32: (1, 1), 16: (1, 2), 8: (2, 4)}
"""Dilation of the last two stages, which have stride 16 and 32 in the plain network, by output stride."""


def find_dilations(name: str, output_stride: int) -> tuple[int, int]:
    """Dilations of the last two stages of the encoder ``name``; ModelError for an output stride that it has not."""
    if output_stride not in _DILATIONS:
        raise ModelError(
            f"{name} has the output strides {', '.join(map(str, _DILATIONS))}, not {output_stride}; a network that "
            "enlarges what the encoder gives sets encoder_stride"
        )
    return _DILATIONS[output_stride]


def _list_strides(output_stride: int) -> tuple[int, ...]:
    return tuple(min(stride, output_stride) for stride in _STRIDES)


def dilate(block: nn.HybridBlock, dilation: int) -> None:
    """Take the stride from the convolutions of a stage that has not been called yet, and dilate them instead.

    The convolution that had the stride is dilated by half of ``dilation``, as its input is still the stage before. A
    :class:`_Halve` is switched off.
    """

    def change(layer: nn.HybridBlock) -> None:
        if isinstance(layer, nn.Conv2D):
            given = layer._kwargs
            rate = dilation // 2 if given["stride"] == (2, 2) else dilation
            given["stride"] = (1, 1)
            if given["kernel"] == (3, 3):
                given["dilate"] = given["pad"] = (rate, rate)
        elif isinstance(layer, _Halve):
            layer.is_off = True

    if dilation > 1:
        block.apply(change)


class ResNetEncoder(ResNetV1b):  # type: ignore[misc]
    """GluonCV's ResNet: v1b, or with a stem of three 3x3 convolutions v1s (50 and deeper, and ``resnet-18s``)."""

    parts: tuple[str, ...] = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4")

    def __init__(self, name: str, output_stride: int = 32, stages: int = 5, **norm: Any) -> None:
        depth = int(name.removeprefix("resnet-").removesuffix("s"))
        is_deep = depth >= 50
        has_deep_stem = is_deep or name.endswith("s")
        dilations = find_dilations(name, output_stride)
        super().__init__(
            BottleneckV1b if is_deep else BasicBlockV1b,
            _LAYERS[depth],
            deep_stem=has_deep_stem,
            stem_width=64,
            name_prefix=f"resnetv1{'s' if has_deep_stem else 'b'}_",
            **norm,
        )
        for stage, dilation in zip((self.layer3, self.layer4), dilations, strict=True):
            dilate(stage, dilation)
        widths = (width * (4 if is_deep else 1) for width in (64, 128, 256, 512))
        self.parts = self.parts[: 3 + stages]
        self.channels = (3, 128 if has_deep_stem else 64, *widths)[: 1 + stages]
        self.strides = _list_strides(output_stride)[: 1 + stages]

    def hybrid_forward(self, _F: Any, x: Any) -> list[Any]:
        features = [x, self.relu(self.bn1(self.conv1(x)))]
        features.append(self.layer1(self.maxpool(features[-1])))
        for stage in (self.layer2, self.layer3, self.layer4)[: len(self.strides) - 3]:
            features.append(stage(features[-1]))
        return features


class _Stages(nn.HybridBlock):  # type: ignore[misc]
    """For an encoder whose layers are one list, ``features``: ``ends`` says after how many of them each stage ends."""

    parts = ("features",)
    ends: tuple[int, ...]
    channels: tuple[int, ...]
    features: Any

    def __init__(self, name: str, output_stride: int = 32, stages: int = 5, **norm: Any) -> None:
        """Drop the layers behind the last stage that is used, and dilate the stages 4 and 5 as the stride asks."""
        super().__init__(**norm)
        self.ends, self.channels = self.ends[:stages], self.channels[: 1 + stages]
        self.strides = _list_strides(output_stride)[: 1 + stages]
        for unused in list(self.features._children)[self.ends[-1] :]:
            del self.features._children[unused]
        for stage, dilation in zip(self._list_stages()[3:], find_dilations(name, output_stride), strict=False):
            for layer in stage:
                dilate(layer, dilation)

    def _list_stages(self) -> list[list[Any]]:
        layers = list(self.features)
        return [layers[start:end] for start, end in zip((0, *self.ends), self.ends, strict=False)]

    def hybrid_forward(self, _F: Any, x: Any) -> list[Any]:
        outputs = [x]
        for stage in self._list_stages():
            for layer in stage:
                x = layer(x)
            outputs.append(x)
        return outputs


class MobileNetEncoder(_Stages, MobileNet):  # type: ignore[misc]
    """GluonCV's MobileNet: Howard et al., arXiv:1704.04861."""

    channels = (3, 64, 128, 256, 512, 1024)
    ends = (9, 21, 33, 69, 81)


class MobileNetV2Encoder(_Stages, MobileNetV2):  # type: ignore[misc]
    """GluonCV's MobileNetV2: Sandler et al., CVPR 2018; without its last 1x1 convolution, as in CSAIL's."""

    channels = (3, 16, 24, 32, 96, 320)
    ends = (4, 6, 9, 16, 20)


class _Halve(nn.HybridBlock):  # type: ignore[misc]
    """The maximum of each 2x2 square; at an odd side the last row counts twice, so the side is rounded up.

    MXNet's ``ceil_mode`` does the same but for a side of one pixel, which it refuses.
    """

    is_off = False

    def hybrid_forward(self, F: Any, x: Any) -> Any:
        if self.is_off:
            return x
        padded = F.pad(x, mode="edge", pad_width=(0, 0, 0, 0, 0, 1, 0, 1))
        return F.Pooling(padded, kernel=(2, 2), stride=(2, 2), pool_type="max")


class _VGG(nn.HybridBlock):  # type: ignore[misc]
    """The convolutions of VGG-16 with batch norm; layers and names are those of GluonCV's ``vgg16_bn``.

    GluonCV's class cannot synchronise its batch norms, builds a classifier of 120 million parameters, and rounds odd
    sizes down.
    """

    def __init__(self, norm_layer: Any = nn.BatchNorm, norm_kwargs: Any = None) -> None:
        super().__init__()
        with self.name_scope():
            self.features = nn.HybridSequential(prefix="")
            in_channels = 3
            for count, channels in zip(*vgg_spec[16], strict=True):
                for _ in range(count):
                    self.features.add(
                        nn.Conv2D(channels, kernel_size=3, padding=1, in_channels=in_channels),
                        norm_layer(in_channels=channels, **(norm_kwargs or {})),
                        nn.Activation("relu"),
                    )
                    in_channels = channels
                self.features.add(_Halve())


class VGGEncoder(_Stages, _VGG):
    """VGG-16 with batch norm: Simonyan and Zisserman, ICLR 2015.

    The first stage ends with the second block of convolutions, at stride 2, as in segmentation_models.pytorch; the
    last is the last pooling alone.
    """

    channels = (3, 128, 256, 512, 512, 512)
    ends = (13, 23, 33, 43, 44)


class HRNetEncoder(HighResolutionBaseNet):  # type: ignore[misc]
    """GluonCV's HRNet: Wang et al., arXiv:1908.07919; its last features are the four branches of stride 4 to 32.

    ``norm`` reaches the convolutions between the branches only: GluonCV's blocks have a plain batch norm.
    """

    parts = (
        "conv1", "bn1", "conv2", "bn2", "layer1", "transition1", "stage2", "transition2", "stage3", "transition3",
        "stage4",
    )  # fmt: skip
    strides = _STRIDES

    def __init__(self, name: str, output_stride: int = 32, **norm: Any) -> None:
        if output_stride != 32:
            raise ModelError(f"{name} has branches of the strides 4 to 32 and no output stride {output_stride}")
        spec = HRNET_SPEC[name.removeprefix("hrnet-")]
        super().__init__(spec, "bilinear_like", **norm)
        self.channels = (3, 64, *spec[-1][3])

    def hybrid_forward(self, F: Any, x: Any) -> list[Any]:
        stem = F.relu(self.bn1(self.conv1(x)))
        branches = [self.layer1(F.relu(self.bn2(self.conv2(stem))))]
        stages = (self.transition1, self.stage2), (self.transition2, self.stage3), (self.transition3, self.stage4)
        for transition, stage in stages:
            # What makes a new branch takes the coarsest one.
            branches = [step(branches[min(index, len(branches) - 1)]) for index, step in enumerate(transition)]
            for module in stage:
                branches = module(*branches)
        return [x, stem, *branches]
