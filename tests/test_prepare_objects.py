"""Objects as tools write them: painted in the tool's order into masks of class ids."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gluonseg.data.prepare.coco import find_coco
from gluonseg.data.prepare.cvat import find_cvat
from gluonseg.data.prepare.files import IN_BOTH
from gluonseg.data.prepare.labelme import find_labelme
from gluonseg.data.prepare.objects import (
    Drawn,
    ObjectClasses,
    decode_runs,
    make_box,
    make_ellipse,
    make_polygon,
    paint,
    parse_compressed_runs,
    rotate,
)
from gluonseg.errors import DataError, ImageError
from gluonseg.labels import IGNORE
from prepare_kit import HEIGHT, WIDTH, Array, draw_photo, prepare, read_masks, read_names

SIZE = (HEIGHT, WIDTH)
RUNS = "=33000`0N"
"""Rows 1 to 3 of columns 2 to 4, and the last of 6 x 8 pixels, as COCO's own tool (pycocotools 2.0.11) writes it."""


def _box_mask(class_id: int, top: int, left: int, bottom: int, right: int, mask_hw: Array | None = None) -> Array:
    mask = np.zeros(SIZE, np.uint8) if mask_hw is None else mask_hw.copy()
    mask[top:bottom, left:right] = class_id
    return mask


def _paint(*polygons: Any, size: tuple[int, int] = SIZE) -> Array:
    notes: list[str] = []
    classes = ObjectClasses(["a"])
    return paint(size, [Drawn("a", [polygon]) for polygon in polygons], classes, lambda text, _: notes.append(text))


def test_a_pixel_belongs_to_a_polygon_when_its_middle_does() -> None:
    assert np.array_equal(_paint(make_box(2, 1, 5, 4)), _box_mask(1, 1, 2, 4, 5))
    assert np.array_equal(_paint(make_box(2.4, 1.4, 5.4, 4.4)), _box_mask(1, 1, 2, 4, 5))
    assert np.array_equal(_paint(make_box(2.6, 1.6, 5.6, 4.6)), _box_mask(1, 2, 3, 5, 6))
    assert np.array_equal(_paint(make_box(-9, -9, 3, 99)), _box_mask(1, 0, 0, 6, 3))
    assert not _paint(make_box(-9, -9, -2, -2), make_box(40, 40, 50, 50)).any()


def test_shapes() -> None:
    triangle = _paint(make_polygon([0, 0, 100, 0, 0, 100]), size=(100, 100))
    assert triangle.sum() == pytest.approx(5000, rel=0.01)
    circle = _paint(make_ellipse(50, 50, 40, 20), size=(100, 100))
    assert circle.sum() == pytest.approx(np.pi * 40 * 20, rel=0.01)
    assert (circle[50, 11], circle[50, 9], circle[31, 50], circle[29, 50]) == (1, 0, 1, 0)
    turned = _paint(rotate(make_box(10, 40, 90, 60), 90), size=(100, 100))
    assert np.array_equal(turned, _paint(make_box(40, 10, 60, 90), size=(100, 100)))
    # Clockwise as the picture is seen: the upper right corner of a box goes to the lower right.
    corner = rotate(make_box(0, 0, 10, 10), 45)[1]
    assert corner == pytest.approx([5 + 50**0.5, 5])


def test_run_lengths() -> None:
    expected = _box_mask(1, 1, 2, 4, 5) | _box_mask(1, 5, 7, 6, 8)
    assert parse_compressed_runs(RUNS) == [13, 3, 3, 3, 3, 3, 19, 1]
    assert np.array_equal(decode_runs(parse_compressed_runs(RUNS), SIZE, by_column=True), expected)
    assert np.array_equal(decode_runs([10, 3, 35], SIZE, by_column=False), _box_mask(1, 1, 2, 2, 5))
    with pytest.raises(ImageError, match="run lengths of it do not fill 8x6 pixels"):
        decode_runs([10, 3], SIZE, by_column=True)


