"""The networks as ONNX graphs, written from their parameters alone; MXNet is not needed.

MXNet's own exporter needs the network, leaves the weights among the graph's inputs, keeps every batch norm
and knows no adaptive pooling. Here batch norms are folded into the convolutions before them, the auxiliary
head is left out, and every operator takes any height and width.

The graph, for opset 17:

* input ``image``: RGB pictures (N, H, W, 3) uint8; scaling, mean and deviation are inside,
* output ``logits``: float32 (N, num_classes, ceil(H/8), ceil(W/8)),
* output ``mask``: class ids (N, H, W) uint8, the logits enlarged bilinearly (corners aligned) and the greatest.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from gluonseg import __version__
from gluonseg.errors import ModelError, join_names
from gluonseg.models.card import ModelCard
from gluonseg.models.onnx_file import INPUT, LOGITS, MASK, WEIGHTS_KEY

Arrays = Mapping[str, npt.NDArray[Any]]
OPSET = 17
_IR_VERSION = 8
"""The oldest that knows the opset: readers refuse what is newer than they are."""
_BATCH_NORM_EPSILON = 1e-5
_LAST_LAYER = 4
_AUXILIARY = "auxlayer."
_POOLING_BINS = (1, 2, 3, 6)
_ASPP_RATES = (12, 24, 36)


class _Builder:
    """Collects nodes and constants; every method returns the name of its output."""

    def __init__(self, arrays: Arrays) -> None:
        self.arrays = arrays
        self.used: set[str] = set()
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}

    def has(self, name: str) -> bool:
        return f"{name}.weight" in self.arrays

    def find(self, name: str, shape: tuple[int, ...] | None = None) -> npt.NDArray[np.float64]:
        """A parameter, in float64: what is folded is rounded once. Without ``shape`` it must be that of a kernel."""
        if name not in self.arrays:
            raise ModelError(f"the parameter {name} is missing")
        found = self.arrays[name].shape
        if found != shape and (shape is not None or len(found) != 4):
            raise ModelError(f"the parameter {name} has shape {found}, not {shape or 'that of a convolution'}")
        self.used.add(name)
        return np.asarray(self.arrays[name], dtype=np.float64)

    def add(self, kind: str, inputs: Sequence[str], name: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [name], name=name, **attributes))
        return name

    def keep(self, name: str, value: npt.NDArray[Any]) -> str:
        if name not in self.constants:
            self.constants[name] = numpy_helper.from_array(np.ascontiguousarray(value), name)
        return name

    def convolve(
        self, x: str, name: str, norm: str = "", *, relu: bool = True, stride: int = 1, dilation: int = 1
    ) -> str:
        """A convolution of parameter ``name`` that keeps the size (but for the stride), with its batch norm folded."""
        weight = self.find(f"{name}.weight")
        one_a_channel = weight.shape[:1]
        has_bias = f"{name}.bias" in self.arrays
        bias = self.find(f"{name}.bias", one_a_channel) if has_bias else np.zeros(one_a_channel)
        if norm:
            gamma, beta, mean, variance = (
                self.find(f"{norm}.{part}", one_a_channel) for part in ("gamma", "beta", "running_mean", "running_var")
            )
            scale = gamma / np.sqrt(variance + _BATCH_NORM_EPSILON)
            weight, bias = weight * scale[:, None, None, None], (bias - mean) * scale + beta
        pad = dilation * (weight.shape[2] // 2)
        inputs = [
            x,
            self.keep(f"{name}.weight", weight.astype(np.float32)),
            self.keep(f"{name}.bias", bias.astype(np.float32)),
        ]
        output = self.add(
            "Conv", inputs, name, kernel_shape=weight.shape[2:], strides=[stride] * 2, pads=[pad] * 4,
            dilations=[dilation] * 2,
        )  # fmt: skip
        return self.add("Relu", [output], f"{name}.relu") if relu else output

    def convolve_pair(self, x: str, name: str, *, dilation: int = 1) -> str:
        """GluonCV's small block: convolution ``name.0``, batch norm ``name.1``, ReLU."""
        return self.convolve(x, f"{name}.0", f"{name}.1", dilation=dilation)

    def measure(self, x: str, axis: int, name: str) -> str:
        """One side of ``x`` as int64 (1,)."""
        return self.add("Shape", [x], name, start=axis, end=axis + 1)

    def enlarge(self, x: str, size: str, name: str) -> str:
        """Bilinear resize, corners aligned, of x (N, C, h, w) to ``size``, int64 (2,)."""
        front = self.add("Shape", [x], f"{name}.front", start=0, end=2)
        sizes = self.add("Concat", [front, size], f"{name}.sizes", axis=0)
        mode = {"mode": "linear", "coordinate_transformation_mode": "align_corners"}
        return self.add("Resize", [x, "", "", sizes], name, **mode)


