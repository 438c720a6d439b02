"""ONNX files that no exporter of ours writes."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import onnx
from onnx import TensorProto, helper

Change = Callable[[onnx.ModelProto], None]


def _encode_varint(number: int) -> bytes:
    """A number in base 128."""
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*encoded, number])


def encode_field(number: int, content: bytes) -> bytes:
    """A length-delimited field."""
    return _encode_varint(number << 3 | 2) + _encode_varint(len(content)) + content


def encode_external(location: str) -> bytes:
    """A tensor called x of one float, whose value is in another file."""
    tensor = TensorProto(name="x", dims=[1], data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=location)
    return bytes(tensor.SerializeToString())


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


def _add_tensor_attribute(model: onnx.ModelProto) -> None:
    tensor = helper.make_tensor("t", TensorProto.FLOAT, [1], [1.0])
    model.graph.node[0].attribute.append(helper.make_attribute("value", tensor))


def _add_operator(kind: str, domain: str = "") -> Change:
    return lambda model: model.graph.node.append(helper.make_node(kind, ["image"], ["more"], domain=domain))


def _add_sparse(model: onnx.ModelProto) -> None:
    values = helper.make_tensor("v", TensorProto.FLOAT, [1], [1.0])
    indices = helper.make_tensor("i", TensorProto.INT64, [1], [0])
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [9]))


CHANGES: Mapping[str, tuple[Change, str]] = {
    "tensor in a file above": (lambda model: _set_external(model, "../../etc/passwd"), "tensors in other files"),
    "tensor at an address": (lambda model: _set_external(model, "*/_ORT_MEM_ADDR_/*"), "tensors in other files"),
    "place without a name": (
        lambda model: model.graph.initializer.add(data_location=TensorProto.EXTERNAL),
        "tensors in other files",
    ),
    "loop": (_add_loop, "the operator 'Loop'"),
    "function": (_add_function, "has functions"),
    "graph in an attribute": (_add_hidden_graph, "a graph or a tensor inside an operator"),
    "tensor in an attribute": (_add_tensor_attribute, "a graph or a tensor inside an operator"),
    "sparse tensor": (_add_sparse, "sparse tensors"),
    "operator that is not ours": (_add_operator("Erf"), "the operator 'Erf'"),
    "operator of a library": (_add_operator("Relu", "com.evil"), "the domain 'com.evil'"),
    "operator whose name is a terminal's": (_add_operator("\x1b[31m\nX"), r"the operator '\\x1b\[31m\\nX'"),
}
"""Each changes a good model; with the words of the refusal."""

ENCODINGS: Mapping[str, tuple[Callable[[bytes], bytes], str]] = {
    "in front of the graph": (
        lambda content: encode_field(7, encode_field(5, encode_external("/etc/passwd"))) + content,
        "tensors in other files",
    ),
    "cut in the middle": (lambda content: content[: len(content) // 2], "is damaged"),
    "the runtime's own format": (lambda _: b"\x24\0\0\0ORTM" + bytes(300), "is damaged"),
    "empty": (lambda _: b"", "is empty"),
    "pickle": (lambda _: b"\x80\x04cos\nsystem\n(S'false'\ntR.", "is damaged"),
}
"""Each makes other bytes of those of a good model."""
