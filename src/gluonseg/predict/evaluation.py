"""Scoring a model on whole images at their own size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
import numpy.typing as npt

from gluonseg.data.dataset import Dataset
from gluonseg.metrics import Confusion, compute_confusion

UInt8Array = npt.NDArray[np.uint8]
Progress = Callable[[int], None]


class MaskPredictor(Protocol):
    """Anything that turns an RGB picture (H, W, 3) uint8 into class ids (H, W) uint8."""

    def predict_mask(self, image_hwc: UInt8Array) -> UInt8Array: ...


def evaluate_dataset(
    predictor: MaskPredictor, dataset: Dataset, num_classes: int, progress: Progress | None = None
) -> Confusion:
    """Predict every image once, whole and at its own size, and count all scored pixels.

    ``progress`` is called with 1 after each image.
    """
    confusion = Confusion.empty(num_classes)
    for index in range(len(dataset)):
        image, class_ids = dataset.read(index)
        confusion += compute_confusion(class_ids, predictor.predict_mask(image), num_classes)
        if progress:
            progress(1)
    return confusion
