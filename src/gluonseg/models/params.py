"""Reading and writing MXNet's ``.params`` files.

MXNet trusts the sizes that a file states, and allocates them. Here every count, length and shape is compared with the
bytes that are left before anything is read. Layout, little-endian (MXNet's ``NDArray::Save``):

    uint64 0x112 | uint64 0 | uint64 count | count tensors | uint64 count | count names
    tensor: uint32 magic | int32 storage (not in V1) | int32 ndim | int64 x ndim | int32 device, int32 id
            | int32 dtype | data
    name:   uint64 length | UTF-8

The device is skipped, so that a file saved from a GPU loads on a machine without one.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

import gluonseg.compat  # noqa: F401  (before mxnet, wherever that is imported)
from gluonseg.errors import ModelError
from gluonseg.files import find_fix, open_regular, write_pieces
from gluonseg.text import join_names

Array = npt.NDArray[Any]

_LIST_MAGIC = 0x112
_V1, _V2, _V3 = 0xF993FAC8, 0xF993FAC9, 0xF993FACA
_MAX_NDIM = 32
_MAX_TENSORS, _MAX_NAME = 20_000, 1024
"""The deepest network has a thousand tensors, with the optimizer's states a few thousand; names have some 40 bytes."""
_CPU = (1, 0)
_DTYPES = ("float32", "float64", "float16", "uint8", "int32", "int8", "int64")
_OLD_PREFIXES = ("arg:", "aux:")


class _Reader:
    """Reads values from a stream, never more bytes than the file has left."""

    def __init__(self, stream: BinaryIO, path: Path) -> None:
        self._stream = stream
        self._path = path
        self.left = os.fstat(stream.fileno()).st_size

    def fail(self, problem: str) -> ModelError:
        return ModelError(
            f"{self._path} is no usable MXNet parameter file: {problem}. "
            "Give the .params file as it was written, or fetch it again if it was copied."
        )

    def _reserve(self, size: int, what: str) -> None:
        if size > self.left:
            raise self.fail(f"it ends inside {what} ({size} bytes wanted, {self.left} left)")
        self.left -= size

    def read_bytes(self, size: int, what: str) -> bytes:
        self._reserve(size, what)
        return self._stream.read(size)

    def read_numbers(self, layout: str, what: str) -> tuple[int, ...]:
        """Integers; ``layout`` is that of :mod:`struct`, without the byte order."""
        return struct.unpack(f"<{layout}", self.read_bytes(struct.calcsize(f"<{layout}"), what))

    def read_array(self, shape: tuple[int, ...], dtype: np.dtype[Any], what: str) -> Array:
        count = prod(shape)
        self._reserve(count * dtype.itemsize, what)
        return np.fromfile(self._stream, dtype=dtype, count=count).reshape(shape)


def _read_tensor(reader: _Reader, what: str) -> Array:
    (magic,) = reader.read_numbers("I", what)
    if magic not in (_V1, _V2, _V3):
        raise reader.fail(f"{what} starts with {magic:#x}, which is no tensor of MXNet 0.12 to 1.9")
    storage, ndim = (0, *reader.read_numbers("i", what)) if magic == _V1 else reader.read_numbers("2i", what)
    if storage != 0:
        raise reader.fail(f"{what} is sparse or of unknown storage; only dense tensors are read")
    # Only V3 has scalars; in V1 and V2 no dimensions mean "not initialized".
    if not (0 if magic == _V3 else 1) <= ndim <= _MAX_NDIM:
        raise reader.fail(f"{what} has {ndim} dimensions")
    shape = reader.read_numbers(f"{ndim}q", what)
    if any(size < 1 for size in shape):
        raise reader.fail(f"{what} has shape {shape}")
    *_device, flag = reader.read_numbers("3i", what)
    if not 0 <= flag < len(_DTYPES):
        raise reader.fail(f"{what} has data type number {flag}; read are {', '.join(_DTYPES)}")
    return reader.read_array(shape, np.dtype(_DTYPES[flag]).newbyteorder("<"), what)


def _read_name(reader: _Reader, what: str) -> str:
    (length,) = reader.read_numbers("Q", what)
    if length > _MAX_NAME:
        raise reader.fail(f"{what} has {length} bytes, at most {_MAX_NAME} are read")
    try:
        name = reader.read_bytes(length, what).decode("utf-8")
    except UnicodeDecodeError:
        raise reader.fail(f"{what} is not UTF-8") from None
    return name[4:] if name.startswith(_OLD_PREFIXES) else name


