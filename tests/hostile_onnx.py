"""ONNX files that no exporter of ours writes, in protobuf's encoding, byte by byte where a library would not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import onnx
from onnx import TensorProto, helper

Change = Callable[[onnx.ModelProto], None]
SECRET = "/etc/passwd"


def encode_varint(number: int, length: int = 0) -> bytes:
    """Base 128; to ``length`` bytes, which is longer than need be, where that is more."""
    encoded = bytearray()
    while number > 0x7F or len(encoded) + 1 < length:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*encoded, number])


def encode_field(number: int, content: bytes, length: int = 0) -> bytes:
    """A length-delimited field; ``length`` is that of its numbers, when they are longer than need be."""
    return encode_varint(number << 3 | 2, length) + encode_varint(len(content), length) + content


def encode_entry(key: bytes, value: bytes, *, turned: bool = False, length: int = 0) -> bytes:
    """One of a tensor's external_data: ``turned`` has the value in front of the key."""
    fields = [encode_field(1, key, length), encode_field(2, value, length)]
    return b"".join(reversed(fields) if turned else fields)


def encode_external(location: str, **options: Any) -> bytes:
    """A tensor called x of one float, whose value is in another file; see :func:`encode_entry`."""
    length = options.get("length", 0)
    entry = encode_field(13, encode_entry(b"location", location.encode(), **options), length)
    return b"\x08\x01" + b"\x10\x01" + encode_field(8, b"x", length) + entry + b"\x70\x01"


def add_tensor(content: bytes, tensor: bytes) -> bytes:
    """``content`` with one more tensor: protobuf adds up what comes in two pieces."""
    return content + encode_field(7, encode_field(5, tensor))


def add_node(content: bytes, node: bytes) -> bytes:
    return content + encode_field(7, encode_field(1, node))


def _set_external(model: onnx.ModelProto, location: str) -> None:
    tensor = model.graph.initializer[0]
    onnx.external_data_helper.set_external_data(tensor, location=location)
    tensor.data_location = TensorProto.EXTERNAL
    tensor.ClearField("raw_data")


def _add_loop(model: onnx.ModelProto) -> None:
    body = helper.make_graph([], "body", [], [])
    model.graph.node.append(helper.make_node("Loop", ["", ""], ["forever"], body=body))


def _add_if(model: onnx.ModelProto) -> None:
    branch = helper.make_graph([], "branch", [], [])
    model.graph.node.append(helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch))


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


def _add_domain(model: onnx.ModelProto) -> None:
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))


def _add_training(model: onnx.ModelProto) -> None:
    model.training_info.add().algorithm.name = "t"


def _add_sparse(model: onnx.ModelProto) -> None:
    values = helper.make_tensor("v", TensorProto.FLOAT, [1], [1.0])
    indices = helper.make_tensor("i", TensorProto.INT64, [1], [0])
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [9]))


def _add_unknown_field(model: onnx.ModelProto) -> None:
    model.MergeFromString(encode_field(99, b"later"))


CHANGES: Mapping[str, tuple[Change, str]] = {
    "tensor in a file above": (lambda model: _set_external(model, "../../etc/passwd"), "tensors in other files"),
    "tensor in an absolute file": (lambda model: _set_external(model, SECRET), "tensors in other files"),
    "tensor in a file beside it": (lambda model: _set_external(model, "weights.bin"), "tensors in other files"),
    "tensor at an address": (lambda model: _set_external(model, "*/_ORT_MEM_ADDR_/*"), "tensors in other files"),
    "loop": (_add_loop, "the operator 'Loop'"),
    "if": (_add_if, "the operator 'If'"),
    "function": (_add_function, "has functions"),
    "graph in an attribute": (_add_hidden_graph, "a graph inside an operator"),
    "tensor in an attribute": (_add_tensor_attribute, "a field 5 in a attribute"),
    "sparse tensor": (_add_sparse, "a field 15 in a graph"),
    "training": (_add_training, "a field 20 in a model"),
    "operator that is not ours": (_add_operator("Erf"), "the operator 'Erf'"),
    "operator of a library": (_add_operator("Relu", "com.evil"), "the domain 'com.evil'"),
    "operator of the runtime": (_add_operator("Inverse", "com.microsoft"), "'Inverse'"),
    "operator of Python": (_add_operator("PyOp", "ai.onnx.contrib"), "'PyOp'"),
    "domain that nothing is of": (_add_domain, "the domain 'com.microsoft'"),
    "field of a later version": (_add_unknown_field, "a field 99 in a model"),
    "operator whose name is a terminal's": (_add_operator("\x1b[31m\nX"), r"the operator '\\x1b\[31m\\nX'"),
}
"""Each changes a good model; with the words of the refusal."""

ENCODINGS: Mapping[str, tuple[Callable[[bytes], bytes], str]] = {
    "value in front of the key": (
        lambda content: add_tensor(content, encode_external(SECRET, turned=True)),
        "tensors in other files",
    ),
    "numbers longer than need be": (
        lambda content: add_tensor(content, encode_external(SECRET, length=3)),
        "numbers that are longer",
    ),
    "in front of the graph": (
        lambda content: encode_field(7, encode_field(5, encode_external(SECRET))) + content,
        "tensors in other files",
    ),
    "place without a name": (lambda content: add_tensor(content, b"\x70\x01"), "tensors in other files"),
    "group": (lambda content: content + b"\x3b\x3c", "a field 7 in a model"),
    "number of a field beyond 32 bits": (
        lambda content: content + encode_varint((1 << 35) | (7 << 3) | 2) + b"\0",
        "in a model",
    ),
    "number where bytes belong": (lambda content: content + b"\x38\x01", "a field 7 in a model"),
    "length beyond the end": (lambda content: content + b"\x3a\xff\xff\xff\x7f", "ends inside a field"),
    "length beyond 64 bits": (lambda content: content + b"\x3a" + b"\xff" * 10 + b"\1", "more than 64 bits"),
    "cut in the middle": (lambda content: content[: len(content) // 2], "ends inside a field"),
    "name of an operator twice": (
        lambda content: add_node(content, encode_field(4, b"Loop") + encode_field(4, b"Relu")),
        "the operator 'Loop'",
    ),
    "domain of an operator twice": (
        lambda content: add_node(content, encode_field(4, b"Relu") + encode_field(7, b"evil") + encode_field(7, b"")),
        "the domain 'evil'",
    ),
    "a million fields": (lambda content: content + b"\x08\x08" * 1_000_000, "more than 500000 fields"),
    "the runtime's own format": (lambda _: b"\x24\0\0\0ORTM" + bytes(300), "no network of gluonseg"),
    "the runtime's own format in an ONNX file": (lambda _: b"\x12\x40abORTM" + bytes(60), "no network of gluonseg"),
    "empty": (lambda _: b"", "is empty"),
    "pickle": (lambda _: b"\x80\x04cos\nsystem\n(S'false'\ntR.", "no network of gluonseg"),
    "zeros": (lambda _: bytes(1000), "no network of gluonseg"),
}
"""Each makes other bytes of those of a good model."""
