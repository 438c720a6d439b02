"""Cityscapes: ``leftImg8bit/SPLIT/CITY/NAME_leftImg8bit.png``, ``gtFine/SPLIT/CITY/NAME_gtFine_labelIds.png``.

Where there are none of those, files called gtCoarse and labelTrainIds in their place.

The nineteen classes that are scored, as in https://github.com/mcordts/cityscapesScripts; all others are void.
"""

from __future__ import annotations

from functools import partial
from itertools import product
from pathlib import Path

from gluonseg.data.decode import read_bytes
from gluonseg.data.palettes import get_palette
from gluonseg.data.prepare.core import DataSet, Example
from gluonseg.data.prepare.files import NO_MASK
from gluonseg.data.prepare.masks import build_value_table, read_by_value
from gluonseg.errors import DataError
from gluonseg.labels import IGNORE

CLASSES = {
    "road": 7, "sidewalk": 8, "building": 11, "wall": 12, "fence": 13, "pole": 17, "traffic light": 19,
    "traffic sign": 20, "vegetation": 21, "terrain": 22, "sky": 23, "person": 24, "rider": 25, "car": 26,
    "truck": 27, "bus": 28, "train": 31, "motorcycle": 32, "bicycle": 33,
}  # fmt: skip
"""Class -> its label in a labelIds file; the others, 0 to 33 and 255 (license plates), are void."""
_SPLITS = {"train": "train", "train_extra": "train", "val": "validation"}
_LABELS = {
    "labelIds": dict.fromkeys((*range(34), 255), IGNORE) | {label: n for n, label in enumerate(CLASSES.values())},
    "labelTrainIds": {255: IGNORE} | {n: n for n in range(len(CLASSES))},
}
"""End of a mask's name -> class id of each of its labels."""


def find_cityscapes(source: Path) -> DataSet:
    """Find the pairs of Cityscapes, finely drawn where there are such masks; ``source`` holds leftImg8bit and gtFine.

    The masks of its test folder are empty and are passed over. Raises DataError when no mask is found.
    """
    for kind, labels in product(("gtFine", "gtCoarse"), _LABELS):
        end = f"_{kind}_{labels}.png"
        masks = sorted((source / kind).glob(f"*/*/*{end}"))
        if masks:
            break
    else:
        raise DataError(f"{source} holds no mask such as gtFine/train/CITY/NAME_gtFine_labelIds.png")
    values = build_value_table(_LABELS[labels])
    examples = []
    photos = {path.relative_to(source) for split in _SPLITS for path in source.glob(f"leftImg8bit/{split}/*/*.png")}
    for mask in masks:
        split, city = mask.parts[-3:-1]
        name = mask.name.removesuffix(end)
        photo = Path("leftImg8bit", split, city, f"{name}_leftImg8bit.png")
        photos.discard(photo)
        if split in _SPLITS:
            read_photo = partial(read_bytes, source / photo, "its photo")
            examples.append(
                Example(f"{split}/{city}/{name}.png", read_photo, partial(read_by_value, values, mask), _SPLITS[split])
            )
    left_out = {str(photo): NO_MASK for photo in sorted(photos)}
    return DataSet(tuple(CLASSES), examples, get_palette("cityscapes"), left_out)
