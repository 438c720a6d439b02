"""int8: written when it is as good as float32, refused with the figures when it is not."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from gluonseg import quantize
from gluonseg.cli import main
from gluonseg.errors import ModelError
from gluonseg.models.onnx_file import ONNX_FILES
from gluonseg.predict.predictor import load_predictor
from picture import draw_noise

INT8 = ONNX_FILES["int8"]


@pytest.fixture
def channels(drawn_channels: Mapping[str, Path]) -> Path:
    return drawn_channels["train"].parent


@pytest.fixture
def model(trained_model: Path, tmp_path: Path) -> Path:
    return shutil.copytree(trained_model, tmp_path / "model")


def test_int8_is_written_and_served_on_request(
    model: Path, channels: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(quantize, "MAX_LOSS", 1.0)  # a network of two epochs has little to lose
    assert main(["export", str(model), "--int8", "--channels", str(channels)]) == 0
    assert str(model / INT8) in capsys.readouterr().out
    assert (model / INT8).stat().st_size < 0.35 * (model / ONNX_FILES["float32"]).stat().st_size
    exact, fast = load_predictor(model), load_predictor(model, precision="int8")
    assert fast.engine.name == "ONNX Runtime int8"
    picture = draw_noise(48, 48)
    found, wanted = (one.predict_probabilities(picture) for one in (fast, exact))
    assert 0 < np.abs(found - wanted).mean() < 0.1


def test_int8_that_loses_too_much_is_refused(
    model: Path, channels: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(quantize, "MAX_LOSS", -1.0)
    assert main(["export", str(model), "--int8", "--channels", str(channels)]) != 0
    assert "in int8 the model loses" in capsys.readouterr().err
    assert not (model / INT8).exists()


def test_int8_needs_photos(model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert main(["export", str(model), "--int8"]) == 2
    assert "--int8 needs --channels" in capsys.readouterr().err


def test_int8_of_a_model_without_onnx_says_what_to_do(model: Path, channels: Path) -> None:
    (model / ONNX_FILES["float32"]).unlink()
    with pytest.raises(ModelError, match="gluonseg export writes it"):
        quantize.export_model_int8(model, {path.name: path for path in channels.iterdir()})
