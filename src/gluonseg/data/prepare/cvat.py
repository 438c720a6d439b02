"""CVAT: its XML ("CVAT for images" and "CVAT for video") and its masks ("Segmentation mask").

Shapes are painted by their ``z_order``, the highest last, and in the order of the file where it is the same.
https://docs.cvat.ai/docs/dataset_management/formats/format-cvat/
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from xml.etree import ElementTree

from gluonseg.data.decode import read_bytes
from gluonseg.data.prepare.colours import Colour, parse_colour
from gluonseg.data.prepare.core import DataSet, Example, Note, Size
from gluonseg.data.prepare.files import SPLIT_FOLDERS, PictureFolder, find_split, iter_pictures
from gluonseg.data.prepare.objects import (
    Drawn,
    ObjectClasses,
    Region,
    decode_runs,
    make_box,
    make_ellipse,
    make_polygon,
    paint,
    rotate,
)
from gluonseg.data.prepare.voc import find_voc
from gluonseg.errors import DataError, ImageError
from gluonseg.labels import UInt8Array

XML_FILE = "annotations.xml"
Element = ElementTree.Element


class _Shape(NamedTuple):
    """One shape of a photo; in a video the label is that of its track."""

    label: str
    element: Element


def _get_numbers(element: Element, *names: str) -> list[float]:
    try:
        return [float(element.get(name, "")) for name in names]
    except ValueError:
        raise ImageError(f"a {element.tag} of it lacks one of {', '.join(names)}") from None


def _parse_shape(shape: _Shape) -> Drawn:
    label, element = shape
    turned = float(element.get("rotation") or 0)
    try:
        if element.tag == "polygon":
            return Drawn(label, [make_polygon(map(float, element.get("points", "").replace(";", ",").split(",")))])
        if element.tag == "mask":
            left, top, width, height = map(int, _get_numbers(element, "left", "top", "width", "height"))
            runs = [int(number) for number in element.get("rle", "").split(",")]
            return Drawn(label, region=Region(top, left, decode_runs(runs, (height, width), by_column=False)))
    except ValueError:
        raise ImageError(f"a {element.tag} of it is not a list of numbers") from None
    if element.tag == "box":
        return Drawn(label, [rotate(make_box(*_get_numbers(element, "xtl", "ytl", "xbr", "ybr")), turned)])
    if element.tag == "ellipse":
        return Drawn(label, [rotate(make_ellipse(*_get_numbers(element, "cx", "cy", "rx", "ry")), turned)])
    return Drawn(label)


def _paint(shapes: Iterable[_Shape], declared: Element, classes: ObjectClasses, size: Size, note: Note) -> UInt8Array:
    size = (int(declared.get("height") or size[0]), int(declared.get("width") or size[1]))
    ordered = sorted(shapes, key=lambda shape: int(shape.element.get("z_order") or 0))
    return paint(size, [_parse_shape(shape) for shape in ordered], classes, note)


def _read_labels(root: Element) -> dict[str, Colour | None]:
    """Label -> colour, of all that a task or a project defines."""
    labels: dict[str, Colour | None] = {}
    for label in root.iter("label"):
        colour = label.findtext("color") or ""
        labels[label.findtext("name", "")] = parse_colour(colour) if len(colour) == 7 else None
    return labels


def _choose_colours(names: Sequence[str], labels: Mapping[str, Colour | None]) -> list[Colour]:
    """The colour of every class; none when CVAT has one for some of them only."""
    found = [labels.get(name) or ((0, 0, 0) if class_id == 0 else None) for class_id, name in enumerate(names)]
    return [colour for colour in found if colour is not None] if None not in found else []


def _read_photo(photos: PictureFolder, name: str, subset: str) -> bytes:
    return read_bytes(photos.find(name, subset), "its photo")


def _find_images(root: Element, photos: PictureFolder, classes: ObjectClasses) -> list[Example]:
    found = []
    for image in root.iter("image"):
        name, subset = image.get("name", ""), image.get("subset", "")
        shapes = [_Shape(shape.get("label", ""), shape) for shape in image if shape.tag != "tag"]
        split = SPLIT_FOLDERS.get(subset.lower()) or find_split(PurePosixPath(name))
        read_photo = partial(_read_photo, photos, name, subset)
        read_mask = partial(_paint, shapes, image, classes)
        found.append(Example(f"{subset}/{name}", read_photo, read_mask, split, upright=True))
    return found


def _find_frames(root: Element, photos: PictureFolder, classes: ObjectClasses) -> list[Example]:
    """The frames of a video, by their files frame_000000.png and so on; a track has a shape for each frame."""
    shapes: dict[int, list[_Shape]] = {}
    for track in root.iter("track"):
        for shape in track:
            if shape.get("outside") != "1":
                shapes.setdefault(int(shape.get("frame", "0")), []).append(_Shape(track.get("label", ""), shape))
    found = []
    for path in iter_pictures(photos.folder):
        number = path.stem.removeprefix("frame_")
        if number.isdigit():
            mine = shapes.pop(int(number), [])
            read_photo = partial(read_bytes, path, "its photo")
            found.append(
                Example(
                    str(path.relative_to(photos.folder)), read_photo, partial(_paint, mine, Element("size"), classes)
                )
            )
    for frame in shapes:
        name = f"frame_{frame:06d}"
        read_photo = partial(_read_photo, photos, name, "")
        found.append(Example(name, read_photo, partial(_paint, (), Element("size"), classes)))
    return found


def find_cvat(source: Path, *, photos: Path | None = None, classes: Sequence[str] = ()) -> DataSet:
    """Find the photos of an export of CVAT, unpacked.

    Args:
        source: a folder with annotations.xml (or one XML file of another name), that file, or a folder with
            SegmentationClass and labelmap.txt.
        photos: folder of photos, at any depth, where they were not exported along.
        classes: labels of an XML export to keep, in the order of the class ids; other objects become background.

    Raises:
        DataError: the export is neither, cannot be read, or a class does not exist.
    """
    files = sorted(source.glob("*.xml")) if source.is_dir() else [source]
    path = files[0] if len(files) == 1 else source / XML_FILE
    if not path.is_file():
        if not any(source.glob("**/SegmentationClass")):
            raise DataError(f"{source} holds neither {XML_FILE} nor the folder SegmentationClass")
        if classes:
            raise DataError("masks of CVAT have the classes of labelmap.txt; --classes is for its XML")
        return find_voc(source, photos=photos)
    try:
        root = ElementTree.fromstring(read_bytes(path))
    except ElementTree.ParseError as error:
        raise DataError(f"{path} is not XML: {error}") from None
    labels = _read_labels(root)
    object_classes = ObjectClasses(labels, classes)
    pictures = PictureFolder(photos or path.parent)
    is_video = root.find("image") is None
    found = (_find_frames if is_video else _find_images)(root, pictures, object_classes)
    return DataSet(object_classes.names, found, _choose_colours(object_classes.names, labels))
