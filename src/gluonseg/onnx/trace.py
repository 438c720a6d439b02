"""Translate the symbol of any Gluon network to ONNX, operator by operator.

A symbol, ``network(mx.sym.var("data"))``, is a list of operators as JSON. For each kind of operator in it one function
below adds the ONNX operators that compute the same. A model folder keeps the JSON beside the parameters, so a server
translates it without MXNet. ``mx.onnx`` cannot be used: it writes an opset that ONNX Runtime refuses, and translates
neither adaptive pooling over several bins nor a resize to the size of another array.

The ONNX model has opset 17, and takes pictures of any number N and size H x W:

* input ``image``: RGB pictures (N, H, W, 3) uint8; the model divides by 255 and normalises them,
* output ``logits``: float32 (N, num_classes, ceil(H/s), ceil(W/s)), where s is the network's output stride,
* output ``mask``: class ids (N, H, W) uint8: the class of the greatest logit, after bilinear enlargement.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from gluonseg import __version__
from gluonseg.errors import ModelError
from gluonseg.models.folder.card import ModelCard
from gluonseg.onnx.file import INPUT, LOGITS, MASK, OPERATORS, WEIGHTS_KEY
from gluonseg.onnx.symbol import SymbolNode
from gluonseg.text import join_names

OPSET = 17
_AUXILIARY = "auxlayer."
_IR_VERSION = 8
"""The oldest version with opset 17. A program refuses files of a later version than its own."""
Arrays = Mapping[str, npt.NDArray[Any]]
Translation = Callable[["Operator"], str]
"""Adds the ONNX operators for one of MXNet's, and returns the name of their output."""


@dataclass
class Graph:
    """The ONNX graph that is built. Methods that add an operator or a constant return the name of its output."""

    arrays: Arrays
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: dict[str, onnx.TensorProto] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)

    def add(self, kind: str, inputs: Sequence[str], name: str, **attributes: Any) -> str:
        """Add an operator with one output, which has the operator's name; ModelError when ``OPERATORS`` lacks it."""
        if kind not in OPERATORS:
            raise ModelError(f"gluonseg.onnx.file.OPERATORS must list {kind}; a model with it could not be loaded")
        self.nodes.append(helper.make_node(kind, inputs, [name], name=name, **attributes))
        return name

    def keep(self, name: str, value: npt.ArrayLike, dtype: npt.DTypeLike = np.int64) -> str:
        """Add a constant, unless there is one of that name."""
        if name not in self.constants:
            self.constants[name] = numpy_helper.from_array(np.ascontiguousarray(value, dtype=dtype), name)
        return name

    def keep_parameter(self, name: str) -> str:
        """Add a parameter of the network as a constant."""
        if name not in self.arrays:
            raise ModelError(f"the parameter {name} is missing")
        self.used.add(name)
        return self.keep(name, self.arrays[name], np.float32)

    def check_shape(self, name: str, shape: tuple[int, ...]) -> str:
        """Return ``name``, a parameter; ModelError when its shape is not ``shape``, in which -1 is any size."""
        found = self.arrays[name].shape
        if len(found) != len(shape) or any(size not in (-1, given) for size, given in zip(shape, found, strict=True)):
            raise ModelError(f"the parameter {name} has shape {found}, not {shape} (-1 is any)")
        return name

    def measure(self, x: str, start: int, end: int, name: str) -> str:
        """Add the sizes of the axes ``start`` to ``end`` of ``x``, int64 (end - start,)."""
        return self.add("Shape", [x], name, start=start, end=end)

    def resize(self, x: str, size: str, name: str, align_corners: bool) -> str:
        """Add a bilinear resize of x (N, C, h, w) to ``size``, int64 (2,)."""
        front = self.measure(x, 0, 2, f"{name}.front")
        sizes = self.add("Concat", [front, size], f"{name}.sizes", axis=0)
        coordinates = "align_corners" if align_corners else "pytorch_half_pixel"
        return self.add("Resize", [x, "", "", sizes], name, mode="linear", coordinate_transformation_mode=coordinates)