def _object(category: int, segmentation: Any, image: int = 1, **fields: Any) -> dict[str, Any]:
    return {"image_id": image, "category_id": category, "segmentation": segmentation, "iscrowd": 0, **fields}


def _box(left: float, top: float, right: float, bottom: float) -> list[list[float]]:
    return [[left, top, right, top, right, bottom, left, bottom]]


def _write_coco(path: Path, photos: Sequence[str], objects: Sequence[dict[str, Any]]) -> None:
    images = [
        {"id": n, "file_name": name, "height": HEIGHT, "width": WIDTH, "license": 1} for n, name in enumerate(photos, 1)
    ]
    categories = [{"id": 7, "name": "dog", "supercategory": "pet"}, {"id": 3, "name": "cat", "supercategory": "pet"}]
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"info": {}, "images": images, "annotations": list(objects), "categories": categories}
    path.write_text(json.dumps(content))


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    """COCO's layout; photo a of train has four objects, the validation photo is without."""
    root = tmp_path / "coco"
    objects = [
        _object(7, _box(2, 1, 4, 3), area=4),
        _object(3, {"counts": RUNS, "size": [HEIGHT, WIDTH]}, area=10),
        _object(7, {"counts": [0, 48], "size": [HEIGHT, WIDTH]}, iscrowd=1, area=1),
        _object(3, [*_box(6, 0, 7, 1), *_box(0, 5, 1, 6)], area=2),
    ]
    _write_coco(root / "annotations/instances_train2017.json", ["a.jpg"], objects)
    _write_coco(root / "annotations/instances_val2017.json", ["a.jpg"], [_object(3, _box(0, 0, 8, 6))])
    (root / "annotations/captions_val2017.json").write_text("{}")
    for split in ("train", "val"):
        draw_photo(root / f"{split}2017/a.jpg")
    return root


def test_coco(coco: Path) -> None:
    """Crowds lie at the bottom, then the larger ones; photos of one name are told apart by the file's name."""
    report = prepare(find_coco, coco)
    assert report.class_names == ("background", "cat", "dog")
    mask = _box_mask(2, 1, 2, 3, 4, _box_mask(1, 1, 2, 4, 5, np.full(SIZE, 2, np.uint8)))
    mask[0, 6] = mask[5, 0] = mask[5, 7] = 1
    assert np.array_equal(read_masks(report)["train_a"], mask)
    assert (read_names(report, "train"), read_names(report, "validation")) == (["train_a"], ["validation_a"])
    for split, folder in (("train", "train2017"), ("validation", "val2017")):
        copy = report.out / split / f"{split}_a.jpg"
        assert copy.read_bytes() == (coco / folder / "a.jpg").read_bytes()
    report = prepare(find_coco, coco, classes=["dog"])
    assert (report.class_names, read_masks(report)["validation_a"].max()) == (("background", "dog"), 0)
    assert "validation_a (cat)" in report.notes["objects of classes that are not in --classes, background"]


def test_objects_of_a_photo_in_two_files_are_one_mask(tmp_path: Path) -> None:
    root = tmp_path / "coco"
    for kind, box in (("intervals", _box(0, 0, 2, 6)), ("people", _box(4, 0, 6, 6))):
        for split, name in (("train", "a.jpg"), ("val", "b.jpg")):
            draw_photo(root / "photos" / name)
            _write_coco(root / f"instances_{kind}_{split}.json", [name], [_object(3, box)])
    report = prepare(find_coco, root)
    assert (report.num_train, report.num_validation) == (1, 1)
    assert np.array_equal(read_masks(report)["a"], _box_mask(1, 0, 0, 6, 2) | _box_mask(1, 0, 4, 6, 6))
    _write_coco(root / "instances_people_val.json", ["a.jpg", "b.jpg"], [])
    _write_coco(root / "instances_third_train.json", ["c.jpg"], [])
    draw_photo(root / "photos/c.jpg")
    report = prepare(find_coco, root)
    assert (read_names(report, "train"), read_names(report, "validation")) == (["c"], ["a", "b"])
    assert report.notes[IN_BOTH] == ["a.jpg"]


