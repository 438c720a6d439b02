"""Segmentation metrics from one confusion matrix, in both conventions.

Rows of the matrix are true classes, columns predicted ones; pixels whose true class is ignore are not counted. There
are two conventions of mean IoU:

* :meth:`Confusion.compute_builtin_miou`: the mean over **all** classes, where a class found neither in the masks
  nor in the predictions counts as 0. GluonCV's ``SegmentationMetric`` computes it so, and SageMaker's
  built-in algorithm logs it as ``validation:mIOU``.
* :meth:`Confusion.compute_miou`: the mean over the classes that occur in the masks or in the predictions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]
PROTOCOLS = GLUONSEG, CSAIL, KERAS = ("gluonseg", "csail", "keras")
"""Ways to score a model: our own, and those of :mod:`gluonseg.predict.protocol`."""


@dataclass(frozen=True)
class Confusion:
    """An int64 confusion matrix of shape (num_classes, num_classes) and the scores computed from it."""

    matrix: IntArray

    @classmethod
    def empty(cls, num_classes: int) -> Confusion:
        """No pixel counted yet."""
        return cls(np.zeros((num_classes, num_classes), dtype=np.int64))

    def __add__(self, other: Confusion) -> Confusion:
        return Confusion(self.matrix + other.matrix)

    @property
    def intersection(self) -> IntArray:
        """Pixels of each class predicted right, shape (num_classes,)."""
        return np.asarray(np.diagonal(self.matrix))

    @property
    def union(self) -> IntArray:
        """Pixels of each class in the mask or in the prediction, shape (num_classes,)."""
        return np.asarray(self.matrix.sum(axis=0) + self.matrix.sum(axis=1) - self.intersection)

    def compute_row_shares(self) -> FloatArray:
        """The matrix with each row divided by its sum: shares of a true class's pixels; 0 for a class without any."""
        return np.asarray(self.matrix / np.maximum(1, self.matrix.sum(axis=1, keepdims=True)))

    def compute_class_iou(self) -> FloatArray:
        """IoU of each class, shape (num_classes,); NaN for a class found nowhere."""
        union = self.union
        iou = np.full(union.shape, np.nan)
        np.divide(self.intersection, union, out=iou, where=union > 0)
        return iou

    def compute_miou(self) -> float:
        """Mean IoU over the classes that occur; NaN when no pixel was counted."""
        present = self.compute_class_iou()[self.union > 0]
        return float(present.mean()) if present.size else float("nan")

    def compute_builtin_miou(self) -> float:
        """Mean IoU over all classes, absent ones as 0; 0 when no pixel was counted."""
        return float((self.intersection / (np.spacing(1) + self.union)).mean())

    def compute_pixel_accuracy(self) -> float:
        """Share of counted pixels predicted right; 0 when no pixel was counted."""
        return float(self.intersection.sum() / (np.spacing(1) + self.matrix.sum()))


def compute_confusion(
    truth: npt.NDArray[np.integer], predicted: npt.NDArray[np.integer], num_classes: int
) -> Confusion:
    """Count pixels by (true class, predicted class).

    ``truth`` and ``predicted`` are integer arrays of one shape. A true value outside 0..num_classes-1
    is ignored (masks hold 255 there); a predicted one raises ValueError.
    """
    if truth.shape != predicted.shape:
        raise ValueError(f"masks and predictions differ in shape: {truth.shape} and {predicted.shape}")
    counted = (truth >= 0) & (truth < num_classes)
    true_ids = truth[counted].astype(np.int64)
    predicted_ids = predicted[counted].astype(np.int64)
    if predicted_ids.size and not (predicted_ids.min() >= 0 and predicted_ids.max() < num_classes):
        raise ValueError(f"predictions must be class ids below {num_classes}")
    cells = np.bincount(true_ids * num_classes + predicted_ids, minlength=num_classes**2)
    return Confusion(cells.reshape(num_classes, num_classes).astype(np.int64))


def describe_confusion(confusion: Confusion, class_names: Sequence[str]) -> dict[str, Any]:
    """All scores of one confusion matrix, per-class IoU by name (None for a class found nowhere)."""

    def drop_nan(value: float) -> float | None:
        return float(value) if np.isfinite(value) else None

    iou = confusion.compute_class_iou()
    return {
        "mIoU": drop_nan(confusion.compute_miou()),
        "mIOU_builtin": confusion.compute_builtin_miou(),
        "pixel_accuracy": confusion.compute_pixel_accuracy(),
        "class_IoU": {name: drop_nan(value) for name, value in zip(class_names, iou, strict=True)},
    }
