"""Learning-rate schedules: update number -> learning rate (pure).

``poly`` is (1 - n/T)^0.9 as in GluonCV and in the built-in's printed rates; ``cosine`` is half a cosine
from the base rate to 0 (Loshchilov & Hutter, 2017); ``step`` multiplies by a factor at given epochs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from gluonseg.hyperparameters import Hyperparameters

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


def build_schedule(hyperparameters: Hyperparameters, num_samples: int, batch_size: int) -> Schedule:
    """The learning rate by update number, for ``num_samples`` photos in batches of ``batch_size``."""
    hp = hyperparameters
    total = max(1, hp.epochs * num_samples // batch_size)
    if hp.lr_scheduler == "step":
        steps = [epoch * num_samples // batch_size for epoch in hp.lr_scheduler_step]
        schedule = build_step(hp.learning_rate, steps, hp.lr_scheduler_factor)
    elif hp.lr_scheduler == "cosine":
        schedule = build_cosine(hp.learning_rate, total)
    else:
        schedule = build_poly(hp.learning_rate, total)
    if hp.freeze_backbone_epochs:
        # As the loader counts: the first update of the first epoch in which everything is trained.
        first = hp.freeze_backbone_epochs * num_samples // batch_size
        schedule = lower_from(schedule, first, hp.unfreeze_lr_factor)
    return add_warmup(schedule, int(hp.warmup_epochs * num_samples / batch_size))
