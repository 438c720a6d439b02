"""A mask in colours over its picture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

UInt8Array = npt.NDArray[np.uint8]
_IGNORED_COLOUR = (224, 224, 192)
"""What PASCAL VOC paints pixels that are not scored with."""


def draw_overlay(
    image_hwc: UInt8Array, mask_hw: UInt8Array, colours: Sequence[tuple[int, int, int]], alpha: float = 0.5
) -> UInt8Array:
    """Blend the colours of a mask (H, W) over an RGB picture (H, W, 3) uint8 with opacity ``alpha``."""
    palette = np.tile(np.asarray(_IGNORED_COLOUR, dtype=np.float32), (256, 1))
    palette[: len(colours)] = np.asarray(colours, dtype=np.float32)
    blended = (1.0 - alpha) * image_hwc.astype(np.float32) + alpha * palette[mask_hw]
    return np.asarray(np.rint(blended), dtype=np.uint8)
