"""The steps by which public notebooks read the protobuf answer, with nothing of gluonseg in them.

They read the one record, parse it, list ``target`` and ``shape``, squeeze the shape, reshape, drop the batch
axis and take the most probable class of each pixel. Notebooks with MXNet use its RecordIO reader, the others
strip the frame themselves.
"""

from __future__ import annotations

import struct
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt


def read_record(body: bytes) -> bytes:
    """Strip the RecordIO frame: parts of one record have the magic number between them again."""
    parts, offset, flag = [], 0, 1
    while flag in (1, 2):
        magic, length_and_flag = struct.unpack_from("<II", body, offset)
        if magic != 0xCED7230A:
            raise ValueError(f"no RecordIO magic at byte {offset}")
        flag, length = length_and_flag >> 29, length_and_flag & (1 << 29) - 1
        parts.append(body[offset + 8 : offset + 8 + length])
        offset += 8 + (length + 3) // 4 * 4
    if offset != len(body):
        raise ValueError(f"{len(body) - offset} bytes behind the record")
    return struct.pack("<I", 0xCED7230A).join(parts)


def read_record_with_mxnet(body: bytes, path: Path) -> bytes:
    """The same through MXNet's own reader, which wants a file."""
    import gluonseg.compat  # noqa: F401  only so that MXNet can be imported at all

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import mxnet

    path.write_bytes(body)
    reader = mxnet.recordio.MXRecordIO(str(path), "r")
    try:
        return bytes(reader.read())
    finally:
        reader.close()


def build_record() -> Any:
    """An empty ``aialgs.data.Record``; the schema is the one that AWS publishes."""
    from sagemaker_training.record_pb2 import Record

    return Record()


def parse_probabilities(payload: bytes) -> npt.NDArray[np.float64]:
    """The notebooks' steps from the protobuf message to an array (num_classes, H, W)."""
    record = build_record()
    record.ParseFromString(payload)
    values = list(record.features["target"].float32_tensor.values)
    shape = np.squeeze(list(record.features["shape"].int32_tensor.values))
    probabilities: npt.NDArray[np.float64] = np.reshape(np.array(values), shape).squeeze(axis=0)
    return probabilities


def parse_mask(body: bytes) -> npt.NDArray[np.int64]:
    """From the body of the answer to class ids (H, W)."""
    mask: npt.NDArray[np.int64] = np.argmax(parse_probabilities(read_record(body)), axis=0)
    return mask
