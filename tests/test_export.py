"""The ONNX file of a model: what is kept, what is refused, and what is imported. Parity: network_tester.py."""

from __future__ import annotations

import dataclasses
import logging
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path

import mxnet as mx
import numpy as np
import pytest

from gluonseg.errors import ModelError
from gluonseg.export.float32 import export_model
from gluonseg.models.folder.artifact import read_artifact
from gluonseg.models.folder.card import encode_card, read_card
from gluonseg.models.folder.manifest import MANIFEST_FILE, ONNX_FILE, SYMBOL_FILE
from gluonseg.onnx import trace as trace_module
from gluonseg.onnx.symbol import parse_symbol
from gluonseg.onnx.trace import build_graph
from gluonseg.predict.predictor import load_predictor
from network_tester import build_stirred, describe_network, trace
from picture import draw_noise


def _check_imports(source: Path, unwanted: set[str]) -> None:
    """Predict with the model of ``source`` in a process of its own, which must not import any of ``unwanted``."""
    program = (
        "import sys, numpy as np; from pathlib import Path; from gluonseg.predict.predictor import load_predictor;"
        f"p = load_predictor(Path({str(source)!r})); p.predict_mask(np.zeros((20, 30, 3), np.uint8));"
        f"assert p.engine.name == 'ONNX Runtime'; wrong = {unwanted!r} & set(sys.modules);"
        "sys.exit(str(wrong) if wrong else 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def _pack(folder: Path, names: Sequence[str], archive: Path) -> Path:
    with tarfile.open(archive, "w:gz", compresslevel=0) as tar:
        for name in names:
            tar.add(folder / name, name)
    return archive


def test_training_leaves_a_file_that_serves_without_mxnet(trained_model: Path, tmp_path: Path) -> None:
    assert (trained_model / ONNX_FILE).is_file()
    unwanted = {"mxnet", "gluoncv", "matplotlib"}
    _check_imports(trained_model, unwanted)
    names = [path.name for path in trained_model.iterdir()]
    _check_imports(_pack(trained_model, names, tmp_path / "model.tar.gz"), unwanted)


def test_the_builtins_archive_is_converted_in_another_process(trained_model: Path, tmp_path: Path) -> None:
    names = ("model_best.params", "model_algo-1", "hyperparams.json")
    _check_imports(_pack(trained_model, names, tmp_path / "model.tar.gz"), {"mxnet", "gluoncv"})


def test_a_model_without_card_and_symbol_is_converted_once_and_mxnet_agrees(
    trained_model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("model_best.params", "hyperparams.json"):  # as the built-in algorithm's archives are
        shutil.copy(trained_model / name, tmp_path)
    with caplog.at_level(logging.INFO):
        converted, picture = load_predictor(tmp_path), draw_noise(40, 56)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["hyperparams.json", ONNX_FILE, "model_best.params"]
        load_predictor(tmp_path)
    assert caplog.text.count("Converting the model in") == 1
    # A file that is there, of other parameters, is not written over.
    shutil.copy(trained_model / "model_algo-1", tmp_path / "model_best.params")
    before = (tmp_path / ONNX_FILE).read_bytes()
    load_predictor(tmp_path)
    assert (tmp_path / ONNX_FILE).read_bytes() == before
    shutil.copy(trained_model / "model_best.params", tmp_path)
    reference = load_predictor(tmp_path, mx.cpu())
    assert (converted.engine.name, reference.engine.name) == ("ONNX Runtime", "MXNet")
    wanted = reference.predict_probabilities(picture)
    np.testing.assert_allclose(converted.predict_probabilities(picture), wanted, atol=1e-4)


def _copy_without_manifest(model: Path, folder: Path) -> Path:
    """A copy of a model in which files may be changed."""
    return Path(shutil.copytree(model, folder, ignore=shutil.ignore_patterns(MANIFEST_FILE)))


def test_a_file_of_other_parameters_is_not_used(
    trained_model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = _copy_without_manifest(trained_model, tmp_path / "model")
    arrays = {name: array * 0 for name, array in read_artifact(model).arrays.items()}
    card = read_artifact(model).card
    nodes = parse_symbol((model / SYMBOL_FILE).read_bytes(), SYMBOL_FILE)
    (model / ONNX_FILE).write_bytes(build_graph(card, arrays, nodes, "0" * 64).SerializeToString())
    picture = draw_noise(20, 30)
    with caplog.at_level(logging.WARNING):
        probabilities = load_predictor(model).predict_probabilities(picture)
    assert "was not made of model_best.params" in caplog.text
    wanted = load_predictor(trained_model).predict_probabilities(picture)
    np.testing.assert_allclose(probabilities, wanted, atol=1e-6)


def test_an_archive_needs_a_folder_for_the_file(trained_model: Path, tmp_path: Path) -> None:
    """Beside the archive it would be taken for the model, also once another archive lies there."""
    archive = _pack(trained_model, ["model_best.params", "model_card.json"], tmp_path / "model.tar.gz")
    for source in (archive, tmp_path):
        with pytest.raises(ModelError, match=r"say with --output where model\.onnx shall be written"):
            export_model(source)
    assert [path.name for path in tmp_path.iterdir()] == ["model.tar.gz"]
    assert export_model(tmp_path, tmp_path / "out").is_file()


def test_a_second_export_leaves_nothing_of_the_first(trained_model: Path, tmp_path: Path) -> None:
    """The exported file and its card are a model; files of another export are not left beside them."""
    out, picture = tmp_path / "out", draw_noise(33, 31)
    export_model(trained_model, out)
    assert {path.name for path in out.iterdir()} == {ONNX_FILE, "model_card.json", MANIFEST_FILE}
    mask = load_predictor(out).predict_mask(picture)
    np.testing.assert_array_equal(mask, load_predictor(trained_model).predict_mask(picture))
    (out / "model_int8.onnx").write_bytes(b"of the first")
    other = _copy_without_manifest(trained_model, tmp_path / "other")
    card = dataclasses.replace(read_card(other / "model_card.json"), class_names=("a", "b", "c", "d"))
    (other / "model_card.json").write_text(encode_card(card))
    export_model(other, out)
    assert read_card(out / "model_card.json").class_names == ("a", "b", "c", "d")
    assert not (out / "model_int8.onnx").exists()


def test_nothing_is_written_when_the_graph_differs(
    trained_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = {**trace_module.TRANSLATIONS, "Activation": lambda op: op.add("Sigmoid")}
    monkeypatch.setattr(trace_module, "TRANSLATIONS", changed)
    with pytest.raises(ModelError, match="its logits differ from MXNet's by"):
        export_model(trained_model, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_network_of_other_classes_is_refused(trained_model: Path, tmp_path: Path) -> None:
    network = build_stirred("fcn", "resnet-18")
    graph, _ = trace(network, describe_network(network, "fcn", "resnet-18"))
    model = _copy_without_manifest(trained_model, tmp_path / "model")
    (model / ONNX_FILE).write_bytes(graph.SerializeToString())
    with pytest.raises(ModelError, match=r"model\.onnx has 5 classes, the model card says 4"):
        load_predictor(model)


def test_int8_that_was_not_exported_says_how(trained_model: Path) -> None:
    with pytest.raises(ModelError, match=r"there is no .*/model_int8\.onnx that fits .*; gluonseg export --int8"):
        load_predictor(trained_model, precision="int8")
