"""Large pictures in tiles, so that memory depends on the tile and not on the picture.

Tiles begin at multiples of the network's stride, so that the places of their logits are those of the whole picture's;
where the stride is below 8, at multiples of 32, the stride of the encoder.
Where tiles overlap they are blended, each with a weight that falls towards its border: there the network knows least of
what is around a pixel. Rows of tiles follow one another from top to bottom, and logits that no later row of tiles
changes are handed out at once: of 150 classes at stride 1 the logits of 4 million pixels would take 2.4 GB.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from gluonseg.labels import UInt8Array
from gluonseg.predict.engine import Float32Array
from gluonseg.predict.enlarge import Band

MAX_NETWORK_PIXELS = 4_000_000
"""Larger pictures are shrunk to this for the network, which takes seconds a million pixels, unless told otherwise."""
MAX_WHOLE_PIXELS = 1 << 20
"""Up to this a picture goes through the network as one, unless its logits take more than MAX_BAND_BYTES."""
MAX_BAND_BYTES = 128 << 20
"""Logits of one row of tiles; where they would take more, the tiles are less high."""
TILE = 768
OVERLAP = 128
"""Pixels a side."""
ENCODER_STRIDE = 32
_UNIT = 64
"""Heights of tiles are multiples of this, the largest stride."""

ComputeLogits = Callable[[UInt8Array], Float32Array]


def find_spans(length: int, tile: int = TILE, overlap: int = OVERLAP, stride: int = 8) -> list[tuple[int, int]]:
    """(start, end) in pixels of the tiles along a side of ``length``; neighbours share about ``overlap`` or more."""
    if length <= tile:
        return [(0, length)]
    step = stride if stride >= 8 else ENCODER_STRIDE
    last = -(-(length - tile) // step) * step
    count = -(-last // (tile - overlap)) + 1
    starts = [round(last * number / (count - 1) / step) * step for number in range(count)]
    return [(start, min(start + tile, length)) for start in starts]


def _build_ramp(start: int, end: int, length: int, overlap: int, stride: int) -> Float32Array:
    """Weight of each place of a tile along a side: 1, falling to near 0 over ``overlap`` pixels towards a neighbour."""
    places = -(-(end - start) // stride)
    rise = (np.arange(places, dtype=np.float32) + 0.5) / (overlap / stride)
    ramp = np.ones(places, dtype=np.float32)
    if start > 0:
        ramp = np.minimum(ramp, rise)
    if end < length:
        ramp = np.minimum(ramp, rise[::-1])
    return ramp


def compute_tile_height(width: int, num_classes: int, stride: int) -> int:
    """Pixels: at most TILE, and so few that a row of tiles over ``width`` pixels keeps to MAX_BAND_BYTES."""
    rows = MAX_BAND_BYTES // (4 * num_classes * -(-width // stride))
    return max(2 * _UNIT, min(TILE, rows * stride // _UNIT * _UNIT))


def is_whole(height: int, width: int, num_classes: int, stride: int) -> bool:
    """Whether a picture of that size goes through the network as one."""
    num_bytes = 4 * num_classes * -(-height // stride) * -(-width // stride)
    return height * width <= MAX_WHOLE_PIXELS and num_bytes <= MAX_BAND_BYTES


def iter_bands(
    compute_logits: ComputeLogits,
    image_hwc: UInt8Array,
    num_classes: int,
    stride: int = 8,
    tile: int = TILE,
    overlap: int = OVERLAP,
) -> Iterator[Band]:
    """Logits of an RGB picture (H, W, 3) uint8, tile by tile, as bands from top to bottom; see ``Band``.

    ``compute_logits`` is that of an engine. A band is valid until the next one is asked for.
    """
    height, width = image_hwc.shape[:2]
    places_y, places_x = -(-height // stride), -(-width // stride)
    tile_height = min(tile, compute_tile_height(width, num_classes, stride))
    overlap_height = min(overlap, tile_height // 4)
    spans = find_spans(height, tile_height, overlap_height, stride)
    # One row more than a tile has: the last row of the band before.
    total = np.zeros((num_classes, min(places_y, tile_height // stride + 1), places_x), dtype=np.float32)
    weight = np.zeros(total.shape[1:], dtype=np.float32)
    start = 0
    for number, (top, bottom) in enumerate(spans):
        down = _build_ramp(top, bottom, height, overlap_height, stride)
        for left, right in find_spans(width, tile, overlap, stride):
            logits = compute_logits(np.ascontiguousarray(image_hwc[None, top:bottom, left:right]))[0]
            share = down[:, None] * _build_ramp(left, right, width, overlap, stride)
            logits *= share
            y, x = top // stride - start, left // stride
            place = np.s_[..., y : y + share.shape[0], x : x + share.shape[1]]
            total[place] += logits
            weight[place] += share
        end = spans[number + 1][0] // stride if number + 1 < len(spans) else places_y
        band = total[:, : end - start]
        band /= weight[: end - start]
        weight[: end - start] = 1
        yield start, band
        # The band's last row, and the rows to which the next tiles add, move to the top.
        kept = total.shape[1] - (end - 1 - start)
        for rows in (total, weight):
            rows[..., :kept, :] = rows[..., -kept:, :].copy()
            rows[..., kept:, :] = 0
        start = end - 1
