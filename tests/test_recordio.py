"""RecordIO-protobuf, read back by foreign readers: the protobuf library, MXNet, the notebooks' steps."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from gluonseg.predict.recordio import decode_probabilities, encode_probabilities
from notebook_client import build_record, parse_mask, parse_probabilities, read_record, read_record_with_mxnet


def test_the_bytes_of_a_tiny_answer() -> None:
    """Written out by hand from the protobuf encoding guide and the RecordIO layout."""
    body = encode_probabilities(np.array([[[0.25]], [[0.75]]], np.float32))
    values = b"\x0a\x08" + struct.pack("<2f", 0.25, 0.75)
    target = b"\x0a\x06target" + b"\x12\x0c" + b"\x12\x0a" + values
    shape = b"\x0a\x05shape" + b"\x12\x08" + b"\x3a\x06" + b"\x0a\x04" + bytes([1, 2, 1, 1])
    message = b"\x0a" + bytes([len(target)]) + target + b"\x0a" + bytes([len(shape)]) + shape
    assert body == struct.pack("<II", 0xCED7230A, len(message)) + message + bytes(-len(message) % 4)


@pytest.mark.parametrize("shape", [(2, 1, 1), (21, 5, 7), (3, 257, 130)])
def test_every_reader_gives_the_array_back(shape: tuple[int, int, int], tmp_path: Path) -> None:
    scores = np.random.default_rng(0).random(shape, dtype=np.float32)
    probabilities = (scores / scores.sum(axis=0)).transpose(0, 2, 1)  # not contiguous
    body = encode_probabilities(probabilities)
    message = read_record(body)
    assert read_record_with_mxnet(body, tmp_path / "answer.rec") == message
    np.testing.assert_array_equal(parse_probabilities(message), probabilities)
    np.testing.assert_array_equal(parse_mask(body), probabilities.argmax(axis=0))
    np.testing.assert_array_equal(decode_probabilities(body), probabilities)
    record = build_record()
    record.ParseFromString(message)
    assert sorted(record.features) == ["shape", "target"]
    assert not record.label
