"""Large pictures in tiles, so that memory depends on the tile and not on the picture.

Tiles begin at multiples of the network's stride; so the places of their logits are those of the whole
picture's, and where tiles overlap they are blended, each with a weight that falls towards its border, where
it knows least of what is around it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from gluonseg.predict.engine import STRIDE, Float32Array, UInt8Array

MAX_NETWORK_PIXELS = 4_000_000
"""Larger pictures are shrunk to this for the network, which takes seconds a million pixels, unless told otherwise."""
MAX_WHOLE_PIXELS = 1 << 20
"""Up to this a picture goes through the network as one."""
TILE = 768
OVERLAP = 128
"""Pixels a side, multiples of the stride."""


def find_spans(length: int, tile: int = TILE, overlap: int = OVERLAP) -> list[tuple[int, int]]:
    """(start, end) in pixels of the tiles along a side of ``length``; neighbours share at least ``overlap``."""
    if length <= tile:
        return [(0, length)]
    last = -(-(length - tile) // STRIDE) * STRIDE
    count = -(-last // (tile - overlap)) + 1
    starts = [round(last * number / (count - 1) / STRIDE) * STRIDE for number in range(count)]
    return [(start, min(start + tile, length)) for start in starts]


def _build_ramp(start: int, end: int, length: int, overlap: int) -> Float32Array:
    """Weight of each place of a tile: 1, falling to near 0 over ``overlap`` pixels at an end that is not the side's."""
    places = -(-(end - start) // STRIDE)
    number, fade = np.arange(places, dtype=np.float32) + 0.5, overlap / STRIDE
    ramp = np.ones(places, dtype=np.float32)
    if start > 0:
        ramp = np.minimum(ramp, number / fade)
    if end < length:
        ramp = np.minimum(ramp, number[::-1] / fade)
    return ramp


def compute_tiled_logits(
    compute_logits: Callable[[UInt8Array], Float32Array],
    image_hwc: UInt8Array,
    tile: int = TILE,
    overlap: int = OVERLAP,
) -> Float32Array:
    """Logits (C, ceil(H/8), ceil(W/8)) float32 of an RGB picture (H, W, 3) uint8, a tile at a time.

    ``compute_logits`` is that of an engine.
    """
    height, width = image_hwc.shape[:2]
    total: Float32Array | None = None
    weight = np.zeros((-(-height // STRIDE), -(-width // STRIDE)), dtype=np.float32)
    for top, bottom in find_spans(height, tile, overlap):
        down = _build_ramp(top, bottom, height, overlap)
        for left, right in find_spans(width, tile, overlap):
            logits = compute_logits(np.ascontiguousarray(image_hwc[None, top:bottom, left:right]))[0]
            share = down[:, None] * _build_ramp(left, right, width, overlap)
            if total is None:
                total = np.zeros((len(logits), *weight.shape), dtype=np.float32)
            y, x = top // STRIDE, left // STRIDE
            place = np.s_[..., y : y + share.shape[0], x : x + share.shape[1]]
            total[place] += logits * share
            weight[place] += share
    assert total is not None  # a picture has at least one tile
    total /= weight
    return total
