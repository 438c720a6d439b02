"""When to end training before its last epoch (pure)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class EarlyStopping:
    """Stop after ``patience`` epochs in a row whose validation mIOU is not above the best before them.

    "Above" is by more than ``tolerance``, relative to that best. Nothing stops before ``min_epochs`` epochs.
    """

    min_epochs: int
    patience: int
    tolerance: float

    def should_stop(self, history: Sequence[float]) -> bool:
        """``history`` holds the validation mIOU of every epoch so far."""
        if len(history) < max(self.min_epochs, 1):
            return False
        best, stale = float("-inf"), 0
        for value in history:
            if best == float("-inf") or value > best + abs(best) * self.tolerance:
                best, stale = value, 0
            else:
                stale += 1
        return stale >= self.patience
