"""RecordIO-protobuf, the built-in's default answer: one RecordIO record that holds one ``Record`` message.

The message is ``aialgs.data.Record`` (https://docs.aws.amazon.com/sagemaker/latest/dg/cdf-training.html):

- ``features["target"].float32_tensor.values``: probabilities, C order over (1, num_classes, H, W)
- ``features["shape"].int32_tensor.values``: ``[1, num_classes, H, W]``
"""

from __future__ import annotations

import functools
import struct
from typing import Any

import numpy as np
import numpy.typing as npt
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

Float32Array = npt.NDArray[np.float32]

_MAGIC = 0xCED7230A
# Message: fields as (name, number, type, message of the field); "repeated" in front where there are several.
_SCHEMA = {
    # Packed floats are encoded as bytes are, and bytes are copied at once: protobuf would take each float by itself.
    "Float32Tensor": [("values", 1, "bytes", "")],
    "Int32Tensor": [("values", 1, "repeated int32", "")],
    "Value": [("float32_tensor", 2, "message", "Float32Tensor"), ("int32_tensor", 7, "message", "Int32Tensor")],
    # An entry of a map; a map is a list of entries.
    "Entry": [("key", 1, "string", ""), ("value", 2, "message", "Value")],
    "Record": [("features", 1, "repeated message", "Entry")],
}


@functools.cache
def _build_record_class() -> Any:
    """The class of ``Record``."""
    kind = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="gluonseg-record.proto", package="aialgs.data", syntax="proto3")
    for message, fields in _SCHEMA.items():
        added = file.message_type.add(name=message)
        for name, number, types, other in fields:
            label = kind.LABEL_REPEATED if "repeated" in types else kind.LABEL_OPTIONAL
            field = added.field.add(name=name, number=number, label=label)
            field.type = getattr(kind, f"TYPE_{types.split()[-1].upper()}")
            if other:
                field.type_name = f".aialgs.data.{other}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("aialgs.data.Record"))


def encode_probabilities(probabilities_chw: Float32Array) -> bytes:
    """Encode probabilities (num_classes, H, W), below 512 MiB, as one RecordIO record."""
    record = _build_record_class()()
    target, shape = record.features.add(key="target"), record.features.add(key="shape")
    target.value.float32_tensor.values = np.ascontiguousarray(probabilities_chw, dtype="<f4").tobytes()
    shape.value.int32_tensor.values.extend((1, *probabilities_chw.shape))
    message = record.SerializeToString()
    return b"".join((struct.pack("<II", _MAGIC, len(message)), message, bytes(-len(message) % 4)))


def decode_probabilities(body: bytes) -> Float32Array:
    """The probabilities (num_classes, H, W) in such a record, of this server or of the built-in algorithm."""
    (length,) = struct.unpack_from("<I", body, 4)
    record = _build_record_class().FromString(body[8 : 8 + length])
    values = {feature.key: feature.value for feature in record.features}
    flat = np.frombuffer(values["target"].float32_tensor.values, "<f4")
    probabilities_chw: Float32Array = flat.reshape(values["shape"].int32_tensor.values)[0]
    return probabilities_chw
