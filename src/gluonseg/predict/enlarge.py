"""From the network's coarse logits to a mask or to probabilities of a picture's own size.

The law is MXNet's ``BilinearResize2D``: bilinear, with the corners as the model's card says. The logits lie at places;
a cell is the square between four places. A mask needs few of the enlarged values: where the greatest class of all four
places is the same, it is the greatest in the whole cell, because each pixel's logits are a weighted mean of theirs.
Only the other cells are enlarged, a bounded number at a time.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from gluonseg.labels import UInt8Array

Float32Array = npt.NDArray[np.float32]
IndexArray = npt.NDArray[np.intp]
Band = tuple[int, Float32Array]
"""Rows of logits: the number of the first one, and (C, rows, w). A band begins with the last row of the one before."""

MAX_VALUES = 1 << 22
"""Enlarged logits held at a time while a mask is computed (16 MB), and weights while probabilities are."""


class _Axis(NamedTuple):
    """For each pixel of a side the number of its cell, which is that of the place before it, and the way from there."""

    cell: IndexArray
    beyond: Float32Array


def compute_positions(places: int, pixels: int, align_corners: bool) -> Float32Array:
    """Where each of ``pixels`` lies on a side of ``places`` values, (pixels,) from 0 to places - 1."""
    # In float32, as MXNet computes it: the masks are to be the same.
    pixel = np.arange(pixels, dtype=np.float32)
    if align_corners or pixels == 1:
        position = np.float32(places - 1) / np.float32(max(1, pixels - 1)) * pixel
    else:
        position = np.float32(places) / np.float32(pixels) * (pixel + np.float32(0.5)) - np.float32(0.5)
        np.clip(position, 0, places - 1, out=position)
    return position


def _build_axis(places: int, pixels: int, align_corners: bool) -> _Axis:
    position = compute_positions(places, pixels, align_corners)
    cell = np.minimum(position.astype(np.intp), places - 1)
    return _Axis(cell, position - cell.astype(np.float32))


def _spread(axis: _Axis, places: int) -> tuple[IndexArray, Float32Array, npt.NDArray[np.bool_]]:
    """Pixels by cell: index, weight of the next place, and whether there is such a pixel; each (places, S).

    S is the number of pixels in the fullest cell.
    """
    first = np.searchsorted(axis.cell, np.arange(places))
    count = np.searchsorted(axis.cell, np.arange(places), side="right") - first
    offset = np.arange(int(count.max()))
    index = np.minimum(first[:, None] + offset, len(axis.cell) - 1)
    return index, axis.beyond[index], offset < count[:, None]


def compute_mask(logits_chw: Float32Array, height: int, width: int, align_corners: bool = True) -> UInt8Array:
    """Class ids (height, width) uint8: the greatest of the enlarged logits (C, h, w) float32.

    Of equal logits the lowest class wins.
    """
    return compute_mask_of_bands([(0, logits_chw)], logits_chw.shape[1], height, width, align_corners)


def compute_mask_of_bands(
    bands: Iterable[Band],
    places_y: int,
    height: int,
    width: int,
    align_corners: bool = True,
    *,
    confidence_hw: UInt8Array | None = None,
) -> UInt8Array:
    """:func:`compute_mask` of logits (C, places_y, w) in bands, as :mod:`gluonseg.predict.tile` gives them.

    Into ``confidence_hw`` (height, width) uint8 go the probabilities of the mask's classes, 0 to 255.
    """
    rows = _build_axis(places_y, height, align_corners)
    mask = np.empty((height, width), dtype=np.uint8)
    for start, logits_chw in bands:
        columns = _build_axis(logits_chw.shape[2], width, align_corners)
        end = start + logits_chw.shape[1]
        # Pixels beyond the band's last row also need the first one of the next band, which begins with this last row.
        first, after = np.searchsorted(rows.cell, (start, end if end == places_y else end - 1))
        part = _Axis(rows.cell[first:after] - start, rows.beyond[first:after])
        if len(part.cell):
            mask[first:after] = _compute_part(logits_chw, part, columns)
            if confidence_hw is not None:
                _fill_confidence(confidence_hw[first:after], mask[first:after], logits_chw, part, align_corners)
    return mask


def _fill_confidence(
    confidence_hw: UInt8Array, mask_hw: UInt8Array, logits_chw: Float32Array, rows: _Axis, align_corners: bool
) -> None:
    """Compute the probabilities of the classes of ``mask_hw``, whose pixels lie at ``rows`` of the logits."""
    height, width = mask_hw.shape
    step = max(1, MAX_VALUES // (len(logits_chw) * width))
    for first in range(0, height, step):
        lines = slice(first, first + step)
        some = _Axis(rows.cell[lines], rows.beyond[lines])
        probabilities = compute_softmax(_enlarge_rows(logits_chw, some, width, align_corners))
        chosen = np.take_along_axis(probabilities, mask_hw[None, lines].astype(np.intp), axis=0)[0]
        confidence_hw[lines] = np.rint(255 * chosen)


# Finite logits may be so large that their sums and differences are not finite.
@np.errstate(invalid="ignore", over="ignore")
def _compute_part(logits_chw: Float32Array, rows: _Axis, columns: _Axis) -> UInt8Array:
    """The mask where ``rows`` and ``columns`` cross."""
    greatest = _find_greatest(logits_chw)
    mask: UInt8Array = greatest[rows.cell][:, columns.cell]
    if not (rows.beyond.any() or columns.beyond.any()):
        return mask  # every pixel is a place of the logits
    corners = np.pad(greatest, ((0, 1), (0, 1)), mode="edge")
    is_mixed = np.zeros(greatest.shape, dtype=bool)
    for other in (corners[1:, :-1], corners[:-1, 1:], corners[1:, 1:]):
        is_mixed |= greatest != other
    _fill_mixed(mask, logits_chw, np.nonzero(is_mixed), rows, columns)
    return mask


def _find_greatest(logits_chw: Float32Array) -> UInt8Array:
    """The class of each place; numpy's argmax over the first axis would copy all logits."""
    best, found = logits_chw[0].copy(), np.zeros(logits_chw.shape[1:], dtype=np.uint8)
    for class_id in range(1, len(logits_chw)):
        found[logits_chw[class_id] > best] = class_id
        np.maximum(best, logits_chw[class_id], out=best)
    return found


