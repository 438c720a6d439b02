"""ONNX files and symbol files that ask for more than a network: other files, loops, functions, foreign operators."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

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


def _build(*nodes: onnx.NodeProto) -> bytes:
    """A small graph with the names of ours, behind a cast to float."""
    picture = helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", "H", "W", 3])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 4, "h", "w"])
    weight = numpy_helper.from_array(np.zeros((4, 7, 1, 1), np.float32), "weight")
    cast = helper.make_node("Cast", ["image"], ["float"], to=1)
    graph = helper.make_graph([cast, *nodes], "g", [picture], [logits], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


GRAPHS = {
    "output that nothing makes": _build(),
    "cycle": _build(helper.make_node("Add", ["b", "float"], ["b"]), helper.make_node("Relu", ["b"], ["logits"])),
    "wrong shape": _build(helper.make_node("Conv", ["float", "weight"], ["logits"])),
}


@pytest.mark.parametrize("content", GRAPHS.values(), ids=GRAPHS)
def test_graphs_that_cannot_run(folder: Path, content: bytes) -> None:
    (folder / ONNX_FILE).write_bytes(content)
    _check_refused(folder, ONNX_FILE)


def _change_symbol(change: Callable[[dict[str, Any]], object]) -> Callable[[bytes], bytes]:
    def apply(data: bytes) -> bytes:
        content = json.loads(data)
        change(content)
        return json.dumps(content).encode()

    return apply


def _set(kind: str, **fields: Any) -> Callable[[bytes], bytes]:
    """Replace fields, or with a dict a part of them, of the first operator of a kind."""

    def change(content: dict[str, Any]) -> None:
        node = next(node for node in content["nodes"] if node["op"] == kind)
        for name, value in fields.items():
            node[name] = {**node[name], **value} if isinstance(value, dict) else value

    return _change_symbol(change)


SYMBOLS: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "cut": (lambda data: data[:-100], "damaged"),
    "too large": (lambda _: b" " * (MAX_BYTES + 1), f"the limit is {MAX_BYTES}"),
    "cycle": (_set("Convolution", inputs=[[9000, 0, 0]]), "takes node 9000, which does not come before it"),
    "two heads": (_change_symbol(lambda content: content["heads"].append([3, 0, 0])), "one output"),
    "a parameter that is not there": (_set("null", name="other"), "must begin with the node 'data'"),
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
