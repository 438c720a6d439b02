"""Scoring a model on whole images at their own size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
import numpy.typing as npt

from gluonseg.data.dataset import Dataset
from gluonseg.data.pairs import Pair
from gluonseg.errors import DataError
from gluonseg.labels import IGNORE
from gluonseg.metrics import Confusion, compute_confusion

UInt8Array = npt.NDArray[np.uint8]
Progress = Callable[[int, int], None]


class MaskPredictor(Protocol):
    """Anything that turns an RGB picture (H, W, 3) uint8 into class ids (H, W) uint8."""

    def predict_mask(self, image_hwc: UInt8Array) -> UInt8Array: ...


def _check_pair(pair: Pair, image: UInt8Array, class_ids: UInt8Array, num_classes: int) -> None:
    if image.shape[:2] != class_ids.shape:
        raise DataError(f"{pair.label} is {_size(class_ids)} (width x height), {pair.image} is {_size(image)}")
    unknown = class_ids[(class_ids >= num_classes) & (class_ids != IGNORE)]
    if unknown.size:
        raise DataError(
            f"{pair.label} has {unknown.size} pixels whose label is no class of the model "
            f"({num_classes} classes); give the label map that it was trained with"
        )


def _size(array_hw: UInt8Array) -> str:
    return f"{array_hw.shape[1]}x{array_hw.shape[0]}"


def evaluate_dataset(
    predictor: MaskPredictor, dataset: Dataset, num_classes: int, progress: Progress | None = None
) -> Confusion:
    """Predict every image once, whole and at its own size, and count all scored pixels.

    ``progress`` is called with (done, total) after each image. Raises DataError when a mask has a label that is no
    class of the model, which would otherwise just not be counted.
    """
    confusion = Confusion.empty(num_classes)
    for index in range(len(dataset)):
        image, class_ids = dataset.read(index)
        _check_pair(dataset.pairs[index], image, class_ids, num_classes)
        confusion += compute_confusion(class_ids, predictor.predict_mask(image), num_classes)
        if progress:
            progress(index + 1, len(dataset))
    return confusion
