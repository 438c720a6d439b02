"""Training in two stages: what is frozen stays bit for bit, then everything is trained, at a lower rate."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import mxnet as mx
import numpy as np
import numpy.typing as npt
import pytest

from conftest import TINY, build_listeners
from gluonseg.errors import HyperparameterError
from gluonseg.hyperparameters import Hyperparameters, parse_hyperparameters
from gluonseg.models.folder.artifact import read_artifact
from gluonseg.models.registry import find_network
from gluonseg.report.comparison import ModelSummary
from gluonseg.report.curves import find_stages
from gluonseg.report.record import FINISHED, RunRecord
from gluonseg.train.freeze import Freeze
from gluonseg.train.job import JobSettings, run_job
from gluonseg.train.listener import EpochResult, Listener
from gluonseg.train.start import build_start_network
from gluonseg.train.writer import ModelWriter

Parameters = Mapping[str, npt.NDArray[Any]]


class _Snapshots(Listener):
    """The parameters at the start and after each epoch."""

    def __init__(self) -> None:
        self.taken: list[Parameters] = []
        self._writer: ModelWriter

    def build(self, hyperparameters: Hyperparameters, writer: ModelWriter) -> Sequence[Listener]:
        self._writer = writer
        self._take()
        return [*build_listeners(hyperparameters, writer), self]

    def on_epoch(self, result: EpochResult, is_best: bool) -> None:
        self._take()

    def _take(self) -> None:
        self.taken.append({name: value.asnumpy() for name, value in self._writer.copy_parameters().items()})


def _find_changed(before: Parameters, after: Parameters) -> set[str]:
    return {name for name in before if not np.array_equal(before[name], after[name])}


def test_the_backbone_stays_bit_for_bit_then_everything_is_trained(
    drawn_channels: Mapping[str, Path], tmp_path: Path
) -> None:
    """Over two devices, with an optimizer that keeps momentum of its own."""
    found = _Snapshots()
    given = {**TINY, "epochs": "3", "freeze_backbone_epochs": "2", "_kvstore": "local"}
    given |= {"algorithm": "psp", "optimizer": "adam", "learning_rate": "0.001"}
    settings = JobSettings(given, drawn_channels, tmp_path / "model", devices=[mx.cpu(0), mx.cpu(1)])
    run_job(settings, found.build)
    start, first, second, third = found.taken
    heads = {name for name in start if name.startswith(find_network("psp").heads)}
    assert any(name.startswith("layer4.") and name.endswith("running_var") for name in start.keys() - heads)
    # Statistics of the heads move, those of the backbone do not.
    assert _find_changed(start, first) == heads
    assert _find_changed(first, second) == heads
    assert _find_changed(second, third) == start.keys()
    curves = json.loads((tmp_path / "model/curves.json").read_text(encoding="utf-8"))
    assert [entry["phase"] for entry in curves] == ["head", "head", "all"]


def test_the_compiled_backbone_works_as_in_prediction_while_it_is_frozen() -> None:
    """With heads that do so anyway, only the backbone can make training's outputs differ from prediction's."""
    contexts = [mx.cpu(0), mx.cpu(1)]
    network = build_start_network(parse_hyperparameters(TINY), contexts)

    def steady(block: Any) -> None:
        if isinstance(block, mx.gluon.nn.BatchNorm):
            block._kwargs["use_global_stats"] = True
        elif isinstance(block, mx.gluon.nn.Dropout):
            block._rate = 0

    network.head.apply(steady)
    network.auxlayer.apply(steady)
    network.hybridize(static_alloc=True)
    freeze = Freeze(network, 1, find_network("fcn").heads)
    pictures = [mx.nd.random.normal(shape=(2, 3, 32, 32), ctx=context) for context in contexts]

    def is_as_in_prediction() -> list[bool]:
        predicted = [network(one)[0].asnumpy() for one in pictures]
        with mx.autograd.record():
            trained = [network(one)[0].asnumpy() for one in pictures]
        return [np.allclose(*pair, rtol=1e-4, atol=1e-4) for pair in zip(predicted, trained, strict=True)]

    assert is_as_in_prediction() == [False, False]
    assert freeze.begin_epoch(0)
    assert is_as_in_prediction() == [True, True]
    assert freeze.begin_epoch(1)
    assert is_as_in_prediction() == [False, False]
    assert not freeze.begin_epoch(2)


def test_a_frozen_backbone_of_random_values_is_warned_of(trained_model: Path, caplog: pytest.LogCaptureFixture) -> None:
    hp = parse_hyperparameters({**TINY, "freeze_backbone_epochs": "1"})
    build_start_network(hp, [mx.cpu()], read_artifact(trained_model))
    assert "random values" not in caplog.text
    build_start_network(hp, [mx.cpu()])
    assert "the backbone starts from random values" in caplog.text


def test_a_second_stage_has_to_be_left() -> None:
    with pytest.raises(HyperparameterError, match=r"^freeze_backbone_epochs 2 must be below epochs 2"):
        parse_hyperparameters({**TINY, "epochs": "2", "freeze_backbone_epochs": "2"})


def test_charts_show_where_the_phase_changes() -> None:
    epochs = [
        {"epoch": number, "train_loss": 1.0 / (number + 1), "phase": phase}
        for number, phase in enumerate(("head", "head", "all", "all"))
    ]
    models = [ModelSummary([RunRecord("fcn", "resnet-18", seed, FINISHED, epochs=epochs) for seed in (1, 2)])]
    assert find_stages(models) == [2]
