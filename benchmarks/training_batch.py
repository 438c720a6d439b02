"""What the training steps of all sides have in common. Needs only numpy, as one of them has no gluonseg."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

CROP, COUNT = 240, 8
LEARNING_RATE, MOMENTUM, WEIGHT_DECAY, AUX_WEIGHT = 1e-3, 0.9, 1e-4, 0.5
IGNORE = 255
_IGNORED_SHARE = 0.05
UInt8Array = npt.NDArray[np.uint8]


def draw_batch(num_classes: int) -> tuple[UInt8Array, UInt8Array]:
    """Photos (N, H, W, 3) and class ids (N, H, W) in patches of 16 pixels, uint8; some pixels are ignored."""
    draw, patches = np.random.default_rng(7), -(-CROP // 16)
    coarse = draw.integers(0, num_classes, (COUNT, patches, patches), dtype=np.uint8)
    class_ids = coarse.repeat(16, axis=1).repeat(16, axis=2)[:, :CROP, :CROP].copy()
    class_ids[draw.random(class_ids.shape) < _IGNORED_SHARE] = IGNORE
    return draw.integers(0, 256, (COUNT, CROP, CROP, 3), dtype=np.uint8), class_ids