class Operator:
    """One of MXNet's operators, which a translation adds to ``graph``; ``inputs`` are names in the graph."""

    def __init__(self, graph: Graph, node: SymbolNode, number: int, inputs: Sequence[str]) -> None:
        self.graph = graph
        # The number makes the name unique: the operators of a block that is called twice have the same name.
        self.name = f"{node.name}.{number}"
        self.kind = node.kind
        self.inputs = list(inputs)
        self._attributes = node.attributes

    def read(self, name: str, default: Any = None) -> Any:
        """Return an attribute as a number, tuple or bool, or else as its text; ``default`` when it is not set."""
        text = self._attributes.get(name)
        if text is None:
            return default
        try:
            return ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return text

    def read_pair(self, name: str, default: int) -> list[int]:
        """Return an attribute as two whole numbers, for height and width."""
        height, width = self.read(name) or (default, default)
        return [int(height), int(width)]

    def expect(self, name: str, *allowed: Any) -> None:
        """Raise ModelError when an attribute is none of ``allowed``, the first of which is its default."""
        found = self.read(name, allowed[0])
        if found not in allowed:
            raise ModelError(f"{self.kind} {self.name} has {name} {found!r}, which is not translated")

    def add(self, kind: str, *inputs: str, suffix: str = "", **attributes: Any) -> str:
        """Add an ONNX operator. Without ``inputs`` it has the inputs of this operator."""
        name = f"{self.name}.{suffix}" if suffix else self.name
        return self.graph.add(kind, inputs or self.inputs, name, **attributes)

    def keep(self, suffix: str, value: npt.ArrayLike, dtype: npt.DTypeLike = np.int64) -> str:
        """Add a constant whose name begins with that of this operator."""
        return self.graph.keep(f"{self.name}.{suffix}", value, dtype)


