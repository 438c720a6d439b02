"""The loss of a batch by MXNet's operators at full size, and the class weights.

The auxiliary head has the share that it has in GluonCV's ``MixSoftmaxCrossEntropyLoss``: loss(head) + ``aux_weight`` *
loss(auxiliary head).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from mxnet.gluon import nn

from gluonseg.labels import IGNORE
from gluonseg.train.loss_law import CROSS_ENTROPY, LEAST_MISS, LossLaw

FloatArray = npt.NDArray[np.float32]


class MixedLoss(nn.HybridBlock):  # type: ignore[misc]
    """Sum of the losses of the outputs, by ``law``; with weights that add up to 1 over the batch it is a mean."""

    def __init__(self, num_classes: int, aux_weight: float, law: LossLaw = CROSS_ENTROPY) -> None:
        super().__init__()
        self._num_classes = num_classes
        self.law = law
        self.shares = 1.0, aux_weight
        """What each output counts: the head's 1, then the auxiliary head's share."""

    def hybrid_forward(self, F: Any, class_ids: Any, pixel_weights: Any, *outputs: Any) -> Any:
        """``class_ids`` and ``pixel_weights`` float32 (N, H, W), outputs logits (N, C, H, W); returns (1,)."""
        # An ignored pixel has weight 0; its id only has to be one that pick() can look up.
        picked_ids = F.minimum(class_ids, self._num_classes - 1)
        total = 0.0
        for share, logits in zip(self.shares, outputs, strict=False):
            # In float32 whatever the network computes in: sums over many pixels overflow float16.
            log_p = F.log_softmax(F.cast(logits, dtype="float32"), axis=1)
            picked = F.pick(log_p, picked_ids, axis=1)
            for term in self.law.terms:
                if term == "dice":
                    total = total + share * self._sum_dice(F, log_p, picked_ids, pixel_weights)
                else:
                    total = total - share * F.sum(picked * self._weigh(F, term, picked, pixel_weights))
        return total

    def _weigh(self, F: Any, term: str, log_p: Any, weights: Any) -> Any:
        """What the logarithm of each pixel's probability counts in the term, (N, H, W)."""
        if term == "focal":
            return weights * F.maximum(-F.expm1(log_p), LEAST_MISS) ** self.law.focal_gamma
        return self._keep_hard_pixels(F, log_p, weights) if term == "ohem" else weights

    def _keep_hard_pixels(self, F: Any, log_p: Any, weights: Any) -> Any:
        is_scored, p = weights > 0, F.exp(F.BlockGrad(log_p))
        # Pixels that are not scored come last.
        ordered = F.sort(F.where(is_scored, p, p + 2).reshape((0, -1)), axis=1)
        least = F.ceil(F.sum(is_scored, axis=(1, 2)) * self.law.ohem_fraction)
        bar = F.maximum(F.pick(ordered, F.maximum(least - 1, 0), axis=1) * (least > 0), self.law.ohem_threshold)
        kept = weights * (1 - F.broadcast_greater(p, bar.reshape((-1, 1, 1))))
        sums = [F.sum(one, axis=(1, 2), keepdims=True) for one in (weights, kept)]
        return F.broadcast_mul(kept, sums[0] / (sums[1] + (sums[1] == 0)))

    def _sum_dice(self, F: Any, log_p: Any, class_ids: Any, weights: Any) -> Any:
        p = F.exp(log_p)
        is_class = F.one_hot(class_ids, self._num_classes).transpose((0, 3, 1, 2))
        weights = weights.expand_dims(1)
        is_scored = weights > 0
        is_own = F.broadcast_mul(is_class, is_scored)
        counts, weighted, own, sums = (
            F.sum(one, axis=(2, 3))
            for one in (is_own, F.broadcast_mul(is_class, weights), p * is_own, F.broadcast_mul(p, is_scored))
        )
        overlaps = 2 * own / (sums + counts + (counts == 0))
        shares = weighted / F.maximum(counts, 1)
        total = F.sum(shares, axis=1)
        return F.sum(F.sum(shares * (1 - overlaps), axis=1) * F.sum(weights, axis=(1, 2, 3)) / (total + (total == 0)))


def build_weight_table(num_classes: int, class_weights: Sequence[float] = ()) -> FloatArray:
    """Weight of each mask value 0..255, shape (256,) float32: 0 for everything that is not a class."""
    table = np.zeros(256, dtype=np.float32)
    table[:num_classes] = class_weights if len(class_weights) else 1.0
    table[IGNORE] = 0.0
    return table


def compute_balanced_weights(histogram: npt.NDArray[np.int64]) -> tuple[float, ...]:
    """Weights 1/sqrt(share) of each class, scaled so that the mean over all pixels is 1.

    The square root keeps rare classes from drowning the others; a class that never occurs gets 1.
    ``histogram`` is the pixel count of each class, shape (num_classes,).
    """
    share = histogram / max(1, int(histogram.sum()))
    weights = np.divide(1.0, np.sqrt(share), out=np.ones(len(share)), where=share > 0)
    mean = float((weights * share).sum()) or 1.0
    return tuple(float(w / mean) if s > 0 else 1.0 for w, s in zip(weights, share, strict=True))
