"""ONNX files that no exporter of ours writes."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import onnx
from onnx import TensorProto, helper

Change = Callable[[onnx.ModelProto], None]


def encode_model(*nodes: onnx.NodeProto, external: str) -> bytes:
    """A model with a tensor whose values are in another file."""
    tensor = TensorProto(name="x", dims=[1], data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=external)
    return bytes(helper.make_model(helper.make_graph(nodes, "g", [], [], [tensor])).SerializeToString())


def _set_external(model: onnx.ModelProto, location: str) -> None:
    tensor = model.graph.initializer[0]
    onnx.external_data_helper.set_external_data(tensor, location=location)
    tensor.data_location = TensorProto.EXTERNAL
    tensor.ClearField("raw_data")


def _add_loop(model: onnx.ModelProto) -> None:
    body = helper.make_graph([], "body", [], [])
    model.graph.node.append(helper.make_node("Loop", ["", ""], ["forever"], body=body))


def _add_function(model: onnx.ModelProto) -> None:
    node = helper.make_node("Relu", ["x"], ["y"])
    model.functions.append(helper.make_function("", "Relu", ["x"], ["y"], [node], [helper.make_opsetid("", 17)]))


def _add_hidden_graph(model: onnx.ModelProto) -> None:
    """A graph in an attribute of an operator that has none."""
    model.graph.node[0].attribute.append(helper.make_attribute("body", helper.make_graph([], "hidden", [], [])))


def _add_operator(kind: str, domain: str = "") -> Change:
    return lambda model: model.graph.node.append(helper.make_node(kind, ["image"], ["more"], domain=domain))


def _add_sparse(model: onnx.ModelProto) -> None:
    values = helper.make_tensor("v", TensorProto.FLOAT, [1], [1.0])
    indices = helper.make_tensor("i", TensorProto.INT64, [1], [0])
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [9]))


CHANGES: Mapping[str, tuple[Change, str]] = {
    "tensor in a file above": (lambda model: _set_external(model, "../../etc/passwd"), "tensors in other files"),
    "loop": (_add_loop, "the operator 'Loop'"),
    "function": (_add_function, "has functions"),
    "graph in an attribute": (_add_hidden_graph, "a graph or a tensor inside an operator"),
    "sparse tensor": (_add_sparse, "sparse tensors"),
    "operator of a library": (_add_operator("Relu", "com.evil"), "the domain 'com.evil'"),
}
"""Each changes a good model; with the words of the refusal."""

ENCODINGS: Mapping[str, tuple[Callable[[bytes], bytes], str]] = {
    "in front of the graph": (lambda content: encode_model(external="/etc/passwd") + content, "tensors in other files"),
    "cut in the middle": (lambda content: content[: len(content) // 2], "is damaged"),
    "empty": (lambda _: b"", "is empty"),
}
"""Each makes other bytes of those of a good model."""