def _read_list(reader: _Reader) -> dict[str, Array]:
    magic, _, count = reader.read_numbers("3Q", "the header")
    if magic != _LIST_MAGIC:
        raise reader.fail("it does not start like one")
    if count > _MAX_TENSORS:
        raise reader.fail(f"its header speaks of {count} tensors, at most {_MAX_TENSORS} are read")
    tensors = [_read_tensor(reader, f"tensor {i} of {count}") for i in range(count)]
    (name_count,) = reader.read_numbers("Q", "the list of names")
    if name_count != count:
        raise reader.fail(f"it holds {count} tensors and {name_count} names")
    names = [_read_name(reader, f"name {i} of {count}") for i in range(count)]
    if reader.left:
        raise reader.fail(f"{reader.left} bytes follow its end")
    if len(set(names)) != count:
        raise reader.fail("two of its tensors have the same name")
    return dict(zip(names, tensors, strict=True))


def read_arrays(path: Path) -> dict[str, Array]:
    """Read a ``.params`` file into numpy arrays by name, without MXNet 1.x's prefixes ``arg:`` and ``aux:``.

    Raises ModelError, naming the file and the tensor, for anything that is not a whole file of named,
    dense, initialized tensors. It allocates no more than the file is long.
    """
    try:
        with open_regular(path) as stream:
            return _read_list(_Reader(stream, path))
    except OSError as error:
        reason = error.strerror or error
        raise ModelError(f"{path} cannot be read: {reason}. Give the path of a .params file.") from error


def check_finite(arrays: Mapping[str, npt.NDArray[Any]], source: Path) -> None:
    """Raise ModelError when a tensor holds NaN or infinity."""
    broken = [name for name, array in arrays.items() if not np.isfinite(array).all()]
    if broken:
        raise ModelError(f"{source} holds values that are not finite in {join_names(broken, 3)}. Fetch it again.")


def read_params(path: Path) -> dict[str, Any]:
    """Read a ``.params`` file as :func:`read_arrays` does, into ``mx.nd.NDArray`` on the CPU."""
    return convert_arrays(read_arrays(path))


def convert_arrays(arrays: Mapping[str, Array]) -> dict[str, Any]:
    """Copy numpy arrays into ``mx.nd.NDArray`` on the CPU."""
    import mxnet as mx

    return {name: mx.nd.from_numpy(array, zero_copy=False) for name, array in arrays.items()}


def iter_params(arrays: Mapping[str, Any]) -> Iterator[bytes | memoryview]:
    """The bytes of a ``.params`` file of ``arrays`` (numpy or MXNet), dtypes kept; one array in memory at a time.

    They are not written by MXNet, whose writer reports no full disk.
    """
    yield struct.pack("<3Q", _LIST_MAGIC, 0, len(arrays))
    for array in arrays.values():
        values = np.ascontiguousarray(array if isinstance(array, np.ndarray) else array.asnumpy())
        flag = _DTYPES.index(values.dtype.name)
        yield struct.pack(f"<Iii{values.ndim}q3i", _V2, 0, values.ndim, *values.shape, *_CPU, flag)
        yield values.reshape(-1).view(np.uint8).data
    yield struct.pack("<Q", len(arrays))
    for name in arrays:
        text = name.encode()
        yield struct.pack("<Q", len(text)) + text


def compute_size(arrays: Mapping[str, Any]) -> int:
    """Bytes of the ``.params`` file of ``arrays``, numpy or MXNet."""
    data = sum(prod(array.shape) * np.dtype(array.dtype).itemsize for array in arrays.values())
    headers = sum(struct.calcsize(f"<Iii{len(array.shape)}q3i") for array in arrays.values())
    names = sum(struct.calcsize("<Q") + len(name.encode()) for name in arrays)
    return int(struct.calcsize("<3QQ") + headers + data + names)


def write_params(arrays: Mapping[str, Array], path: Path) -> None:
    """Write a ``.params`` file that MXNet reads, dtypes kept; ``path`` is replaced in one step or not at all.

    Raises:
        StorageError: the disk is full, read-only or broken.
        ModelError: it cannot be written for another reason.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_pieces(path, iter_params(arrays), compute_size(arrays))
    except OSError as error:
        raise ModelError(f"{path} cannot be written: {error.strerror or error}; {find_fix(error)}") from error
