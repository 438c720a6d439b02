"""Schedules against rates that the built-in printed, and against their formulas."""

from __future__ import annotations

import mxnet as mx
import pytest

from gluonseg.hyperparameters import parse_hyperparameters
from gluonseg.train.job import build_trainer
from gluonseg.train.schedule import Schedule, add_warmup, build_cosine, build_poly, build_schedule, build_step

PRINTED = (
    "98 96 94 92 89 87 85 83 80 78 76 74 70 68 66 64 61 59 57 54 "
    "51 49 47 45 41 39 37 35 31 29 27 24 21 18 16 13 9 7 4 1"
)
"""What the built-in logged after iterations 20, 40, 60, 80 of ten epochs, in millionths: 1464 photos in
batches of 16 (91.5 updates an epoch), learning_rate 0.0001, poly."""


def _iter_printed() -> list[tuple[int, int, str]]:
    """(epoch, iteration, rate as printed)."""
    return [(k // 4, 20 * (k % 4 + 1), f"{int(v) * 1e-6:.6f}") for k, v in enumerate(PRINTED.split())]


def test_poly_gives_the_printed_rates_digit_by_digit() -> None:
    # GluonCV's LRScheduler ends one before epochs * (1464 // 16) updates and counts them from 1.
    schedule = build_poly(1e-4, 10 * (1464 // 16) - 1)
    for epoch, iteration, rate in _iter_printed():
        assert f"{schedule(int(91.5 * epoch) + iteration):.6f}" == rate


def test_a_job_stays_near_the_printed_rates() -> None:
    """A job counts the half batches too (915 updates), so that the last ones still learn something."""
    hp = parse_hyperparameters({"num_classes": "21", "learning_rate": "0.0001"})
    schedule = build_schedule(hp, 1464, 16)
    for epoch, iteration, rate in _iter_printed():
        assert schedule(int(91.5 * epoch) + iteration - 1) == pytest.approx(float(rate), abs=1.3e-6)
    assert schedule(914) > 0
    assert [schedule(update) for update in (915, 10**6)] == [0, 0]


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        (build_cosine(0.4, 6), [0.4, 0.3732051, 0.3, 0.2, 0.1, 0.0267949, 0, 0]),
        (build_step(0.8, [3, 5, 5], 0.5), [0.8, 0.8, 0.8, 0.4, 0.4, 0.1, 0.1]),
        (add_warmup(lambda update: 1.0 - update / 100, 4), [0.25, 0.495, 0.735, 0.97, 0.96, 0.95]),
    ],
    ids=["cosine", "step", "warmup"],
)
def test_formulas(schedule: Schedule, rates: list[float]) -> None:
    assert [schedule(update) for update in range(len(rates))] == pytest.approx(rates)


def test_epochs_become_updates() -> None:
    values = {"num_classes": "2", "epochs": "10", "learning_rate": "0.8"}
    stepped = {"lr_scheduler": "step", "lr_scheduler_step": "2, 5", "lr_scheduler_factor": "0.5"}
    schedule = build_schedule(parse_hyperparameters({**values, **stepped}), 100, 8)
    # 12.5 updates an epoch: two epochs end with update 25, five with 62.
    assert [schedule(update) for update in (24, 25, 61, 62)] == [0.8, 0.4, 0.4, 0.2]
    warm = build_schedule(parse_hyperparameters({**values, "lr_scheduler": "cosine", "warmup_epochs": "0.5"}), 100, 8)
    plain = build_schedule(parse_hyperparameters({**values, "lr_scheduler": "cosine"}), 100, 8)
    assert [warm(update) / plain(update) for update in (0, 2, 5, 6)] == pytest.approx([1 / 6, 0.5, 1, 1])


@pytest.mark.parametrize("scheduler", ["poly", "step"])
def test_the_rate_is_lower_from_the_first_update_of_the_second_stage(scheduler: str) -> None:
    given = {"num_classes": "2", "epochs": "6", "lr_scheduler": scheduler, "lr_scheduler_step": "5"}
    plain = build_schedule(parse_hyperparameters(given), 9, 4)
    frozen = {**given, "freeze_backbone_epochs": "3", "unfreeze_lr_factor": "0.2"}
    two = build_schedule(parse_hyperparameters(frozen), 9, 4)
    # Three epochs of 9 photos in batches of 4 have 2 + 2 + 2 updates.
    assert [two(update) / plain(update) for update in range(13)] == pytest.approx([1.0] * 6 + [0.2] * 7)


@pytest.mark.parametrize(
    ("optimizer", "arguments"),
    [
        ("sgd", {"momentum": 0.8}),
        ("nag", {"momentum": 0.8}),
        ("rmsprop", {"gamma1": 0.7, "gamma2": 0.6, "centered": True}),
        ("adam", {}),
        ("adagrad", {}),
        ("adadelta", {}),
    ],
)
def test_each_optimizer_gets_its_own_arguments(optimizer: str, arguments: dict[str, object]) -> None:
    raw = {"num_classes": "2", "optimizer": optimizer, "momentum": "0.8", "gamma1": "0.7", "gamma2": "0.6"}
    network = mx.gluon.nn.Dense(1)
    network.initialize()
    for precision in ("float32", "float16"):
        hp = parse_hyperparameters({**raw, "precision_dtype": precision})
        found = build_trainer(hp, network)._optimizer
        assert type(found).__name__.lower() == optimizer
        expected = {"lr": 0.001, "wd": 0.0001, "multi_precision": precision == "float16", **arguments}
        assert {name: getattr(found, name) for name in expected} == expected
