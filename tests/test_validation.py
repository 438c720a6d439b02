"""Validation on whole photos: its numbers, the training beside it, several hosts, and what stops it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import mxnet as mx
import numpy as np
import pytest

from conftest import TINY, RunJob
from gluonseg.data.loader import Loader
from gluonseg.errors import TrainingDivergedError, UserError
from gluonseg.hyperparameters import parse_hyperparameters
from gluonseg.models.folder.card import build_card
from gluonseg.models.params import read_arrays
from gluonseg.train.data import build_loaders, settle_data
from gluonseg.train.group import Group, T
from gluonseg.train.stop import Stop, Stopped
from gluonseg.train.validation import PhotoValidation, iter_rounds

WHOLE = {"validation_mini_batch_size": "1"}


@pytest.mark.parametrize(
    ("changes", "count"),
    [({}, 1), ({"algorithm": "psp", "freeze_backbone_epochs": "1", "prediction_size": "64"}, 2)],
)
def test_whole_photos_are_scored_as_at_the_end_and_the_training_is_the_same(
    run_tiny: RunJob, tmp_path: Path, changes: dict[str, str], count: int
) -> None:
    devices = [mx.cpu(number) for number in range(count)]
    run_tiny(changes, tmp_path / "crops", devices=devices)
    outcome = run_tiny({**changes, **WHOLE}, devices=devices)
    crops, photos = (read_arrays(tmp_path / name / "model_algo-1") for name in ("crops", "model"))
    assert [name for name in crops if crops[name].tobytes() != photos[name].tobytes()] == []
    best = max(outcome.results, key=lambda result: result.miou)
    assert outcome.confusion is not None
    assert best.confusion.matrix.sum() == outcome.confusion.matrix.sum()
    # One is MXNet's, the other ONNX Runtime's.
    assert np.abs(best.confusion.matrix - outcome.confusion.matrix).sum() <= 10


def test_the_report_says_what_was_validated(run_tiny: RunJob, tmp_path: Path) -> None:
    stop = Stop()
    request = lambda _done, _total: stop.request(signal.SIGTERM)  # noqa: E731
    settings: dict[str, Any] = {"output_folder": tmp_path / "output", "stop": stop, "evaluation_progress": request}
    card = run_tiny({"epochs": "1", **WHOLE}, **settings).card
    assert card.metrics.keys() == {"best_epoch", "epochs", "validation"}
    page = (tmp_path / "output" / "report.html").read_text(encoding="utf-8")
    assert "on whole validation photos, best epoch" in page
    assert "Validation mIOU (whole photos) by epoch" in page
    assert "centre crops, best" not in page


class _Colours:
    """A network in float16 whose logits are red, green, blue and red of its photos, times ``factor``."""

    factor = 1.0

    def hybridize(self, active: bool) -> None:
        assert not active

    def predict_coarse(self, x: Any) -> Any:
        assert x.dtype == np.float16
        return mx.nd.concat(x, x[:, :1], dim=1) * self.factor


@pytest.fixture
def loader(drawn_channels: Mapping[str, Path]) -> Loader:
    hp, check = settle_data(parse_hyperparameters({**TINY, **WHOLE}), drawn_channels, Group())
    return build_loaders(hp, check, Group())[1]


def test_values_that_are_not_finite_end_the_training(loader: Loader) -> None:
    card = build_card("fcn", "resnet-18", 4, output_stride=1)
    validation = PhotoValidation(network := _Colours(), "float16", card, mx.cpu(), loader, Group(), Stop())
    counts, confusions = zip(*validation.iter_confusions(0, 5), strict=True)
    assert counts == (1, 1, 1)
    masks = [loader.dataset.read(index)[1] for index in range(3)]
    assert [confusion.matrix.sum() for confusion in confusions] == [np.count_nonzero(mask < 4) for mask in masks]
    network.factor = 1e6
    with pytest.raises(TrainingDivergedError, match="values that are not finite after epoch 2, iteration 5; lower lea"):
        next(validation.iter_confusions(2, 5))


class _Threads(Group):
    """Two hosts, each a thread."""

    def __init__(self, rank: int, barrier: threading.Barrier, values: dict[int, Any]) -> None:
        super().__init__(("one", "two"), rank)
        self._barrier = barrier
        self._values = values

    def all_gather(self, value: T) -> list[T]:
        self._barrier.wait(timeout=10)
        self._values[self.rank] = value
        self._barrier.wait(timeout=10)
        return [self._values[0], self._values[1]]


@pytest.mark.parametrize(
    ("event", "error", "seen"),
    [("", type(None), [(2, 1), (2, 2), (1, 3)]), ("stop", Stopped, [(2, 1)]), ("fail", UserError, [(2, 1)])],
)
def test_all_hosts_have_as_many_rounds(event: str, error: type[BaseException], seen: list[tuple[int, int]]) -> None:
    barrier = threading.Barrier(2)
    values: dict[int, Any] = {}
    stops = [Stop(), Stop()]
    for stop in stops:
        stop.is_shared = True

    def run(rank: int) -> tuple[list[tuple[int, Any]], BaseException | None]:
        found: list[tuple[int, Any]] = []
        photos = iter(range(1, 4 - rank))  # the second has one photo less

        def predict_next() -> Any:
            photo = next(photos, None)
            if photo == 1 and rank and event == "stop":
                stops[rank].request(signal.SIGTERM)
            if photo == 2 and rank and event == "fail":
                raise UserError("a photo is gone")
            return photo

        try:
            for one in iter_rounds(predict_next, 3 - rank, _Threads(rank, barrier, values), stops[rank]):
                found.append(one)
        except (Stopped, UserError) as caught:
            return found, caught
        return found, None

    with ThreadPoolExecutor(2) as pool:
        (first, one), (second, two) = pool.map(run, (0, 1))
    assert first == seen
    assert second == [(count, photo if photo < 3 else None) for count, photo in seen]
    assert type(one) is type(two) is error
    if event == "fail":
        assert (str(one), str(two)) == ("host two: UserError: a photo is gone", "a photo is gone")