def _add_input(graph: _Builder, card: ModelCard) -> str:
    """Pixels 0..255, channels last, to what the network was trained on."""
    values = graph.add("Cast", [INPUT], "input.float", to=TensorProto.FLOAT)
    mean = graph.keep("input.mean", 255 * np.asarray(card.mean, dtype=np.float32))
    scale = graph.keep("input.scale", (1 / (255 * np.asarray(card.std, dtype=np.float64))).astype(np.float32))
    values = graph.add("Sub", [values, mean], "input.centred")
    values = graph.add("Mul", [values, scale], "input.scaled")
    return graph.add("Transpose", [values], "input.nchw", perm=[0, 3, 1, 2])


def _add_stem(graph: _Builder, x: str) -> str:
    """The 7x7 convolution of ResNet-18 and 34, or the three 3x3 ones of the deeper ones (v1s)."""
    if graph.has("conv1"):
        x = graph.convolve(x, "conv1", "bn1", stride=2)
    else:
        x = graph.convolve(x, "conv1.0", "conv1.1", stride=2)
        x = graph.convolve(x, "conv1.3", "conv1.4")
        x = graph.convolve(x, "conv1.6", "bn1")
    return graph.add("MaxPool", [x], "maxpool", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])


def _add_block(graph: _Builder, x: str, name: str, stride: int, dilation: int, next_dilation: int) -> str:
    """A residual block; GluonCV's second 3x3 of a basic block has the dilation of the blocks after it."""
    if graph.has(f"{name}.conv3"):
        y = graph.convolve(x, f"{name}.conv1", f"{name}.bn1")
        y = graph.convolve(y, f"{name}.conv2", f"{name}.bn2", stride=stride, dilation=dilation)
        y = graph.convolve(y, f"{name}.conv3", f"{name}.bn3", relu=False)
    else:
        y = graph.convolve(x, f"{name}.conv1", f"{name}.bn1", stride=stride, dilation=dilation)
        y = graph.convolve(y, f"{name}.conv2", f"{name}.bn2", relu=False, dilation=next_dilation)
    if graph.has(f"{name}.downsample.0"):
        x = graph.convolve(x, f"{name}.downsample.0", f"{name}.downsample.1", relu=False, stride=stride)
    return graph.add("Relu", [graph.add("Add", [y, x], f"{name}.sum")], name)


