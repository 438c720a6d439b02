"""labelme: a JSON file beside each photo, https://github.com/wkentaro/labelme.

``shapes`` are painted in their order, later ones over earlier ones, as labelme's own converters do. labelme shows a
photo turned by its EXIF orientation, so the shapes lie on it that way.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from gluonseg.data.decode import decode_label, read_bytes
from gluonseg.data.prepare.core import DataSet, Example, Note, Size
from gluonseg.data.prepare.files import PictureFolder, find_split, iter_paths, iter_pictures, read_json
from gluonseg.data.prepare.objects import (
    Drawn,
    ObjectClasses,
    Points,
    Region,
    make_box,
    make_ellipse,
    make_polygon,
    paint,
)
from gluonseg.errors import DataError, ImageError
from gluonseg.labels import UInt8Array

NO_JSON = "the photo has no JSON file"
_POLYGONS = ("polygon", "rotation", "oriented_rectangle")


def _decode_base64(text: str, what: str) -> bytes:
    try:
        return base64.b64decode(text)
    except (binascii.Error, ValueError):
        raise ImageError(f"{what} in its JSON file is damaged") from None


def _parse_shape(shape: Mapping[str, Any]) -> Drawn:
    label, kind = str(shape.get("label")), shape.get("shape_type") or "polygon"
    points: Points = make_polygon(number for point in shape.get("points", ()) for number in point)
    if kind in _POLYGONS or (kind == "rectangle" and len(points) > 2):
        return Drawn(label, [points])
    if kind == "rectangle" and len(points) == 2:
        return Drawn(label, [make_box(*points.ravel())])
    if kind == "circle" and len(points) == 2:
        radius = float(np.hypot(*(points[1] - points[0])))
        return Drawn(label, [make_ellipse(points[0, 0], points[0, 1], radius, radius)])
    if kind == "mask" and len(points) and isinstance(shape.get("mask"), str):
        pixels_hw = decode_label(_decode_base64(shape["mask"], "a mask"), "a mask in its JSON file")
        return Drawn(label, region=Region(round(points[0, 1]), round(points[0, 0]), pixels_hw))
    return Drawn(label)


def _paint(content: Mapping[str, Any], classes: ObjectClasses, size: Size, note: Note) -> UInt8Array:
    size = (int(content.get("imageHeight") or size[0]), int(content.get("imageWidth") or size[1]))
    return paint(size, [_parse_shape(shape) for shape in content["shapes"]], classes, note)


def _read_photo(path: Path, named: str, photos: PictureFolder | None) -> bytes:
    """The photo that a JSON file names, from beside it or from ``photos``; else the copy inside the file."""
    photo = path.parent / named.replace("\\", "/")
    if photos is not None:
        photo = photos.find(named)
    if photo.is_file():
        return read_bytes(photo, "its photo")
    copy = read_json(path).get("imageData")
    if not isinstance(copy, str):
        raise ImageError(f"its photo {named} is missing, and its JSON file holds no copy")
    return _decode_base64(copy, "the photo")


def find_labelme(source: Path, *, photos: Path | None = None, classes: Sequence[str] = ()) -> DataSet:
    """Find labelme's JSON files below ``source``; background is class 0, then the labels that occur, sorted.

    ``_background_`` is background, ``__ignore__`` is not scored.

    Args:
        source: folder of JSON files, with sub-folders; those called train and val are the split.
        photos: folder of photos, at any depth, where they do not lie where the JSON files say.
        classes: labels to keep, in the order of the class ids, as labelme's labels.txt has them; a class may be without
            objects, and objects of others become background.

    Raises:
        DataError: there is no such file.
    """
    found: dict[Path, dict[str, Any]] = {}
    left_out: dict[str, str] = {}
    for path in iter_paths(source):
        if path.suffix.lower() != ".json":
            continue
        try:
            content = read_json(path)
        except DataError as error:
            left_out[str(path.relative_to(source))] = str(error)
            continue
        if isinstance(content.get("shapes"), list):
            # Its photo is read again when it is needed: all of them together may not fit into memory.
            found[path.relative_to(source)] = {**content, "imageData": None}
    if not found:
        raise DataError(f"{source} holds no JSON file of labelme (with shapes and imagePath)")
    labels = {str(shape.get("label")) for content in found.values() for shape in content["shapes"]}
    object_classes = ObjectClasses([*classes, *sorted(labels)], classes)
    pictures = PictureFolder(photos) if photos else None
    examples = [
        Example(
            name=str(path),
            read_photo=partial(_read_photo, source / path, str(content.get("imagePath")), pictures),
            read_mask=partial(_paint, content, object_classes),
            split=find_split(path),
            upright=True,
        )
        for path, content in found.items()
    ]
    used = {(source / path.parent / str(content.get("imagePath"))).resolve() for path, content in found.items()}
    left_out |= {str(path.relative_to(source)): NO_JSON for path in iter_pictures(source) if path.resolve() not in used}
    return DataSet(object_classes.names, examples, left_out=left_out)
