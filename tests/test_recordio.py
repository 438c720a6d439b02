"""RecordIO-protobuf, read back by foreign readers: the protobuf library, MXNet, the notebooks' steps."""

from __future__ import annotations

import struct
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gluonseg.serve.recordio import FRAMING, PART_LIMIT, Float32Array, encode_probabilities
from notebook_client import build_record, parse_mask, parse_probabilities, read_record, read_record_with_mxnet


def _probabilities(classes: int, height: int, width: int) -> Float32Array:
    scores = np.random.default_rng(classes).random((classes, height, width), dtype=np.float32)
    normalised: Float32Array = scores / scores.sum(axis=0, keepdims=True)
    return normalised


def _flags(body: bytes) -> list[int]:
    flags, offset = [], 0
    while offset < len(body):
        _, word = struct.unpack_from("<II", body, offset)
        flags.append(word >> 29)
        offset += 8 + ((word & PART_LIMIT) + 3) // 4 * 4
    return flags


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
    assert _flags(body) == [0]
    np.testing.assert_array_equal(parse_probabilities(read_record(body)), probabilities)
    np.testing.assert_array_equal(parse_mask(body), probabilities.argmax(axis=0))


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


@given(
    sizes=st.tuples(st.integers(2, 5), st.integers(1, 9), st.integers(1, 9)),
    part_limit=st.integers(FRAMING + 4, FRAMING + 400),
)
def test_any_division_into_parts_reads_back(sizes: tuple[int, int, int], part_limit: int) -> None:
    probabilities = _probabilities(*sizes)
    body = encode_probabilities(probabilities, part_limit)
    flags = _flags(body)
    assert flags == ([0] if len(flags) == 1 else [1, *[2] * (len(flags) - 2), 3])
    np.testing.assert_array_equal(parse_probabilities(read_record(body)), probabilities)


def test_parts_stay_below_the_limit() -> None:
    body = encode_probabilities(_probabilities(3, 40, 41), part_limit=FRAMING + 1000)
    lengths, offset = [], 0
    while offset < len(body):
        length = struct.unpack_from("<II", body, offset)[1] & PART_LIMIT
        lengths.append(length)
        offset += 8 + (length + 3) // 4 * 4
    assert len(lengths) == 20
    assert max(lengths) <= FRAMING + 1000


@pytest.mark.parametrize("part_limit", [PART_LIMIT, FRAMING + 4096], ids=["whole", "divided"])
def test_mxnet_reads_the_record(part_limit: int, tmp_path: Path) -> None:
    probabilities = _probabilities(21, 30, 40)
    body = encode_probabilities(probabilities, part_limit)
    payload = read_record_with_mxnet(body, tmp_path / "answer.rec")
    np.testing.assert_array_equal(parse_probabilities(payload), probabilities)


def test_a_large_answer_is_encoded_quickly() -> None:
    probabilities = _probabilities(21, 600, 800)
    durations = []
    for _ in range(3):
        start = time.perf_counter()
        body = encode_probabilities(probabilities)
        durations.append(time.perf_counter() - start)
    assert len(body) > probabilities.nbytes
    # Setting the values through the protobuf library takes seconds.
    assert min(durations) < 0.2
