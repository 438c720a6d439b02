"""Metrics against a brute-force count, GluonCV's own metric, and the arithmetic of a public job log."""

from __future__ import annotations

import math

import mxnet as mx
import numpy as np
import numpy.typing as npt
import pytest
from gluoncv.utils.metrics.segmentation import SegmentationMetric
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gluonseg.labels import IGNORE
from gluonseg.metrics import Confusion, compute_confusion, describe_confusion

Mask = npt.NDArray[np.uint8]


@st.composite
def _masks(draw: st.DrawFn) -> tuple[Mask, Mask, int]:
    """Truth (with ignore), prediction, number of classes; not every class has to occur."""
    num_classes = draw(st.integers(2, 6))
    shape = draw(hnp.array_shapes(min_dims=2, max_dims=2, max_side=6))
    true_ids = st.one_of(st.just(IGNORE), st.integers(0, num_classes - 1))
    truth = draw(hnp.arrays(np.uint8, shape, elements=true_ids))
    predicted = draw(hnp.arrays(np.uint8, shape, elements=st.integers(0, num_classes - 1)))
    return truth, predicted, num_classes


def _count(truth: Mask, predicted: Mask, num_classes: int) -> list[tuple[int, int]]:
    """(intersection, union) of each class, pixel by pixel."""
    pixels = [(int(t), int(p)) for t, p in zip(truth.flat, predicted.flat, strict=True) if t != IGNORE]
    return [(sum(t == c == p for t, p in pixels), sum(c in pair for pair in pixels)) for c in range(num_classes)]


@given(_masks())
def test_equal_to_counting_pixel_by_pixel(case: tuple[Mask, Mask, int]) -> None:
    truth, predicted, num_classes = case
    confusion = compute_confusion(truth, predicted, num_classes)
    counts = _count(truth, predicted, num_classes)
    ious = [inter / union if union else math.nan for inter, union in counts]
    present = [iou for iou in ious if not math.isnan(iou)]
    scored = int((truth != IGNORE).sum())
    assert confusion.matrix.dtype == np.int64
    assert confusion.matrix.sum() == scored
    np.testing.assert_allclose(confusion.compute_class_iou(), ious)
    expected = sum(present) / len(present) if present else math.nan
    np.testing.assert_allclose(confusion.compute_miou(), expected)
    np.testing.assert_allclose(confusion.compute_builtin_miou(), sum(present) / num_classes)
    accuracy = sum(inter for inter, _ in counts) / scored if scored else 0.0
    np.testing.assert_allclose(confusion.compute_pixel_accuracy(), accuracy)


@settings(deadline=None)  # GluonCV's metric goes through MXNet
@given(_masks())
def test_builtin_numbers_are_gluoncvs(case: tuple[Mask, Mask, int]) -> None:
    truth, predicted, num_classes = case
    # GluonCV takes -1 for ignore, and scores instead of class ids.
    label = np.where(truth == IGNORE, -1, truth.astype(np.int32))
    scores = np.eye(num_classes, dtype=np.float32)[predicted].transpose(2, 0, 1)
    metric = SegmentationMetric(num_classes)
    metric.update([mx.nd.array(label[None])], [mx.nd.array(scores[None])])
    accuracy, miou = metric.get()
    confusion = compute_confusion(truth, predicted, num_classes)
    assert confusion.compute_pixel_accuracy() == accuracy
    assert confusion.compute_builtin_miou() == miou


@pytest.mark.parametrize(
    ("truth", "predicted", "iou", "miou", "builtin"),
    [
        pytest.param([0, 0, 1, 1], [0, 0, 1, 1], [1, 1, None], 1.0, 2 / 3, id="absent-everywhere"),
        pytest.param([0, 0, 1, 1], [0, 0, 1, 2], [1, 0.5, 0], 0.5, 0.5, id="predicted-but-absent"),
        pytest.param([0, 0, 2, 2], [0, 0, 0, 0], [0.5, None, 0], 0.25, 0.5 / 3, id="missed-altogether"),
        pytest.param([IGNORE] * 4, [0, 1, 2, 0], [None, None, None], None, 0.0, id="nothing-scored"),
        pytest.param([0, IGNORE], [0, 2], [1, None, None], 1.0, 1 / 3, id="predicted-on-ignore-only"),
    ],
)
def test_edge_cases_of_both_conventions(
    truth: list[int], predicted: list[int], iou: list[float | None], miou: float | None, builtin: float
) -> None:
    confusion = compute_confusion(np.array(truth, np.uint8), np.array(predicted, np.uint8), 3)
    found = describe_confusion(confusion, ["a", "b", "c"])
    assert found["class_IoU"] == dict(zip("abc", iou, strict=True))
    assert found["mIoU"] == miou
    assert found["mIOU_builtin"] == pytest.approx(builtin)


def test_a_class_that_never_occurs_caps_the_builtin_number() -> None:
    """A public job with labels 1..3 and num_classes 4 logged mIOU 0.6058: three quarters of its 0.8077."""
    pixels = 100_000
    right, wrong = round(0.8077 * pixels), round((1 - 0.8077) / 2 * pixels)
    matrix = np.zeros((4, 4), np.int64)
    for class_id in (1, 2, 3):
        # Each class loses as many pixels to the next as it gains: IoU = right / (right + 2 * wrong).
        matrix[class_id, class_id], matrix[class_id, class_id % 3 + 1] = right, wrong
    confusion = Confusion(matrix)
    assert confusion.compute_miou() == pytest.approx(0.8077, abs=5e-5)
    assert confusion.compute_builtin_miou() == pytest.approx(0.6058, abs=5e-5)
    perfect = Confusion(np.diag([0, 7, 5, 9]).astype(np.int64))
    assert perfect.compute_builtin_miou() == pytest.approx(0.75)
    assert perfect.compute_miou() == 1


def test_counts_add_up_beyond_32_bits() -> None:
    confusion = Confusion.empty(2) + Confusion(np.full((2, 2), 2**40, np.int64)) + Confusion(np.eye(2, dtype=np.int64))
    assert confusion.matrix.tolist() == [[2**40 + 1, 2**40], [2**40, 2**40 + 1]]
    assert confusion.compute_miou() == pytest.approx(1 / 3)
    assert confusion.compute_pixel_accuracy() == pytest.approx(0.5)


def test_wrong_input_is_refused() -> None:
    with pytest.raises(ValueError, match="differ in shape"):
        compute_confusion(np.zeros((2, 3), np.uint8), np.zeros((3, 2), np.uint8), 2)
    for wrong in (2, -1):
        with pytest.raises(ValueError, match="class ids below 2"):
            compute_confusion(np.zeros((1, 1), np.int64), np.full((1, 1), wrong, np.int64), 2)
