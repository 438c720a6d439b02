"""The ``gluonseg`` command, as a person at a terminal uses it."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

import gluonseg
from gluonseg.cli import main
from gluonseg.data.prepare.kinds import FINDERS
from gluonseg.data.prepare.synthetic import draw_oxford_layout
from gluonseg.hyperparameters import get_specs
from job_layout import HYPERPARAMETERS, draw_channels, train_once
from program import check_one_line

Capture = pytest.CaptureFixture[str]
COMMANDS = (
    *("prepare", "check", "train", "predict", "evaluate", "serve"),
    *("compare", "report", "convert", "doctor", "hyperparameters"),
)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model folder of a finished job."""
    return train_once(tmp_path_factory.getbasetemp())[0].model


@pytest.fixture(scope="session")
def channels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_channels(tmp_path_factory.getbasetemp())


@pytest.fixture
def own_channels(channels: Path, tmp_path: Path) -> Path:
    """A copy of the channels that a test may spoil."""
    return shutil.copytree(channels, tmp_path / "channels")


@pytest.fixture(autouse=True)
def restored_process() -> Iterator[None]:
    """The command sets up logging for a process of its own; put back what it finds here."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)


def _read(path: Path) -> npt.NDArray[np.uint8]:
    with Image.open(path) as picture:
        return np.array(picture)


def _list(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_help_lists_every_command(capsys: Capture) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    assert set(COMMANDS) <= set(re.findall(r"^    (\w+)\s", capsys.readouterr().out, re.MULTILINE))


@pytest.mark.parametrize(
    "command", [*COMMANDS, *(f"prepare {kind}" for kind in ("oxford-pets", "synthetic", *FINDERS))]
)
def test_every_command_has_help(command: str, capsys: Capture) -> None:
    with pytest.raises(SystemExit) as end:
        main([*command.split(), "--help"])
    assert end.value.code == 0
    assert f"usage: gluonseg {command}" in capsys.readouterr().out


def test_version(capsys: Capture) -> None:
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"gluonseg {gluonseg.__version__}\n"


def test_a_closed_pipe_is_no_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "gluonseg", "hyperparameters"]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, timeout=120, check=False)
    os.close(writer)
    assert done.stderr == b""


def test_prepare_synthetic(tmp_path: Path, capsys: Capture) -> None:
    assert main(["prepare", "synthetic", str(tmp_path / "out"), "--count", "12", "--size", "30"]) == 0
    assert "wrote 9 training and 3 validation pairs" in capsys.readouterr().out
    assert len(_list(tmp_path / "out" / "train")) == len(_list(tmp_path / "out" / "train_annotation")) == 9
    assert main(["prepare", "synthetic", str(tmp_path / "other"), "--count", "1"]) == 2
    check_one_line(capsys, "count must be 6 to 9999", "got 1")


def test_prepare_oxford_pets(tmp_path: Path, capsys: Capture) -> None:
    source = draw_oxford_layout(tmp_path / "source", count=12, size=30)
    out = tmp_path / "out"
    assert main(["prepare", "oxford-pets", str(source), str(out), "--validation_share", "0.5"]) == 0
    assert "wrote 6 training and 6 validation pairs" in capsys.readouterr().out
    assert json.loads((out / "label_map" / "class_names.json").read_text()) == ["pet", "background", "border"]
    assert main(["check", str(out), "--num_classes", "3"]) == 0
    capsys.readouterr()
    assert main(["prepare", "oxford-pets", str(tmp_path / "nowhere"), str(tmp_path / "other")]) == 2
    check_one_line(capsys, str(tmp_path / "nowhere"))
    assert not (tmp_path / "other").exists()


def test_check_of_good_data(channels: Path, capsys: Capture) -> None:
    assert main(["check", str(channels)]) == 0
    captured = capsys.readouterr()
    assert "train: 18 pairs" in captured.out
    assert "1 disc" in captured.out
    assert "by the labels that occur it would be 4" in captured.out
    assert captured.out.endswith("the data can be used\n")
    assert captured.err == ""


def test_check_of_bad_data(own_channels: Path, capsys: Capture) -> None:
    (own_channels / "train_annotation" / _list(own_channels / "train_annotation")[0]).write_bytes(b"")
    assert main(["check", str(own_channels), "--num_classes", "3"]) == 2
    captured = capsys.readouterr()
    assert "is empty (0 bytes)" in captured.out
    assert "label 3 on " in captured.out
    assert captured.out.endswith("the data cannot be used until the errors are corrected\n")


def test_train_makes_a_model_that_predicts(channels: Path, tmp_path: Path, capsys: Capture) -> None:
    options = [text for name, value in HYPERPARAMETERS.items() for text in (f"--{name}", value)]
    with warnings.catch_warnings():
        # MXNet and GluonCV may be imported here for the first time in this process.
        warnings.simplefilter("ignore")
        assert main(["train", str(channels), "--output", str(tmp_path / "job"), *options]) == 0
    out = capsys.readouterr().out
    assert "#quality_metric. host: algo-1, epoch: 0, validation mIOU: " in out
    assert out.endswith(f"the model is in {tmp_path / 'job' / 'model'}\n")
    assert "model_best.params" in _list(tmp_path / "job" / "model")
    assert not (tmp_path / "job" / "output" / "failure").exists()


def test_train_refuses_wrong_hyperparameters(channels: Path, tmp_path: Path, capsys: Capture) -> None:
    command = ["train", str(channels), "--output", str(tmp_path / "job")]
    assert main([*command, "--num_class=4", "--bakbone", "x"]) == 2
    check_one_line(capsys, "did you mean num_classes?", "did you mean backbone?")
    assert main(command) == 2
    assert capsys.readouterr().err == "gluonseg: num_classes is required\n"
    assert not (tmp_path / "job").exists()


def test_a_spelling_that_is_read_too(channels: Path, tmp_path: Path, capsys: Capture) -> None:
    given = ["--optimzer", "adam", "--optimizer", "adam"]
    assert main(["train", str(channels), "--output", str(tmp_path), *given]) == 2
    assert "'optimzer' is read as optimizer, and optimizer is given, too" in capsys.readouterr().err


def test_train_refuses_to_write_between_the_channels(own_channels: Path, capsys: Capture) -> None:
    before = _list(own_channels)
    assert main(["train", str(own_channels), "--output", f"{own_channels}/../channels", "--num_classes", "4"]) == 2
    check_one_line(capsys, "--output is the folder of the channels", "choose another folder")
    assert _list(own_channels) == before


def test_train_finds_out_first_whether_it_can_write(own_channels: Path, tmp_path: Path, capsys: Capture) -> None:
    file = tmp_path / "file"
    file.write_text("x")
    for output in (file, file / "below" / "it"):
        assert main(["train", str(own_channels), "--output", str(output), "--num_classes", "wrong"]) == 2
        check_one_line(capsys, f"cannot write to the folder {file}: Not a directory; a file is in its place, remove it")


def test_train_without_a_folder_of_channels(tmp_path: Path, capsys: Capture) -> None:
    assert main(["train", str(tmp_path / "no"), "--output", str(tmp_path / "job"), "--num_classes", "4"]) == 2
    check_one_line(capsys, f"{tmp_path / 'no'} is not a folder", "train_annotation")


def test_predict_files_and_folders_with_overlays(model: Path, channels: Path, tmp_path: Path, capsys: Capture) -> None:
    photos = sorted((channels / "validation").iterdir())
    single = shutil.copy(photos[0], tmp_path / "one photo.jpg")
    out = tmp_path / "deep" / "out"
    arguments = [str(single), str(channels / "validation"), "--model", str(model), "--output", str(out)]
    assert main(["predict", *arguments, "--overlay"]) == 0
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == (f"wrote {len(photos) + 1} masks to {out}\n", "")
    stems = [path.stem for path in photos] + ["one photo"]
    assert _list(out) == sorted(f"{stem}{end}.png" for stem in stems for end in ("", "_overlay"))
    for path in photos:
        mask = _read(out / f"{path.stem}.png")
        assert mask.dtype == np.uint8
        assert mask.shape == _read(path).shape[:2]
        assert mask.max() < 4
        assert _read(out / f"{path.stem}_overlay.png").shape == _read(path).shape
    np.testing.assert_array_equal(_read(out / "one photo.png"), _read(out / f"{photos[0].stem}.png"))


def test_predict_leaves_out_what_it_cannot_read(model: Path, channels: Path, tmp_path: Path, capsys: Capture) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    good = min((channels / "validation").iterdir())
    (photos / "broken.jpg").write_bytes(good.read_bytes()[:300])
    (photos / "page.png").write_text("<html>")
    shutil.copy(good, photos / "good.jpg")
    (photos / "notes.txt").write_text("not a picture by its name either")
    assert main(["predict", str(photos), "--model", str(model), "--output", str(tmp_path / "out")]) == 2
    captured = capsys.readouterr()
    assert captured.out == f"wrote 1 masks to {tmp_path / 'out'}\n"
    lines = captured.err.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith(f"gluonseg: left out: {photos / 'broken.jpg'} is damaged")
    assert lines[1].startswith(f"gluonseg: left out: {photos / 'page.png'} is not a picture")
    assert _list(tmp_path / "out") == ["good.png"]


def test_predict_never_writes_over_anything(model: Path, channels: Path, tmp_path: Path, capsys: Capture) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    photo = min((channels / "validation").iterdir())
    shutil.copy(photo, photos / "a.jpg")
    with Image.open(photo) as picture:
        picture.save(photos / "b.png")
    before = {path.name: path.read_bytes() for path in photos.iterdir()}
    assert main(["predict", str(photos), "--model", str(model), "--output", str(photos)]) == 2
    check_one_line(capsys, f"the picture {photos / 'b.png'} would be overwritten", "choose another output folder")
    assert {path.name: path.read_bytes() for path in photos.iterdir()} == before

    shutil.copy(photo, photos / "a_overlay.jpg")
    arguments = ["predict", str(photos), "--model", str(model), "--output", str(tmp_path / "out")]
    assert main([*arguments, "--overlay"]) == 2
    check_one_line(capsys, "would both be written to a_overlay.png")
    assert not (tmp_path / "out").exists()
    shutil.copy(photo, photos / "b.jpg")
    assert main(arguments) == 2
    check_one_line(capsys, "several pictures are called b")
    assert not (tmp_path / "out").exists()


def test_predict_needs_pictures_and_a_model(model: Path, channels: Path, tmp_path: Path, capsys: Capture) -> None:
    out = ["--output", str(tmp_path / "out")]
    photo = str(min((channels / "validation").iterdir()))
    assert main(["predict", str(tmp_path / "no.jpg"), "--model", str(model), *out]) == 2
    check_one_line(capsys, f"{tmp_path / 'no.jpg'} does not exist")
    assert main(["predict", str(channels / "label_map"), "--model", str(model), *out]) == 2
    check_one_line(capsys, "there are no pictures in", ".jpg")
    assert main(["predict", photo, "--model", str(tmp_path / "no"), *out]) == 2
    check_one_line(capsys, f"{tmp_path / 'no'} does not exist")
    (tmp_path / "out").write_text("a file")
    assert main(["predict", photo, "--model", str(model), *out]) == 1
    check_one_line(capsys, "File exists", str(tmp_path / "out"))


def test_evaluate_gives_the_numbers_of_the_card(model: Path, channels: Path, capsys: Capture) -> None:
    folders = [str(channels / name) for name in ("validation", "validation_annotation")]
    assert main(["evaluate", *folders, "--model", str(model), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found.pop("images") == 6
    assert found == json.loads((model / "model_card.json").read_text())["metrics"]["whole_image"]

    assert main(["evaluate", *folders, "--model", str(model)]) == 0
    table = capsys.readouterr().out.splitlines()
    assert table[0] == "6 images, whole, each at its own size"
    values = dict(line.rsplit(maxsplit=1) for line in table[1:])
    for name, iou in found["class_IoU"].items():
        assert values[name] == f"{iou:.4f}"
    assert values["mIoU, classes that occur"] == f"{found['mIoU']:.4f}"
    assert values["pixel accuracy"] == f"{found['pixel_accuracy']:.4f}"


def test_evaluate_says_what_it_leaves_out_and_reads_label_maps(
    model: Path, own_channels: Path, tmp_path: Path, capsys: Capture
) -> None:
    photos, masks = own_channels / "validation", own_channels / "validation_annotation"
    names = [path.stem for path in sorted(photos.iterdir())]
    (photos / f"{names[0]}.jpg").unlink()
    (masks / f"{names[1]}.png").unlink()
    shutil.copy(photos / f"{names[2]}.jpg", photos / f"{names[2]}.JPG")
    command = ["evaluate", str(photos), str(masks), "--model", str(model)]
    assert main([*command, "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["images"] == 3
    assert captured.err.splitlines() == [
        f"gluonseg: left out, without mask: {names[1]}",
        f"gluonseg: left out, without picture: {names[0]}",
        f"gluonseg: left out, two files of one name: {names[2]}",
    ]
    for path in masks.iterdir():
        labels = _read(path)
        Image.fromarray(np.where(labels == 255, labels, labels * 10)).save(path)
    assert main(command) == 2
    assert "whose label is no class of the model (4 classes); give the label map" in capsys.readouterr().err
    (tmp_path / "map.json").write_text('{"scale": 10}')
    assert main([*command, "--json", "--label_map", str(tmp_path / "map.json")]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(captured.out)


def test_evaluate_needs_pairs(model: Path, channels: Path, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "empty").mkdir()
    photos = str(channels / "validation")
    assert main(["evaluate", photos, str(tmp_path / "empty"), "--model", str(model)]) == 2
    check_one_line(capsys, "has a mask of its name")
    for path in (channels / "validation_annotation").iterdir():
        shutil.copy(path, tmp_path / "empty" / f"{path.stem}_mask.png")
    assert main(["evaluate", photos, str(tmp_path / "empty"), "--model", str(model)]) == 2
    check_one_line(capsys, "Take '_mask' off the end of the masks' names, and ")
    assert main(["evaluate", photos, str(tmp_path / "no"), "--model", str(model)]) == 2
    check_one_line(capsys, f"{tmp_path / 'no'} is not a folder")


def test_convert_refuses_what_is_not_safetensors(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "weights.safetensors").write_bytes(b"\x80\x04 a pickle")
    out = tmp_path / "out.params"
    arguments = [str(tmp_path / "weights.safetensors"), "--output", str(out)]
    assert main(["convert", *arguments, "--backbone", "resnet-18"]) == 2
    check_one_line(capsys, str(tmp_path / "weights.safetensors"))
    assert not out.exists()


def test_doctor_prints_versions_cores_and_devices(capsys: Capture) -> None:
    assert main(["doctor"]) == 0
    found = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert found["gluonseg"] == gluonseg.__version__
    assert found["python"] == ".".join(str(part) for part in sys.version_info[:3])
    assert found["mxnet"] == "1.9.1"
    assert int(found["cores"]) >= 1
    assert found["devices"] == "cpu(0)"


def test_hyperparameters_prints_every_name_and_default(capsys: Capture) -> None:
    assert main(["hyperparameters"]) == 0
    table = capsys.readouterr().out
    for name in get_specs():
        assert name.startswith("_") or f"`{name}`" in table
    assert "240" in table


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["chekc"], "invalid choice: 'chekc'"),
        (["check", "x", "--epochs", "3"], "unrecognized arguments: --epochs 3"),
        (["check", "x", "--num_classes", "0"], "a whole number, at least 2 and at most 254; got '0'"),
        (["convert", "x", "--output", "y", "--backbone", "resnet-19"], "resnet-18"),
    ],
    ids=["none", "unknown-command", "foreign-option", "out-of-range", "unknown-backbone"],
)
def test_wrong_usage(arguments: list[str], words: str, capsys: Capture) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("usage: gluonseg")
    assert words in captured.err
