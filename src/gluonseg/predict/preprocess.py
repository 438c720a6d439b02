"""The one way from pixels to the network's input, for training, evaluation, command line and server."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from gluonseg.models.folder.card import IMAGENET_MEAN, IMAGENET_STD

Float32Array = npt.NDArray[np.float32]


def normalise_images(
    images_nhwc: npt.NDArray[np.uint8],
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
) -> Float32Array:
    """RGB images (N, H, W, 3) uint8 to float32 (N, 3, H, W): scaled to 0..1, minus mean, over deviation."""
    table = _compute_table(mean, std)
    batch = np.empty((len(images_nhwc), 3, *images_nhwc.shape[1:3]), dtype=np.float32)
    for image, planes in zip(images_nhwc, batch, strict=True):
        for channel, plane, values in zip(cv2.split(np.ascontiguousarray(image)), planes, table, strict=True):
            cv2.LUT(channel, values, dst=plane)
    return batch


def _compute_table(mean: Sequence[float], std: Sequence[float]) -> Float32Array:
    """What each of the 256 levels becomes, by channel: (3, 256)."""
    scale = np.asarray(255.0 * np.asarray(std), dtype=np.float32)
    offset = np.asarray(np.asarray(mean) / np.asarray(std), dtype=np.float32)
    levels = np.arange(256, dtype=np.float32)
    return np.ascontiguousarray((levels[:, None] / scale - offset).T)
