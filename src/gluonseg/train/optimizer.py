"""From hyperparameters to MXNet's optimizer and the learning-rate schedule."""

from __future__ import annotations

from typing import Any

from gluonseg.hyperparameters import Hyperparameters
from gluonseg.schedules import Schedule, add_warmup, build_cosine, build_poly, build_step, lower_from


def build_optimizer_arguments(hyperparameters: Hyperparameters) -> tuple[str, dict[str, Any]]:
    """Return MXNet's optimizer name and its arguments.

    As the built-in documents it, momentum belongs to sgd (and nag), gamma1 and gamma2 to rmsprop.
    """
    hp = hyperparameters
    arguments: dict[str, Any] = {"learning_rate": hp.learning_rate, "wd": hp.weight_decay}
    if hp.optimizer in ("sgd", "nag"):
        arguments["momentum"] = hp.momentum
    if hp.optimizer == "rmsprop":
        # centered is the variant that has two decay rates (Graves, arXiv:1308.0850).
        arguments |= {"gamma1": hp.gamma1, "gamma2": hp.gamma2, "centered": True}
    if hp.precision_dtype == "float16":
        arguments["multi_precision"] = True
    return hp.optimizer, arguments


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
