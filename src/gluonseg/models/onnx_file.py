"""``model.onnx`` and ``model_int8.onnx`` of a model folder, and which weights they were made of."""

from __future__ import annotations

import mmap
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from gluonseg.errors import ModelError
from gluonseg.models.onnx_structure import check_structure
from gluonseg.regular_file import open_regular

FLOAT32, INT8 = "float32", "int8"
ONNX_FILE = "model.onnx"
ONNX_FILES: Mapping[str, str] = MappingProxyType({FLOAT32: ONNX_FILE, INT8: "model_int8.onnx"})
"""File name by precision."""
INPUT, LOGITS, MASK = "image", "logits", "mask"
"""Names in the graph; :mod:`gluonseg.models.onnx_trace` says what they are."""
WEIGHTS_KEY = "params_sha256"
"""Metadata of the graph: sha256 (hex) of the ``.params`` file that it was made of."""
_MAX_BYTES = (2 << 30) - 1
"""Protobuf has no longer messages."""


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


def _check_file(path: Path) -> None:
    with open_regular(path, follow=False) as file:
        size = os.fstat(file.fileno()).st_size
        if not size:
            raise ModelError(f"{path} is empty (0 bytes); export it anew")
        if size > _MAX_BYTES:
            raise ModelError(f"{path} cannot be read: it has {size} bytes, the limit is {_MAX_BYTES}")
        # Mapped, not read: of the tensors nothing is looked at, and the engine reads the file itself.
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            check_structure(content, str(path))


def find_onnx(folder: Path, precision: str = FLOAT32) -> OnnxFile | None:
    """The ONNX file of a precision in a model folder; None when there is none.

    Raises:
        ModelError: it cannot be read, or is none that this program writes: it could name any file of the machine.
    """
    path = folder / ONNX_FILES[precision]
    if not path.is_file():
        return None
    try:
        _check_file(path)
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}") from None
    return OnnxFile(str(path), path=path, precision=precision)
