"""PASCAL VOC, and every tool that writes its layout: photos, masks in VOC's colours, lists.

``JPEGImages/NAME.jpg``, ``SegmentationClass/NAME.png``, ``ImageSets/Segmentation/{train,val}.txt``; with classes of
its own also ``labelmap.txt`` (CVAT) or ``class_names.txt`` (labelme). http://host.robots.ox.ac.uk/pascal/VOC/voc2012/
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from gluonseg.data.decode import read_bytes
from gluonseg.data.prepare.colours import ColourTable, build_colour_table, read_colour_table
from gluonseg.data.prepare.core import DataSet, Example, Note, Size
from gluonseg.data.prepare.files import IN_BOTH, NO_MASK, find_folder, index_stems, read_lines
from gluonseg.data.prepare.masks import build_value_table, read_by_colour, read_by_value_or_colour
from gluonseg.errors import DataError, ImageError
from gluonseg.labels import IGNORE, MAX_CLASSES, UInt8Array, voc_colours

VOC_NAMES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
_LISTS = {"train": ("train.txt",), "validation": ("val.txt", "validation.txt")}


def _choose_reading(root: Path, labelmap: Path | None) -> tuple[ColourTable, Callable[[Path, Size, Note], UInt8Array]]:
    """The classes of the set, and how its masks are read."""
    own = labelmap or root / "labelmap.txt"
    if labelmap or own.is_file():
        table = read_colour_table(own)
        return table, partial(read_by_colour, table)
    path = root / "class_names.txt"
    names = [name for name in read_lines(path) if name != "__ignore__"] if path.is_file() else VOC_NAMES
    if len(names) > MAX_CLASSES:
        raise DataError(f"{path} names {len(names)} classes; {MAX_CLASSES} can be")
    colours = voc_colours(IGNORE + 1)
    table = build_colour_table([*zip(names, colours, strict=False), ("void", colours[IGNORE])], str(path))
    values = build_value_table({IGNORE: IGNORE} | {class_id: class_id for class_id in range(len(names))})
    return table, partial(read_by_value_or_colour, values, table)


def _read_lists(root: Path) -> dict[str, set[str]]:
    """Name -> splits, of the lists of the set."""
    folder = root / "ImageSets" / "Segmentation"
    paths = [(split, folder / name) for split, names in _LISTS.items() for name in names]
    found: dict[str, set[str]] = {}
    for split, path in paths:
        for line in read_lines(path) if path.is_file() else ():
            found.setdefault(line.split()[0], set()).add(split)
    return found


def _find_masks(root: Path) -> dict[str, Path]:
    # labelme writes arrays into SegmentationClass and pictures beside it, in some of its versions.
    folders = [root / name for name in ("SegmentationClass", "SegmentationClassPNG") if (root / name).is_dir()]
    return next((masks for masks in map(index_stems, folders) if masks), {})


def find_voc(source: Path, *, photos: Path | None = None, colours: Path | None = None) -> DataSet:
    """Find the pairs of a data set in VOC's layout.

    Args:
        source: a folder that holds SegmentationClass, or one above it such as VOCdevkit.
        photos: folder of photos, in place of JPEGImages.
        colours: a colour table, in place of labelmap.txt.

    Raises:
        DataError: a folder is missing, or a table cannot be read.
    """
    root = find_folder(source, "SegmentationClass").parent
    photo_folder = photos or root / "JPEGImages"
    if not photo_folder.is_dir():
        raise DataError(f"{photo_folder} is not a folder; name the one with the photos with --photos")
    table, read_mask = _choose_reading(root, colours)
    masks, pictures, splits = _find_masks(root), index_stems(photo_folder), _read_lists(root)
    examples = [
        Example(
            name=f"{stem}.jpg",
            read_photo=partial(_read_photo, pictures, stem),
            read_mask=partial(_read_mask, masks, stem, read_mask),
            split=max(splits.get(stem, ("",))),
        )
        for stem in sorted({*masks, *splits})
    ]
    without = {
        str(pictures[stem].relative_to(photo_folder)): NO_MASK for stem in sorted({*pictures} - {*masks, *splits})
    }
    both = sorted(stem for stem, names in splits.items() if len(names) > 1)
    return DataSet(table.class_names, examples, table.colours, without, {IN_BOTH: both} if both else {})


def _read_photo(pictures: Mapping[str, Path], stem: str) -> bytes:
    if stem not in pictures:
        raise ImageError("its photo is missing")
    return read_bytes(pictures[stem], "its photo")


def _read_mask(
    masks: Mapping[str, Path], stem: str, read: Callable[[Path, Size, Note], UInt8Array], size: Size, note: Note
) -> UInt8Array:
    if stem not in masks:
        raise ImageError(NO_MASK)
    return read(masks[stem], size, note)
