"""The label doctor on folders and names: it says what is there, and what would match."""

from __future__ import annotations

import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gluonseg.data.check.names import Affixes, find_affixes
from small_data import SmallData

Change = Callable[[SmallData], object]


@pytest.fixture
def data(tmp_path: Path) -> SmallData:
    return SmallData(tmp_path)


@pytest.mark.parametrize(
    ("images", "masks", "in_images", "in_masks"),
    [
        (["a", "b", "c"], ["a_mask", "b_mask", "c_mask"], Affixes(), Affixes(suffix="_mask")),
        (["1", "2", "10"], ["label_1", "label_2", "label_10"], Affixes(), Affixes("label_")),
        (["a", "b"], ["m_a_x", "m_b_x"], Affixes(), Affixes("m_", "_x")),
        (["a_rgb", "b_rgb"], ["a", "b"], Affixes(suffix="_rgb"), Affixes()),
        (["img_001", "img_002"], ["lab_001", "lab_002", "lab_100"], Affixes("img_"), Affixes("lab_")),
        (
            ["aachen_1_leftImg8bit", "bochum_2_leftImg8bit"],
            ["aachen_1_gtFine_labelIds", "bochum_2_gtFine_labelIds"],
            Affixes(suffix="_leftImg8bit"),
            Affixes(suffix="_gtFine_labelIds"),
        ),
        (["img_v1_a", "img_v2_a"], ["v1_b", "v2_b"], Affixes("img_", "_a"), Affixes(suffix="_b")),
        (["photo"], ["photo.seg"], Affixes(), Affixes(suffix=".seg")),
        (["a", "b", "c", "odd"], ["a_L", "b_L", "c_L", "notes"], Affixes(), Affixes(suffix="_L")),
    ],
)
def test_affixes(images: list[str], masks: list[str], in_images: Affixes, in_masks: Affixes) -> None:
    match = find_affixes(images, masks)
    assert match is not None
    assert (match.images, match.masks) == (in_images, in_masks)
    image, mask = match.example
    assert in_images.strip(image) == in_masks.strip(mask)


@pytest.mark.parametrize(
    ("images", "masks"), [(["a", "b"], ["c", "d"]), (["a"], ["b"]), (["cat"], ["1"]), (["x_1"], ["x_10"])]
)
def test_no_affixes(images: list[str], masks: list[str]) -> None:
    assert find_affixes(images, masks) is None


@given(st.sets(st.text("ab1", min_size=1, max_size=4), min_size=2, max_size=30), st.text("xy_"), st.text("xy_"))
def test_whatever_stands_around_names_is_found(names: set[str], before: str, after: str) -> None:
    images, masks = sorted(names), sorted(f"{before}{name}{after}" for name in names)
    match = find_affixes(images, masks)
    assert match is not None
    assert match.total == len(names)


def _rename_masks(data: SmallData) -> None:
    for split in ("train", "validation"):
        for path in list(data.path(f"{split}_annotation").iterdir()):
            path.rename(path.with_stem(f"{path.stem}_mask"))


def _move_deeper(data: SmallData) -> None:
    files = list(data.path("train").iterdir())
    data.path("train/images/day").mkdir(parents=True)
    for path in files:
        path.rename(data.path("train/images/day", path.name))


def _pack(data: SmallData) -> None:
    files = list(data.path("train").iterdir())
    with tarfile.open(data.path("train/photos.tar"), "w") as archive:
        for path in files:
            archive.add(path, path.name)
            path.unlink()


def _rename(folder: str, ending: str) -> Change:
    def change(data: SmallData) -> None:
        for path in list(data.path(folder).iterdir()):
            path.rename(path.with_suffix(ending))

    return change


def _save_arrays(data: SmallData) -> None:
    for path in list(data.path("train_annotation").iterdir()):
        path.unlink()
        np.save(path.with_suffix(".npy"), np.zeros((2, 2), np.uint8))


def _draw_polygons(data: SmallData) -> None:
    for path in list(data.path("train_annotation").iterdir()):
        path.unlink()
        path.with_suffix(".json").write_text('{"shapes": []}')


def _put_deeper(data: SmallData) -> None:
    data.path("channels").mkdir()
    for path in list(data.root.iterdir()):
        if path.name != "channels":
            path.rename(data.path("channels", path.name))


ERRORS: list[tuple[Change, str]] = [
    (
        _rename_masks,
        "Take '_mask' off the end of the masks' names, and 3 of 3 images have their mask",
    ),
    (_move_deeper, "train holds no images, but 3 in the folder images/day"),
    (_move_deeper, "Give train/images/day as the channel train, or move the files up into train"),
    (_pack, "but 1 files named .tar (photos.tar). Archives are not opened: unpack them"),
    (_rename("train_annotation", ""), "but 3 files named without a dot (t2). By their content they are PNG"),
    (_draw_polygons, "but 3 files named .json (t2.json). gluonseg prepare makes masks of what drawing tools write"),
    (_save_arrays, "but 3 files named .npy (t2.npy). Read are files whose names end in .png, .gif"),
    (_put_deeper, "the channel train is missing. There is one in "),
    (lambda data: shutil.rmtree(data.path("train")), "found are train_annotation, validation, validation_annotation"),
]


@pytest.mark.parametrize(("change", "words"), ERRORS)
def test_what_is_there_is_told(data: SmallData, change: Change, words: str) -> None:
    change(data)
    errors = [str(error) for error in data.check().errors]
    assert any(words in error for error in errors), errors


def test_what_lies_deeper_is_told_beside_what_is_read(data: SmallData) -> None:
    data.path("train/more").mkdir()
    for number in range(2):
        shutil.copy(data.path("train/t0.jpg"), data.path(f"train/more/{number}.jpg"))
    report = data.check()
    assert not report.errors
    (warning,) = report.warnings
    assert str(warning) == (
        "1 folders inside a channel are not entered: train/more holds 2 pictures. "
        "Move files that are meant up into the channel"
    )
