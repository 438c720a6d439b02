"""The loss by rows: value and gradient of the loss on enlarged logits, for every size, weight and range."""

from __future__ import annotations

import mxnet as mx
import numpy as np
import pytest

from gluonseg.coarse_loss import CoarseLoss, build_enlargement
from gluonseg.labels import IGNORE
from gluonseg.losses import MixedLoss


def _compare(coarse: tuple[int, int], size: tuple[int, int], classes: int, spread: float) -> None:
    rng = np.random.default_rng(7)
    outputs = [mx.nd.array(rng.normal(0, spread, (2, classes, *coarse))) for _ in range(2)]
    class_ids = rng.integers(0, classes, (2, *size)).astype(np.uint8)
    class_ids[:, :1] = IGNORE
    weights = rng.uniform(0.5, 2, (2, *size)).astype(np.float32)
    weights[class_ids == IGNORE] = 0
    loss = CoarseLoss(MixedLoss(classes, 0.5))
    value, gradients = loss.differentiate_by_rows(class_ids, weights, outputs)
    wanted, wanted_gradients = loss.differentiate_at_once(class_ids, weights, outputs)
    np.testing.assert_allclose(value.asnumpy(), wanted.asnumpy(), rtol=1e-5)
    for found, other in zip(gradients, wanted_gradients, strict=True):
        assert found.shape == other.shape
        assert np.abs((found - other).asnumpy()).max() <= 1e-5 * np.abs(other.asnumpy()).max()


@pytest.mark.parametrize("size", [(40, 40), (33, 57), (8, 120), (1, 9)])
@pytest.mark.parametrize("classes", [2, 21])
def test_value_and_gradient_are_those_of_enlarged_logits(size: tuple[int, int], classes: int) -> None:
    _compare((-(-size[0] // 8), -(-size[1] // 8)), size, classes, spread=2.0)


def test_logits_far_apart_neither_overflow_nor_vanish() -> None:
    _compare((5, 4), (40, 32), 6, spread=60.0)


def test_150_classes_in_blocks() -> None:
    _compare((12, 12), (96, 96), 150, spread=1.0)


def test_without_a_scored_pixel_loss_and_gradient_are_0() -> None:
    outputs = [mx.nd.random.normal(shape=(1, 3, 4, 4))]
    class_ids = np.full((1, 32, 32), IGNORE, np.uint8)
    weights = np.zeros((1, 32, 32), np.float32)
    value, (gradient,) = CoarseLoss(MixedLoss(3, 0.5)).differentiate(class_ids, weights, outputs)
    assert value.asscalar() == 0
    assert not gradient.asnumpy().any()


@pytest.mark.parametrize(("coarse", "fine"), [(1, 1), (1, 9), (5, 33), (30, 240), (7, 3)])
def test_the_matrix_enlarges_as_mxnet_does(coarse: int, fine: int) -> None:
    values = np.random.default_rng(0).normal(size=(1, 1, 1, coarse)).astype(np.float32)
    wanted = mx.nd.contrib.BilinearResize2D(mx.nd.array(values), height=1, width=fine).asnumpy()
    np.testing.assert_allclose(values[0, 0] @ build_enlargement(coarse, fine)[1].T, wanted[0, 0], atol=1e-6)
