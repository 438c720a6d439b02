"""ONNX files and symbol files that ask for more than a network: other files, loops, functions, foreign operators."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

from gluonseg.errors import ModelError
from gluonseg.models.folder.manifest import ONNX_FILE, SYMBOL_FILE
from gluonseg.onnx.symbol import MAX_BYTES
from gluonseg.predict.predictor import load_predictor
from hostile_onnx import CHANGES, ENCODINGS, Change
from picture import draw_noise


@pytest.fixture(scope="module")
def good(trained_model: Path) -> bytes:
    return (trained_model / ONNX_FILE).read_bytes()


@pytest.fixture
def folder(trained_model: Path, tmp_path: Path) -> Path:
    """A folder of just a card."""
    shutil.copy(trained_model / "model_card.json", tmp_path)
    return tmp_path


def _check_refused(folder: Path, words: str) -> None:
    before = sorted(folder.iterdir())
    with pytest.raises(ModelError, match=words) as caught:
        load_predictor(folder).predict_mask(draw_noise(16, 16))
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 600
    assert sorted(folder.iterdir()) == before


@pytest.mark.parametrize(("change", "words"), CHANGES.values(), ids=CHANGES)
def test_parts_that_no_network_of_ours_has(folder: Path, good: bytes, change: Change, words: str) -> None:
    model = onnx.load_model_from_string(good)
    change(model)
    (folder / ONNX_FILE).write_bytes(model.SerializeToString())
    _check_refused(folder, rf"model\.onnx.*{words}")


@pytest.mark.parametrize(("change", "words"), ENCODINGS.values(), ids=ENCODINGS)
def test_files_that_are_no_onnx(folder: Path, good: bytes, change: Callable[[bytes], bytes], words: str) -> None:
    (folder / ONNX_FILE).write_bytes(change(good))
    _check_refused(folder, rf"model\.onnx.*{words}")


def test_a_file_of_more_than_two_gigabytes(folder: Path) -> None:
    (folder / ONNX_FILE).touch()
    os.truncate(folder / ONNX_FILE, 1 << 31)
    _check_refused(folder, "it has 2147483648 bytes, the limit is 2147483647")


def test_a_graph_that_cannot_run(folder: Path, good: bytes) -> None:
    model = onnx.load_model_from_string(good)
    model.graph.node[-1].input[0] = model.graph.node[-1].output[0]
    (folder / ONNX_FILE).write_bytes(model.SerializeToString())
    _check_refused(folder, ONNX_FILE)


def _set(kind: str, **fields: Any) -> Callable[[bytes], bytes]:
    """Replace fields, or with a dict a part of them, of the first operator of a kind."""

    def change(data: bytes) -> bytes:
        content = json.loads(data)
        node = next(node for node in content["nodes"] if node["op"] == kind)
        for name, value in fields.items():
            node[name] = {**node[name], **value} if isinstance(value, dict) else value
        return json.dumps(content).encode()

    return change


SYMBOLS: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "cut": (lambda data: data[:-100], "damaged"),
    "too large": (lambda _: b" " * (MAX_BYTES + 1), f"the limit is {MAX_BYTES}"),
    "cycle": (_set("Convolution", inputs=[[9000, 0, 0]]), "takes node 9000, which does not come before it"),
    "code for a number": (_set("Convolution", attrs={"num_filter": "__import__('os')"}), "conv1.weight has shape"),
    "negative stride": (_set("Convolution", attrs={"stride": "(-2, -2)"}), "cannot be used"),
    "operator that is not known": (_set("Pooling", op="TopK"), r"the operator TopK \(\S+pool0_fwd\) has no trans"),
    "other parameters": (lambda data: data.replace(b"layer4.1.", b"layer4.7."), r"layer4\.7\.conv1\.weight is missing"),
}


@pytest.mark.parametrize(("change", "words"), SYMBOLS.values(), ids=SYMBOLS)
def test_symbols_that_are_no_network(
    folder: Path, trained_model: Path, change: Callable[[bytes], bytes], words: str
) -> None:
    (folder / "model_best.params").hardlink_to(trained_model / "model_best.params")
    (folder / SYMBOL_FILE).write_bytes(change((trained_model / SYMBOL_FILE).read_bytes()))
    _check_refused(folder, words)


def test_a_symbol_file_of_the_builtin_is_not_read(folder: Path, trained_model: Path) -> None:
    """MXNet would load the library that it names."""
    evil = b'{"nodes": [{"op": "Custom", "name": "x", "attrs": {"op_type": "evil", "library": "./evil.so"}}]}'
    (folder / "model_algo-1-symbol.json").write_bytes(evil)
    with pytest.raises(ModelError, match=r"no model_best\.params"):
        load_predictor(folder)
    (folder / ONNX_FILE).hardlink_to(trained_model / ONNX_FILE)
    assert load_predictor(folder).card.num_classes == 4
