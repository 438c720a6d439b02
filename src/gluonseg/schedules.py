"""Learning-rate schedules: update number -> learning rate (pure).

``poly`` is (1 - n/T)^0.9 as in GluonCV and in the built-in's printed rates; ``cosine`` is half a cosine
from the base rate to 0 (Loshchilov & Hutter, 2017); ``step`` multiplies by a factor at given epochs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

Schedule = Callable[[int], float]

POLY_POWER = 0.9


def build_poly(base_rate: float, total_updates: int) -> Schedule:
    """Fall from ``base_rate`` to 0 at ``total_updates`` by the power 0.9."""
    return lambda update: base_rate * max(0.0, 1.0 - update / total_updates) ** POLY_POWER


def build_cosine(base_rate: float, total_updates: int) -> Schedule:
    """Fall from ``base_rate`` to 0 at ``total_updates`` along half a cosine."""
    return lambda update: base_rate * 0.5 * (1.0 + math.cos(math.pi * min(1.0, update / total_updates)))


def build_step(base_rate: float, step_updates: Sequence[int], factor: float) -> Schedule:
    """Multiply by ``factor`` once for each entry of ``step_updates`` that has been reached."""
    return lambda update: base_rate * factor ** sum(update >= step for step in step_updates)


def lower_from(schedule: Schedule, first_update: int, factor: float) -> Schedule:
    """Multiply the schedule's own rate by ``factor`` from ``first_update`` on."""
    return lambda update: schedule(update) * (factor if update >= first_update else 1.0)


def add_warmup(schedule: Schedule, warmup_updates: int) -> Schedule:
    """Rise linearly to the schedule's own rate over the first ``warmup_updates`` updates."""
    if warmup_updates <= 0:
        return schedule
    return lambda update: schedule(update) * min(1.0, (update + 1) / warmup_updates)
