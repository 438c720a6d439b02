"""``model.onnx`` and ``model_int8.onnx`` of a model folder, and which weights they were made of."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from gluonseg.errors import ModelError
from gluonseg.files import read_regular
from gluonseg.models.folder.manifest import FLOAT32, ONNX_FILES
from gluonseg.text import shorten

if TYPE_CHECKING:
    import onnx

INPUT, LOGITS, MASK = "image", "logits", "mask"
"""Names in the graph; :mod:`gluonseg.onnx.trace` says what they are."""
WEIGHTS_KEY = "params_sha256"
"""Metadata of the graph: sha256 (hex) of the ``.params`` file that it was made of."""
OPERATORS = frozenset(
    (
        "Add", "And", "ArgMax", "AveragePool", "BatchNormalization", "Cast", "Clip", "Concat", "Conv", "ConvTranspose",
        "DequantizeLinear", "Div", "Expand", "GlobalAveragePool", "GlobalMaxPool", "GreaterOrEqual", "Identity",
        "LeakyRelu", "Less", "MatMul", "MaxPool", "Mul", "QuantizeLinear", "Range", "ReduceMean", "Relu",
        "Resize", "Shape", "Sigmoid", "Slice", "Softplus", "Squeeze", "Sub", "Sum", "Tanh", "Transpose",
    )
)  # fmt: skip
"""Those that :mod:`gluonseg.onnx.trace` and :mod:`gluonseg.export.int8` write."""
_VALUES = frozenset(("name", "type", "f", "i", "s", "floats", "ints", "doc_string"))
"""Fields of an attribute that hold numbers and text, no tensor and no graph."""
_MAX_BYTES = (2 << 30) - 1
"""Protobuf has no longer messages."""
_MAX_KEPT_BYTES = 64
"""Of a tensor in an outline: sizes and scales that give other arrays their shapes are smaller."""


@dataclass(frozen=True)
class OnnxFile:
    """An ONNX model: in memory, or the file at ``path``. ``source`` tells people where it comes from.

    ``outline`` is what :meth:`read_outline` gives, where whoever made this has read the file already.
    """

    source: str
    content: bytes | None = field(default=None, repr=False)
    path: Path | None = None
    precision: str = FLOAT32
    outline: bytes = field(default=b"", repr=False)

    def read(self) -> bytes:
        """The model's bytes."""
        if self.content is not None:
            return self.content
        assert self.path is not None
        return self.path.read_bytes()

    def read_outline(self) -> bytes:
        """The model without the values of its weights: about 100 kB, from which its cost is counted."""
        import onnx

        return self.outline or _strip_weights(onnx.load_model_from_string(self.read()))


def _strip_weights(model: onnx.ModelProto) -> bytes:
    for tensor in model.graph.initializer:
        if len(tensor.raw_data) > _MAX_KEPT_BYTES:
            tensor.ClearField("raw_data")
    outline: bytes = model.SerializeToString()
    return outline


def _find_problem(model: onnx.ModelProto) -> str:
    """What a parsed file has that ONNX Runtime would run or read and no exporter of ours writes; "" if nothing."""
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


def check_structure(content: bytes, source: str) -> bytes:
    """Raise ModelError, naming ``source``, when an ONNX file is not one that this program could have written.

    Returns its outline, see :meth:`OnnxFile.read_outline`.

    ONNX Runtime opens more: tensors that lie in any other file or at an address of the process, functions, loops,
    operators of other domains.
    """
    import onnx  # here: commands that open no model start without it
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load_model_from_string(content)
        problem = _find_problem(model)
    except DecodeError:
        problem = "is damaged, or no ONNX file at all"
    if problem:
        raise ModelError(f"{source} is no network of gluonseg: it {problem}; export it anew")
    return _strip_weights(model)


def _check_file(path: Path) -> bytes:
    content = read_regular(path, _MAX_BYTES, follow=False)
    if not content:
        raise ModelError(f"{path} is empty (0 bytes); export it anew")
    return check_structure(content, str(path))


def find_onnx(folder: Path, precision: str = FLOAT32) -> OnnxFile | None:
    """The ONNX file of a precision in a model folder; None when there is none.

    Raises:
        ModelError: it cannot be read, or is none that this program writes: it could name any file of the machine.
    """
    path = folder / ONNX_FILES[precision]
    if not path.is_file():
        return None
    try:
        outline = _check_file(path)
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}") from None
    return OnnxFile(str(path), path=path, precision=precision, outline=outline)
