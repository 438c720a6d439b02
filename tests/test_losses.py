"""The losses against plain numpy and GluonCV's, their edge cases, and balanced class weights."""

from __future__ import annotations

from typing import Any

import mxnet as mx
import numpy as np
import numpy.typing as npt
import pytest
from gluoncv.loss import MixSoftmaxCrossEntropyLoss

from gluonseg.labels import IGNORE
from gluonseg.train.loss_law import CROSS_ENTROPY, LossLaw
from gluonseg.train.losses import MixedLoss, build_weight_table, compute_balanced_weights

NUM_CLASSES = 4
Array = npt.NDArray[Any]


def _draw() -> tuple[Array, Array, Array]:
    """Class ids (2, 5, 6) with ignore, and the logits of two heads."""
    rng = np.random.default_rng(0)
    class_ids = rng.integers(0, NUM_CLASSES, (2, 5, 6)).astype(np.uint8)
    class_ids[rng.random(class_ids.shape) < 0.3] = IGNORE
    main, aux = rng.normal(0, 3, (2, 2, NUM_CLASSES, 5, 6)).astype(np.float32)
    return class_ids, main, aux


def _compute(
    class_ids: Array,
    weights: Array,
    *outputs: Any,
    aux_weight: float = 0.5,
    hybrid: bool = True,
    law: LossLaw = CROSS_ENTROPY,
) -> Any:
    loss = MixedLoss(NUM_CLASSES, aux_weight, law)
    if hybrid:
        loss.hybridize()
    arrays = [output if isinstance(output, mx.nd.NDArray) else mx.nd.array(output) for output in outputs]
    return loss(mx.nd.array(class_ids.astype(np.float32)), mx.nd.array(weights), *arrays)


def _expect(class_ids: Array, weights: Array, logits: Array) -> float:
    """Weighted sum of -log softmax at the true class, pixel by pixel in float64."""
    total = 0.0
    for (n, y, x), class_id in np.ndenumerate(class_ids):
        if class_id != IGNORE:
            z = logits[n, :, y, x].astype(np.float64)
            total += weights[n, y, x] * (np.log(np.exp(z - z.max()).sum()) + z.max() - z[class_id])
    return total


@pytest.mark.parametrize(("class_weights", "hybrid"), [((), False), ((1.0, 0.5, 4.0, 2.0), True)])
def test_equal_to_numpy(class_weights: tuple[float, ...], hybrid: bool) -> None:
    class_ids, main, aux = _draw()
    weights = build_weight_table(NUM_CLASSES, class_weights)[class_ids]
    found = _compute(class_ids, weights, main, aux, aux_weight=0.3, hybrid=hybrid)
    assert found.shape == (1,)
    expected = _expect(class_ids, weights, main) + 0.3 * _expect(class_ids, weights, aux)
    assert found.asscalar() == pytest.approx(expected, rel=1e-5)


def _softmax(logits: Array) -> Array:
    """Of logits (C, P), in float64."""
    z = np.exp(logits.astype(np.float64) - logits.max(axis=0))
    return np.asarray(z / z.sum(axis=0))


def _expect_photo(law: LossLaw, class_ids: Array, weights: Array, logits: Array) -> float:
    """One term's loss of one photo, word by word as the law has it; class ids and weights (P,), logits (C, P)."""
    scored = class_ids != IGNORE
    ids, w, p_all = class_ids[scored], weights[scored].astype(np.float64), _softmax(logits[:, scored])
    p = p_all[ids, np.arange(len(ids))]
    if law.terms == ("focal",):
        return float((w * (1 - p) ** law.focal_gamma * -np.log(p)).sum())
    if law.terms == ("ohem",):
        least = int(np.ceil(law.ohem_fraction * len(p)))
        kept = np.zeros(len(p), bool)
        kept[np.argsort(p)[:least]] = True
        kept |= p < law.ohem_threshold
        return float(w.sum() * (w[kept] * -np.log(p[kept])).sum() / w[kept].sum())
    total, share = 0.0, 0.0
    for class_id in np.unique(ids):
        is_class = (ids == class_id).astype(float)
        overlap = 2 * (p_all[class_id] * is_class).sum() / (p_all[class_id].sum() + is_class.sum())
        weight = w[ids == class_id][0]
        total, share = total + weight * (1 - overlap), share + weight
    return float(w.sum() * total / share)


