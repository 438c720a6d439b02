"""Which ONNX files are opened: graphs of the operators that this program writes, with every tensor inside.

ONNX Runtime opens more: tensors that lie in any other file or at an address of the process, functions, loops, operators
of other domains. So a file is walked before it is handed over, field by field, in the encoding of protobuf; one that
has anything else than :mod:`gluonseg.models.onnx_trace` and :mod:`gluonseg.quantize` write is refused. Field numbers:
https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
"""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from types import MappingProxyType

from gluonseg.errors import ModelError
from gluonseg.printable import shorten

OPERATORS = frozenset(
    (
        "Add", "And", "ArgMax", "AveragePool", "BatchNormalization", "Cast", "Clip", "Concat", "Conv", "ConvTranspose",
        "DequantizeLinear", "Div", "Expand", "GlobalAveragePool", "GlobalMaxPool", "GreaterOrEqual", "Identity",
        "LeakyRelu", "Less", "MatMul", "MaxPool", "Mul", "PRelu", "QuantizeLinear", "Range", "ReduceMean", "Relu",
        "Reshape", "Resize", "Shape", "Sigmoid", "Slice", "Softplus", "Squeeze", "Sub", "Sum", "Tanh", "Transpose",
    )
)  # fmt: skip
MAX_FIELDS = 500_000
"""The largest network here has twenty thousand."""

_NUMBER, _EIGHT, _BYTES, _FOUR = 0, 1, 2, 5
"""Wire types of protobuf."""
_Kinds = Mapping[int, str]
_SCHEMA: Mapping[str, _Kinds] = MappingProxyType(
    {
        "model": {
            1: "number", 2: "bytes", 3: "bytes", 4: "bytes", 5: "number", 6: "bytes", 7: "graph", 8: "opset",
            14: "property",
        },
        "opset": {1: "domain", 2: "number"},
        "property": {1: "bytes", 2: "bytes"},
        "graph": {1: "node", 2: "bytes", 5: "tensor", 10: "bytes", 11: "value", 12: "value", 13: "value"},
        "node": {1: "bytes", 2: "bytes", 3: "bytes", 4: "operator", 5: "attribute", 6: "bytes", 7: "domain"},
        "attribute": {
            1: "bytes", 2: "four", 3: "number", 4: "bytes", 7: "fours", 8: "numbers", 13: "bytes", 20: "number",
        },
        "tensor": {1: "numbers", 2: "number", 4: "fours", 5: "numbers", 7: "numbers", 8: "bytes", 9: "bytes"},
        "value": {1: "bytes", 2: "type", 3: "bytes"},
        "type": {1: "tensor type"},
        "tensor type": {1: "number", 2: "shape"},
        "shape": {1: "dimension"},
        "dimension": {1: "number", 2: "bytes"},
    }
)  # fmt: skip
_WIRES: Mapping[str, tuple[int, ...]] = MappingProxyType(
    {"number": (_NUMBER,), "four": (_FOUR,), "numbers": (_NUMBER, _BYTES), "fours": (_FOUR, _BYTES)}
)
"""Wire types of a kind; of all others it is bytes."""
_REFUSED: Mapping[tuple[str, int], str] = MappingProxyType(
    {
        ("model", 25): "has functions, which are not read",
        ("tensor", 13): "has tensors in other files, which are not read",
        ("tensor", 14): "has tensors in other files, which are not read",
        ("attribute", 6): "has a graph inside an operator, which is not read",
        ("attribute", 11): "has a graph inside an operator, which is not read",
    }
)


class _Walk:
    """Goes through one file; ``fields`` counts what it has seen."""

    def __init__(self, content: bytes | mmap.mmap, source: str) -> None:
        self._content = content
        self._source = source
        self._fields = 0

    def fail(self, problem: str) -> ModelError:
        return ModelError(f"{self._source} is no network of gluonseg: it {problem}; export it anew")

    def read_varint(self, at: int, end: int) -> tuple[int, int]:
        """A number in base 128 and where it ends; as short as it can be, as every writer has it."""
        value = 0
        for count in range(10):
            if at + count >= end:
                raise self.fail("ends inside a field")
            byte = self._content[at + count]
            value |= (byte & 0x7F) << 7 * count
            if byte < 0x80:
                if count and not byte:
                    raise self.fail("has numbers that are longer than need be")
                return value, at + count + 1
        raise self.fail("has numbers of more than 64 bits")

    def walk(self, message: str, at: int, end: int) -> None:
        """Check every field of the message between ``at`` and ``end``."""
        kinds = _SCHEMA[message]
        while at < end:
            tag, at = self.read_varint(at, end)
            number, wire = tag >> 3, tag & 7
            kind = self._find_kind(kinds, message, number, wire)
            if wire == _NUMBER:
                _, at = self.read_varint(at, end)
                continue
            size, at = (4, at) if wire == _FOUR else self.read_varint(at, end)
            if size > end - at:
                raise self.fail("ends inside a field")
            self._check_content(kind, at, at + size)
            at += size

    def _find_kind(self, kinds: _Kinds, message: str, number: int, wire: int) -> str:
        self._fields += 1
        if self._fields > MAX_FIELDS:
            raise self.fail(f"has more than {MAX_FIELDS} fields")
        if (message, number) in _REFUSED:
            raise self.fail(_REFUSED[message, number])
        kind = kinds.get(number)
        if kind is None or wire not in _WIRES.get(kind, (_BYTES,)):
            raise self.fail(f"has a field {number} in a {message}, which is not read")
        return kind

    def _check_content(self, kind: str, at: int, end: int) -> None:
        if kind in _SCHEMA:
            self.walk(kind, at, end)
        elif kind == "operator" and (name := self._read_text(at, end)) not in OPERATORS:
            raise self.fail(f"has the operator {shorten(ascii(name), 60)}")
        elif kind == "domain" and at != end:
            raise self.fail(f"has operators of the domain {shorten(ascii(self._read_text(at, end)), 60)}")

    def _read_text(self, at: int, end: int) -> str:
        return self._content[at : min(end, at + 100)].decode("latin-1")


def check_structure(content: bytes | mmap.mmap, source: str) -> None:
    """Raise ModelError, naming ``source``, when an ONNX file is not one that this program could have written."""
    _Walk(content, source).walk("model", 0, len(content))
