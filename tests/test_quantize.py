"""int8: written when it is as good as float32, refused with the figures when it is not."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest

from gluonseg.cli import main
from gluonseg.data.dataset import Dataset
from gluonseg.data.label_channel import read_label_maps
from gluonseg.data.pairs import match_pairs
from gluonseg.errors import ModelError
from gluonseg.export import int8
from gluonseg.models.folder.manifest import ONNX_FILES
from gluonseg.onnx.file import find_onnx
from gluonseg.predict.onnx_engine import OnnxEngine
from gluonseg.predict.predictor import load_predictor
from picture import draw_noise

INT8 = ONNX_FILES["int8"]


@pytest.fixture
def channels(drawn_channels: Mapping[str, Path]) -> Path:
    return drawn_channels["train"].parent


@pytest.fixture
def model(trained_model: Path, tmp_path: Path) -> Path:
    return shutil.copytree(trained_model, tmp_path / "model")


def test_int8_is_refused_when_it_loses_too_much_or_written_and_served(
    model: Path,
    channels: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(int8, "MAX_LOSS", -1.0)
    assert main(["export", str(model), "--int8", "--channels", str(channels)]) != 0
    assert "in int8 the model loses" in capsys.readouterr().err
    assert not (model / INT8).exists()
    monkeypatch.setattr(int8, "MAX_LOSS", 1.0)  # a network of two epochs has little to lose
    assert main(["export", str(model), "--int8", "--channels", str(channels)]) == 0
    assert str(model / INT8) in capsys.readouterr().out
    assert (model / INT8).stat().st_size < 0.35 * (model / ONNX_FILES["float32"]).stat().st_size
    exact, fast = load_predictor(model), load_predictor(model, precision="int8")
    assert fast.engine.name == "ONNX Runtime int8"
    assert isinstance(exact.engine, OnnxEngine)
    assert isinstance(fast.engine, OnnxEngine)
    assert exact.engine.read_metadata() == fast.engine.read_metadata()
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []
    picture = draw_noise(48, 48)
    found, wanted = (one.predict_probabilities(picture) for one in (fast, exact))
    assert 0 < np.abs(found - wanted).mean() < 0.1


def _quantize(model: Path, channels: Path) -> tuple[onnx.ModelProto, Dataset]:
    file, predictor = find_onnx(model), load_predictor(model)
    assert file is not None
    maps = read_label_maps(channels / "label_map")
    pairs = match_pairs(channels / "train", channels / "train_annotation").pairs
    training = Dataset(pairs, maps.train, cache_bytes=0)
    return onnx.load_model_from_string(int8.quantize_file(file, predictor, training).read()), training


def _find_constants(graph: onnx.GraphProto) -> dict[str, npt.NDArray[Any]]:
    return {one.name: onnx.numpy_helper.to_array(one) for one in graph.initializer}


def test_no_sum_of_two_products_leaves_16_bits(model: Path, channels: Path) -> None:
    """As processors with AVX2 and without VNNI add them up: an activation of 8 bits, weights of 7."""
    graph = _quantize(model, channels)[0].graph
    constants = _find_constants(graph)
    weights = [value for value in constants.values() if value.dtype == np.int8 and value.ndim == 4]
    assert len(weights) == sum(node.op_type == "Conv" for node in graph.node) > 20
    largest = max(int(np.abs(value.astype(int)).max()) for value in weights)
    assert 32 < largest <= 64
    assert 2 * 255 * largest <= np.iinfo(np.int16).max
    # A scale for each output channel; the zero of all weights is 0, so that what is stored is what is multiplied.
    zeros = [constants[node.input[2]] for node in graph.node if node.op_type == "DequantizeLinear"]
    assert all((zero == 0).all() for zero in zeros if zero.dtype == np.int8)


def test_ranges_are_the_mean_of_the_photos(model: Path, channels: Path) -> None:
    """So that one odd photo does not take the levels of all others."""
    quantized, training = _quantize(model, channels)
    constants = _find_constants(quantized.graph)
    exact = onnx.load(str(model / ONNX_FILES["float32"]))
    name = [one.output[0] for one in exact.graph.node if one.op_type == "Relu"][-2]
    node = next(one for one in quantized.graph.node if one.op_type == "QuantizeLinear" and name in one.input[0])
    exact.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
    session = onnxruntime.InferenceSession(exact.SerializeToString())
    photos = [training.read(index)[0] for index in range(len(training))]
    greatest = [float(session.run([name], {"image": photo[None]})[0].max()) for photo in photos]
    assert max(greatest) > 1.02 * np.mean(greatest)
    assert 255 * constants[node.input[1]] == pytest.approx(np.mean(greatest), rel=1e-3)


def test_int8_of_a_model_without_onnx_says_what_to_do(model: Path, channels: Path) -> None:
    (model / ONNX_FILES["float32"]).unlink()
    with pytest.raises(ModelError, match="gluonseg export writes it"):
        int8.export_model_int8(model, {path.name: path for path in channels.iterdir()})
