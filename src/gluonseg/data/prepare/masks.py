"""Mask files of a data set to class ids: by the value of a pixel, or by its colour."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from gluonseg.data.decode import LABEL_FORMATS, LARGEST_MAX_PIXELS, decode_image, decode_label, read_bytes
from gluonseg.data.prepare.colours import Colour, ColourTable
from gluonseg.data.prepare.core import Note, Size
from gluonseg.errors import DataError, ImageError
from gluonseg.labels import IGNORE, MAX_CLASSES, UNKNOWN, UInt8Array
from gluonseg.text import join_names

UNKNOWN_COLOUR = "colours that are not in the table, not scored"
_MANY_COLOURS = 1 << 16


def build_value_table(class_ids: Mapping[int, int]) -> UInt8Array:
    """A table of 256 class ids, one for each value of a pixel: those of ``class_ids``, else UNKNOWN."""
    table = np.full(256, UNKNOWN, np.uint8)
    for value, class_id in class_ids.items():
        table[value] = class_id
    return table


def read_by_value(table: UInt8Array, path: Path, _size: Size, _note: Note) -> UInt8Array:
    """Class ids (H, W) of a mask by its values; raises ImageError for a value that ``table`` does not know."""
    return _look_up(_decode_values(read_bytes(path, "its mask")), table)


def _decode_values(data: bytes) -> UInt8Array:
    try:
        return decode_label(data, "its mask", max_pixels=LARGEST_MAX_PIXELS)
    except ImageError as error:
        if "colour mask" not in str(error):
            raise
        fix = "gluonseg prepare folders PHOTOS OUT --masks MASKS --by colour reads it"
        raise ImageError(f"its mask is in colour; {fix}") from None


def _decode_colours(data: bytes) -> UInt8Array:
    return decode_image(data, "its mask", formats=LABEL_FORMATS, max_pixels=LARGEST_MAX_PIXELS)


def _look_up(value_hw: UInt8Array, table: UInt8Array) -> UInt8Array:
    mask_hw = table[value_hw]
    if (mask_hw == UNKNOWN).any():
        raise ImageError(f"its mask holds the label {value_hw[mask_hw == UNKNOWN].min()}, which no class has")
    return mask_hw


def read_by_value_or_colour(values: UInt8Array, table: ColourTable, path: Path, size: Size, note: Note) -> UInt8Array:
    """As :func:`read_by_value`, and as :func:`read_by_colour` where the mask is in colour."""
    try:
        value_hw = _decode_values(read_bytes(path, "its mask"))
    except ImageError:
        return read_by_colour(table, path, size, note)
    return _look_up(value_hw, values)


def read_by_colour(table: ColourTable, path: Path, _size: Size, note: Note) -> UInt8Array:
    """Class ids (H, W) of a mask by its colours; those that ``table`` does not know are noted and not scored."""
    code_hw = _read_codes(path)
    known = sorted((_encode(colour), class_id) for colour, class_id in table.class_ids.items())
    codes = np.array([code for code, _ in known], np.uint32)
    ids = np.array([class_id for _, class_id in known], np.uint8)
    place_hw = np.searchsorted(codes, code_hw).clip(max=len(codes) - 1)
    is_unknown = codes[place_hw] != code_hw
    if is_unknown.any():
        first = int(code_hw[is_unknown][0])
        note(UNKNOWN_COLOUR, f"{is_unknown.mean():.1%}, such as #{first:06x}")
    return np.where(is_unknown, np.uint8(IGNORE), ids[place_hw])


def _encode(colour: Sequence[int]) -> int:
    return colour[0] << 16 | colour[1] << 8 | colour[2]


def _read_codes(path: Path) -> npt.NDArray[np.uint32]:
    """A mask's colours (H, W), each as one number 0xRRGGBB."""
    rgb = _decode_colours(read_bytes(path, "its mask")).astype(np.uint32)
    code_hw: npt.NDArray[np.uint32] = (rgb[..., 0] << np.uint32(16)) | (rgb[..., 1] << np.uint32(8)) | rgb[..., 2]
    return code_hw


@dataclass
class Contents:
    """What a set of mask files holds: values, colours, and whether values can be class ids."""

    values: set[int] = field(default_factory=set)
    colours: set[Colour] = field(default_factory=set)
    by_colour: bool = False
    """A mask is in colour, or a palette has a colour where another file's has a different one."""
    palette: dict[int, Colour] = field(default_factory=dict)
    """The colour of each index, in masks with a palette."""
    _index_of: dict[Colour, int] = field(default_factory=dict)

    def add(self, path: Path) -> None:
        """Take in one mask; raises ImageError when it cannot be read."""
        data = read_bytes(path, "its mask")
        rgb = _decode_colours(data)
        counted = Image.fromarray(rgb).getcolors(_MANY_COLOURS)
        if counted is None:
            raise ImageError(
                f"its mask has more than {_MANY_COLOURS} colours; name those of the classes with --colours"
            )
        if len(self.colours) < _MANY_COLOURS:
            pixels = [pixel for _, pixel in counted if isinstance(pixel, tuple)]  # all of them, as it is RGB
            self.colours |= {(red, green, blue) for red, green, blue in pixels}
        try:
            value_hw = _decode_values(data)
        except ImageError:  # in colour
            self.by_colour = True
            return
        found = np.flatnonzero(np.bincount(value_hw.ravel())).tolist()
        self.values.update(found)
        first = [rgb.reshape(-1, 3)[np.argmax(value_hw == value)].tolist() for value in found]
        if all(pixel == [value] * 3 for value, pixel in zip(found, first, strict=True)):
            return  # grey, which goes along with any palette
        for value, (red, green, blue) in zip(found, first, strict=True):
            colour = (red, green, blue)
            is_same = self.palette.setdefault(value, colour) == colour
            self.by_colour |= not is_same or self._index_of.setdefault(colour, value) != value


def number_values(values: set[int], class_names: Sequence[str], source: str) -> tuple[tuple[str, ...], list[int]]:
    """Class names, and the value of each class, for masks whose pixels have ``values``.

    255 is not scored, unless 0 is the only other value. ``class_names`` are those of the values 0, 1, ..., or of the
    values that occur, from the lowest; without them a class is called after its value.

    Raises DataError when there are too many values, or names and values do not fit.
    """
    scored = sorted(values if values <= {0, 255} else values - {IGNORE})
    if len(scored) > MAX_CLASSES:
        raise DataError(
            f"the masks in {source} hold {len(scored)} labels: they were resized smoothly, or once saved as JPEG; make "
            "them again"
        )
    if class_names and scored[-1] < len(class_names):
        scored = list(range(len(class_names)))
    elif class_names and len(class_names) != len(scored):
        labels = join_names(map(str, scored), 20)
        raise DataError(
            f"{len(class_names)} class names, and the masks in {source} hold {len(scored)} labels: {labels}"
        )
    return tuple(class_names) or tuple(f"label_{value}" for value in scored), scored
