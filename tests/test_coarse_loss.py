"""The loss that enlarges on the way, against MXNet's operators at full size; extremes, threads, memory."""

from __future__ import annotations

import tracemalloc
from typing import Any

import mxnet as mx
import numpy as np
import numpy.typing as npt
import pytest

from gluonseg.labels import IGNORE
from gluonseg.train.coarse_loss import CoarseLoss, build_enlargement
from gluonseg.train.loss_law import LossLaw
from gluonseg.train.losses import MixedLoss, build_weight_table

Array = npt.NDArray[Any]


def _draw(
    classes: int, coarse: tuple[int, int], size: tuple[int, int], spread: float = 2.0, count: int = 3
) -> tuple[Array, Array, list[Any]]:
    """Class ids with ignored pixels, weights that differ from class to class, outputs of two heads."""
    rng = np.random.default_rng(classes)
    class_ids = rng.integers(0, classes, (count, *size)).astype(np.uint8)
    class_ids[rng.random(class_ids.shape) < 0.2] = IGNORE
    weights = build_weight_table(classes, tuple(rng.uniform(0.5, 2, classes)))[class_ids]
    outputs = [mx.nd.array(rng.normal(0, spread, (count, classes, *coarse))) for _ in range(2)]
    return class_ids, weights, outputs


def _assert_same(found: tuple[Any, list[Any]], expected: tuple[Any, list[Any]], tolerance: float = 1e-6) -> None:
    assert found[0].shape == (1,)
    assert found[0].asscalar() == pytest.approx(expected[0].asscalar(), rel=1e-5)
    for one, other in zip(found[1], expected[1], strict=True):
        assert one.shape == other.shape
        assert one.dtype == other.dtype
        reference = other.asnumpy()
        assert np.abs(one.asnumpy() - reference).max() <= tolerance * np.abs(reference).max()


@pytest.mark.parametrize(
    ("classes", "coarse", "size", "spread"),
    [
        (21, (15, 20), (120, 160), 2),
        (5, (3, 4), (17, 31), 2),
        (5, (1, 1), (8, 8), 2),
        (3, (5, 5), (5, 5), 1),
        (3, (6, 7), (4, 3), 1),
        # Between places whose logits lie far apart, no class is near the greatest of either.
        (2, (8, 8), (64, 64), 1e5),
    ],
)
@pytest.mark.parametrize("align_corners", [True, False])
def test_equal_to_the_loss_of_enlarged_logits(
    classes: int, coarse: tuple[int, int], size: tuple[int, int], spread: float, align_corners: bool
) -> None:
    class_ids, weights, outputs = _draw(classes, coarse, size, spread)
    loss = CoarseLoss(MixedLoss(classes, 0.3), align_corners)
    expected = loss.differentiate_at_once(class_ids, weights, outputs)
    _assert_same(loss.differentiate_by_rows(class_ids, weights, outputs), expected)


@pytest.mark.parametrize(
    "law",
    [
        LossLaw(("focal",), focal_gamma=0.5),
        LossLaw(("ohem",), ohem_threshold=0.0, ohem_fraction=0.25),
        LossLaw(("dice",)),
        LossLaw(("cross_entropy", "dice", "focal", "ohem")),
    ],
)
@pytest.mark.parametrize(
    ("classes", "coarse", "size"), [(21, (15, 20), (120, 160)), (3, (5, 5), (5, 5)), (3, (6, 7), (4, 3))]
)
def test_every_law_is_that_of_autograd_at_full_size(
    law: LossLaw, classes: int, coarse: tuple[int, int], size: tuple[int, int]
) -> None:
    class_ids, weights, outputs = _draw(classes, coarse, size)
    class_ids[1], weights[1] = IGNORE, 0  # a photo without one scored pixel
    loss = CoarseLoss(MixedLoss(classes, 0.3, law), align_corners=False)
    expected = loss.differentiate_at_once(class_ids, weights, outputs)
    assert all(gradient.asnumpy().any() and not gradient[1].asnumpy().any() for gradient in expected[1])
    _assert_same(loss.differentiate_by_rows(class_ids, weights, outputs), expected)