def _convolve(op: Operator) -> str:
    """A convolution or, for Deconvolution, its transpose."""
    is_transposed = op.kind == "Deconvolution"
    kernel, pads = op.read_pair("kernel", 1), op.read_pair("pad", 0)
    groups, filters = op.read("num_group", 1), op.read("num_filter")
    shape = (-1, filters // groups, *kernel) if is_transposed else (filters, -1, *kernel)
    inputs = [op.inputs[0], op.graph.check_shape(op.inputs[1], shape)]
    if len(op.inputs) > 2:
        inputs.append(op.graph.check_shape(op.inputs[2], (filters,)))
    op.expect("target_shape", None)
    options: dict[str, Any] = {"strides": op.read_pair("stride", 1), "dilations": op.read_pair("dilate", 1)}
    if is_transposed:
        options["output_padding"] = op.read_pair("adj", 0)
    kind = "ConvTranspose" if is_transposed else "Conv"
    return op.add(kind, *inputs, kernel_shape=kernel, pads=pads + pads, group=groups, **options)


def _normalise_batch(op: Operator) -> str:
    op.expect("axis", 1)
    op.expect("output_mean_var", False)
    names = op.inputs[1:]
    scale, *others = (op.graph.check_shape(name, (-1,)) for name in names)
    if op.read("fix_gamma", True):
        scale = op.keep("ones", np.ones_like(op.graph.arrays[names[0]]), np.float32)
    return op.add("BatchNormalization", op.inputs[0], scale, *others, epsilon=float(op.read("eps", 1e-3)))


_ACTIVATIONS = MappingProxyType({"relu": "Relu", "sigmoid": "Sigmoid", "tanh": "Tanh", "softrelu": "Softplus"})


def _activate(op: Operator) -> str:
    op.expect("act_type", *_ACTIVATIONS)
    return op.add(_ACTIVATIONS[op.read("act_type")])


def _activate_leaky(op: Operator) -> str:
    op.expect("act_type", "leaky")
    return op.add("LeakyRelu", alpha=float(op.read("slope", 0.25)))


def _pool(op: Operator) -> str:
    op.expect("pool_type", "max", "avg")
    kind = "MaxPool" if op.read("pool_type", "max") == "max" else "AveragePool"
    if op.read("global_pool", False):
        return op.add(f"Global{kind}")
    op.expect("pooling_convention", "valid", "full")
    is_full = op.read("pooling_convention", "valid") == "full"
    kernel, strides, pads = op.read_pair("kernel", 1), op.read_pair("stride", 1), op.read_pair("pad", 0)
    if is_full and any(stride > side - pad for side, stride, pad in zip(kernel, strides, pads, strict=True)):
        raise ModelError(f"Pooling {op.name} has windows that begin in the padding, which are not translated")
    options: dict[str, Any] = (
        {} if kind == "MaxPool" else {"count_include_pad": int(op.read("count_include_pad", True))}
    )
    return op.add(kind, kernel_shape=kernel, strides=strides, pads=pads + pads, ceil_mode=int(is_full), **options)


def _enlarge_bilinear(op: Operator) -> str:
    align_corners = bool(op.read("align_corners", True))
    if op.read("mode", "size") == "like":
        size = op.graph.measure(op.inputs[1], 2, 4, f"{op.name}.size")
    else:
        op.expect("mode", "size")
        op.expect("scale_height", None)
        size = op.keep("size", [op.read("height", 1), op.read("width", 1)])
    return op.graph.resize(op.inputs[0], size, op.name, align_corners)


def _enlarge_nearest(op: Operator) -> str:
    op.expect("sample_type", "nearest")
    op.expect("num_args", 1)
    scales = op.keep("scales", [1, 1, op.read("scale"), op.read("scale")], np.float32)
    options = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    return op.add("Resize", op.inputs[0], "", scales, mode="nearest", **options)


def _crop_like(op: Operator) -> str:
    axes = op.read("axes")
    if axes != (2, 3):
        raise ModelError(f"slice_like {op.name} has axes {axes!r}, which is not translated")
    ends = op.graph.measure(op.inputs[1], 2, 4, f"{op.name}.ends")
    return op.add("Slice", op.inputs[0], op.keep("starts", [0, 0]), ends, op.keep("axes", axes))


def _expand_like(op: Operator) -> str:
    if op.read("lhs_axes") != (2, 3) or op.read("rhs_axes") != (2, 3):
        raise ModelError(f"broadcast_like {op.name} is translated for height and width only, axes (2, 3)")
    size = op.graph.measure(op.inputs[1], 2, 4, f"{op.name}.size")
    return op.add("Expand", op.inputs[0], op.add("Concat", op.keep("ones", [1, 1]), size, suffix="target", axis=0))


def _build_pooling_matrix(op: Operator, x: str, axis: int, bins: int) -> str:
    """float32 (bins, length of ``axis``): row i averages floor(i*length/bins) to ceil((i+1)*length/bins) - 1."""
    numbers = np.arange(bins)[:, None]
    length = op.graph.measure(x, axis, axis + 1, f"{op.name}.{axis}.length")

    def add(kind: str, *inputs: str, suffix: str, **attributes: Any) -> str:
        return op.add(kind, *inputs, suffix=f"{axis}.{suffix}", **attributes)

    scalar = add("Squeeze", length, suffix="scalar")
    places = add("Range", op.keep("zero", 0), scalar, op.keep("one", 1), suffix="places")
    count = op.keep(f"{axis}.bins", bins)
    begin = add("Div", add("Mul", op.keep(f"{axis}.first", numbers), length, suffix="b0"), count, suffix="begin")
    upper = add("Mul", op.keep(f"{axis}.after", numbers + 1), length, suffix="e0")
    end = add("Div", add("Add", upper, op.keep(f"{axis}.round_up", bins - 1), suffix="e1"), count, suffix="end")
    limits = add("GreaterOrEqual", places, begin, suffix="from"), add("Less", places, end, suffix="to")
    marks = add("Cast", add("And", *limits, suffix="inside"), suffix="marks", to=TensorProto.FLOAT)
    width = add("Cast", add("Sub", end, begin, suffix="width"), suffix="w", to=TensorProto.FLOAT)
    return add("Div", marks, width, suffix="matrix")


def _pool_over_bins(op: Operator) -> str:
    """Multiply by two matrices that average over bins; the graph computes them from the size of its input."""
    bins = op.read("output_size", 1)
    rows, columns = (bins, bins) if isinstance(bins, int) else bins if len(bins) == 2 else (bins[0], bins[0])
    x = op.inputs[0]
    if rows == columns == 1:
        return op.add("GlobalAveragePool")
    across = op.add("Transpose", _build_pooling_matrix(op, x, 3, columns), suffix="t", perm=[1, 0])
    return op.add("MatMul", _build_pooling_matrix(op, x, 2, rows), op.add("MatMul", x, across, suffix="across"))


def _pass_through(op: Operator) -> str:
    op.expect("mode", "training")
    return op.inputs[0]


def _pad(op: Operator) -> str:
    op.expect("mode", "edge")
    width = op.read("pad_width")
    return op.add("Pad", op.inputs[0], op.keep("pads", [*width[::2], *width[1::2]]), mode="edge")


def _clip(op: Operator) -> str:
    limits = [op.keep(name, float(op.read(name)), np.float32) for name in ("a_min", "a_max")]
    return op.add("Clip", op.inputs[0], *limits)


def _compute_mean(op: Operator) -> str:
    op.expect("exclude", False)
    axes, keepdims = op.read("axis"), int(op.read("keepdims", False))
    return op.add("ReduceMean", axes=[axes] if isinstance(axes, int) else list(axes), keepdims=keepdims)


def _rename(kind: str) -> Translation:
    return lambda op: op.add(kind)


def _combine_with_scalar(kind: str) -> Translation:
    return lambda op: op.add(kind, op.inputs[0], op.keep("scalar", float(op.read("scalar")), np.float32))


TRANSLATIONS: Mapping[str, Translation] = MappingProxyType(
    {
        **dict.fromkeys(("Convolution", "Deconvolution"), _convolve),
        **dict.fromkeys(("BatchNorm", "_contrib_SyncBatchNorm"), _normalise_batch),
        "_copy": _pass_through,
        "Dropout": _pass_through,
        **dict.fromkeys(("elemwise_add", "broadcast_add"), _rename("Add")),
        **dict.fromkeys(("elemwise_sub", "broadcast_sub"), _rename("Sub")),
        **dict.fromkeys(("elemwise_mul", "broadcast_mul"), _rename("Mul")),
        **dict.fromkeys(("elemwise_div", "broadcast_div"), _rename("Div")),
        "Activation": _activate,
        "Concat": lambda op: op.add("Concat", axis=op.read("dim", 1)),
        "LeakyReLU": _activate_leaky,
        "Pad": _pad,
        "Pooling": _pool,
        "UpSampling": _enlarge_nearest,
        "_contrib_AdaptiveAvgPooling2D": _pool_over_bins,
        "_contrib_BilinearResize2D": _enlarge_bilinear,
        "_div_scalar": _combine_with_scalar("Div"),
        "_minus_scalar": _combine_with_scalar("Sub"),
        "_mul_scalar": _combine_with_scalar("Mul"),
        "_plus_scalar": _combine_with_scalar("Add"),
        "add_n": _rename("Sum"),
        "broadcast_like": _expand_like,
        "clip": _clip,
        "mean": _compute_mean,
        "relu": _rename("Relu"),
        "sigmoid": _rename("Sigmoid"),
        "slice_like": _crop_like,
        "tanh": _rename("Tanh"),
    }
)
"""The translations by MXNet's name of the operator."""


def _add_input(graph: Graph, card: ModelCard) -> str:
    """Add what turns pixels 0..255, channels last, into the normalised input of the network, channels first."""
    pixels = graph.add("Cast", [INPUT], "input.float", to=TensorProto.FLOAT)
    mean = graph.keep("input.mean", 255 * np.asarray(card.mean, dtype=np.float32), np.float32)
    scale = graph.keep("input.scale", 1 / (255 * np.asarray(card.std, dtype=np.float64)), np.float32)
    centred = graph.add("Sub", [pixels, mean], "input.centred")
    scaled = graph.add("Mul", [centred, scale], "input.scaled")
    return graph.add("Transpose", [scaled], "input.nchw", perm=[0, 3, 1, 2])


def _add_network(graph: Graph, nodes: Sequence[SymbolNode], data: str) -> str:
    """Add all operators of a symbol, whose input is ``data``, and return the name of its output."""
    names: list[str] = []
    for number, node in enumerate(nodes):
        if node.kind == "null":
            names.append(data if number == 0 else graph.keep_parameter(node.name))
            continue
        if node.kind not in TRANSLATIONS:
            raise ModelError(
                f"the operator {node.kind[:60]} ({node.name[:60]}) has no translation to ONNX; "
                "docs/networks.md says how to add one"
            )
        try:
            names.append(TRANSLATIONS[node.kind](Operator(graph, node, number, [names[one] for one in node.inputs])))
        except (TypeError, ValueError, LookupError, ArithmeticError) as error:
            raise ModelError(f"{node.kind} {node.name[:60]} has attributes that cannot be used: {error}") from None
    return names[-1]


def _add_outputs(graph: Graph, x: str, align_corners: bool) -> None:
    graph.add("Identity", [x], LOGITS)
    size = graph.measure(INPUT, 1, 3, "mask.size")
    enlarged = graph.resize(LOGITS, size, "mask.logits", align_corners)
    greatest = graph.add("ArgMax", [enlarged], "mask.class_id", axis=1, keepdims=0)
    graph.add("Cast", [greatest], MASK, to=TensorProto.UINT8)


def build_graph(
    card: ModelCard, arrays: Arrays, nodes: Sequence[SymbolNode], weights_sha256: str = ""
) -> onnx.ModelProto:
    """Build the ONNX model of the network of ``card`` with the parameters ``arrays`` (structural name -> array).

    ``nodes`` are the network's symbol, see :func:`gluonseg.onnx.symbol.parse_symbol`. ``weights_sha256`` is the digest
    of the file of the parameters, and is kept in the model's metadata.

    Raises:
        ModelError: an operator has no translation, or a parameter is missing or has another shape than its operator.
    """
    graph = Graph(arrays)
    _add_outputs(graph, _add_network(graph, nodes, _add_input(graph, card)), card.align_corners)
    extra = [name for name in arrays if name not in graph.used and not (card.aux and name.startswith(_AUXILIARY))]
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
