"""What a network costs: its parameters, and the multiply-accumulates of one picture.

Both are counted from the network's graph and the shapes in it; the network is not run. One multiply-accumulate is
one multiplication with its addition in a convolution or dense layer; norms, activations, pooling and resizing are
not counted. Parameters are those that training changes, not the running means and variances of the batch norms.

A model that runs in ONNX Runtime is counted from its ONNX graph, without MXNet, and has the same numbers.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from gluonseg.errors import ModelError

_COUNTED = ("Convolution", "FullyConnected", "Deconvolution")
_KEPT = ("Convolution", "Deconvolution", "Activation", "LeakyReLU", "relu", "clip")
_INPUT = "data"
_ONNX_COUNTED = ("Conv", "ConvTranspose")


@dataclass(frozen=True)
class Cost:
    """Parameters of a network, and multiply-accumulates (``macs``) for one picture."""

    parameters: int
    macs: int


def _trace_shapes(run: Callable[[Any], Any], height: int, width: int) -> tuple[Any, list[Any], list[tuple[int, ...]]]:
    """The symbol of ``run`` for one picture (1, 3, height, width), its nodes, and the output shape of each node."""
    import mxnet as mx

    graph = run(mx.sym.var(_INPUT))
    graph = mx.sym.Group(list(graph)) if isinstance(graph, tuple | list) else graph
    _, shapes, _ = graph.get_internals().infer_shape(**{_INPUT: (1, 3, height, width)})
    return graph, json.loads(graph.tojson())["nodes"], shapes


def compute_cost(run: Callable[[Any], Any], height: int, width: int) -> Cost:
    """Cost of ``run``, a hybrid block or one of its methods, for one picture (1, 3, height, width)."""
    graph, nodes, shapes = _trace_shapes(run, height, width)
    parameters = set(graph.list_arguments()) - {_INPUT}
    sizes, macs = 0, 0
    # Each node has one visible output here, in the order of the nodes.
    for node, shape in zip(nodes, shapes, strict=True):
        if node["name"] in parameters:
            sizes += math.prod(shape)
        if node["op"] in _COUNTED:
            # (filters, channels a group, kernel height, kernel width), or (units, inputs).
            weight = shapes[node["inputs"][1][0]]
            # A transposed convolution uses its weights once for each input.
            places = shapes[node["inputs"][0][0]] if node["op"] == "Deconvolution" else shape
            macs += math.prod(places) * math.prod(weight[1:])
    return Cost(sizes, macs)


def compute_graph_cost(outline: bytes, height: int, width: int) -> Cost:
    """Cost of an ONNX model in float32 for a network input of (height, width) pixels.

    ``outline`` is the model as :mod:`gluonseg.onnx.trace` writes it, perhaps without the values of its weights.
    """
    import onnx

    model = onnx.load_model_from_string(outline)
    for dimension, size in zip(model.graph.input[0].type.tensor_type.shape.dim, (1, height, width, 3), strict=True):
        dimension.dim_value = size
    shapes = _infer_onnx_shapes(model)
    parameters, macs = set(), 0
    for node in model.graph.node:
        if node.op_type in (*_ONNX_COUNTED, "BatchNormalization"):
            parameters.update(node.input[1:3])  # weight and bias, or scale and shift
        if node.op_type in _ONNX_COUNTED:
            places = shapes.get(node.input[0] if node.op_type == "ConvTranspose" else node.output[0], (0,))
            if not all(places):
                raise ModelError(f"the cost of the network cannot be counted: the size in {node.name} is not known")
            macs += math.prod(places) * math.prod(shapes[node.input[1]][1:])
    return Cost(sum(math.prod(shapes[name]) for name in parameters), macs)


def _infer_onnx_shapes(model: Any) -> dict[str, tuple[int, ...]]:
    """The shapes of all arrays in an ONNX model of fixed input size, by name; 0 for a side that is not known."""
    from onnx import numpy_helper, shape_inference

    graph = model.graph
    while True:
        found = shape_inference.infer_shapes(model, data_prop=True).graph
        shapes = {constant.name: tuple(constant.dims) for constant in graph.initializer}
        for array in (*found.input, *found.value_info, *found.output):
            shapes[array.name] = tuple(side.dim_value for side in array.type.tensor_type.shape.dim)
        known = [node for node in graph.node if node.op_type == "Shape" and all(shapes.get(node.input[0], (0,)))]
        if not known:
            return shapes
        # ONNX does not follow every size that the graph computes; so each Shape operator of a known size is replaced
        # by a constant, and the inference is repeated.
        for node in known:
            limits = {attribute.name: attribute.i for attribute in node.attribute}
            sides = shapes[node.input[0]][limits.get("start") : limits.get("end")]
            graph.initializer.append(numpy_helper.from_array(np.array(sides, dtype=np.int64), node.output[0]))
            graph.node.remove(node)


def compute_kept_bytes(run: Callable[[Any], Any], height: int, width: int) -> int:
    """Bytes that a training step keeps of the forward pass of one picture (1, 3, height, width), at the least.

    The backward pass needs the inputs of each batch norm, which are outputs of convolutions, and the inputs of each
    convolution, which are outputs of activations; float32. Parameters are not counted.
    """
    _, nodes, shapes = _trace_shapes(run, height, width)
    return 4 * sum(math.prod(shape) for node, shape in zip(nodes, shapes, strict=True) if node["op"] in _KEPT)