@pytest.mark.parametrize(
    "law",
    [
        LossLaw(("focal",)),
        LossLaw(("focal",), focal_gamma=0.5),
        LossLaw(("ohem",), ohem_threshold=0.3),
        LossLaw(("ohem",), ohem_threshold=0.0, ohem_fraction=0.25),
        LossLaw(("dice",)),
    ],
)
def test_each_term_is_what_the_law_says(law: LossLaw) -> None:
    class_ids, main, aux = _draw()
    class_ids[1][class_ids[1] == 2] = 1  # a class that is in one photo only
    weights = build_weight_table(NUM_CLASSES, (1.0, 0.5, 4.0, 2.0))[class_ids]
    expected = sum(
        share * _expect_photo(law, class_ids[n].ravel(), weights[n].ravel(), logits[n].reshape(NUM_CLASSES, -1))
        for share, logits in ((1, main), (0.5, aux))
        for n in range(2)
    )
    assert _compute(class_ids, weights, main, aux, law=law).asscalar() == pytest.approx(expected, rel=1e-5)


def test_a_sum_is_the_sum_of_its_terms() -> None:
    class_ids, main, aux = _draw()
    weights = build_weight_table(NUM_CLASSES)[class_ids]
    terms = ("cross_entropy", "dice", "ohem", "focal")
    found, *parts = (
        _compute(class_ids, weights, main, aux, law=LossLaw(one)).asscalar()
        for one in (terms, *((term,) for term in terms))
    )
    assert found == pytest.approx(sum(parts), rel=1e-6)


def test_mean_and_gradient_are_gluoncvs() -> None:
    """GluonCV divides its sum over scored pixels by all pixels; its gradient, by the scored ones, as here."""
    class_ids, *outputs = _draw()
    weights = build_weight_table(NUM_CLASSES)[class_ids]
    ours, theirs = ([mx.nd.array(output) for output in outputs] for _ in range(2))
    for output in (*ours, *theirs):
        output.attach_grad()
    label = mx.nd.array(np.where(class_ids == IGNORE, -1, class_ids.astype(np.int32)))
    reference = MixSoftmaxCrossEntropyLoss(aux=True, aux_weight=0.5)
    with mx.autograd.record():
        loss = _compute(class_ids, weights, *ours) / weights.sum()
        reference_loss = reference(*theirs, label)
    loss.backward()
    reference_loss.backward()
    scored = float(weights.mean())
    assert loss.asscalar() * scored == pytest.approx(float(reference_loss.mean().asscalar()), rel=1e-5)
    # SoftmaxOutput, GluonCV's operator, writes its gradient regardless of aux_weight.
    np.testing.assert_allclose(ours[0].grad.asnumpy(), theirs[0].grad.asnumpy(), atol=1e-7)
    np.testing.assert_allclose(ours[1].grad.asnumpy(), 0.5 * theirs[1].grad.asnumpy(), atol=1e-7)
    assert not np.abs(ours[0].grad.asnumpy()).sum(axis=1)[class_ids == IGNORE].any()


def test_float16_logits_are_summed_in_float32() -> None:
    class_ids = np.zeros((1, 300, 300), np.uint8)
    logits = mx.nd.zeros((1, NUM_CLASSES, 300, 300), dtype="float16")
    found = _compute(class_ids, np.ones(class_ids.shape, np.float32), logits)
    # 124 767 is beyond float16, whose greatest number is 65 504.
    assert found.asscalar() == pytest.approx(90_000 * np.log(NUM_CLASSES), rel=1e-4)


def test_logits_of_any_size_give_a_finite_loss() -> None:
    logits = np.array([1e4, -1e4, 0, 50], np.float32).reshape(1, 4, 1, 1)
    found = _compute(np.full((1, 1, 1), 1, np.uint8), np.ones((1, 1, 1), np.float32), logits)
    assert found.asscalar() == pytest.approx(2e4)


def test_weight_table() -> None:
    assert build_weight_table(3).tolist() == [1.0] * 3 + [0.0] * 253
    assert build_weight_table(3, (2.0, 0.5, 1.0))[:4].tolist() == [2.0, 0.5, 1.0, 0.0]
    assert build_weight_table(256)[IGNORE - 1 :].tolist() == [1, 0]


def test_balanced_weights() -> None:
    histogram = np.array([800, 0, 150, 50], np.int64)
    weights = compute_balanced_weights(histogram)
    # 1 / sqrt(share), up to a factor; the mean over all pixels is 1.
    assert weights[2] / weights[0] == pytest.approx((800 / 150) ** 0.5)
    assert weights[3] / weights[0] == pytest.approx(4)
    assert weights[1] == 1
    assert sum(w * n for w, n in zip(weights, histogram, strict=True)) / 1000 == pytest.approx(1)
    assert compute_balanced_weights(np.zeros(3, np.int64)) == (1, 1, 1)
