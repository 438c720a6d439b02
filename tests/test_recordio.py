"""RecordIO-protobuf, read back by foreign readers: the protobuf library, MXNet, the notebooks' steps."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from gluonseg.predict.recordio import Float32Array, decode_probabilities, encode_probabilities
from notebook_client import build_record, parse_mask, parse_probabilities, read_record, read_record_with_mxnet


def _probabilities(classes: int, height: int, width: int) -> Float32Array:
    scores = np.random.default_rng(classes).random((classes, height, width), dtype=np.float32)
    normalised: Float32Array = scores / scores.sum(axis=0, keepdims=True)
    return normalised


def test_the_bytes_of_a_tiny_answer() -> None:
    """Written out by hand from the protobuf encoding guide and the RecordIO layout."""
    body = encode_probabilities(np.array([[[0.25]], [[0.75]]], np.float32))
    values = b"\x0a\x08" + struct.pack("<2f", 0.25, 0.75)
    target = b"\x0a\x06target" + b"\x12\x0c" + b"\x12\x0a" + values
    shape = b"\x0a\x05shape" + b"\x12\x08" + b"\x3a\x06" + b"\x0a\x04" + bytes([1, 2, 1, 1])
    message = b"\x0a" + bytes([len(target)]) + target + b"\x0a" + bytes([len(shape)]) + shape
    assert body == struct.pack("<II", 0xCED7230A, len(message)) + message + bytes(-len(message) % 4)


@pytest.mark.parametrize(("classes", "height", "width"), [(2, 1, 1), (21, 7, 5), (3, 130, 257), (254, 2, 3)])
def test_notebook_steps_give_the_array_back(classes: int, height: int, width: int) -> None:
    probabilities = _probabilities(classes, height, width)
    body = encode_probabilities(probabilities)
    assert len(body) % 4 == 0
    np.testing.assert_array_equal(parse_probabilities(read_record(body)), probabilities)
    np.testing.assert_array_equal(parse_mask(body), probabilities.argmax(axis=0))
    np.testing.assert_array_equal(decode_probabilities(body), probabilities)


def test_the_message_has_the_two_features_and_nothing_else() -> None:
    record = build_record()
    message = read_record(encode_probabilities(_probabilities(3, 4, 5)))
    record.ParseFromString(message)
    assert sorted(record.features) == ["shape", "target"]
    assert list(record.features["shape"].int32_tensor.values) == [1, 3, 4, 5]
    assert record.ByteSize() == len(message)
    assert not record.label


def test_an_array_that_is_not_contiguous() -> None:
    probabilities = _probabilities(4, 6, 3).transpose(0, 2, 1)
    np.testing.assert_array_equal(parse_probabilities(read_record(encode_probabilities(probabilities))), probabilities)


def test_mxnet_reads_the_record(tmp_path: Path) -> None:
    probabilities = _probabilities(21, 30, 40)
    payload = read_record_with_mxnet(encode_probabilities(probabilities), tmp_path / "answer.rec")
    np.testing.assert_array_equal(parse_probabilities(payload), probabilities)
