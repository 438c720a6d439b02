"""``model.onnx`` and ``model_int8.onnx`` of a model folder, and which weights they were made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from gluonseg.errors import ModelError
from gluonseg.models.onnx_structure import check_structure
from gluonseg.regular_file import read_regular

FLOAT32, INT8 = "float32", "int8"
ONNX_FILE = "model.onnx"
ONNX_FILES: Mapping[str, str] = MappingProxyType({FLOAT32: ONNX_FILE, INT8: "model_int8.onnx"})
"""File name by precision."""
INPUT, LOGITS, MASK = "image", "logits", "mask"
"""Names in the graph; :mod:`gluonseg.models.onnx_graph` says what they are."""
WEIGHTS_KEY = "params_sha256"
"""Metadata of the graph: sha256 (hex) of the ``.params`` file that it was made of."""
_MAX_BYTES = (2 << 30) - 1
"""Protobuf has no longer messages."""


@dataclass(frozen=True)
class OnnxFile:
    """An ONNX model in memory. ``source`` tells people where it comes from."""

    content: bytes = field(repr=False)
    source: str
    precision: str = FLOAT32


def read_onnx(folder: Path, precision: str = FLOAT32) -> OnnxFile | None:
    """Read the ONNX file of a precision from a model folder; None when there is none.

    Raises:
        ModelError: it cannot be read, or is none that this program writes: it could name any file of the machine.
    """
    path = folder / ONNX_FILES[precision]
    if not path.is_file():
        return None
    try:
        content = read_regular(path, _MAX_BYTES, follow=False)
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}") from None
    check_structure(content, str(path))
    return OnnxFile(content, str(path), precision)
