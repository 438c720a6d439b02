"""ONNX files and symbol files that ask for more than a network: other files, loops, functions, foreign operators."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from gluonseg.errors import ModelError
from gluonseg.models.onnx_file import ONNX_FILE, OPERATORS
from gluonseg.models.symbol import MAX_BYTES, MAX_NODES, SYMBOL_FILE
from gluonseg.predict.predictor import load_predictor
from hostile_archive import pack
from hostile_onnx import CHANGES, ENCODINGS, Change
from picture import draw_noise


@pytest.fixture(scope="module")
def good(trained_model: Path) -> bytes:
    return (trained_model / ONNX_FILE).read_bytes()


def _lay_out(trained_model: Path, folder: Path, content: bytes) -> Path:
    """A model folder of just the ONNX file and the card."""
    folder.mkdir()
    shutil.copy(trained_model / "model_card.json", folder)
    (folder / ONNX_FILE).write_bytes(content)
    return folder


def _check_refused(folder: Path, words: str) -> None:
    start = time.monotonic()
    with pytest.raises(ModelError, match=words) as caught:
        load_predictor(folder)
    assert time.monotonic() - start < 5
    assert str(caught.value).isprintable()
    assert ONNX_FILE in str(caught.value)


@pytest.mark.fault(family=33, outcome="refused before ONNX Runtime sees it: what it has is told", inputs=len(CHANGES))
@pytest.mark.parametrize(("change", "words"), CHANGES.values(), ids=CHANGES.keys())
def test_parts_that_no_network_of_ours_has(
    trained_model: Path, good: bytes, tmp_path: Path, change: Change, words: str
) -> None:
    model = onnx.load_model_from_string(good)
    change(model)
    _check_refused(_lay_out(trained_model, tmp_path / "model", model.SerializeToString()), words)


@pytest.mark.fault(family=33, outcome="refused: damaged, or no ONNX file", inputs=len(ENCODINGS))
@pytest.mark.parametrize(("change", "words"), ENCODINGS.values(), ids=ENCODINGS.keys())
def test_files_that_are_none(
    trained_model: Path, good: bytes, tmp_path: Path, change: Callable[[bytes], bytes], words: str
) -> None:
    _check_refused(_lay_out(trained_model, tmp_path / "model", change(good)), words)


@pytest.mark.fault(family=33, outcome="refused: the file that is named is not even opened")
def test_another_file_is_not_opened(trained_model: Path, good: bytes, tmp_path: Path) -> None:
    """A pipe stands in its place: who opens it waits, and lets the writer go on."""
    model = onnx.load_model_from_string(good)
    onnx.external_data_helper.set_external_data(model.graph.initializer[0], location="weights.bin")
    model.graph.initializer[0].ClearField("raw_data")
    folder = _lay_out(trained_model, tmp_path / "model", model.SerializeToString())
    pipe = folder / "weights.bin"
    os.mkfifo(pipe)
    opened: list[str] = []

    def wait() -> None:
        with pipe.open("wb"):
            opened.append(pipe.name)

    threading.Thread(target=wait, daemon=True).start()
    _check_refused(folder, "tensors in other files")
    assert opened == []
    pipe.open("rb").close()  # lets the thread go


def _build(nodes: list[onnx.NodeProto], inputs: bool = True, opset: int = 17, **fixed: npt.NDArray[Any]) -> bytes:
    """A small graph with the names of ours; ``fixed`` are constants."""
    picture = helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", "H", "W", 3])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 4, "h", "w"])
    constants = [numpy_helper.from_array(value, name) for name, value in fixed.items()]
    graph = helper.make_graph(nodes, "g", [picture] if inputs else [], [logits], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    return bytes(model.SerializeToString())


def _node(kind: str, inputs: list[str], output: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(kind, inputs, [output], **attributes)


def _build_cast(*more: onnx.NodeProto, **fixed: npt.NDArray[Any]) -> bytes:
    return _build([_node("Cast", ["image"], "float", to=1), *more], True, 17, **fixed)


GRAPHS = {
    "no input": _build([_node("Cast", ["c"], "logits", to=1)], inputs=False, c=np.zeros((1, 4, 2, 2), np.uint8)),
    "opset of the future": _build([_node("Cast", ["image"], "logits", to=1)], opset=999),
    "cycle": _build_cast(_node("Add", ["b", "float"], "a"), _node("Relu", ["a"], "b"), _node("Relu", ["b"], "logits")),
    "output that nothing makes": _build_cast(),
    "input that nothing makes": _build_cast(_node("Add", ["float", "nobody"], "logits")),
    "shape of nothing": _build_cast(_node("Conv", ["float", "w"], "logits"), w=np.zeros((0, 0, 0, 0), np.float32)),
    "wrong type": _build([_node("Relu", ["image"], "logits")]),
    "wrong shape": _build_cast(_node("Conv", ["float", "w"], "logits"), w=np.zeros((4, 7, 1, 1), np.float32)),
    "two of one name": _build_cast(_node("Relu", ["float"], "logits"), _node("Relu", ["float"], "logits")),
    "mask of numbers": _build([_node("Shape", ["image"], "logits")]),
}  # fmt: skip


@pytest.mark.fault(family=33, outcome="refused when the model is loaded, or when it first runs", inputs=len(GRAPHS))
@pytest.mark.parametrize("content", GRAPHS.values(), ids=GRAPHS.keys())
def test_graphs_that_are_none(trained_model: Path, tmp_path: Path, content: bytes) -> None:
    folder = _lay_out(trained_model, tmp_path / "model", content)
    with pytest.raises(ModelError, match=ONNX_FILE):
        load_predictor(folder).predict_mask(draw_noise(16, 16))


@pytest.mark.fault(family=33, outcome="refused: larger than a protobuf message can be, before it is read")
def test_a_file_of_more_than_two_gigabytes(trained_model: Path, tmp_path: Path) -> None:
    folder = _lay_out(trained_model, tmp_path / "model", b"")
    os.truncate(folder / ONNX_FILE, 1 << 31)
    _check_refused(folder, "it has 2147483648 bytes, the limit is 2147483647")


@pytest.mark.fault(family=32, outcome="accepted: a symbol file of MXNet's is not read at all", inputs=4)
def test_a_symbol_file_of_mxnet_is_not_read(trained_model: Path, tmp_path: Path) -> None:
    """Whatever MXNet would make of it: a library to load, an operator in Python, a name that a pattern chokes on."""
    evil = b'{"nodes": [{"op": "Custom", "name": "x", "attrs": {"op_type": "evil", "library": "./evil.so"}}]}'
    folder = Path(shutil.copytree(trained_model, tmp_path / "model"))
    for name in ("model_algo-1-symbol.json", "model-symbol.json", "symbol.json"):
        (folder / name).write_bytes(evil)
    os.mkfifo(folder / "model_best-symbol.json")  # who opens it never comes back
    picture = draw_noise(24, 24)
    wanted = load_predictor(trained_model).predict_mask(picture)
    np.testing.assert_array_equal(load_predictor(folder).predict_mask(picture), wanted)


@pytest.mark.fault(family=32, outcome="refused: a symbol file alone is no model", inputs=3)
@pytest.mark.parametrize(
    "content",
    [
        b'{"nodes": [{"op": "no_such_operator", "name": "x"}]}',
        b'{"nodes": [{"op": "' + b"(a+)+" * 10_000 + b'", "name": "x"}]}',
        b'{"nodes": [{"op": "null", "name": "a", "inputs": [[0, 0, 0]]}], "heads": [[0, 0, 0]]}',
    ],
    ids=["unknown operator", "name like a pattern", "cycle"],
)
def test_a_symbol_file_alone_is_no_model(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.tar.gz").write_bytes(pack(("model_algo-1-symbol.json", content, {})))
    with pytest.raises(ModelError, match=r"there is no model_best\.params"):
        load_predictor(tmp_path / "model.tar.gz")


def test_every_operator_that_is_let_through_is_one_that_we_write(good: bytes) -> None:
    """So the list does not grow by accident: each is in a network of ours, in float32 or in 8 bits."""
    from gluonseg.models import onnx_trace

    source = Path(onnx_trace.__file__).read_text(encoding="utf-8")
    quantizer = {"QuantizeLinear", "DequantizeLinear"}
    written = {"GlobalMaxPool"}  # put together from two words
    assert {kind for kind in OPERATORS if f'"{kind}"' not in source} == quantizer | written


def _change_symbol(change: Callable[[dict[str, Any]], None]) -> Callable[[bytes], bytes]:
    def apply(data: bytes) -> bytes:
        content = json.loads(data)
        change(content)
        return json.dumps(content).encode()

    return apply


def _find_node(content: dict[str, Any], kind: str) -> dict[str, Any]:
    return next(node for node in content["nodes"] if node["op"] == kind)


def _set(kind: str, field: str, value: Any) -> Callable[[bytes], bytes]:
    return _change_symbol(lambda content: _find_node(content, kind).__setitem__(field, value))


def _set_attribute(kind: str, name: str, value: str) -> Callable[[bytes], bytes]:
    return _change_symbol(lambda content: _find_node(content, kind)["attrs"].__setitem__(name, value))


SYMBOLS: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda _: b"", "damaged"),
    "cut": (lambda data: data[:-100], "damaged"),
    "a list": (lambda _: b"[]", "it holds a list"),
    "deep": (lambda _: b'{"nodes": ' + b"[" * 100_000, "nested too deeply"),
    "too large": (lambda _: b" " * (MAX_BYTES + 1), f"the limit is {MAX_BYTES}"),
    "too many operators": (
        _change_symbol(lambda content: content["nodes"].extend(content["nodes"][-1:] * MAX_NODES)),
        f"more than {MAX_NODES} operators",
    ),
    "no nodes": (lambda _: b'{"heads": [[0, 0, 0]]}', "it has no 'nodes'"),
    "cycle": (_set("Convolution", "inputs", [[9000, 0, 0]]), "takes node 9000, which does not come before it"),
    "itself": (_change_symbol(lambda c: c["nodes"][-1]["inputs"].append([len(c["nodes"]) - 1, 0, 0])), "come before"),
    "before the first": (_set("Convolution", "inputs", [[-1, 0, 0]]), "takes node -1"),
    "second output": (_set("Activation", "inputs", [[0, 1, 0]]), "takes output 1"),
    "two heads": (_change_symbol(lambda content: content["heads"].append([3, 0, 0])), "one output"),
    "a name that is none": (_set("Convolution", "name", 7), "has no name"),
    "a parameter that is not there": (_set("null", "name", "other"), "must begin with the node 'data'"),
    "fewer filters": (_set_attribute("Convolution", "num_filter", "63"), r"conv1.weight has .* not \(63, -1, 7, 7\)"),
    "three-dimensional": (_set_attribute("Convolution", "stride", "(1, 1, 1)"), "which is not translated"),
    "code for a number": (_set_attribute("Convolution", "num_filter", "__import__('os')"), "conv1.weight has shape"),
    "an attribute gone": (_change_symbol(lambda c: _find_node(c, "Convolution")["attrs"].pop("num_filter")), "conv1"),
    "negative stride": (_set_attribute("Convolution", "stride", "(-2, -2)"), "cannot be used"),
    "fewer inputs": (_set("BatchNorm", "inputs", [[0, 0, 0]]), "cannot be used"),
    "operator that is not known": (_set("Pooling", "op", "TopK"), r"the operator TopK \(\S+pool0_fwd\) has no trans"),
    "other parameters": (lambda data: data.replace(b"layer4.1.", b"layer4.7."), r"layer4\.7\.conv1\.weight is missing"),
}  # fmt: skip


@pytest.mark.fault(family=32, outcome="refused: one message, no model is loaded", inputs=len(SYMBOLS))
@pytest.mark.parametrize(("change", "words"), SYMBOLS.values(), ids=SYMBOLS.keys())
def test_symbols_that_are_none(
    trained_model: Path, tmp_path: Path, change: Callable[[bytes], bytes], words: str
) -> None:
    folder = _lay_out_symbol(trained_model, tmp_path / "model", change((trained_model / SYMBOL_FILE).read_bytes()))
    before = sorted(folder.iterdir())
    with pytest.raises(ModelError, match=words) as caught:
        load_predictor(folder).predict_mask(draw_noise(16, 16))
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 600
    assert sorted(folder.iterdir()) == before


def _lay_out_symbol(trained_model: Path, folder: Path, content: bytes) -> Path:
    """A model folder of parameters, card and symbol."""
    folder.mkdir()
    for name in ("model_best.params", "model_card.json"):
        (folder / name).hardlink_to(trained_model / name)
    (folder / SYMBOL_FILE).write_bytes(content)
    return folder
