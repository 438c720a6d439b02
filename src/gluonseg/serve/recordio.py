"""RecordIO-protobuf, the built-in's default answer: one RecordIO record that holds one ``Record`` message.

The message is ``aialgs.data.Record`` (https://docs.aws.amazon.com/sagemaker/latest/dg/cdf-training.html):

- ``features["target"].float32_tensor.values``: probabilities, C order over (1, num_classes, H, W)
- ``features["shape"].int32_tensor.values``: ``[1, num_classes, H, W]``

The few bytes of framing are written here rather than by the protobuf library, so that the tensor's memory
is copied exactly once; the tests read the result back with that library.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

Float32Array = npt.NDArray[np.float32]
Chunk = bytes | memoryview

MAGIC = b"\x0a\x23\xd7\xce"
PART_LIMIT = (1 << 29) - 1
"""The length field of a RecordIO part has 29 bits."""
FRAMING = 128
"""More than all bytes of framing in a part, so that ``values + FRAMING`` bounds its length."""

_WHOLE, _FIRST, _MIDDLE, _LAST = range(4)
# Field numbers of aialgs.data.Record and the messages inside it.
_FEATURES, _MAP_KEY, _MAP_VALUE, _FLOAT32_TENSOR, _INT32_TENSOR, _VALUES = 1, 1, 2, 2, 7, 1
_UNKNOWN = 15


def _encode_varint(number: int) -> bytes:
    """Base 128, low bits first, the high bit set on all bytes but the last."""
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def _encode_field(number: int, content: Iterable[Chunk]) -> list[Chunk]:
    """A length-delimited field: its header in front of ``content``, which is not copied."""
    chunks = list(content)
    length = sum(len(chunk) for chunk in chunks)
    return [_encode_varint(number << 3 | 2) + _encode_varint(length), *chunks]


def _encode_feature(key: str, tensor_number: int, tensor: Iterable[Chunk]) -> list[Chunk]:
    """One entry of the map ``Record.features``."""
    value = _encode_field(tensor_number, tensor)
    return _encode_field(_FEATURES, [*_encode_field(_MAP_KEY, [key.encode()]), *_encode_field(_MAP_VALUE, value)])


def _encode_values(values: memoryview, run_bytes: int) -> list[Chunk]:
    """``repeated float values``, packed, in runs of ``run_bytes``; a MAGIC stands between two runs.

    Readers put the magic number back between the parts of a record, so a record can be divided only where
    its bytes are that number. A field that no reader knows carries it; packed runs of one field add up.
    """
    chunks: list[Chunk] = []
    for start in range(0, len(values), run_bytes):
        if start:
            chunks += [*_encode_field(_UNKNOWN, [MAGIC])]
        chunks += _encode_field(_VALUES, [values[start : start + run_bytes]])
    return chunks


def _iter_parts(message: Sequence[Chunk]) -> Iterator[list[Chunk]]:
    """Divide a message at its MAGIC chunks, which are left out."""
    part: list[Chunk] = []
    for chunk in message:
        if chunk is MAGIC:
            yield part
            part = []
        else:
            part.append(chunk)
    yield part


def _encode_record(message: Sequence[Chunk]) -> bytes:
    """Put RecordIO's frame around a message: magic, 3 bits of flag and 29 of length, padding to 4 bytes."""
    parts = list(_iter_parts(message))
    flags = [_WHOLE] if len(parts) == 1 else [_FIRST, *[_MIDDLE] * (len(parts) - 2), _LAST]
    chunks: list[Chunk] = []
    for flag, part in zip(flags, parts, strict=True):
        length = sum(len(chunk) for chunk in part)
        chunks += [MAGIC, struct.pack("<I", flag << 29 | length), *part, bytes(-length % 4)]
    return b"".join(chunks)


def encode_probabilities(probabilities_chw: Float32Array, part_limit: int = PART_LIMIT) -> bytes:
    """Encode probabilities (num_classes, H, W) as one RecordIO record.

    Up to ``part_limit`` bytes the record has a single part, as the simplest readers expect; a longer one is
    divided into several. The caller keeps the message below 2 GiB, as protobuf asks.
    """
    values = np.ascontiguousarray(probabilities_chw, dtype="<f4").reshape(-1).view(np.uint8).data
    run_bytes = (part_limit - FRAMING) // 4 * 4
    shape = b"".join(_encode_varint(size) for size in (1, *probabilities_chw.shape))
    return _encode_record(
        [
            *_encode_feature("target", _FLOAT32_TENSOR, _encode_values(values, run_bytes)),
            *_encode_feature("shape", _INT32_TENSOR, _encode_field(_VALUES, [shape])),
        ]
    )
