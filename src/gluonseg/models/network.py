"""FCN, PSPNet and DeepLabV3 for pictures of any size, on GluonCV's dilated ResNets.

Backbones, the FCN head and the small convolution blocks are GluonCV's. Its three network classes cannot
be used as they are: their heads are built for 2048 channels (ResNet-18/34 have 512), and they keep the
size to enlarge to as an attribute, so that PSPNet and DeepLabV3 fail on any other size and ``predict``
changes the network under every other thread. Here each enlargement takes its size from the tensor that
is being enlarged to. Parameter names, shapes and results are those of GluonCV: files load both ways.

* FCN: Long, Shelhamer, Darrell, CVPR 2015.
* PSPNet: Zhao, Shi, Qi, Wang, Jia, CVPR 2017.
* DeepLabV3: Chen, Papandreou, Schroff, Adam, arXiv:1706.05587.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gluoncv.model_zoo.deeplabv3 import _ASPPConv
from gluoncv.model_zoo.fcn import _FCNHead
from gluoncv.model_zoo.pspnet import _PSP1x1Conv
from gluoncv.model_zoo.segbase import SegBaseModel
from mxnet import ndarray
from mxnet.context import Context, cpu
from mxnet.gluon import contrib, nn

from gluonseg.errors import ModelError
from gluonseg.printable import escape_line

BOTTLENECK_CHANNELS = 2048
BASIC_CHANNELS = 512
BASIC_BACKBONES = ("resnet18", "resnet34")
HEAD_LR_MULT = 10
"""GluonCV trains head and auxiliary head at ten times the learning rate."""


def get_output_channels(backbone: str) -> int:
    """Channels of the last stage; the stage before it, which feeds the auxiliary head, has half."""
    return BASIC_CHANNELS if backbone in BASIC_BACKBONES else BOTTLENECK_CHANNELS


def _resize_like(F: Any, x: Any, reference: Any) -> Any:
    """Bilinear resize (corners aligned) of x (N, C, h, w) to the height and width of ``reference``."""
    return F.contrib.BilinearResize2D(x, reference, mode="like")


class _PyramidPooling(nn.HybridBlock):  # type: ignore[misc]
    def __init__(self, in_channels: int, norm_layer: Any, norm_kwargs: Any) -> None:
        super().__init__()
        with self.name_scope():
            for index in range(1, 5):
                setattr(self, f"conv{index}", _PSP1x1Conv(in_channels, in_channels // 4, norm_layer, norm_kwargs))

    def hybrid_forward(self, F: Any, x: Any) -> Any:
        levels = [
            _resize_like(F, convolution(F.contrib.AdaptiveAvgPooling2D(x, output_size=bins)), x)
            for bins, convolution in zip((1, 2, 3, 6), (self.conv1, self.conv2, self.conv3, self.conv4), strict=True)
        ]
        return F.concat(x, *levels, dim=1)


class _PSPHead(nn.HybridBlock):  # type: ignore[misc]
    def __init__(self, in_channels: int, nclass: int, norm_layer: Any, norm_kwargs: Any) -> None:
        super().__init__()
        with self.name_scope():
            self.psp = _PyramidPooling(in_channels, norm_layer, norm_kwargs)
            self.block = _build_classifier(in_channels * 2, in_channels // 4, nclass, norm_layer, norm_kwargs)

    def hybrid_forward(self, F: Any, x: Any) -> Any:
        return self.block(self.psp(x))


def _build_classifier(in_channels: int, channels: int, nclass: int, norm_layer: Any, norm_kwargs: Any) -> Any:
    """3x3 convolution, norm, ReLU, dropout, 1x1 convolution to one map a class."""
    block = nn.HybridSequential()
    with block.name_scope():
        block.add(
            nn.Conv2D(in_channels=in_channels, channels=channels, kernel_size=3, padding=1, use_bias=False),
            norm_layer(in_channels=channels, **(norm_kwargs or {})),
            nn.Activation("relu"),
            nn.Dropout(0.1),
            nn.Conv2D(in_channels=channels, channels=nclass, kernel_size=1),
        )
    return block


class _ImagePooling(nn.HybridBlock):  # type: ignore[misc]
    """The image-level branch of ASPP: one value a channel, spread over the whole map."""

    def __init__(self, in_channels: int, channels: int, norm_layer: Any, norm_kwargs: Any) -> None:
        super().__init__()
        self.gap = nn.HybridSequential()
        with self.gap.name_scope():
            self.gap.add(nn.GlobalAvgPool2D(), *_PSP1x1Conv(in_channels, channels, norm_layer, norm_kwargs))

    def hybrid_forward(self, F: Any, x: Any) -> Any:
        return F.broadcast_like(self.gap(x), x, lhs_axes=(2, 3), rhs_axes=(2, 3))


class _ASPP(nn.HybridBlock):  # type: ignore[misc]
    RATES = (12, 24, 36)
    CHANNELS = 256

    def __init__(self, in_channels: int, norm_layer: Any, norm_kwargs: Any) -> None:
        super().__init__()
        channels, norm = self.CHANNELS, (norm_layer, norm_kwargs)
        # "concurent" is GluonCV's spelling; parameter files carry it.
        self.concurent = contrib.nn.HybridConcurrent(axis=1)
        with self.concurent.name_scope():
            self.concurent.add(
                _PSP1x1Conv(in_channels, channels, *norm),
                *(_ASPPConv(in_channels, channels, rate, *norm) for rate in self.RATES),
                _ImagePooling(in_channels, channels, *norm),
            )
        self.project = nn.HybridSequential()
        with self.project.name_scope():
            self.project.add(*_PSP1x1Conv(5 * channels, channels, *norm), nn.Dropout(0.5))

    def hybrid_forward(self, F: Any, x: Any) -> Any:
        return self.project(self.concurent(x))


class _DeepLabHead(nn.HybridBlock):  # type: ignore[misc]
    def __init__(self, in_channels: int, nclass: int, norm_layer: Any, norm_kwargs: Any) -> None:
        super().__init__()
        with self.name_scope():
            self.aspp = _ASPP(in_channels, norm_layer, norm_kwargs)
            self.block = _build_classifier(_ASPP.CHANNELS, _ASPP.CHANNELS, nclass, norm_layer, norm_kwargs)

    def hybrid_forward(self, F: Any, x: Any) -> Any:
        return self.block(self.aspp(x))


class SegmentationNetwork(SegBaseModel):  # type: ignore[misc]
    """Backbone, head and (``aux``) auxiliary head; takes GluonCV's constructor arguments.

    Input: float32 (N, 3, H, W), RGB, normalised by ImageNet's mean and deviation, any H and W of at least 8.
    Output: a tuple of logits (N, nclass, H, W), the head's first, then (``aux``) the auxiliary head's.
    It holds no state besides its parameters.
    """

    def __init__(
        self,
        nclass: int,
        backbone: str = "resnet50",
        aux: bool = True,
        ctx: Context | list[Context] | None = None,
        pretrained_base: bool = True,
        base_size: int = 520,
        crop_size: int = 480,
        norm_layer: Any = nn.BatchNorm,
        norm_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        ctx = ctx if ctx is not None else cpu()
        norm = {"norm_layer": norm_layer, "norm_kwargs": norm_kwargs}
        super().__init__(
            nclass, aux, backbone, ctx=ctx, base_size=base_size, crop_size=crop_size,
            pretrained_base=pretrained_base, **norm, **kwargs,
        )  # fmt: skip
        channels = get_output_channels(backbone)
        with self.name_scope():
            self.head = self._build_head(channels, nclass, norm_layer, norm_kwargs)
            heads = [self.head]
            if aux:
                self.auxlayer = _FCNHead(channels // 2, nclass, norm_layer, norm_kwargs)
                heads.append(self.auxlayer)
        for head in heads:
            head.initialize(ctx=ctx)
            head.collect_params().setattr("lr_mult", HEAD_LR_MULT)

    def _build_head(self, in_channels: int, nclass: int, norm_layer: Any, norm_kwargs: Any) -> Any:
        raise NotImplementedError

    def hybrid_forward(self, F: Any, x: Any) -> tuple[Any, ...]:
        return tuple(_resize_like(F, output, x) for output in self.forward_coarse(x))

    def forward_coarse(self, x: Any) -> tuple[Any, ...]:
        """The outputs as they are before they are enlarged, (N, nclass, ceil(H/8), ceil(W/8)) each."""
        c3, c4 = self.base_forward(x)
        return (self.head(c4), self.auxlayer(c3)) if self.aux else (self.head(c4),)

    def predict_coarse(self, x: Any) -> Any:
        """Logits (N, nclass, ceil(H/8), ceil(W/8)) of the head alone, not enlarged."""
        _, c4 = self.base_forward(x)
        return self.head(c4)

    def predict(self, x: Any) -> Any:
        """Logits (N, nclass, H, W) of the head alone, for a batch of any size."""
        return _resize_like(ndarray, self.predict_coarse(x), x)

    demo = predict


class CoarseNetwork(nn.HybridBlock):  # type: ignore[misc]
    """``network`` without the enlargement at its end, to be compiled by itself; the parameters are the same ones."""

    def __init__(self, network: SegmentationNetwork) -> None:
        super().__init__()
        self.network = network

    def hybrid_forward(self, _F: Any, x: Any) -> tuple[Any, ...]:
        return self.network.forward_coarse(x)


class FCN(SegmentationNetwork):
    """Fully convolutional network (Long et al., 2015); GluonCV's parameter names."""

    def _build_head(self, in_channels: int, nclass: int, norm_layer: Any, norm_kwargs: Any) -> Any:
        return _FCNHead(in_channels, nclass, norm_layer, norm_kwargs)


