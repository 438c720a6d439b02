"""TIFFs of every layout, written sample by sample, so that their values are known without a reader."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[Any]
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE = range(4)
RAW, DEFLATE = 1, 8


@dataclass(frozen=True)
class Layout:
    """How the samples of a picture lie in a TIFF; ``block`` is the rows of a strip, or the side of a tile.

    ``extra`` says what the samples after grey or RGB are: 0 nothing, 1 and 2 alpha; ``tags`` are further ones, each a
    list of whole numbers below 65536.
    """

    bits: int = 8
    colours: int = BLACK_IS_ZERO
    in_planes: bool = False
    compression: int = RAW
    byte_order: str = "<"
    block: int = 7
    in_tiles: bool = False
    extra: Sequence[int] = ()
    sample_format: int = 1
    tags: dict[int, list[int]] = field(default_factory=dict)

    def encode(self, block_hwc: Values) -> bytes:
        """The bytes of a strip or tile; each row begins a byte."""
        if self.bits >= 8 and self.bits % 8 == 0:
            data = block_hwc.astype(block_hwc.dtype.newbyteorder(self.byte_order)).tobytes()  # type: ignore[arg-type]
        else:
            rows = block_hwc.reshape(len(block_hwc), -1, 1).astype(np.int64)
            places = np.arange(self.bits - 1, -1, -1)
            data = np.packbits(((rows >> places) & 1).reshape(len(rows), -1).astype(np.uint8), axis=1).tobytes()
        return zlib.compress(data) if self.compression == DEFLATE else data

    def cut(self, plane_hwc: Values) -> list[Values]:
        """The strips or tiles of the picture, or of one of its planes."""
        height, width, side = *plane_hwc.shape[:2], self.block
        if not self.in_tiles:
            return [plane_hwc[top : top + side] for top in range(0, height, side)]
        padded = np.pad(plane_hwc, ((0, -height % side), (0, -width % side), (0, 0)))
        places = [(top, left) for top in range(0, height, side) for left in range(0, width, side)]
        return [padded[top : top + side, left : left + side] for top, left in places]


def build_tiff(values: Values, layout: Layout) -> bytes:
    """The file with ``values``, (H, W) or (H, W, samples), whole numbers of ``layout.bits`` bits."""
    hwc = values if values.ndim == 3 else values[..., np.newaxis]
    samples = hwc.shape[2]
    planes = [hwc[..., sample : sample + 1] for sample in range(samples)] if layout.in_planes else [hwc]
    blocks = [layout.encode(block) for plane in planes for block in layout.cut(plane)]
    starts = [8 + sum(map(len, blocks[:number])) for number in range(len(blocks) + 1)]
    sizes = list(map(len, blocks))
    tags = {
        256: [hwc.shape[1]], 257: [hwc.shape[0]], 258: [layout.bits] * samples, 259: [layout.compression],
        262: [layout.colours], 277: [samples], 284: [2 if layout.in_planes else 1],
        339: [layout.sample_format] * samples,
        **({338: list(layout.extra)} if layout.extra else {}),
        **({320: [value * 257 for value in range(256)] * 3} if layout.colours == PALETTE else {}),
        **({322: [layout.block], 323: [layout.block], 324: starts[:-1], 325: sizes} if layout.in_tiles else {}),
        **({} if layout.in_tiles else {273: starts[:-1], 278: [layout.block], 279: sizes}),
        **layout.tags,
    }  # fmt: skip
    return _assemble(blocks, starts[-1], tags, layout.byte_order)


def _assemble(blocks: Sequence[bytes], end: int, tags: dict[int, list[int]], order: str) -> bytes:
    """Header, blocks, the directory of the tags, and values that have no room in it."""
    entries, behind = b"", b""
    start = end + 2 + 12 * len(tags) + 4
    for tag, numbers in sorted(tags.items()):
        value = struct.pack(f"{order}{len(numbers)}I", *numbers)
        if len(value) > 4:
            value, behind = struct.pack(f"{order}I", start + len(behind)), behind + value
        entries += struct.pack(f"{order}HHI", tag, 4, len(numbers)) + value
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", end)
    return head + b"".join(blocks) + struct.pack(f"{order}H", len(tags)) + entries + bytes(4) + behind