def _add_backbone(graph: _Builder, x: str) -> str:
    """ResNet with dilation in place of the last two strides: 1/8 of the input's size."""
    x = _add_stem(graph, x)
    for layer in range(1, _LAST_LAYER + 1):
        dilation = {3: 2, 4: 4}.get(layer, 1)
        block = 0
        while graph.has(f"layer{layer}.{block}.conv1"):
            stride = 2 if layer == 2 and block == 0 else 1
            first_dilation = max(1, dilation // 2) if block == 0 else dilation
            x = _add_block(graph, x, f"layer{layer}.{block}", stride, first_dilation, dilation)
            block += 1
    return x


def _add_pooling_matrix(graph: _Builder, length: str, bins: int, name: str) -> str:
    """float32 (bins, length): row i averages the places floor(i*length/bins) to ceil((i+1)*length/bins) - 1."""
    zero, one = graph.keep("zero", np.array(0, np.int64)), graph.keep("one", np.array(1, np.int64))
    scalar = graph.add("Squeeze", [length], f"{name}.length")
    places = graph.add("Range", [zero, scalar, one], f"{name}.places")
    count = graph.keep(f"bins{bins}", np.array(bins, np.int64))
    first = graph.keep(f"bins{bins}.first", np.arange(bins, dtype=np.int64)[:, None])
    after = graph.keep(f"bins{bins}.after", np.arange(1, bins + 1, dtype=np.int64)[:, None])
    round_up = graph.keep(f"bins{bins}.round_up", np.array(bins - 1, np.int64))
    begin = graph.add("Div", [graph.add("Mul", [first, length], f"{name}.b0"), count], f"{name}.begin")
    upper = graph.add("Add", [graph.add("Mul", [after, length], f"{name}.e0"), round_up], f"{name}.e1")
    end = graph.add("Div", [upper, count], f"{name}.end")
    inside = [
        graph.add("GreaterOrEqual", [places, begin], f"{name}.from"),
        graph.add("Less", [places, end], f"{name}.to"),
    ]
    marks = graph.add("Cast", [graph.add("And", inside, f"{name}.inside")], f"{name}.marks", to=TensorProto.FLOAT)
    width = graph.add("Sub", [end, begin], f"{name}.width")
    return graph.add("Div", [marks, graph.add("Cast", [width], f"{name}.w", to=TensorProto.FLOAT)], f"{name}.matrix")


def _add_pyramid(graph: _Builder, x: str) -> str:
    """PSPNet's pooling: averages over 1, 2, 3 and 6 bins a side, enlarged again. Exact for any size."""
    height, width = graph.measure(x, 2, "psp.height"), graph.measure(x, 3, "psp.width")
    size = graph.add("Concat", [height, width], "psp.size", axis=0)
    levels = [x]
    for number, bins in enumerate(_POOLING_BINS, start=1):
        name = f"psp.level{bins}"
        rows = _add_pooling_matrix(graph, height, bins, f"{name}.rows")
        columns = _add_pooling_matrix(graph, width, bins, f"{name}.columns")
        across = graph.add("MatMul", [x, graph.add("Transpose", [columns], f"{name}.t", perm=[1, 0])], f"{name}.across")
        pooled = graph.add("MatMul", [rows, across], f"{name}.pooled")
        levels.append(graph.enlarge(graph.convolve_pair(pooled, f"head.psp.conv{number}"), size, name))
    return graph.add("Concat", levels, "psp", axis=1)


def _add_aspp(graph: _Builder, x: str) -> str:
    """DeepLabV3's atrous spatial pyramid: 1x1, three dilated 3x3, and the mean of the whole map."""
    name = "head.aspp.concurent"
    branches = [graph.convolve_pair(x, f"{name}.0")]
    branches += [
        graph.convolve_pair(x, f"{name}.{number}", dilation=rate) for number, rate in enumerate(_ASPP_RATES, start=1)
    ]
    mean = graph.add("GlobalAveragePool", [x], "aspp.mean")
    mean = graph.convolve(mean, f"{name}.4.gap.1", f"{name}.4.gap.2")
    size = graph.add("Shape", [x], "aspp.size", start=2, end=4)
    ones = graph.keep("aspp.ones", np.array([1, 1], np.int64))
    target = graph.add("Concat", [ones, size], "aspp.target", axis=0)
    branches.append(graph.add("Expand", [mean, target], "aspp.spread"))
    return graph.convolve_pair(graph.add("Concat", branches, "aspp", axis=1), "head.aspp.project")


def _add_outputs(graph: _Builder, x: str) -> None:
    graph.nodes[-1].output[0] = LOGITS
    size = graph.add("Shape", [INPUT], "mask.size", start=1, end=3)
    enlarged = graph.enlarge(LOGITS, size, "mask.logits")
    greatest = graph.add("ArgMax", [enlarged], "mask.id", axis=1, keepdims=0)
    graph.add("Cast", [greatest], MASK, to=TensorProto.UINT8)


def build_graph(card: ModelCard, arrays: Arrays, weights_sha256: str = "") -> onnx.ModelProto:
    """The network of ``card`` with the parameters ``arrays`` (structural name -> array) as an ONNX model.

    ``weights_sha256`` is the digest of the file that the parameters are from; the model keeps it. Raises ModelError,
    naming the parameter, when one is missing that the architecture needs, left over, or of a shape that does not fit.
    """
    graph = _Builder(arrays)
    x = _add_backbone(graph, _add_input(graph, card))
    if card.algorithm == "psp":
        x = _add_pyramid(graph, x)
    elif card.algorithm == "deeplab":
        x = _add_aspp(graph, x)
    x = graph.convolve(x, "head.block.0", "head.block.1")
    _add_outputs(graph, graph.convolve(x, "head.block.4", relu=False))
    extra = [name for name in arrays if name not in graph.used and not name.startswith(_AUXILIARY)]
    if extra:
        raise ModelError(f"the parameters do not fit: no part of the network has {join_names(extra, 3)}")
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            f"{card.algorithm} {card.backbone}",
            [helper.make_tensor_value_info(INPUT, TensorProto.UINT8, ["N", "H", "W", 3])],
            [
                helper.make_tensor_value_info(LOGITS, TensorProto.FLOAT, ["N", card.num_classes, "h", "w"]),
                helper.make_tensor_value_info(MASK, TensorProto.UINT8, ["N", "H", "W"]),
            ],
            initializer=list(graph.constants.values()),
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=_IR_VERSION,
        producer_name="gluonseg",
        producer_version=__version__,
    )
    names = {"class_names": json.dumps(card.class_names), "colours": json.dumps(card.colours)}
    helper.set_model_props(model, {**names, WEIGHTS_KEY: weights_sha256})
    return model