def test_photos_are_independent() -> None:
    """So a batch may be divided between devices anywhere."""
    class_ids, weights, outputs = _draw(4, (4, 4), (32, 32))
    loss = CoarseLoss(MixedLoss(4, 0.5, LossLaw(("dice", "ohem"))))
    total, gradients = loss.differentiate(class_ids, weights, outputs)
    parts = [
        loss.differentiate(class_ids[part], weights[part], [output[part] for output in outputs])
        for part in (slice(0, 1), slice(1, 3))
    ]
    assert total.asscalar() == pytest.approx(sum(part[0].asscalar() for part in parts), rel=1e-6)
    for gradient, *halves in zip(gradients, *(part[1] for part in parts), strict=True):
        np.testing.assert_array_equal(gradient.asnumpy(), np.concatenate([half.asnumpy() for half in halves]))


def test_the_way_is_chosen_by_the_device() -> None:
    class_ids, weights, outputs = _draw(3, (2, 2), (9, 9))
    loss = CoarseLoss(MixedLoss(3, 0.5))
    moved = [output.as_in_context(mx.cpu(1)) for output in outputs]
    total, gradients = loss.differentiate(class_ids, weights, moved)
    assert [one.context for one in (total, *gradients)] == [mx.cpu(1)] * 3
    by_rows = loss.differentiate_by_rows(class_ids, weights, outputs)
    assert all((one.asnumpy() == other.asnumpy()).all() for one, other in zip(gradients, by_rows[1], strict=True))
    assert total.asscalar() == by_rows[0].asscalar()


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize(("coarse", "fine"), [(30, 240), (3, 17), (1, 8), (2, 2), (7, 3)])
def test_enlargement_is_mxnets(coarse: int, fine: int, align_corners: bool) -> None:
    first, matrix = build_enlargement(coarse, fine, align_corners)
    line = np.random.default_rng(0).normal(0, 1, (1, 1, 1, coarse)).astype(np.float32)
    law = {"align_corners": align_corners}
    expected = mx.nd.contrib.BilinearResize2D(mx.nd.array(line), height=1, width=fine, **law).asnumpy().ravel()
    np.testing.assert_allclose(matrix @ line.ravel(), expected, atol=1e-6)
    used = [set(np.flatnonzero(row)) for row in matrix]
    assert all(places <= {start, start + 1} for places, start in zip(used, first, strict=True))


@pytest.mark.parametrize("term", ["cross_entropy", "dice", "focal", "ohem"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_logits_that_are_not_finite_give_such_a_loss(value: float, term: str) -> None:
    class_ids, weights, outputs = _draw(4, (3, 3), (20, 20))
    outputs[0][1, 2, 1, 1] = value
    loss, _ = CoarseLoss(MixedLoss(4, 0.5, LossLaw((term,)))).differentiate(class_ids, weights, outputs)
    assert not np.isfinite(loss.asscalar())


@pytest.mark.parametrize("way", ["differentiate_by_rows", "differentiate_at_once"])
def test_float16_outputs(way: str) -> None:
    class_ids, weights, outputs = _draw(4, (6, 6), (48, 48))
    weights /= weights.sum()
    halves = [output.astype("float16") for output in outputs]
    loss = CoarseLoss(MixedLoss(4, 0.5))
    total, gradients = getattr(loss, way)(class_ids, weights, halves)
    assert total.dtype == np.float32
    assert {gradient.dtype for gradient in gradients} == {np.float16}
    expected = loss.differentiate_by_rows(class_ids, weights, [half.astype("float32") for half in halves])
    _assert_same((total, [one.astype("float32") for one in gradients]), expected, 1e-3)


def test_the_number_of_threads_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    class_ids, weights, outputs = _draw(21, (10, 10), (80, 80), count=5)
    expected = CoarseLoss(MixedLoss(21, 0.5)).differentiate(class_ids, weights, outputs)
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    _assert_same(CoarseLoss(MixedLoss(21, 0.5)).differentiate(class_ids, weights, outputs), expected, 0)


@pytest.mark.parametrize("terms", [("cross_entropy",), ("cross_entropy", "dice", "focal", "ohem")])
def test_full_size_logits_are_never_held(terms: tuple[str, ...]) -> None:
    class_ids, weights, outputs = _draw(64, (16, 16), (128, 128), count=4)
    loss = CoarseLoss(MixedLoss(64, 0.5, LossLaw(terms)))
    loss.differentiate(class_ids, weights, outputs)  # what is imported and kept the first time is not meant
    tracemalloc.start()
    loss.differentiate(class_ids, weights, outputs)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    full = 4 * 64 * 128 * 128 * 4
    assert peak < 0.6 * full
