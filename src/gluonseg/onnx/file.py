"""``model.onnx`` and ``model_int8.onnx`` of a model folder: what is safe to load, and what is kept of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from gluonseg.errors import ModelError
from gluonseg.files import read_regular
from gluonseg.models.folder.manifest import FLOAT32, ONNX_FILES
from gluonseg.text import shorten

if TYPE_CHECKING:
    import onnx  # commands that open no model start without it

INPUT, LOGITS, MASK = "image", "logits", "mask"
"""Names in the graph; :mod:`gluonseg.onnx.trace` says what they are."""
WEIGHTS_KEY = "params_sha256"
"""Metadata of the graph: sha256 (hex) of the ``.params`` file that it was made of."""
OPERATORS = frozenset(
    (
        "Abs", "Add", "And", "ArgMax", "AveragePool", "BatchNormalization", "Cast", "Clip", "Concat", "Conv",
        "ConvTranspose", "DequantizeLinear", "Div", "Expand", "GlobalAveragePool", "GlobalMaxPool",
        "GreaterOrEqual", "Identity", "LeakyRelu", "Less", "MatMul", "MaxPool", "Mul", "Pad", "QuantizeLinear",
        "Range", "ReduceMean", "Relu", "Resize", "Shape", "Sigmoid", "Slice", "Softplus", "Squeeze", "Sub",
        "Sum", "Tanh", "Transpose",
    )
)  # fmt: skip
"""The operators that :mod:`gluonseg.onnx.trace` and :mod:`gluonseg.export.int8` write."""
_VALUES = frozenset(("name", "type", "f", "i", "s", "floats", "ints", "doc_string"))
"""Fields of an attribute that hold numbers and text, no tensor and no graph."""
_MAX_BYTES = (2 << 30) - 1
"""Protobuf has no longer messages."""
_MAX_KEPT_BYTES = 64
"""Of a tensor in an outline: sizes and scales that give other arrays their shapes are smaller."""


@dataclass(frozen=True)
class OnnxFile:
    """An ONNX model: ``content`` is its bytes, or the path of its file. Messages call it ``source``.

    ``outline`` is the model without the values of its weights: about 100 kB, from which its cost is counted.
    """

    source: str
    content: bytes | Path = field(repr=False)
    outline: bytes = field(repr=False)
    precision: str = FLOAT32

    def read(self) -> bytes:
        """The model's bytes."""
        return self.content if isinstance(self.content, bytes) else self.content.read_bytes()


def build_onnx_file(model: onnx.ModelProto, source: str, precision: str = FLOAT32) -> OnnxFile:
    """``model`` as an ONNX file in memory."""
    return OnnxFile(source, model.SerializeToString(), _build_outline(model), precision)


def _build_outline(model: onnx.ModelProto) -> bytes:
    import onnx

    graph = model.graph
    outline = onnx.helper.make_model(
        onnx.helper.make_graph(graph.node, graph.name, graph.input, graph.output), opset_imports=model.opset_import
    )
    for tensor in graph.initializer:
        if len(tensor.raw_data) <= _MAX_KEPT_BYTES:
            outline.graph.initializer.append(tensor)
        else:
            outline.graph.initializer.add(name=tensor.name, dims=tensor.dims, data_type=tensor.data_type)
    content: bytes = outline.SerializeToString()
    return content


def _find_problem(model: onnx.ModelProto) -> str:
    """Say what ``model`` has that ONNX Runtime would run or read, and that gluonseg never writes; "" if nothing."""
    graph = model.graph
    if model.functions:
        return "has functions, which are not read"
    if graph.sparse_initializer:
        return "has sparse tensors, which are not read"
    if any(tensor.external_data or tensor.data_location for tensor in graph.initializer):
        return "has tensors in other files, which are not read"
    for node in graph.node:
        if node.op_type not in OPERATORS:
            return f"has the operator {shorten(ascii(node.op_type), 60)}"
        if node.domain:
            return f"has operators of the domain {shorten(ascii(node.domain), 60)}"
        if not all(field.name in _VALUES for one in node.attribute for field, _ in one.ListFields()):
            return "has a graph or a tensor inside an operator, which is not read"
    return ""


def check_structure(content: bytes, source: str) -> onnx.ModelProto:
    """Parse an ONNX file; ModelError, naming ``source``, when it is not one that gluonseg could have written.

    ONNX Runtime itself would also read tensors from any file of the machine or from an address in memory, and would
    run functions, loops and operators of other domains.
    """
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load_model_from_string(content)
        problem = _find_problem(model)
    except DecodeError:
        problem = "is damaged, or no ONNX file at all"
    if problem:
        raise ModelError(f"{source} is no network of gluonseg: it {problem}; export it anew")
    return model


def find_onnx(folder: Path, precision: str = FLOAT32) -> OnnxFile | None:
    """The ONNX file of a precision in a model folder; None when there is none.

    Raises ModelError when it cannot be read, or has what gluonseg never writes, see :func:`check_structure`.
    """
    path = folder / ONNX_FILES[precision]
    if not path.is_file():
        return None
    try:
        content = read_regular(path, _MAX_BYTES, follow=False)
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}") from None
    if not content:
        raise ModelError(f"{path} is empty (0 bytes); export it anew")
    return OnnxFile(str(path), path, _build_outline(check_structure(content, str(path))), precision)
