"""Boundary F-score against distances measured pair by pair, and against values worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest

from gluonseg.predict.boundary import compute_boundary_f, compute_class_means, compute_mean_boundary_f, fill_ignored

Mask = npt.NDArray[np.uint8]
CLASSES = 4


def list_contour(class_ids: Mask, class_id: int) -> list[tuple[int, int]]:
    """By the definition: pixels of the class whose 3x3 neighbourhood has another class."""
    height, width = class_ids.shape
    return [
        (y, x)
        for y in range(height)
        for x in range(width)
        if class_ids[y, x] == class_id and (class_ids[max(0, y - 1) : y + 2, max(0, x - 1) : x + 2] != class_id).any()
    ]


def measure_f(truth: Mask, predicted: Mask, class_id: int) -> float:
    limit = math.ceil(0.0075 * math.sqrt(truth.shape[0] ** 2 + truth.shape[1] ** 2))
    a, b = list_contour(truth, class_id), list_contour(predicted, class_id)
    distance = np.array([[math.dist(p, q) for q in b] for p in a])
    recall, precision = (distance.min(axis=1) <= limit).mean(), (distance.min(axis=0) <= limit).mean()
    return float(2 * precision * recall / (precision + recall))


def draw_blocks(seed: int, height: int, width: int, ignored: float = 0.0) -> Mask:
    """Blocks of 5 pixels in random classes, a share of them ignored."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, CLASSES, (height // 5 + 1, width // 5 + 1)).astype(np.uint8)
    blocks[rng.random(blocks.shape) < ignored] = 255
    return np.ascontiguousarray(np.kron(blocks, np.ones((5, 5), dtype=np.uint8))[:height, :width])


@pytest.mark.parametrize("seed", range(2))
def test_random_masks_agree_with_the_definition(seed: int) -> None:
    truth = draw_blocks(seed, 33, 47)
    predicted = np.roll(truth, 1 + seed, axis=seed)
    expected = [measure_f(truth, predicted, class_id) for class_id in range(CLASSES)]
    assert len({round(value, 3) for value in expected}) > 1
    np.testing.assert_allclose(compute_boundary_f(truth, predicted, CLASSES), expected, rtol=1e-12)


def test_ignored_pixels_take_a_nearest_class() -> None:
    truth = draw_blocks(0, 33, 47, ignored=0.4)
    filled = fill_ignored(truth, truth != 255)
    np.testing.assert_array_equal(filled[truth != 255], truth[truth != 255])
    places = np.argwhere(truth != 255)
    for y, x in np.argwhere(truth == 255):
        distance = np.hypot(*(places - (y, x)).T)
        nearest = places[distance <= 1.05 * distance.min()]  # OpenCV's distances are that exact here
        assert filled[y, x] in truth[nearest[:, 0], nearest[:, 1]]


def test_what_is_predicted_on_ignored_pixels_is_left_out() -> None:
    truth = draw_blocks(1, 33, 47, ignored=0.4)
    predicted = np.where(truth == 255, draw_blocks(9, 33, 47), truth)
    np.testing.assert_array_equal(compute_boundary_f(truth, predicted, CLASSES), 1.0)
    shifted = np.roll(predicted, 3, axis=0)
    found = compute_boundary_f(truth, shifted, CLASSES)
    assert (found < 1).all()
    shifted[truth == 255] = 1
    np.testing.assert_array_equal(compute_boundary_f(truth, shifted, CLASSES), found)


@pytest.mark.parametrize(
    ("ignored", "column", "expected"),
    [
        *((slice(0), column, expected) for column, expected in ((77, 0), (78, 1), (80, 1), (82, 1), (83, 0))),
        # An ignored band has its contour in the middle.
        *((slice(78, 82), column, expected) for column, expected in ((77, 0), (78, 1), (82, 1), (83, 0))),
    ],
)
def test_an_edge_is_matched_within_the_tolerance_and_not_beyond(ignored: slice, column: int, expected: float) -> None:
    """Two pixels: 0.75 % of the diagonal, 200, is 1.5."""
    truth, predicted = np.zeros((120, 160), dtype=np.uint8), np.zeros((120, 160), dtype=np.uint8)
    truth[:, 80:], predicted[:, column:] = 1, 1
    truth[:, ignored] = 255
    np.testing.assert_array_equal(compute_boundary_f(truth, predicted, 3), [expected, expected, np.nan])


def test_precision_and_recall_by_hand() -> None:
    truth = np.zeros((60, 60), dtype=np.uint8)
    truth[10:20, 10:20] = 1
    predicted = truth.copy()
    predicted[40:45, 40:45] = 1
    # Of class 1: 36 true contour pixels, all found; 16 more are predicted. F = 2 * P / (P + 1), P = 36 / 52.
    assert compute_boundary_f(truth, predicted, 2)[1] == pytest.approx(2 * 36 / (52 + 36))


def test_a_class_in_one_of_both_is_wrong_and_one_in_neither_is_left_out() -> None:
    truth, predicted = np.zeros((20, 20), dtype=np.uint8), np.zeros((20, 20), dtype=np.uint8)
    predicted[5:9, 5:9] = 2
    np.testing.assert_array_equal(compute_boundary_f(truth, predicted, 4), [0.0, np.nan, 0.0, np.nan])
    np.testing.assert_array_equal(compute_boundary_f(predicted, truth, 4), [0.0, np.nan, 0.0, np.nan])


def test_the_edge_of_the_picture_and_of_what_is_ignored_is_no_contour() -> None:
    truth, predicted = np.zeros((20, 20), dtype=np.uint8), np.zeros((20, 20), dtype=np.uint8)
    truth[8:12], predicted[8:12] = 255, 1
    assert np.isnan(compute_boundary_f(truth, predicted, 2)).all()
    assert np.isnan(compute_boundary_f(np.full_like(truth, 255), predicted, 2)).all()


def test_means_go_over_the_photos_of_a_class_and_then_over_the_classes() -> None:
    nan = np.nan
    scores = [np.array([1.0, 0.5, nan, nan]), np.array([0.5, nan, 0.0, nan])]
    np.testing.assert_array_equal(compute_class_means(scores), [0.75, 0.5, 0.0, nan])
    assert compute_mean_boundary_f(scores) == pytest.approx(1.25 / 3)
    assert compute_mean_boundary_f([]) is None
    assert compute_mean_boundary_f([np.full(3, nan)]) is None
