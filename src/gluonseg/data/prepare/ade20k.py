"""ADE20K as its scene parsing challenge has it, and any data set that is listed as CSAIL's code lists it.

``ADEChallengeData2016/{images,annotations}/{training,validation}/NAME.{jpg,png}`` and ``objectInfo150.txt``. A list
such as ``training.odgt`` is one JSON object a line, with ``fpath_img`` and ``fpath_segm``. In a mask 0 is not scored,
and the class is the value less one. http://sceneparsing.csail.mit.edu
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

from gluonseg.data.decode import read_bytes, read_label
from gluonseg.data.palettes import get_palette
from gluonseg.data.prepare.core import DataSet, Example
from gluonseg.data.prepare.files import find_unpaired, index_stems, parse_json, read_lines
from gluonseg.data.prepare.masks import build_value_table, read_by_value
from gluonseg.errors import DataError, ImageError
from gluonseg.labels import IGNORE, default_class_names

_FOLDERS = {"training": "train", "validation": "validation"}
_NAMES_FILE = "objectInfo150.txt"


class _Pair(NamedTuple):
    photo: Path
    mask: Path
    split: str


def read_object_names(path: Path) -> list[str]:
    """The names in objectInfo150.txt: the first word of each class's, or all its words where two begin alike."""
    full = [line.split("\t")[-1].strip() for line in read_lines(path)[1:]]
    first = [name.partition(",")[0].strip() for name in full]
    count = Counter(first)
    return [short if count[short] == 1 else name for short, name in zip(first, full, strict=True)]


def _read_list(path: Path, source: Path, split: str) -> list[_Pair]:
    """The pairs of an .odgt file; its paths are below ``source``, or below the folder that holds it."""
    pairs = []
    for number, line in enumerate(read_lines(path), start=1):
        entry = parse_json(line.encode(), f"{path} line {number}")
        try:
            names = str(entry["fpath_img"]), str(entry["fpath_segm"])
        except KeyError as error:
            raise DataError(f"{path} line {number} has no {error}") from None
        base = next((base for base in (source, source.parent) if (base / names[0]).exists()), source)
        pairs.append(_Pair(base / names[0], base / names[1], split))
    return pairs


def _find_in_folders(root: Path) -> tuple[list[_Pair], dict[str, str]]:
    pairs: list[_Pair] = []
    left_out: dict[str, str] = {}
    for folder, split in _FOLDERS.items():
        photos, masks = index_stems(root / "images" / folder), index_stems(root / "annotations" / folder)
        pairs += [_Pair(photos[stem], masks[stem], split) for stem in sorted(photos.keys() & masks.keys())]
        left_out |= find_unpaired(photos, masks, root)
    return pairs, left_out


def _count_classes(masks: Iterable[Path]) -> int:
    """The largest value of all masks; those that cannot be read are told when they are written."""
    largest = 0
    for mask in masks:
        with suppress(ImageError):
            values = read_label(mask)
            largest = max(largest, int(values[values != IGNORE].max(initial=0)))
    return largest


def find_ade20k(source: Path, *, classes: Sequence[str] = ()) -> DataSet:
    """Find the pairs of ADE20K, or of the .odgt lists in ``source``.

    Args:
        source: the folder with images/ and annotations/, the one above it, or one with training.odgt and
            validation.odgt (any .odgt files with train and val in their names).
        classes: names in place of those in objectInfo150.txt; without either the masks are read to count the classes.

    Raises:
        DataError: a folder or a list is missing or malformed.
    """
    lists = {
        split: sorted(source.glob(f"*{word}*.odgt")) for word, split in (("train", "train"), ("val", "validation"))
    }
    root = next((path for path in (source, source / "ADEChallengeData2016") if (path / "annotations").is_dir()), source)
    left_out: dict[str, str] = {}
    if any(lists.values()):
        pairs = [pair for split, paths in lists.items() for path in paths for pair in _read_list(path, source, split)]
    elif (root / "annotations").is_dir():
        pairs, left_out = _find_in_folders(root)
    else:
        raise DataError(f"{source} holds neither the folders images and annotations nor .odgt lists")
    names, info = list(classes), root / _NAMES_FILE
    if not names and info.is_file():
        names = read_object_names(info)
    elif not names:
        names = default_class_names(_count_classes(pair.mask for pair in pairs))
    values = build_value_table({0: IGNORE, IGNORE: IGNORE} | {n + 1: n for n in range(len(names))})
    examples = [
        Example(
            name=os.path.relpath(pair.photo, source),
            read_photo=partial(read_bytes, pair.photo, "its photo"),
            read_mask=partial(read_by_value, values, pair.mask),
            split=pair.split,
        )
        for pair in pairs
    ]
    colours = get_palette("ade20k")
    return DataSet(tuple(names), examples, colours if len(names) == len(colours) else (), left_out)