class PSPNet(SegmentationNetwork):
    """Pyramid scene parsing network (Zhao et al., 2017); GluonCV's parameter names."""

    def _build_head(self, in_channels: int, nclass: int, norm_layer: Any, norm_kwargs: Any) -> Any:
        return _PSPHead(in_channels, nclass, norm_layer, norm_kwargs)


class DeepLabV3(SegmentationNetwork):
    """DeepLabV3 with atrous rates 12, 24, 36 (Chen et al., 2017); GluonCV's parameter names."""

    def _build_head(self, in_channels: int, nclass: int, norm_layer: Any, norm_kwargs: Any) -> Any:
        return _DeepLabHead(in_channels, nclass, norm_layer, norm_kwargs)


def check_shapes(parameters: Mapping[str, Any], params: Mapping[str, Any]) -> None:
    """Raise ModelError when an array of ``params`` has not the shape of its parameter."""
    for name, array in params.items():
        wanted, given = parameters[name].shape, array.shape
        # 0 is a size that MXNet has not worked out yet.
        if len(wanted) != len(given) or any(w not in (0, g) for w, g in zip(wanted, given, strict=True)):
            raise ModelError(f"the parameter {name} has shape {given}, not {wanted}")


def load_params(network: SegmentationNetwork, params: Mapping[str, Any], ctx: Any) -> None:
    """Give every parameter of ``network`` its value from ``params`` (structural name -> NDArray) on ``ctx``.

    Raises ModelError, naming the parameter, when one is missing, left over or of another shape; then
    nothing has been changed.
    """
    parameters = network._collect_params_with_prefix()
    missing, extra = sorted(parameters.keys() - params.keys()), sorted(params.keys() - parameters.keys())
    if missing or extra:
        problem = "is missing" if missing else "is not known"
        raise ModelError(f"the parameters do not fit: {escape_line((missing or extra)[0])} {problem}")
    check_shapes(parameters, params)
    for name, parameter in parameters.items():
        parameter._load_init(params[name], ctx, cast_dtype=True, dtype_source="current")
