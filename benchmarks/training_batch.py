"""The batch that training steps are measured on, and what decides how many threads they take."""

from __future__ import annotations

import os
from typing import Any

THREADS = "OMP_NUM_THREADS"
SEED = 7
IGNORED_SHARE = 0.05


def draw_batch(crop_size: int, count: int, num_classes: int) -> tuple[Any, Any]:
    """Photos (N, H, W, 3) and class ids (N, H, W) in patches of 16 pixels, uint8; some pixels are ignored."""
    import numpy as np

    from gluonseg.labels import IGNORE

    draw = np.random.default_rng(SEED)
    patches = -(-crop_size // 16)
    coarse = draw.integers(0, num_classes, (count, patches, patches), dtype=np.uint8)
    class_ids = coarse.repeat(16, axis=1).repeat(16, axis=2)[:, :crop_size, :crop_size].copy()
    class_ids[draw.random(class_ids.shape) < IGNORED_SHARE] = IGNORE
    return draw.integers(0, 256, (count, crop_size, crop_size, 3), dtype=np.uint8), class_ids


def forget_empty_thread_count() -> None:
    """An empty ``OMP_NUM_THREADS`` stands for one that is not set; OpenMP would complain of it."""
    if not os.environ.get(THREADS):
        os.environ.pop(THREADS, None)
