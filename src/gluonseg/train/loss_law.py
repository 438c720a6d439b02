"""The law of a loss: cross-entropy, dice, focal loss, online hard examples and sums of them, in numpy.

The gradient of every loss here has one form, which :mod:`gluonseg.train.coarse_loss` computes row by row. Let p_c be
the softmax of a pixel with the true class t: the gradient of its logit of class c is

    u (p_c - [c = t]) + s p_c (a_c - sum of a_k p_k over all classes k)

with a number u for each pixel, a number a_c for each class of the photo, and s = 1 for scored pixels, 0 for others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
LEAST_MISS = 1e-7
"""What 1 - p is at least where it is raised to a power: at 0 a power below 1 has no slope."""


@dataclass(frozen=True)
class LossLaw:
    """What a training minimises: the sum of ``terms``. Let p be the probability of a pixel's true class.

    A pixel's weight w is that of its class divided by the sum over the batch, and 0 if it is not scored.

    * ``cross_entropy``: the sum of -w ln(p).
    * ``focal``: the sum of -w (1 - p)**focal_gamma ln(p), Lin et al. 2017 (arXiv:1708.02002, equation 4). Their alpha
      is the class weight here.
    * ``ohem``: online hard examples, after Shrivastava et al. 2016 (arXiv:1604.03540), who keep the regions of the
      highest loss. Of each photo those pixels are kept whose p is below ``ohem_threshold``, and at least the share
      ``ohem_fraction`` of its scored pixels, those of the lowest p. The loss of a photo is the mean cross-entropy of
      its kept pixels by weight, and counts with the weight of all its pixels.
    * ``dice``: after Milletari et al. 2016 (arXiv:1606.04797), with sums where they have sums of squares. For each
      photo and each class in its mask the overlap is 2 I / (P + G): G is the number of the class's pixels, P the sum
      of its probability over all scored pixels, I that over its own. The loss of a photo is the mean of 1 - overlap
      over these classes by class weight, and counts with the weight of its pixels.

    Each is a sum over photos: it does not depend on how a batch is divided between devices.
    """

    terms: tuple[str, ...] = ("cross_entropy",)
    focal_gamma: float = 2.0
    ohem_threshold: float = 0.7
    ohem_fraction: float = 0.0625

    @property
    def needs_photo(self) -> bool:
        """Whether what one pixel counts depends on all other pixels of its photo."""
        return not {"dice", "ohem"}.isdisjoint(self.terms)


CROSS_ENTROPY = LossLaw()


class Pull(NamedTuple):
    """A loss, and its gradient as the module says: u of each pixel, a of each class (None where no term has it)."""

    loss: float
    of_pixels: FloatArray
    of_classes: FloatArray | None = None


def weigh_pixels(
    law: LossLaw, log_p: FloatArray, class_ids: npt.NDArray[np.uint8], weights: FloatArray, sums: Any = None
) -> Pull:
    """Loss and gradient of some pixels; those of a whole photo where ``law`` needs it.

    Args:
        law: the loss.
        log_p: (R, W), logarithm of the probability of each pixel's true class.
        class_ids: (R, W), all below the number of classes C.
        weights: (R, W); 0 for pixels that are not scored.
        sums: (C,), of the probability of each class over the scored pixels; needed by dice alone.
    """
    pulls = [_TERMS[term](law, log_p, class_ids, weights, sums) for term in law.terms]
    of_pixels = pulls[0].of_pixels if len(pulls) == 1 else np.sum([pull.of_pixels for pull in pulls], axis=0)
    of_classes = next((pull.of_classes for pull in pulls if pull.of_classes is not None), None)
    return Pull(sum(pull.loss for pull in pulls), of_pixels, of_classes)


def _sum_losses(log_p: FloatArray, weights: FloatArray) -> float:
    return -float((weights * log_p).sum(dtype=np.float64))


def _weigh_cross_entropy(_law: LossLaw, log_p: FloatArray, _ids: Any, weights: FloatArray, _sums: Any) -> Pull:
    return Pull(_sum_losses(log_p, weights), weights)


def _weigh_focal(law: LossLaw, log_p: FloatArray, _ids: Any, weights: FloatArray, _sums: Any) -> Pull:
    miss = np.maximum(-np.expm1(log_p), np.float32(LEAST_MISS))
    scaled = np.asarray(weights * miss**law.focal_gamma, np.float32)
    # The slope of -(1 - p)**gamma ln(p), times p: what the pixel's probability itself adds to that of cross-entropy.
    slope = np.asarray(1 - law.focal_gamma * np.exp(log_p) * log_p / miss, np.float32)
    return Pull(_sum_losses(log_p, scaled), scaled * slope)


def _weigh_hard_pixels(law: LossLaw, log_p: FloatArray, _ids: Any, weights: FloatArray, _sums: Any) -> Pull:
    is_scored, p = weights > 0, np.exp(log_p)
    bar = law.ohem_threshold
    if least := math.ceil(law.ohem_fraction * np.count_nonzero(is_scored)):
        bar = max(bar, np.partition(p[is_scored], least - 1)[least - 1])
    # "not above": a probability that is not a number is kept, so that the loss shows it.
    kept = np.where(p > bar, np.float32(0), weights)
    kept *= np.float32(weights.sum(dtype=np.float64) / (kept.sum(dtype=np.float64) or 1.0))
    return Pull(_sum_losses(log_p, kept), kept)


def _weigh_dice(
    _law: LossLaw, log_p: FloatArray, class_ids: npt.NDArray[np.uint8], weights: FloatArray, sums: Any
) -> Pull:
    is_scored, p, flat_ids = weights > 0, np.exp(log_p), class_ids.ravel()

    def sum_by_class(values: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        return np.asarray(np.bincount(flat_ids, values.ravel(), len(sums)), np.float64)

    counts, own = sum_by_class(is_scored), sum_by_class(p * is_scored)
    shares = sum_by_class(weights) / np.maximum(counts, 1)  # class weights, up to a factor
    shares *= weights.sum(dtype=np.float64) / (shares.sum() or 1.0)
    # Of a class that is not there the share is 0, and the total may be.
    totals = np.where(counts > 0, sums + counts, 1)
    overlaps = 2 * own / totals
    of_classes = (shares * overlaps / totals).astype(np.float32)
    of_pixels = (2 * shares / totals).astype(np.float32)[class_ids] * p * is_scored
    return Pull(float((shares * (1 - overlaps)).sum()), of_pixels, of_classes)


_TERMS: Mapping[str, Any] = {
    "cross_entropy": _weigh_cross_entropy,
    "dice": _weigh_dice,
    "focal": _weigh_focal,
    "ohem": _weigh_hard_pixels,
}
