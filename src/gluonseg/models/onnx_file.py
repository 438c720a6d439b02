"""``model.onnx`` and ``model_int8.onnx`` of a model folder, and which weights they were made of."""

from __future__ import annotations

import mmap
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from gluonseg.errors import ModelError

FLOAT32, INT8 = "float32", "int8"
ONNX_FILE = "model.onnx"
ONNX_FILES: Mapping[str, str] = MappingProxyType({FLOAT32: ONNX_FILE, INT8: "model_int8.onnx"})
"""File name by precision."""
INPUT, LOGITS, MASK = "image", "logits", "mask"
"""Names in the graph; :mod:`gluonseg.models.onnx_graph` says what they are."""
WEIGHTS_KEY = "params_sha256"
"""Metadata of the graph: sha256 (hex) of the ``.params`` file that it was made of."""

_EXTERNAL = b"\x0a\x08location"
"""The key before the name of another file that holds a tensor; in protobuf's encoding of such an entry."""


@dataclass(frozen=True)
class OnnxFile:
    """An ONNX model: in memory, or the file at ``path``. ``source`` tells people where it comes from."""

    source: str
    content: bytes | None = field(default=None, repr=False)
    path: Path | None = None
    precision: str = FLOAT32

    def read(self) -> bytes:
        """The model's bytes."""
        if self.content is not None:
            return self.content
        assert self.path is not None
        return self.path.read_bytes()


def _has_external_tensors(path: Path) -> bool:
    with path.open("rb") as file:
        if not os.fstat(file.fileno()).st_size:
            return False  # an empty file cannot be mapped
        # Mapped, not read: reading all weights once more would be a fifth of the time to start a server.
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return content.find(_EXTERNAL) >= 0


def find_onnx(folder: Path, precision: str = FLOAT32) -> OnnxFile | None:
    """The ONNX file of a precision in a model folder; None when there is none.

    Raises:
        ModelError: it cannot be read, or has tensors in other files, which could be any file of the machine.
    """
    path = folder / ONNX_FILES[precision]
    if not path.is_file():
        return None
    try:
        is_external = _has_external_tensors(path)
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}") from None
    if is_external:
        raise ModelError(f"{path} has tensors in other files, which are not read; export it as one file")
    return OnnxFile(str(path), path=path, precision=precision)
