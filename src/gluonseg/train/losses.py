"""Cross-entropy over the scored pixels, weighted by class, with the auxiliary head's share.

GluonCV's ``MixSoftmaxCrossEntropyLoss``: CE(head) + ``aux_weight`` * CE(auxiliary head), each the mean over
the pixels that are scored.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from mxnet.gluon import nn

from gluonseg.labels import IGNORE

FloatArray = npt.NDArray[np.float32]


class MixedLoss(nn.HybridBlock):  # type: ignore[misc]
    """Sum of weighted cross-entropies of the outputs; divide by the batch's total weight for the mean."""

    def __init__(self, num_classes: int, aux_weight: float) -> None:
        super().__init__()
        self._last_class = num_classes - 1
        self.shares = 1.0, aux_weight
        """What each output counts: the head's 1, then the auxiliary head's share."""

    def hybrid_forward(self, F: Any, class_ids: Any, pixel_weights: Any, *outputs: Any) -> Any:
        """``class_ids`` and ``pixel_weights`` float32 (N, H, W), outputs logits (N, C, H, W); returns (1,)."""
        # An ignored pixel has weight 0; its id only has to be one that pick() can look up.
        picked_ids = F.minimum(class_ids, self._last_class)
        total = 0.0
        for share, logits in zip(self.shares, outputs, strict=False):
            # In float32 whatever the network computes in: sums over many pixels overflow float16.
            log_p = F.log_softmax(F.cast(logits, dtype="float32"), axis=1)
            total = total - share * F.sum(F.pick(log_p, picked_ids, axis=1) * pixel_weights)
        return total


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
