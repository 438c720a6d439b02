"""Parameter files that claim too much, or are those of no network; the fields of the format are in test_params_file."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from gluonseg.errors import ModelError
from gluonseg.models.artifact import BEST_FILE
from gluonseg.models.params_file import iter_params, read_arrays
from gluonseg.predict.predictor import load_predictor
from measured import measure_bytes
from picture import draw_noise

Arrays = dict[str, npt.NDArray[Any]]
HEADER = 24
"""Bytes before the first tensor."""


@pytest.fixture(scope="module")
def arrays(trained_model: Path) -> Arrays:
    return read_arrays(trained_model / BEST_FILE)


def _pack(arrays: Arrays) -> bytes:
    return b"".join(iter_params(arrays))


def _change(name: str, change: Callable[[npt.NDArray[Any]], npt.NDArray[Any]]) -> Callable[[Arrays], Arrays]:
    return lambda arrays: {**arrays, name: change(arrays[name])}


def _drop(name: str) -> Callable[[Arrays], Arrays]:
    return lambda arrays: {other: array for other, array in arrays.items() if other != name}


def _grow(arrays: Arrays) -> Arrays:
    weight = arrays["head.block.4.weight"]
    head = {"head.block.4.weight": np.zeros((300, *weight.shape[1:]), np.float32)}
    return {**arrays, **head, "head.block.4.bias": np.zeros(300, np.float32)}


NETWORKS: dict[str, tuple[Callable[[Arrays], Arrays], str]] = {
    "a tensor is missing": (_drop("layer3.1.bn2.gamma"), r"layer3\.1\.bn2\.gamma"),
    "a tensor too many": (lambda arrays: {**arrays, "head.x.bias": np.zeros(3, np.float32)}, r"head\.x\.bias is not"),
    "NaN": (_change("layer2.0.conv1.weight", lambda array: array * np.nan), r"finite in layer2\.0\.conv1\.weight"),
    "bytes": (_change("bn1.gamma", lambda array: array.astype(np.uint8)), r"bn1\.gamma \(uint8\)"),
    "another shape": (_change("bn1.beta", lambda array: np.zeros(65, np.float32)), r"bn1\.beta has shape \(65,\)"),
    "channels that do not fit": (
        _change("layer1.0.conv1.weight", lambda array: array[:, :9]),
        r"model\.onnx cannot be (used|run)",
    ),
    "300 classes": (_grow, "has 300 classes; 2 to 254"),
    "a name of a terminal": (lambda arrays: {**arrays, "\x1b[31m\n": np.zeros(3, np.float32)}, r"\\x1b\[31m\\n is"),
}


@pytest.mark.parametrize(("change", "words"), NETWORKS.values(), ids=NETWORKS)
def test_parameters_of_no_network(
    arrays: Arrays, tmp_path: Path, change: Callable[[Arrays], Arrays], words: str
) -> None:
    (tmp_path / BEST_FILE).write_bytes(_pack(change(arrays)))
    with pytest.raises(ModelError, match=words):
        load_predictor(tmp_path).predict_mask(draw_noise(16, 16))


FILES: dict[str, Callable[[bytes], bytes]] = {
    "2^60 values": lambda content: content[: HEADER + 12] + struct.pack("<q", 1 << 60) + content[HEADER + 20 :],
    "2^31 dimensions": lambda content: content[: HEADER + 8] + b"\xff\xff\xff\x7f" + content[HEADER + 12 :],
    "pickle": lambda _: b"\x80\x04cos\nsystem\n(S'false'\ntR.",
    "20 million tensors": lambda _: struct.pack("<3Q", 0x112, 0, 20_000_000) + bytes(1 << 20),
}


def test_what_is_claimed_is_not_allocated(arrays: Arrays) -> None:
    small = _pack({name: arrays[name] for name in ("bn1.gamma", "bn1.beta")})
    contents = {name: change(small) for name, change in FILES.items()}
    setup = "from gluonseg.models.params_file import read_arrays"
    for taken in measure_bytes(setup, "read_arrays(path)", contents).values():
        assert taken.outcome.startswith("ModelError: ")
        assert "no usable MXNet parameter file" in taken.outcome
        assert (taken.seconds, taken.peak_mb) < (5, 64)


def test_half_precision(arrays: Arrays, trained_model: Path, tmp_path: Path) -> None:
    picture = draw_noise(24, 32)
    (tmp_path / BEST_FILE).write_bytes(_pack({name: array.astype(np.float16) for name, array in arrays.items()}))
    wanted = load_predictor(trained_model).predict_probabilities(picture)
    np.testing.assert_allclose(load_predictor(tmp_path).predict_probabilities(picture), wanted, atol=0.02)
