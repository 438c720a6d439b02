"""Parameter files that are damaged, lie about what they hold, or are those of another network."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mxnet as mx
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


def _write(folder: Path, content: bytes, card: dict[str, Any] | None = None) -> Path:
    (folder / BEST_FILE).write_bytes(content)
    if card is not None:
        (folder / "model_card.json").write_text(json.dumps(card), encoding="utf-8")
    return folder


def _change(name: str, change: Callable[[npt.NDArray[Any]], npt.NDArray[Any]]) -> Callable[[Arrays], Arrays]:
    return lambda arrays: {**arrays, name: change(arrays[name])}


def _poison(value: float) -> Callable[[npt.NDArray[Any]], npt.NDArray[Any]]:
    def change(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        poisoned = array.copy()
        poisoned.reshape(-1)[7] = value
        return poisoned

    return change


def _drop(name: str) -> Callable[[Arrays], Arrays]:
    return lambda arrays: {other: array for other, array in arrays.items() if other != name}


def _grow(arrays: Arrays, classes: int) -> Arrays:
    weight = arrays["head.block.4.weight"]
    return {
        **arrays,
        "head.block.4.weight": np.zeros((classes, *weight.shape[1:]), np.float32),
        "head.block.4.bias": np.zeros(classes, np.float32),
    }


NETWORKS: dict[str, tuple[Callable[[Arrays], Arrays], str]] = {
    "a tensor is missing": (_drop("layer3.1.bn2.gamma"), r"layer3\.1\.bn2\.gamma"),
    "the last bias is missing": (_drop("head.block.4.bias"), "not those of an FCN, PSPNet or DeepLabV3"),
    "a tensor too many": (lambda arrays: {**arrays, "head.x.bias": np.zeros(3, np.float32)}, r"head\.x\.bias is not"),
    "NaN": (_change("layer2.0.conv1.weight", _poison(np.nan)), r"not finite in layer2\.0\.conv1\.weight"),
    "infinity": (_change("bn1.running_var", _poison(np.inf)), r"not finite in bn1\.running_var"),
    "whole numbers": (_change("conv1.weight", lambda array: array.astype(np.int32)), r"conv1\.weight \(int32\)"),
    "bytes": (_change("bn1.gamma", lambda array: array.astype(np.uint8)), r"bn1\.gamma \(uint8\)"),
    "another shape": (_change("bn1.beta", lambda array: np.zeros(65, np.float32)), r"bn1\.beta has shape \(65,\)"),
    "a row for a kernel": (_change("conv1.weight", lambda array: array.reshape(-1)), r"conv1\.weight has shape"),
    "channels that do not fit": (
        _change("layer1.0.conv1.weight", lambda array: array[:, :9]),
        r"model\.onnx cannot be (used|run)",
    ),
    "300 classes": (lambda arrays: _grow(arrays, 300), "has 300 classes; 2 to 254"),
    "one class": (lambda arrays: _grow(arrays, 1), "has 1 classes; 2 to 254"),
    "a block is not whole": (_drop("layer4.1.conv1.weight"), r"layer4\.1\.conv1\.weight is missing"),
    "nothing": (lambda _: {}, "not those of an FCN"),
    "a name of a terminal": (lambda arrays: {**arrays, "\x1b[31m\n": np.zeros(3, np.float32)}, r"\\x1b\[31m\\n is"),
}


@pytest.mark.fault(family=31, outcome="refused: the tensor is named", inputs=len(NETWORKS))
@pytest.mark.parametrize(("change", "words"), NETWORKS.values(), ids=NETWORKS.keys())
def test_parameters_of_no_network(
    arrays: Arrays, tmp_path: Path, change: Callable[[Arrays], Arrays], words: str
) -> None:
    with pytest.raises(ModelError, match=words):
        load_predictor(_write(tmp_path, _pack(change(arrays)))).predict_mask(draw_noise(16, 16))


@pytest.mark.fault(family=31, outcome="refused: what the card and the parameters say", inputs=3)
@pytest.mark.parametrize(
    ("field", "value"), [("num_classes", 5), ("backbone", "resnet-50"), ("algorithm", "deeplab")]
)
def test_a_card_of_another_network(
    arrays: Arrays, trained_model: Path, tmp_path: Path, field: str, value: Any
) -> None:
    card = json.loads((trained_model / "model_card.json").read_text(encoding="utf-8"))
    card |= {field: value}
    if field == "num_classes":
        card |= {"class_names": list("abcde"), "colours": [[0, 0, 0]] * 5}
    with pytest.raises(ModelError, match=r"model_best\.params is no .* classes, as model_card\.json says: the para"):
        load_predictor(_write(tmp_path, _pack(arrays), card), mx.cpu())


FILES: dict[str, Callable[[bytes], bytes]] = {
    "no bytes": lambda _: b"",
    "another magic": lambda content: b"\x13\1" + content[2:],
    "2^40 tensors": lambda content: content[:16] + struct.pack("<Q", 1 << 40) + content[HEADER:],
    "one tensor more": lambda content: content[:16] + struct.pack("<Q", content[16] + 1) + content[HEADER:],
    "2^60 values": lambda content: content[: HEADER + 12] + struct.pack("<q", 1 << 60) + content[HEADER + 20 :],
    "-1 values": lambda content: content[: HEADER + 12] + struct.pack("<q", -1) + content[HEADER + 20 :],
    "2^31 dimensions": lambda content: content[: HEADER + 8] + b"\xff\xff\xff\x7f" + content[HEADER + 12 :],
    "sparse": lambda content: content[: HEADER + 4] + b"\1\0\0\0" + content[HEADER + 8 :],
    "more behind its end": lambda content: content + b"more",
    "the last byte is missing": lambda content: content[:-1],
    "half": lambda content: content[: len(content) // 2],
    "pickle": lambda _: b"\x80\x04cos\nsystem\n(S'false'\ntR.",
    "zip of pickles": lambda _: b"PK\3\4" + bytes(99),
    "NumPy": lambda _: b"\x93NUMPY\1\0v\0{'descr': '|O'}" + bytes(99),
    "zeros": lambda _: bytes(1 << 20),
    "20 million tensors": lambda _: struct.pack("<3Q", 0x112, 0, 20_000_000) + bytes(1 << 20),
}  # fmt: skip


@pytest.mark.fault(family=31, outcome="refused within 5 s and 64 MB", inputs=len(FILES))
def test_files_that_lie(arrays: Arrays) -> None:
    small = _pack({name: arrays[name] for name in ("bn1.gamma", "bn1.beta")})
    contents = {name: change(small) for name, change in FILES.items()}
    for taken in measure_bytes(
        "from gluonseg.models.params_file import read_arrays", "read_arrays(path)", contents
    ).values():
        assert taken.outcome.startswith("ModelError: ")
        assert "no usable MXNet parameter file" in taken.outcome
        assert (taken.seconds, taken.peak_mb) < (5, 64)


@pytest.mark.fault(family=31, outcome="accepted: half precision, and a file saved from a GPU", inputs=2)
def test_half_precision_and_a_file_from_a_gpu(arrays: Arrays, trained_model: Path, tmp_path: Path) -> None:
    picture = draw_noise(24, 32)
    wanted = load_predictor(trained_model).predict_probabilities(picture)
    (tmp_path / "half").mkdir()
    half = _pack({name: array.astype(np.float16) for name, array in arrays.items()})
    found = load_predictor(_write(tmp_path / "half", half)).predict_probabilities(picture)
    np.testing.assert_allclose(found, wanted, atol=0.02)
    content = bytearray(_pack(arrays))
    first = next(iter(arrays.values()))
    device = HEADER + 12 + 8 * first.ndim
    assert content[device : device + 8] == struct.pack("<ii", 1, 0)
    content[device : device + 8] = struct.pack("<ii", 2, 3)
    found = load_predictor(_write(tmp_path, bytes(content))).predict_probabilities(picture)
    np.testing.assert_allclose(found, wanted, atol=1e-4)
