"""Colour codes of data sets: their numbers, and where they are used."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conftest import RunJob
from gluonseg.cli import main
from gluonseg.data import palettes
from gluonseg.data.palettes import PALETTES, choose_palette, get_palette
from gluonseg.errors import HyperparameterError, UserError
from gluonseg.hyperparameters import parse_hyperparameters
from gluonseg.models.folder.card import CARD_FILE, read_card
from gluonseg.predict.formats import compute_shares
from gluonseg.predict.overlay import choose_colours
from gluonseg.report.one_model import read_model

Capture = pytest.CaptureFixture[str]
COUNTS = {"voc": 254, "ade20k": 150, "cityscapes": 19, "camvid": 12}


def test_numbers_of_colours() -> None:
    assert {name: len(get_palette(name)) for name in PALETTES} == COUNTS
    assert {name: len(set(get_palette(name))) for name in PALETTES} == {**COUNTS, "ade20k": 149}


def test_first_and_last_colours() -> None:
    ade20k = get_palette("ade20k")
    assert ade20k[:3] == [(120, 120, 120), (180, 120, 120), (6, 230, 230)]
    assert ade20k[-1] == (92, 0, 255)
    assert get_palette("voc")[:3] == [(0, 0, 0), (128, 0, 0), (0, 128, 0)]
    assert get_palette("cityscapes")[::18] == [(128, 64, 128), (119, 11, 32)]
    assert get_palette("camvid")[::11] == [(128, 128, 128), (0, 0, 0)]


def test_ade20k_is_gluoncvs() -> None:
    segmentation = pytest.importorskip("gluoncv.utils.viz.segmentation")
    assert np.ravel(get_palette("ade20k")).tolist() == segmentation.adepallete[3:]


def test_too_few_colours_are_refused_with_those_that_suffice() -> None:
    assert choose_palette("camvid", 11) == get_palette("camvid")[:11]
    message = "palette cityscapes has 19 colours for 21 classes; choose voc or ade20k"
    with pytest.raises(UserError, match=message):
        choose_palette("cityscapes", 21)
    with pytest.raises(HyperparameterError, match=message):
        parse_hyperparameters({"num_classes": "21", "palette": "cityscapes"})


def test_voc_colours_that_were_asked_for_are_not_replaced() -> None:
    names, colours = ["sky", "tree"], get_palette("voc")[:2]
    assert choose_colours(names, colours) != colours
    assert choose_colours(names, colours, is_asked=True) == colours


def test_a_trained_model_and_its_report_have_the_colours(run_tiny: RunJob, tmp_path: Path) -> None:
    run_tiny({"palette": "voc", "epochs": "1"})
    assert list(read_card(tmp_path / "model" / CARD_FILE).colours) == get_palette("voc")[:4]
    comparison, _ = read_model(tmp_path / "model")
    assert list(comparison.colours) == get_palette("voc")[:4]


def test_predict_paints_overlays_in_a_palette(
    trained_model: Path, drawn_channels: Mapping[str, Path], tmp_path: Path, capsys: Capture
) -> None:
    photo = min(drawn_channels["validation"].iterdir())
    command = ["predict", str(photo), "--model", str(trained_model), "--output", str(tmp_path)]
    assert main([*command, "--overlay", "--palette", "ade20k"]) == 0
    mask = np.asarray(Image.open(tmp_path / f"{photo.stem}.png"))
    expected = (np.asarray(Image.open(photo)) + np.array(get_palette("ade20k"))[mask]) / 2
    overlay = np.asarray(Image.open(tmp_path / f"{photo.stem}_overlay.png"))
    np.testing.assert_allclose(overlay, expected, atol=0.5)
    capsys.readouterr()
    assert main([*command, "--palette", "ade20k"]) == 2
    assert "--palette colours the overlays, and none are written; add --overlay or --html" in capsys.readouterr().err


def test_predict_refuses_a_palette_with_too_few_colours(
    trained_model: Path,
    drawn_channels: Mapping[str, Path],
    tmp_path: Path,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(palettes._CODES, "camvid", "808080 800000 c0c080")
    command = [
        "predict",
        str(drawn_channels["validation"]),
        "--model",
        str(trained_model),
        "--output",
        str(tmp_path / "out"),
    ]
    assert main([*command, "--overlay", "--palette", "camvid"]) == 2
    assert "palette camvid has 3 colours for 4 classes; choose voc or ade20k or cityscapes" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_predict_prints_shares_by_class(
    trained_model: Path, drawn_channels: Mapping[str, Path], tmp_path: Path, capsys: Capture
) -> None:
    photo = min(drawn_channels["validation"].iterdir())
    command = ["predict", str(photo), "--model", str(trained_model), "--output", str(tmp_path)]
    assert main([*command, "--shares"]) == 0
    header, *lines, last = capsys.readouterr().out.splitlines()
    assert (header, last) == (f"Predictions in [{photo}]:", f"wrote 1 masks to {tmp_path}")
    mask, names = (
        np.asarray(Image.open(tmp_path / f"{photo.stem}.png")),
        read_card(trained_model / CARD_FILE).class_names,
    )
    shares = sorted(((mask == class_id).mean(), name) for class_id, name in enumerate(names))
    assert lines == [f"  {name}: {100 * share:.2f}%" for share, name in reversed(shares) if share > 0.001]


def test_shares_are_the_largest_first_without_absent_classes() -> None:
    mask = np.array([[2, 2, 2, 0]], dtype=np.uint8)
    assert list(compute_shares(mask, ["a", "b", "c"]).items()) == [("c", 0.75), ("a", 0.25)]
