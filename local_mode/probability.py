"""Reads the answer to ``Accept: application/x-protobuf``, for which SDK v3 has no reader any more."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

FEATURES, KEY, VALUE, FLOAT32_TENSOR, INT32_TENSOR, VALUES = 1, 1, 2, 2, 7, 1
"""Field numbers of the message aialgs.data.Record."""


def _read_varint(data: bytes, offset: int) -> tuple[int, int]:
    """A number in base 128, low bits first, and the offset behind it."""
    number, shift = 0, 0
    while True:
        byte = data[offset]
        number |= (byte & 0x7F) << shift
        offset, shift = offset + 1, shift + 7
        if byte < 0x80:
            return number, offset


def _iter_fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """Number and content of each field; the message has only such as carry their length."""
    offset = 0
    while offset < len(message):
        tag, offset = _read_varint(message, offset)
        length, offset = _read_varint(message, offset)
        yield tag >> 3, message[offset : offset + length]
        offset += length


def _read_values(tensor: bytes) -> bytes:
    return b"".join(content for number, content in _iter_fields(tensor) if number == VALUES)


def _read_numbers(packed: bytes) -> list[int]:
    numbers, offset = [], 0
    while offset < len(packed):
        number, offset = _read_varint(packed, offset)
        numbers.append(number)
    return numbers


def read_probabilities(body: bytes) -> npt.NDArray[np.float32]:
    """Probabilities (1, num_classes, H, W) from one RecordIO record; answers from 512 MB on have several parts."""
    _magic, length = struct.unpack_from("<II", body)
    message = body[8 : 8 + length]
    features = [dict(_iter_fields(content)) for number, content in _iter_fields(message) if number == FEATURES]
    tensors = {feature[KEY]: dict(_iter_fields(feature[VALUE])) for feature in features}
    shape = _read_numbers(_read_values(tensors[b"shape"][INT32_TENSOR]))
    return np.frombuffer(_read_values(tensors[b"target"][FLOAT32_TENSOR]), "<f4").reshape(shape)