def test_coco_names_what_is_wrong(tmp_path: Path) -> None:
    """Also the layout of Roboflow: a file in each folder of photos."""
    root = tmp_path / "set"
    names = ["a.jpg", "b.jpg", "gone.jpg", "runs.jpg", "line.jpg"]
    objects = [
        _object(9, _box(0, 0, 4, 6)),
        _object(3, _box(0, 0, 2, 6), image=77),
        _object(3, {"counts": [9], "size": [3, 3]}, image=4),
        _object(3, [[1, 1, 2, 2], []], image=5),
        _object(3, [*_box(0, 0, 1, 1), []], image=5),
    ]
    for split in ("train", "valid"):
        _write_coco(root / split / "_annotations.coco.json", names, objects)
        for name in ("a.jpg", "b.jpg", "runs.jpg", "line.jpg"):
            draw_photo(root / split / name)
    report = prepare(find_coco, root)
    assert np.array_equal(read_masks(report)["train_a"], _box_mask(IGNORE, 0, 0, 6, 4))
    both, sizes = ("train", "validation"), "run lengths of it are not of the photo's size"
    assert report.skipped == {
        **{f"{split}_gone": f"its photo is not below {root}, which holds a.jpg, b.jpg and 2 more" for split in both},
        **{f"{split}_runs": sizes for split in both},
    }
    assert report.notes == {
        "annotations of images that the file does not list, passed over": ["77", "77"],
        "lines, points and other shapes without an area, passed over": [f"{split}_line" for split in sorted(both * 2)],
        "no object is drawn, so all of it is background": [f"{split}_b" for split in both],
        "objects of a class that the data does not define, not scored": [f"{split}_a (category 9)" for split in both],
    }
    _write_coco(root / "train/_annotations.coco.json", ["a.jpg", "b.jpg"], [_object(3, _box(0, 0, 1, 1), bbox=3)])
    assert prepare(find_coco, root).skipped["train_a"].startswith("its annotation is malformed: TypeError")
    (root / "valid/_annotations.coco.json").write_text('{"images": [{}], "annotations": [], "categories": []}')
    with pytest.raises(DataError, match=r"set is not of the form that was expected: KeyError\('id'\)"):
        prepare(find_coco, root)
    (root / "valid/_annotations.coco.json").unlink()
    with pytest.raises(DataError, match="no object has the class 'bird'; the classes are cat, dog"):
        prepare(find_coco, root, classes=["bird"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no JSON file with the lists images, annotations, categories"):
        prepare(find_coco, tmp_path / "empty")


def _write_labelme(path: Path, shapes: Sequence[dict[str, Any]], **fields: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        **{"version": "5.5.0", "flags": {}, "shapes": list(shapes), "imagePath": f"{path.stem}.jpg"},
        **{"imageData": None, "imageHeight": HEIGHT, "imageWidth": WIDTH, **fields},
    }
    path.write_text(json.dumps(content))


def _shape(label: str, kind: str, *points: tuple[float, float], **fields: Any) -> dict[str, Any]:
    return {"label": label, "points": points, "group_id": None, "shape_type": kind, "flags": {}, **fields}


def test_labelme(tmp_path: Path) -> None:
    source = tmp_path / "source"
    part = io.BytesIO()
    Image.fromarray(np.array([[255, 0], [255, 255]], np.uint8)).save(part, "PNG")
    shapes = [
        _shape("dog", "rectangle", (0, 0), (8, 6)),
        _shape("cat", "polygon", (2, 1), (4, 1), (4, 3), (2, 3)),
        _shape("_background_", "circle", (6, 3), (6, 4.6)),
        _shape("__ignore__", "mask", (0, 4), (1, 5), mask=base64.b64encode(part.getvalue()).decode()),
        _shape("cat", "line", (0, 0), (3, 3)),
    ]
    draw_photo(source / "train/a.jpg")
    _write_labelme(source / "train/a.json", shapes)
    copy = base64.b64encode(draw_photo(tmp_path / "b.jpg").read_bytes()).decode()
    _write_labelme(source / "val/b.json", shapes[:1], imagePath="..\\b.jpg", imageData=copy)
    _write_labelme(source / "val/c.json", shapes[:1], imagePath="c.jpg")
    draw_photo(source / "val/d.jpg")
    _write_labelme(source / "val/d.json", [_shape("dog", "polygon", (1, 1), "x")])  # type: ignore[arg-type]
    (source / "val/e.json").write_text("[]")
    draw_photo(source / "val/never_opened.jpg")
    report = prepare(find_labelme, source)
    assert report.class_names == ("background", "cat", "dog")
    mask = _box_mask(1, 1, 2, 3, 4, np.full(SIZE, 2, np.uint8))
    mask[1:5, 5:7] = mask[2:4, 4:8] = 0
    mask[4, 0] = mask[5, :2] = IGNORE
    assert np.array_equal(read_masks(report)["a"], mask)
    assert (report.out / "validation/b.jpg").read_bytes() == (tmp_path / "b.jpg").read_bytes()
    assert report.skipped == {
        "c": "its photo c.jpg is missing, and its JSON file holds no copy",
        "d": "a polygon of it is not a list of numbers x, y",
        "val/e.json": f"{source / 'val/e.json'} holds a list, not an object",
        "val/never_opened.jpg": "the photo has no JSON file",
    }
    assert report.notes == {"lines, points and other shapes without an area, passed over": ["a"]}
    report = prepare(find_labelme, source, classes=["_background_", "dog"])
    assert np.array_equal(read_masks(report)["a"] == 1, mask == 2)


def test_labelme_shapes_lie_on_the_photo_as_it_is_shown(tmp_path: Path) -> None:
    exif, box = Image.Exif(), _shape("cat", "rectangle", (0, 0), (3, 8))
    for name, orientation, (height, width) in (("a", 6, (WIDTH, HEIGHT)), ("b", 3, (HEIGHT, WIDTH))):
        exif[0x0112] = orientation
        draw_photo(tmp_path / f"source/{name}.jpg", exif=exif)
        _write_labelme(tmp_path / f"source/{name}.json", [box], imageHeight=height, imageWidth=width)
    report = prepare(find_labelme, tmp_path / "source")
    assert report.converted == ("a", "b")
    mask = read_masks(report)["a"]
    assert mask.shape == (WIDTH, HEIGHT)
    assert mask.sum(axis=0).tolist() == [WIDTH, WIDTH, WIDTH, 0, 0, 0]


CVAT_META = """<meta><task><labels>
<label><name>background</name><color>#000000</color><type>any</type></label>
<label><name>dog</name><color>#fa3253</color><type>any</type></label>
<label><name>cat</name><color>#33ddff</color><type>any</type></label>
</labels></task></meta>"""


def _write_cvat(folder: Path, body: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    text = f'<?xml version="1.0" encoding="utf-8"?>\n<annotations><version>1.1</version>{CVAT_META}{body}</annotations>'
    (folder / "annotations.xml").write_text(text)


def test_cvat_for_images(tmp_path: Path) -> None:
    """z_order decides what lies on top, whatever the order in the file."""
    shapes = """
    <polygon label="cat" source="manual" occluded="0" points="2.00,1.00;4.00,1.00;4.00,3.00;2.00,3.00" z_order="2"/>
    <box label="dog" source="manual" occluded="0" xtl="0" ytl="0" xbr="8" ybr="6" z_order="-1"/>
    <mask label="background" source="manual" occluded="0" rle="1, 1, 2" left="6" top="4" width="2" height="2"/>
    <ellipse label="cat" source="manual" occluded="0" cx="1" cy="5" rx="1" ry="1" z_order="0"/>
    <polyline label="cat" source="manual" occluded="0" points="0,0;3,3" z_order="9"/>
    <tag label="good" source="manual"/>
    """
    image = '<image id="0" name="{}" subset="{}" width="8" height="6">{}</image>'
    stranger = '<box label="bird" xtl="0" ytl="0" xbr="4" ybr="6"/>'
    _write_cvat(
        tmp_path / "export",
        image.format("one/a.jpg", "Train", shapes)
        + image.format("one/b.jpg", "Validation", stranger)
        + image.format("one/c.jpg", "Validation", ""),
    )
    for name in ("Train/one/a.jpg", "Validation/one/b.jpg", "Validation/one/c.jpg"):
        draw_photo(tmp_path / f"export/images/{name}")
    report = prepare(find_cvat, tmp_path / "export")
    assert report.class_names == ("background", "dog", "cat")
    mask = _box_mask(2, 1, 2, 3, 4, np.full(SIZE, 1, np.uint8))
    mask[4, 7] = 0
    mask[4:, :2] = 2
    masks = read_masks(report)
    assert np.array_equal(masks["a"], mask)
    assert np.array_equal(masks["b"], _box_mask(IGNORE, 0, 0, 6, 4))
    assert read_names(report, "validation") == ["b", "c"]
    assert (report.out / "colours.csv").read_text().splitlines()[1:] == [
        *("background,0,0,0", "dog,250,50,83", "cat,51,221,255")
    ]
    assert report.notes == {
        "lines, points and other shapes without an area, passed over": ["a"],
        "no object is drawn, so all of it is background": ["c"],
        "objects of a class that the data does not define, not scored": ["b (bird)"],
    }


def test_cvat_for_video(tmp_path: Path) -> None:
    body = """<track id="0" label="dog">
    <box frame="7" keyframe="1" outside="0" occluded="0" xtl="0" ytl="0" xbr="2" ybr="6" z_order="0"/>
    <box frame="0" keyframe="1" outside="0" occluded="0" xtl="0" ytl="0" xbr="2" ybr="6" z_order="0"/>
    <box frame="1" keyframe="0" outside="0" occluded="0" xtl="2" ytl="0" xbr="4" ybr="6" z_order="0"/>
    <box frame="2" keyframe="1" outside="1" occluded="0" xtl="2" ytl="0" xbr="4" ybr="6" z_order="0"/>
    </track>"""
    _write_cvat(tmp_path / "export", body)
    for frame in range(3):
        draw_photo(tmp_path / f"export/images/frame_{frame:06d}.png")
    report = prepare(find_cvat, tmp_path / "export")
    masks = read_masks(report)
    assert np.array_equal(masks["frame_000001"], _box_mask(1, 0, 2, 6, 4))
    assert not masks["frame_000002"].any()
    assert report.notes == {"no object is drawn, so all of it is background": ["frame_000002"]}
    there = "which holds frame_000000.png, frame_000001.png and 1 more"
    assert report.skipped == {"frame_000007": f"its photo is not below {tmp_path / 'export'}, {there}"}


def test_cvat_masks(tmp_path: Path) -> None:
    root = tmp_path / "export"
    for name in "ab":
        draw_photo(root / f"JPEGImages/{name}.jpg")
        picture = np.zeros((*SIZE, 3), np.uint8)
        picture[:, :4] = (250, 50, 83)
        (root / "SegmentationClass").mkdir(exist_ok=True)
        Image.fromarray(picture).save(root / f"SegmentationClass/{name}.png")
    (root / "labelmap.txt").write_text("# label:color_rgb:parts:actions\nbackground:0,0,0::\ndog:250,50,83::\n")
    report = prepare(find_cvat, root)
    assert report.class_names == ("background", "dog")
    assert np.array_equal(read_masks(report)["a"], _box_mask(1, 0, 0, 6, 4))
    (root / "SegmentationClass").rename(root / "other")
    with pytest.raises(DataError, match=r"holds neither annotations.xml nor the folder SegmentationClass"):
        prepare(find_cvat, root)
