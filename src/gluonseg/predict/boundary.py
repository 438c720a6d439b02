"""Boundary F-score: how well the contours of a prediction follow those of its mask.

A contour of a class is the row of its pixels that touch another class. Contours of prediction and mask match where
they are within a tolerance of each other: precision is the matched share of the predicted contour, recall that of the
true one, and F = 2PR / (P + R).

* Csurka, Larlus, Perronnin: What is a good evaluation measure for semantic segmentation?, BMVC 2013: the score for
  several classes, and the tolerance of 0.75 % of the image diagonal.
* Perazzi et al.: A benchmark dataset and evaluation methodology for video object segmentation (DAVIS), CVPR 2016: the
  tolerance rounded up to whole pixels, so that a shift by one pixel is forgiven in small pictures too.

Ignored pixels take the class of the nearest scored pixel, in mask and prediction alike. So contours meet in the middle
of an ignored band (which masks often have around objects), whatever was predicted on it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from gluonseg.labels import UInt8Array

BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float64]

TOLERANCE = 0.0075
"""Share of the image diagonal within which contours match."""
_NEIGHBOURS = np.ones((3, 3), dtype=np.uint8)


def fill_ignored(class_ids: UInt8Array, scored: BoolArray) -> UInt8Array:
    """``class_ids`` (H, W) with each pixel that is not ``scored`` given the class of the nearest scored one."""
    if scored.all():
        return class_ids
    # For each pixel the number of the nearest scored pixel.
    _, nearest = cv2.distanceTransformWithLabels(
        (~scored).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )
    table = np.zeros(int(nearest.max()) + 1, dtype=np.uint8)
    table[nearest[scored]] = class_ids[scored]
    filled: UInt8Array = table[nearest]
    return filled


def _find_contour(class_ids: UInt8Array, class_id: int) -> BoolArray:
    """The pixels of a class with a pixel of another class among their eight neighbours; (H, W)."""
    inside = class_ids == class_id
    contour: BoolArray = inside & (cv2.dilate((~inside).astype(np.uint8), _NEIGHBOURS) > 0)
    return contour


def _compute_share_within(contour: BoolArray, other: BoolArray, tolerance: int) -> float:
    """Share of the pixels of ``contour`` at most ``tolerance`` pixels (Euclidean) from one of ``other``."""
    distance = cv2.distanceTransform((~other).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return float((distance[contour] <= tolerance).mean())


def _compute_f(truth: BoolArray, predicted: BoolArray, tolerance: int) -> float:
    """F of two contours: NaN when there is neither, 0 when there is only one."""
    if not truth.any() or not predicted.any():
        return 0.0 if truth.any() or predicted.any() else float("nan")
    precision = _compute_share_within(predicted, truth, tolerance)
    recall = _compute_share_within(truth, predicted, tolerance)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def compute_boundary_f(truth: UInt8Array, predicted: UInt8Array, num_classes: int) -> FloatArray:
    """Boundary F-score of each class in one picture, shape (num_classes,), 0..1.

    ``truth`` and ``predicted`` are class ids (H, W) uint8; a true value of ``num_classes`` or more is ignored. NaN for
    a class without a contour in both, 0 for one with a contour in one of them.
    """
    scored = truth < num_classes
    scores = np.full(num_classes, np.nan)
    if not scored.any():
        return scores
    tolerance = math.ceil(TOLERANCE * math.hypot(*truth.shape))
    true_ids, predicted_ids = fill_ignored(truth, scored), fill_ignored(predicted, scored)
    for class_id in np.union1d(true_ids, predicted_ids):
        contours = _find_contour(true_ids, class_id), _find_contour(predicted_ids, class_id)
        scores[class_id] = _compute_f(*contours, tolerance)
    return scores


def compute_class_means(scores: Sequence[FloatArray]) -> FloatArray:
    """Mean of each class over the pictures in which it has a contour, shape (num_classes,); NaN where it has none."""
    table = np.stack(scores)
    found = ~np.isnan(table)
    means = np.full(table.shape[1], np.nan)
    np.divide(np.where(found, table, 0.0).sum(axis=0), found.sum(axis=0), out=means, where=found.any(axis=0))
    return means


def compute_mean_boundary_f(scores: Sequence[FloatArray]) -> float | None:
    """Mean over the classes of :func:`compute_class_means`; None when no picture has a contour."""
    if not scores:
        return None
    means = compute_class_means(scores)
    found = means[~np.isnan(means)]
    return float(found.mean()) if found.size else None
