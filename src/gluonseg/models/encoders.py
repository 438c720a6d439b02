"""Encoders: GluonCV's backbones, as features of several strides."""

from __future__ import annotations

from typing import Any

from gluoncv.model_zoo.resnetv1b import BasicBlockV1b, BottleneckV1b, ResNetV1b

from gluonseg.errors import ModelError

_LAYERS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
_STAGES: dict[int, dict[int, tuple[int, int]]] = {32: {}, 16: {4: (1, 2)}, 8: {3: (1, 2), 4: (1, 4)}}
"""Stride and dilation of the stages that differ from the plain ResNet, by output stride."""


class ResNetEncoder(ResNetV1b):  # type: ignore[misc]
    """GluonCV's ResNet without its classifier, with the parameter names that GluonCV's segmentation networks have.

    Called with a photo (N, 3, H, W) it returns a list of features, the photo itself first. Feature ``i`` has
    ``channels[i]`` channels and ceil(H / ``strides[i]``) rows. With an output stride of 8 or 16 the last stages are
    dilated instead of strided (Yu and Koltun, arXiv:1511.07122).

    An encoder of another kind needs the same: to be called, ``channels``, ``strides``, and ``parts``, the names of the
    children that the segmentation network takes over.
    """

    parts = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4")

    def __init__(self, name: str, output_stride: int = 32, **norm: Any) -> None:
        if output_stride not in _STAGES:
            raise ModelError(
                f"{name} has the output strides {', '.join(map(str, _STAGES))}, not {output_stride}; a network that "
                "enlarges what the encoder gives sets encoder_stride"
            )
        depth = int(name.removeprefix("resnet-"))
        is_deep = depth >= 50
        self._stages = _STAGES[output_stride]
        super().__init__(
            BottleneckV1b if is_deep else BasicBlockV1b,
            _LAYERS[depth],
            deep_stem=is_deep,
            stem_width=64,
            name_prefix=f"resnetv1{'s' if is_deep else 'b'}_",
            **norm,
        )
        stem, expansion = (128, 4) if is_deep else (64, 1)
        self.channels = (3, stem, *(width * expansion for width in (64, 128, 256, 512)))
        self.strides = tuple(min(stride, output_stride) for stride in (1, 2, 4, 8, 16, 32))

    def _make_layer(self, stage_index: int, *args: Any, strides: int = 1, dilation: int = 1, **kwargs: Any) -> Any:
        strides, dilation = self._stages.get(stage_index, (strides, dilation))
        return super()._make_layer(stage_index, *args, strides=strides, dilation=dilation, **kwargs)

    def hybrid_forward(self, _F: Any, x: Any) -> list[Any]:
        features = [x, self.relu(self.bn1(self.conv1(x)))]
        features.append(self.layer1(self.maxpool(features[-1])))
        for stage in (self.layer2, self.layer3, self.layer4):
            features.append(stage(features[-1]))
        return features