def _fill_mixed(
    mask: UInt8Array, logits_chw: Float32Array, cells: tuple[IndexArray, ...], rows: _Axis, columns: _Axis
) -> None:
    """Compute the pixels of ``cells`` (rows, columns), and put them into ``mask``."""
    classes, places_y, places_x = logits_chw.shape
    index_y, weight_y, is_row = _spread(rows, places_y)
    index_x, weight_x, is_column = _spread(columns, places_x)
    step = max(1, MAX_VALUES // (classes * index_y.shape[1] * index_x.shape[1]))
    for first in range(0, len(cells[0]), step):
        y, x = (one[first : first + step] for one in cells)
        y_next, x_next = np.minimum(y + 1, places_y - 1), np.minimum(x + 1, places_x - 1)
        beyond_y, beyond_x = weight_y[y][:, :, None], weight_x[x][:, None, :]
        best, found = None, np.zeros((len(y), index_y.shape[1], index_x.shape[1]), dtype=np.uint8)
        for class_id in range(classes):
            plane = logits_chw[class_id]
            top = _mix(plane[y, x], plane[y, x_next], beyond_x)
            bottom = _mix(plane[y_next, x], plane[y_next, x_next], beyond_x)
            value = top * (1 - beyond_y) + bottom * beyond_y
            if best is None:
                best = value
                continue
            found[value > best] = class_id
            np.maximum(best, value, out=best)
        is_there = is_row[y][:, :, None] & is_column[x][:, None, :]
        target_y, target_x = np.broadcast_arrays(index_y[y][:, :, None], index_x[x][:, None, :])
        mask[target_y[is_there], target_x[is_there]] = found[is_there]


def _mix(one: Float32Array, other: Float32Array, beyond: Float32Array) -> Float32Array:
    """Interpolate between the values of two places, (K,) each, with the weights ``beyond`` (K, 1, S): (K, 1, S)."""
    mixed: Float32Array = one[:, None, None] * (1 - beyond) + other[:, None, None] * beyond
    return mixed


def _iter_matrices(places: int, pixels: int, align_corners: bool) -> Iterator[tuple[slice, slice, Float32Array]]:
    """Parts of a side: its pixels, the places around them, and the weights of these, float32 (pixels, places).

    One matrix for the whole side would grow with its square.
    """
    axis = _build_axis(places, pixels, align_corners)
    step = max(1, math.isqrt(MAX_VALUES * pixels // places))
    for first in range(0, pixels, step):
        cell, beyond = axis.cell[first : first + step], axis.beyond[first : first + step]
        start, end = int(cell[0]), min(int(cell[-1]) + 2, places)
        matrix = np.zeros((len(cell), end - start), dtype=np.float32)
        lines = np.arange(len(cell))
        matrix[lines, cell - start] = 1 - beyond
        # Added, not set: the last place is its own neighbour, with weight 0.
        matrix[lines, np.minimum(cell + 1, places - 1) - start] += beyond
        yield slice(first, first + len(cell)), slice(start, end), matrix


def _enlarge_across(maps_chw: Float32Array, width: int, align_corners: bool) -> Float32Array:
    """Resize maps (C, h, w) float32 to (C, h, width)."""
    across = np.empty((*maps_chw.shape[:2], width), dtype=np.float32)
    for pixels, places, matrix in _iter_matrices(maps_chw.shape[2], width, align_corners):
        across[:, :, pixels] = maps_chw[:, :, places] @ matrix.T
    return across


def enlarge(maps_chw: Float32Array, height: int, width: int, align_corners: bool = True) -> Float32Array:
    """Resize maps (C, h, w) float32 to (C, height, width)."""
    count, places_y, _ = maps_chw.shape
    across = _enlarge_across(maps_chw, width, align_corners)
    enlarged = np.empty((count, height, width), dtype=np.float32)
    for pixels, places, matrix in _iter_matrices(places_y, height, align_corners):
        enlarged[:, pixels] = matrix @ across[:, places]
    return enlarged


def compute_softmax(logits_chw: Float32Array) -> Float32Array:
    """Probabilities of the classes, shape (C, ...), of logits of that shape; changes its argument in place."""
    logits_chw -= logits_chw.max(axis=0)
    np.exp(logits_chw, out=logits_chw)
    logits_chw /= logits_chw.sum(axis=0)
    return logits_chw


def compute_probabilities(
    logits_chw: Float32Array, height: int, width: int, align_corners: bool = True
) -> Float32Array:
    """Softmax of the enlarged logits, shape (C, height, width) float32."""
    return compute_softmax(enlarge(logits_chw, height, width, align_corners))


def compute_mean_mask(
    logits: Sequence[Float32Array], height: int, width: int, align_corners: bool = True
) -> UInt8Array:
    """Class ids (height, width) uint8: the greatest mean probability of several logits, (C, h, w) float32 each.

    Each is enlarged before its softmax. Of equal probabilities the lowest class wins.
    """
    mask = np.empty((height, width), dtype=np.uint8)
    step = max(1, MAX_VALUES // (len(logits[0]) * width))
    for first in range(0, height, step):
        rows = slice(first, first + step)
        probabilities = []
        for one in logits:
            axis = _build_axis(one.shape[1], height, align_corners)
            some = _Axis(axis.cell[rows], axis.beyond[rows])
            probabilities.append(compute_softmax(_enlarge_rows(one, some, width, align_corners)))
        mask[rows] = _find_greatest(np.asarray(sum(probabilities)))
    return mask


def _enlarge_rows(maps_chw: Float32Array, rows: _Axis, width: int, align_corners: bool) -> Float32Array:
    """Of what :func:`enlarge` gives the ``rows``."""
    cell, beyond = rows.cell, rows.beyond[:, None]
    start = int(cell[0])
    across = _enlarge_across(maps_chw[:, start : cell[-1] + 2], width, align_corners)
    following = np.minimum(cell + 1, maps_chw.shape[1] - 1)
    # np.take keeps the order of the axes in memory, which an index does not.
    mixed: Float32Array = across.take(cell - start, axis=1) * (1 - beyond)
    mixed += across.take(following - start, axis=1) * beyond
    return mixed
