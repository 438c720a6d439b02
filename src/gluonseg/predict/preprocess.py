"""The one way from pixels to the network's input, for training, evaluation, command line and server."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from gluonseg.models.card import IMAGENET_MEAN, IMAGENET_STD

Float32Array = npt.NDArray[np.float32]


def normalise_images(
    images_nhwc: npt.NDArray[np.uint8],
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
) -> Float32Array:
    """RGB images (N, H, W, 3) uint8 to float32 (N, 3, H, W): scaled to 0..1, minus mean, over deviation."""
    scale = np.asarray(255.0 * np.asarray(std), dtype=np.float32)
    offset = np.asarray(np.asarray(mean) / np.asarray(std), dtype=np.float32)
    values = images_nhwc.astype(np.float32)
    values /= scale
    values -= offset
    return np.ascontiguousarray(values.transpose(0, 3, 1, 2))
