"""What every prepare command shares: names, splits, photos that lie on their side, and nothing half-done."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePath

import numpy as np
import pytest
from PIL import Image

from conftest import TINY, build_listeners
from gluonseg.cli import build_parser, main
from gluonseg.data.decode import decode_image, read_bytes
from gluonseg.data.prepare.colours import read_colour_table
from gluonseg.data.prepare.core import NOT_LISTED, DataSet, Example, Note, Size, make_names
from gluonseg.errors import DataError
from gluonseg.labels import IGNORE
from gluonseg.models.folder.card import CARD_FILE, read_card
from gluonseg.train.job import JobSettings, run_job
from prepare_kit import Array, draw_photo, prepare, read_class_names, read_masks, read_names, stripes
from repository import read_commands

Capture = pytest.CaptureFixture[str]


def _example(photo: Path, mask_hw: Array, **options: object) -> Example:
    def read_mask(_size: Size, _note: Note) -> Array:
        return mask_hw

    return Example(photo.stem, partial(read_bytes, photo, "its photo"), read_mask, **options)  # type: ignore[arg-type]


def _find(source: Path, *examples: Example) -> DataSet:
    fillers = [_example(draw_photo(source / f"filler{n}.jpg"), stripes(0, 1), split=s) for n, s in enumerate(SPLITS)]
    return DataSet(("a", "b"), [*fillers, *examples], [(255, 0, 0), (0, 0, 255)])


SPLITS = ("train", "validation")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "source").mkdir()
    return tmp_path / "source"


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        ("a/one.jpg a/two.jpg b/two.jpg b/three.png", "one a_two b_two three"),
        ("a/one.jpg a/one.png", "a_one_jpg a_one_png"),
        ("a+b/one.jpg a_b/one.jpg", "a_b_one_1 a_b_one_2"),
        ("a/one.jpg a/one.jpg a_one_1.jpg", "a_one_1 a_one_2 a_one_1_jpg"),
    ],
)
def test_every_photo_has_a_name_of_its_own(paths: str, names: str) -> None:
    assert make_names([PurePath(path) for path in paths.split()]) == names.split()


def test_own_lists_decide_unless_a_random_split_is_asked_for(source: Path) -> None:
    extra = _example(draw_photo(source / "extra.jpg"), stripes(0, 1))
    report = prepare(lambda folder: _find(folder, extra), source)
    assert (read_names(report, "train"), read_names(report, "validation")) == (["filler0"], ["filler1"])
    assert (report.split, report.skipped) == (
        "by the lists of the data set",
        {"extra": NOT_LISTED},
    )
    report = prepare(lambda folder: _find(folder, extra), source, split="random", share=0.34)
    assert (report.num_train, report.num_validation, report.split) == (2, 1, "at random, seed 0")


def test_official_needs_lists(source: Path) -> None:
    photo = draw_photo(source / "a.jpg")
    with pytest.raises(DataError, match=r"no lists of its own .* use --split random"):
        prepare(lambda _: DataSet(("a", "b"), [_example(photo, stripes(0, 1))]), source, split="official")


def test_masks_have_the_colours_of_the_classes(source: Path) -> None:
    report = prepare(_find, source)
    with Image.open(report.out / "train_annotation/filler0.png") as mask:
        assert mask.mode == "P"
        assert np.asarray(mask.convert("RGB"))[0, :2].tolist() == [[255, 0, 0], [0, 0, 255]]
    table = read_colour_table(report.out / "colours.csv")
    assert table.class_ids == {(255, 0, 0): 0, (0, 0, 255): 1}
    assert read_class_names(report) == ["a", "b"]
    report = prepare(lambda folder: replace(_find(folder), colours=[(255, 0, 0), (255, 0, 0)]), source)
    assert not (report.out / "colours.csv").exists()
    with Image.open(report.out / "train_annotation/filler0.png") as mask:
        assert np.asarray(mask.convert("RGB"))[0, :2].tolist() == [[0, 0, 0], [128, 0, 0]]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photo_is_turned_when_its_mask_lies_on_it_upright(source: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    photo = draw_photo(source / "turned.png", exif=exif)
    with Image.open(photo) as picture:
        stored = np.asarray(picture.convert("RGB"))
    upright = {1: stored, 2: stored[:, ::-1], 3: stored[::-1, ::-1], 4: stored[::-1]}
    across = stored.transpose(1, 0, 2)
    upright |= {5: across, 6: across[:, ::-1], 7: across[::-1, ::-1], 8: across[::-1]}
    size = upright[orientation].shape[:2]
    found = prepare(
        lambda folder: _find(folder, _example(photo, stripes(0, 1, size=size), split="train", upright=True)), source
    )
    written = decode_image((found.out / "train/turned.jpg").read_bytes())
    assert written.shape == upright[orientation].shape
    assert np.abs(written.astype(int) - upright[orientation]).mean() < 12
    assert ("turned upright, as the mask lies on the photo that a viewer shows" in found.notes) == (orientation > 1)


def test_photos_and_masks_that_do_not_fit_are_left_out_and_named(source: Path) -> None:
    masks = {
        "larger": stripes(0, 1, size=(12, 16)),
        "smaller": stripes(0, size=(3, 4)),
        "void": stripes(IGNORE),
    }
    examples = [_example(draw_photo(source / f"{name}.jpg"), mask, split="train") for name, mask in masks.items()]
    (source / "empty.jpg").touch()
    examples.append(_example(source / "empty.jpg", stripes(0, 1), split="train"))
    examples.append(_example(source / "missing.jpg", stripes(0, 1), split="validation"))
    report = prepare(lambda folder: _find(folder, *examples), source)
    assert report.skipped == {
        "larger": "its mask is larger than the photo",
        "smaller": "its mask is smaller than the photo",
        "void": "its mask is empty: no pixel has a class",
        "empty": "its photo is empty (0 bytes)",
        "missing": "its photo cannot be read: No such file or directory",
    }
    assert set(read_masks(report)) == {"filler0", "filler1"}


def test_what_a_jpeg_cannot_hold_is_told(source: Path) -> None:
    picture = Image.fromarray(stripes(0, 255))
    picture.save(source / "pages.tif", save_all=True, append_images=[picture] * 8)
    for name, alpha in (("opaque", 255), ("clear", 0)):
        layers = Image.merge("LA", (picture, Image.fromarray(stripes(alpha, 255))))
        layers.save(source / f"{name}.png")
    values = np.tile(np.array([0, 4095], np.uint16), (6, 4))
    Image.fromarray(values).save(source / "deep.png")
    examples = [_example(path, stripes(0, 1), split="train") for path in sorted(source.iterdir())]
    report = prepare(lambda folder: _find(folder, *examples), source)
    assert report.skipped == {
        "deep": "its photo has 16 bits and would be dark or flat; give --photo_range, such as 0,4095"
    }
    assert report.notes == {
        "only the first page of the photo was taken": ["pages (of 9)"],
        "the photo's transparency was dropped": ["clear"],
    }
    report = prepare(lambda folder: _find(folder, *examples), source, photo_range=(0, 4095))
    assert np.ptp(decode_image((report.out / "train/deep.jpg").read_bytes())) > 200


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_run_leaves_nothing_half_done(source: Path, tmp_path: Path, number: int) -> None:
    for n in range(2):
        draw_photo(source / f"photos/{n}.png")
        draw_photo(source / f"masks/{n}.png")
    code = (
        "import sys, time; from gluonseg.data.prepare import core; from gluonseg.cli import main\n"
        "core._write_example = lambda *_: (print('writing', flush=True), time.sleep(1))\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    out = tmp_path / "out"
    (source / "table.csv").write_text("a,0,0,0\nb,1,1,1\n")
    command = ["prepare", "folders", str(source / "photos"), str(out), "--masks", str(source / "masks")]
    with subprocess.Popen(
        [sys.executable, "-c", code, *command, "--colours", str(source / "table.csv")],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.read(7) == b"writing"
        process.send_signal(number)
        process.wait(60)
    assert not out.exists()
    if number != signal.SIGKILL:
        assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    "text",
    [
        "name,r,g,b\nroad,128,64,128\ncar 2,64,0,128\nvoid,0,0,0\n",
        "128 64 128\t\troad\n64 0 128\tcar 2\n0 0 0\t\tVoid\n",
        "# label:color_rgb:parts:actions\nroad:128,64,128::\ncar 2:64,0,128:wheel,door:drive\nignore:0,0,0::\n",
        "#804080 road\r\n#400080 car 2\r\n#000000 unlabeled\r\n",
        "road, #804080\ncar 2, #400080\n__ignore__, #000000\n",
        '"name","r","g","b"\n"road","128","64","128"\n"car 2",64,0,128\nvoid,0,0,0\n',
    ],
)
def test_forms_of_colour_tables(tmp_path: Path, text: str) -> None:
    path = tmp_path / "table"
    path.write_bytes(text.encode())
    table = read_colour_table(path)
    assert table.class_names == ("road", "car 2")
    assert table.class_ids == {(128, 64, 128): 0, (64, 0, 128): 1, (0, 0, 0): IGNORE}


def test_wrong_colour_tables(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    for text, words in (
        ("a,1,2,3\nb,1,2,3\n", r"the colour \(1, 2, 3\) belongs to two classes"),
        ("a,1,2,3\nb,1,2\n", "line 2: expected a name and a colour as in car,64,0,128; got 'b,1,2'"),
        ("a,1,2,3\nb,1,2,300\n", "line 2: expected"),
        ("sky: (0, 0, 0)\ncar,1,2,3\nb,1,1,1\n", "line 1: expected"),
        ("", "names no class"),
    ):
        path.write_text(text)
        with pytest.raises(DataError, match=words):
            read_colour_table(path)


def test_what_was_prepared_passes_the_check_and_trains(tmp_path: Path, capsys: Capture) -> None:
    """Polygons of labelme, by way of the commands."""
    for index in range(6):
        draw_photo(tmp_path / f"source/{index}.png", size=(48, 48))
        corners = [(0, 0), (24 + 3 * index, 0), (24, 48), (0, 48)]
        shape = {"label": "left", "points": corners, "shape_type": "polygon"}
        content = {"shapes": [shape], "imagePath": f"{index}.png", "imageHeight": 48, "imageWidth": 48}
        (tmp_path / f"source/{index}.json").write_text(json.dumps(content))
    out = tmp_path / "out"
    assert main(["prepare", "labelme", str(tmp_path / "source"), str(out)]) == 0
    assert main(["check", str(out), "--num_classes", "2", "--crop_size", "32"]) == 0
    assert capsys.readouterr().out.endswith("the data can be used\n")
    channels = {path.name: path for path in out.iterdir() if path.is_dir()}
    settings = {**TINY, "num_classes": "2", "epochs": "1", "base_size": "48"}
    run_job(JobSettings(settings, channels, tmp_path / "model"), build_listeners)
    assert read_card(tmp_path / "model" / CARD_FILE).class_names == ("background", "left")


def test_the_commands_of_the_page_are_understood() -> None:
    for line in read_commands("docs/prepare.md"):
        program, *arguments = shlex.split(line)
        assert (program, build_parser().parse_args(arguments).command) == ("gluonseg", "prepare")
