"""COCO's instances, and every tool that writes its JSON: polygons and both forms of run lengths.

``annotations/instances_train2017.json`` beside ``train2017/``, or one JSON file in or above the folder of its photos.
https://cocodataset.org/#format-data
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path, PurePath, PurePosixPath
from typing import Any, NamedTuple

from gluonseg.data.channel import SPLITS
from gluonseg.data.decode import read_bytes
from gluonseg.data.prepare.core import DataSet, Example, Note, Size
from gluonseg.data.prepare.files import IN_BOTH, SPLIT_FOLDERS, PictureFolder, read_json
from gluonseg.data.prepare.objects import (
    Drawn,
    ObjectClasses,
    Region,
    decode_runs,
    make_polygon,
    paint,
    parse_compressed_runs,
)
from gluonseg.errors import DataError, ImageError
from gluonseg.labels import UInt8Array

_LISTS = ("images", "annotations", "categories")
NO_IMAGE = "annotations of images that the file does not list, passed over"
_Object = tuple[str, Mapping[str, Any]]
"""The name of its category, and its annotation."""


class _Photo(NamedTuple):
    """One photo, and what all JSON files that list it say of it; ``hint`` is the name of its folder, if any."""

    image: Mapping[str, Any]
    name: str
    hint: str
    splits: set[str]
    objects: list[_Object]


def _find_json_files(source: Path) -> dict[Path, dict[str, Any]]:
    """Path -> content of the JSON files of instances in or below ``source``, or of ``source`` itself."""
    if source.is_file():
        paths = [source]
    else:
        paths = [path for pattern in ("*.json", "*/*.json") for path in sorted(source.glob(pattern))]
        paths = [path for path in paths if path.name.startswith("instances_")] or paths
    found = {path: read_json(path) for path in paths}
    of_instances = {
        path: content for path, content in found.items() if all(isinstance(content.get(name), list) for name in _LISTS)
    }
    if not of_instances:
        raise DataError(f"{source} holds no JSON file with the lists {', '.join(_LISTS)}")
    return of_instances


def _find_split(path: Path, source: Path) -> str:
    """The split that the name of a JSON file, or of its folder, says."""
    name = f"{path.parent.name if path.parent != source else ''} {path.name}".lower()
    return next((SPLIT_FOLDERS[word] for word in re.split(r"[^a-z]+", name) if word in SPLIT_FOLDERS), "")


def _order(one: _Object) -> tuple[bool, float]:
    """Crowds at the bottom, then from the largest to the smallest, so that no object hides a smaller one."""
    annotation = one[1]
    *_, width, height = annotation.get("bbox") or (0.0, 0.0)
    return not annotation.get("iscrowd"), -float(annotation.get("area") or width * height)


def _parse_object(label: str, annotation: Mapping[str, Any]) -> Drawn:
    drawn = annotation.get("segmentation")
    if isinstance(drawn, list):
        return Drawn(label, [make_polygon(polygon) for polygon in drawn if isinstance(polygon, list)])
    if not isinstance(drawn, dict):
        return Drawn(label)
    try:
        height, width = (int(side) for side in drawn["size"])
        counts = drawn["counts"]
    except (KeyError, TypeError, ValueError):
        raise ImageError("run lengths of it have no size and counts") from None
    runs = parse_compressed_runs(counts) if isinstance(counts, str) else counts
    return Drawn(label, region=Region(0, 0, decode_runs(runs, (height, width), by_column=True)))


def _paint(
    image: Mapping[str, Any],
    annotations: Iterable[_Object],
    classes: ObjectClasses,
    size: Size,
    note: Note,
) -> UInt8Array:
    size = (int(image.get("height") or size[0]), int(image.get("width") or size[1]))
    objects = [_parse_object(*one) for one in sorted(annotations, key=_order)]
    if any(one.region is not None and one.region.pixels_hw.shape != size for one in objects):
        raise ImageError("run lengths of it are not of the photo's size")
    return paint(size, objects, classes, note)


def _read_photo(photos: PictureFolder, name: str, hint: str) -> bytes:
    return read_bytes(photos.find(name, hint), "its photo")


def find_coco(source: Path, *, photos: Path | None = None, classes: Sequence[str] = ()) -> DataSet:
    """Find the photos of COCO's JSON files, and paint their objects: background is class 0, categories by their ids.

    Objects are painted crowds first, then from the largest to the smallest.

    Args:
        source: a folder with JSON files in it or in its folders (those called instances_* where there are any), or one
            such file. Files with train and with val in their names, or their folders' names, are the split.
        photos: folder of photos, at any depth; ``source`` itself, or the folder of the file, when left out.
        classes: names of categories to keep, in the order of the class ids; other objects become background.

    Raises:
        DataError: there is no such file, one cannot be read, or a class does not exist.
    """
    contents = _find_json_files(source)
    pictures = PictureFolder(photos or (source if source.is_dir() else source.parent))
    categories = [one for content in contents.values() for one in sorted(content["categories"], key=lambda c: c["id"])]
    object_classes = ObjectClasses((str(category["name"]) for category in categories), classes)
    found: dict[PurePath, _Photo] = {}
    strangers: list[str] = []
    for path, content in contents.items():
        split = _find_split(path, source)
        labels = {category["id"]: str(category["name"]) for category in content["categories"]}
        by_image: dict[Any, list[_Object]] = {image["id"]: [] for image in content["images"]}
        for annotation in content["annotations"]:
            if annotation.get("image_id") in by_image:
                category = annotation.get("category_id")
                by_image[annotation["image_id"]].append((labels.get(category, f"category {category}"), annotation))
            else:
                strangers.append(str(annotation.get("image_id")))
        hint = path.stem.removeprefix("instances_") if path.stem != "_annotations.coco" else path.parent.name
        for image in content["images"]:
            name = str(image["file_name"]).replace("\\", "/")
            place: PurePath = PurePosixPath(split, name)
            with suppress(ImageError):  # told when it is written
                place = pictures.find(name, hint)
            photo = found.setdefault(place, _Photo(image, name, hint, set(), []))
            photo.splits.add(split)
            photo.objects.extend(by_image[image["id"]])
    examples = [
        Example(
            name=f"{max(photo.splits)}/{photo.name}",
            read_photo=partial(_read_photo, pictures, photo.name, photo.hint),
            read_mask=partial(_paint, photo.image, photo.objects, object_classes),
            split=max(photo.splits),  # validation before train before ""
        )
        for photo in found.values()
    ]
    notes = {NO_IMAGE: strangers, IN_BOTH: [photo.name for photo in found.values() if {*SPLITS} <= photo.splits]}
    return DataSet(object_classes.names, examples, notes={text: names for text, names in notes.items() if names})
