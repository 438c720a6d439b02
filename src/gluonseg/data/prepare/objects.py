"""Objects as people draw them: polygons, boxes, ellipses and run lengths, painted into a mask of class ids."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from gluonseg.data.prepare.colours import NOT_SCORED
from gluonseg.data.prepare.core import Note, Size
from gluonseg.errors import DataError, ImageError
from gluonseg.labels import IGNORE, MAX_CLASSES, UInt8Array
from gluonseg.text import shorten

BACKGROUND = "background"
_BACKGROUNDS = ("background", "_background_")
NO_OBJECT = "no object is drawn, so all of it is background"
NO_AREA = "lines, points and other shapes without an area, passed over"
NOT_CHOSEN = "objects of classes that are not in --classes, background"
UNKNOWN_CLASS = "objects of a class that the data does not define, not scored"
_ELLIPSE_CORNERS = 72
_LEAST_CORNERS = 3

Points = npt.NDArray[np.float64]
"""Corners (N, 2) of a polygon, x and y in pixels; a pixel covers x to x + 1."""


class Region(NamedTuple):
    """Pixels of an object: ``pixels_hw`` is not 0 where it is, its first pixel lies at ``top``, ``left``."""

    top: int
    left: int
    pixels_hw: UInt8Array


class Drawn(NamedTuple):
    """One object: its class, and its polygons or its pixels; neither when it has no area, as a line."""

    label: str
    polygons: Sequence[Points] = ()
    region: Region | None = None


class ObjectClasses:
    """The classes of drawn objects: background, then the others in their order.

    A class called background (or ``_background_``) is class 0; classes such as ``__ignore__`` are not scored. With
    ``chosen`` names those are the classes, and other objects become background.
    """

    def __init__(self, labels: Iterable[str], chosen: Sequence[str] = ()) -> None:
        known = list(dict.fromkeys(labels))
        unknown = sorted(set(chosen) - {*known, *_BACKGROUNDS})
        if unknown:
            raise DataError(f"no object has the class {unknown[0]!r}; the classes are {shorten(', '.join(known), 400)}")
        is_background = {name: name.lower() in _BACKGROUNDS for name in (*known, *chosen)}
        others = [name for name in chosen or known if not is_background[name] and name.lower() not in NOT_SCORED]
        if len(others) >= MAX_CLASSES:
            raise DataError(f"the data has {len(others)} classes, {MAX_CLASSES - 1} can be; choose by --classes")
        self.names = (BACKGROUND, *others)
        self._ids = {name: class_id for class_id, name in enumerate(others, start=1)}
        self._ids |= {name: 0 for name in known if is_background[name]}
        self._ids |= {name: IGNORE for name in known if name.lower() in NOT_SCORED}
        self._left = set(known) - self._ids.keys()

    def find_id(self, label: str, note: Note) -> int:
        """The class id of an object; what has none is noted."""
        if label in self._ids:
            return self._ids[label]
        note(NOT_CHOSEN if label in self._left else UNKNOWN_CLASS, shorten(label, 40))
        return 0 if label in self._left else IGNORE


def paint(size: Size, objects: Iterable[Drawn], classes: ObjectClasses, note: Note) -> UInt8Array:
    """Paint objects in their order, later ones over earlier ones; class ids (H, W), 0 where there is none."""
    mask_hw = np.zeros(size, np.uint8)
    is_empty = True
    for one in objects:
        is_empty = False
        polygons = [polygon for polygon in one.polygons if len(polygon) >= _LEAST_CORNERS]
        if len(polygons) < len(one.polygons) or not (polygons or one.region):
            note(NO_AREA, "")
        if not (polygons or one.region):
            continue
        class_id = classes.find_id(one.label, note)
        for polygon in polygons:
            _fill_polygon(mask_hw, polygon, class_id)
        if one.region is not None:
            _fill_region(mask_hw, one.region, class_id)
    if is_empty:
        note(NO_OBJECT, "")
    return mask_hw


def _fill_region(mask_hw: UInt8Array, region: Region, class_id: int) -> None:
    top, left = max(region.top, 0), max(region.left, 0)
    pixels_hw = region.pixels_hw[top - region.top :, left - region.left :]
    part_hw = mask_hw[top : top + pixels_hw.shape[0], left : left + pixels_hw.shape[1]]
    part_hw[pixels_hw[: part_hw.shape[0], : part_hw.shape[1]] > 0] = class_id


def _fill_polygon(mask_hw: UInt8Array, polygon: Points, class_id: int) -> None:
    """Give ``class_id`` to the pixels whose middle lies inside, by counting edges from the left (even-odd).

    Pillow and OpenCV also fill pixels that the edge only touches, which makes objects larger than COCO's own tool does:
    small ones by a fifth.
    """
    top = max(math.floor(polygon[:, 1].min()), 0)
    left = max(math.floor(polygon[:, 0].min()), 0)
    part_hw = mask_hw[top : max(math.ceil(polygon[:, 1].max()), 0), left : max(math.ceil(polygon[:, 0].max()), 0)]
    height, width = part_hw.shape
    if not part_hw.size:
        return
    crossings = np.zeros((height, width + 1), np.uint8)
    middles = np.arange(height) + 0.5
    corners = polygon - (left, top)
    for (x0, y0), (x1, y1) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        rows = np.flatnonzero((middles >= min(y0, y1)) & (middles < max(y0, y1)))
        if rows.size:
            x = x0 + (middles[rows] - y0) * ((x1 - x0) / (y1 - y0))
            crossings[rows, np.ceil(x - 0.5).clip(0, width).astype(int)] ^= 1
    part_hw[np.bitwise_xor.accumulate(crossings, axis=1)[:, :width] > 0] = class_id


def make_polygon(numbers: Iterable[float]) -> Points:
    """``x1, y1, x2, y2, ...`` as a polygon; ImageError when they are no numbers, or an odd count of them."""
    try:
        points = np.array(list(numbers), np.float64).reshape(-1, 2)
    except (TypeError, ValueError):
        points = np.array([[np.nan, np.nan]])
    if not np.isfinite(points).all():
        raise ImageError("a polygon of it is not a list of numbers x, y")
    return points


def make_box(left: float, top: float, right: float, bottom: float) -> Points:
    """A rectangle as a polygon."""
    return np.array([(left, top), (right, top), (right, bottom), (left, bottom)], np.float64)


def make_ellipse(x: float, y: float, x_radius: float, y_radius: float) -> Points:
    """An ellipse as a polygon."""
    angles = np.linspace(0, 2 * np.pi, _ELLIPSE_CORNERS, endpoint=False)
    return np.column_stack([x + x_radius * np.cos(angles), y + y_radius * np.sin(angles)])


def rotate(points: Points, degrees: float) -> Points:
    """Turn a polygon clockwise, as the picture is seen, around the middle of its bounds."""
    if not degrees:
        return points
    middle = (points.min(axis=0) + points.max(axis=0)) / 2
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    turned: Points = (points - middle) @ np.array([[cos, sin], [-sin, cos]]) + middle
    return turned


def decode_runs(runs: Sequence[int], size: Size, *, by_column: bool) -> UInt8Array:
    """Run lengths, of pixels outside and inside by turns, as 0 and 1 (H, W); ImageError when they do not fill it."""
    lengths = np.asarray(runs, np.int64)
    if lengths.ndim != 1 or (lengths < 0).any() or lengths.sum() != size[0] * size[1]:
        raise ImageError(f"run lengths of it do not fill {size[1]}x{size[0]} pixels")
    pixels = np.repeat(np.arange(len(lengths)) % 2, lengths).astype(np.uint8)
    return pixels.reshape(size, order="F" if by_column else "C")


def parse_compressed_runs(text: str) -> list[int]:
    """COCO's compressed run lengths as numbers.

    Each number is written in letters of six bits from "0" on, the lowest five bits first; the sixth says that more
    follow, the fifth of the last is the sign. From the fourth number on it is the difference to the last but one.
    https://github.com/cocodataset/cocoapi/blob/master/common/maskApi.c (rleFrString)
    """
    runs: list[int] = []
    value = shift = 0
    for code in (ord(letter) - 48 for letter in text):
        value |= (code & 31) << shift
        shift += 5
        if code & 32:
            continue
        if code & 16:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    return runs
