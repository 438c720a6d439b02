"""Scoring a model on whole images at their own size."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Prediction:
    """One image as predicted: ``class_ids`` are those of its mask file, ``mask`` the predicted ones, both (H, W) uint8.

    ``confusion`` counts the image's scored pixels; ``seconds`` are of ``predict_mask`` alone.
    """

    pair: Pair
    class_ids: UInt8Array
    mask: UInt8Array
    confusion: Confusion
    seconds: float


def _check_labels(pair: Pair, class_ids: UInt8Array, num_classes: int) -> None:
    unknown = class_ids[(class_ids >= num_classes) & (class_ids != IGNORE)]
    if unknown.size:
        raise DataError(
            f"{pair.label} has {unknown.size} pixels whose label is no class of the model "
            f"({num_classes} classes); give the label map that it was trained with"
        )


def _predict(predictor: MaskPredictor, dataset: Dataset, index: int, num_classes: int) -> Prediction:
    pair = dataset.pairs[index]
    image, class_ids = dataset.read(index)
    _check_labels(pair, class_ids, num_classes)
    start = time.perf_counter()
    mask = predictor.predict_mask(image)
    seconds = time.perf_counter() - start
    return Prediction(pair, class_ids, mask, compute_confusion(class_ids, mask, num_classes), seconds)


def iter_predictions(predictor: MaskPredictor, dataset: Dataset, num_classes: int) -> Iterator[Prediction]:
    """Predict every image once, in order, whole and at its own size, each when it is asked for.

    Raises DataError when a mask has not its image's size, or a label that is no class of the model, which would
    otherwise just not be counted.
    """
    for index in range(len(dataset)):
        yield _predict(predictor, dataset, index, num_classes)


def evaluate_dataset(
    predictor: MaskPredictor, dataset: Dataset, num_classes: int, progress: Progress | None = None
) -> Confusion:
    """Count all scored pixels of :func:`iter_predictions`, which says what is raised.

    ``progress`` is called with (done, total) after each image.
    """
    confusion = Confusion.empty(num_classes)
    for done, prediction in enumerate(iter_predictions(predictor, dataset, num_classes), 1):
        confusion += prediction.confusion
        if progress:
            progress(done, len(dataset))
    return confusion
