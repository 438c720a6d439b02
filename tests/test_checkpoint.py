"""Checkpoints: trainings that go on, bit for bit; damaged, foreign and other jobs' checkpoints."""

from __future__ import annotations

import json
import logging
import os
import pickle
import re
import shutil
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import mxnet as mx
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from conftest import RunJob
from gluonseg.errors import StorageError, UserError
from gluonseg.hyperparameters import OPTIMIZERS, parse_hyperparameters
from gluonseg.models.folder.artifact import read_folder
from gluonseg.models.folder.card import read_card
from gluonseg.models.folder.manifest import ONNX_FILE
from gluonseg.models.params import read_arrays
from gluonseg.train.checkpoint import Checkpoint, describe_differences
from gluonseg.train.checkpoint_file import KEPT, CheckpointFile, CheckpointFolder, open_checkpoints
from gluonseg.train.checkpoint_state import collect_arrays, collect_counts, restore_state
from gluonseg.train.folder_lock import hold_folder
from gluonseg.train.job import JobOutcome, build_trainer
from gluonseg.train.listener import EpochResult
from gluonseg.train.loop import seed_update
from gluonseg.train.result import ResultFolder
from gluonseg.train.step import Stepper
from gluonseg.train.stop import Stop, Stopped
from gluonseg.train.writer import ModelWriter

Array = npt.NDArray[Any]
BEST, LAST = "model_best.params", "model_algo-1"


def _assert_same(one: Mapping[str, Array], other: Mapping[str, Array]) -> None:
    assert one.keys() == other.keys()
    assert [name for name in one if one[name].tobytes() != other[name].tobytes()] == []


def _assert_same_model(one: Path, other: Path) -> None:
    for name in (BEST, LAST):
        _assert_same(read_arrays(one / name), read_arrays(other / name))


def _get_numbers(outcome: JobOutcome) -> list[tuple[object, ...]]:
    def describe(result: EpochResult) -> tuple[object, ...]:
        return result.epoch, result.learning_rate, result.train_loss, result.confusion.matrix.tolist(), result.phase

    return [describe(result) for result in outcome.results]


def _find_checkpoints(folder: Path) -> list[Path]:
    """The last epoch's first."""
    with open_checkpoints(folder) as checkpoints:
        assert checkpoints
        return [file.path for file in checkpoints.find_files()]


# Optimizers, phases and numbers of devices; each network goes on, too: test_networks.py.


@pytest.mark.parametrize(
    ("changes", "devices"),
    [({"momentum": "0", "freeze_backbone_epochs": "1", "lr_scheduler": "cosine"}, 1), ({"mini_batch_size": "5"}, 3)],
    ids=["frozen", "three devices"],
)
def test_resumed_after_the_first_epoch(
    run_tiny: RunJob, tmp_path: Path, changes: dict[str, str], devices: int, caplog: pytest.LogCaptureFixture
) -> None:
    contexts, folder = [mx.cpu(number) for number in range(devices)], tmp_path / "checkpoints"
    expected = run_tiny(changes, tmp_path / "whole", devices=contexts, checkpoint_folder=folder)
    newest, _ = _find_checkpoints(folder)
    newest.unlink()
    caplog.set_level(logging.INFO)
    resumed = run_tiny(changes, devices=contexts, checkpoint_folder=folder)
    assert caplog.text.count("Resuming from checkpoint") == caplog.text.count(" after epoch 0, ") == 1
    assert "epoch: 0, train loss" not in caplog.text
    assert (expected.earlier_seconds, expected.earlier_peak_mb) == (0, 0)
    assert resumed.earlier_seconds > 0
    assert resumed.earlier_peak_mb > 50
    assert _get_numbers(resumed) == _get_numbers(expected)
    _assert_same_model(tmp_path / "model", tmp_path / "whole")
    curves = [json.loads((tmp_path / name / "curves.json").read_text()) for name in ("model", "whole")]
    assert curves[0][0] == curves[1][0], "throughputs of the epochs before are kept, too"


class _Scale(mx.gluon.Block):  # type: ignore[misc]  # MXNet has no types
    """A network that computes in float16 on a CPU, too."""

    def __init__(self, dtype: str) -> None:
        super().__init__()
        self.weight = self.params.get("weight", shape=(3, 4), dtype=dtype)

    def forward(self, x: Any) -> Any:
        return x * self.weight.data()


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_states_of_every_optimizer_come_back(optimizer: str, dtype: str) -> None:
    hp = parse_hyperparameters({"num_classes": "2", "optimizer": optimizer, "precision_dtype": dtype})

    def build() -> tuple[Any, Any]:
        network = _Scale(dtype)
        network.initialize(mx.init.Uniform(1))
        return network, build_trainer(hp, network)

    def update(network: Any, trainer: Any) -> None:
        with mx.autograd.record():
            loss = (network(mx.nd.ones((3, 4), dtype=dtype)) ** 2).sum()
        loss.backward()
        trainer.step(1)

    one, other = build(), build()
    for _ in range(3):
        update(*one)
    arrays = {key: array.asnumpy() for key, array in collect_arrays(*one).items()}
    assert arrays["parameter/weight"].dtype == np.dtype(dtype)
    assert "state/weight/0" in arrays
    assert all(array.dtype == np.float32 for key, array in arrays.items() if key.startswith("state/"))
    restore_state(*other, arrays, json.loads(json.dumps(collect_counts(*one))))
    for pair in (one, other):
        update(*pair)
    _assert_same(*({key: array.asnumpy() for key, array in collect_arrays(*pair).items()} for pair in (one, other)))


def test_what_an_update_draws_depends_on_seed_and_number_alone() -> None:
    def draw(seed: int, number: int, used: int) -> bytes:
        mx.nd.random.uniform(shape=used)
        seed_update(seed, number)
        with mx.autograd.train_mode():
            values: bytes = mx.nd.Dropout(mx.nd.ones(1000), p=0.5).asnumpy().tobytes()
        return values

    assert draw(0, 1, used=5) == draw(0, 1, used=700)
    assert len({draw(seed, number, used=1) for seed in (0, 1) for number in (0, 1)}) == 4


# Inside an epoch.


def _stop_at_call(monkeypatch: pytest.MonkeyPatch, name: str, number: int, stop: Stop) -> None:
    """Ask for the stop in the call of that number (from 1) of a method of the Stepper."""
    original, calls = getattr(Stepper, name), []

    def call(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == number:
            stop.request(signal.SIGTERM)
        return original(*arguments)

    monkeypatch.setattr(Stepper, name, call)


@pytest.mark.parametrize(
    ("method", "number", "position", "changes", "devices"),
    [
        ("update", 1, "after update 1 of epoch 0", {}, 1),
        ("predict", 2, "after update 3 of epoch 0", {"optimizer": "adam", "_kvstore": "local"}, 2),
        ("update", 5, "after update 2 of epoch 1", {"freeze_backbone_epochs": "1"}, 1),
    ],
    ids=["first update", "validation", "thawed"],
)
def test_a_job_stopped_inside_an_epoch_goes_on_there(
    run_tiny: RunJob, tmp_path: Path, method: str, number: int, position: str, changes: dict[str, str], devices: int,
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    contexts, folder = [mx.cpu(number) for number in range(devices)], tmp_path / "checkpoints"
    changes = {"mini_batch_size": "3", "validation_mini_batch_size": "1", **changes}
    expected = run_tiny(changes, tmp_path / "whole", devices=contexts)
    stop = Stop()
    with monkeypatch.context() as patch:
        _stop_at_call(patch, method, number, stop)
        stopped = run_tiny(changes, devices=contexts, checkpoint_folder=folder, stop=stop)
    assert len(stopped.results) == int(position[-1])
    caplog.set_level(logging.INFO)
    resumed = run_tiny(changes, devices=contexts, checkpoint_folder=folder)
    assert re.search(rf"Resuming from checkpoint \S+ {position}, ", caplog.text)
    assert _get_numbers(resumed) == _get_numbers(expected)
    _assert_same_model(tmp_path / "model", tmp_path / "whole")
    assert len(list(folder.iterdir())) == KEPT


def test_a_long_epoch_has_checkpoints_inside_it(
    run_tiny: RunJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However short the interval is, nothing of the training changes."""
    expected = run_tiny({"mini_batch_size": "3"}, tmp_path / "whole")
    written, write = [], CheckpointFolder.write

    def watch(self: CheckpointFolder, epochs: int, updates: int, *content: Any) -> Path:
        written.append((epochs, updates))
        return write(self, epochs, updates, *content)

    monkeypatch.setattr(CheckpointFolder, "write", watch)
    monkeypatch.setattr("gluonseg.train.checkpoint.INTERVAL_S", 0)
    outcome = run_tiny({"mini_batch_size": "3"}, checkpoint_folder=tmp_path / "checkpoints")
    assert written == [(0, 1), (0, 2), (0, 3), (1, 0), (1, 1), (1, 2), (1, 3), (2, 0)]
    names = sorted(path.name.rpartition("-")[0] for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["checkpoint-000001", "checkpoint-000001-000003"]
    assert _get_numbers(outcome) == _get_numbers(expected)


# What is in the folder. The job is the shared one of two epochs; only its last one is trained again.


@pytest.fixture
def folder(finished_job: Path, tmp_path: Path) -> Path:
    """A copy of its checkpoints."""
    return shutil.copytree(finished_job / "checkpoints", tmp_path / "checkpoints")


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def test_a_damaged_checkpoint_is_passed_over_and_nothing_is_unpickled(
    run_tiny: RunJob, folder: Path, finished_job: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    def refuse(*_arguments: Any, **_options: Any) -> NoReturn:
        raise AssertionError("pickle was used")

    for name in ("dumps", "loads", "dump", "load", "Pickler", "Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)
    caplog.set_level(logging.INFO)
    newest, before = _find_checkpoints(folder)
    _flip(newest)
    run_tiny(checkpoint_folder=folder)
    assert f"The checkpoint {newest} cannot be used: its checksum is not that of its name" in caplog.text
    assert f"Resuming from checkpoint {before} after epoch 0, " in caplog.text
    _assert_same_model(tmp_path / "model", finished_job / "model")
    assert not newest.exists()
    assert len(_find_checkpoints(folder)) == KEPT


def test_when_all_are_damaged_the_job_is_refused(run_tiny: RunJob, folder: Path, tmp_path: Path) -> None:
    for path in _find_checkpoints(folder):
        _flip(path)
    with pytest.raises(UserError, match=r"all 2 checkpoints in .* are damaged; .* remove them to start"):
        run_tiny(checkpoint_folder=folder)
    assert len(_find_checkpoints(folder)) == 2
    assert not (tmp_path / "model").exists()


def test_a_file_that_cannot_be_read_is_not_taken_for_damaged(tmp_path: Path) -> None:
    path = tmp_path / "gone.params"
    with pytest.raises(
        UserError, match=rf"the checkpoint {path} cannot be read: No such file .*\(errno 2\); mend that"
    ):
        CheckpointFile(path, 1, 0, "").is_whole()


def test_the_furthest_one_counts_whatever_the_clock_says(tmp_path: Path) -> None:
    positions = ["000008", "000009-000009", "000009-000010", "000009", "1000000"]
    for age, position in enumerate(positions):
        path = tmp_path / f"checkpoint-{position}-{'0' * 64}.params"
        path.touch()
        os.utime(path, (1000 - age, 1000 - age))
    with open_checkpoints(tmp_path) as checkpoints:
        assert checkpoints
        found = [(file.epochs, file.updates) for file in checkpoints.find_files()]
    assert found == [(1_000_001, 0), (10, 0), (9, 10), (9, 9), (9, 0)]


def test_one_of_an_earlier_format_is_refused(tmp_path: Path) -> None:
    with open_checkpoints(tmp_path) as folder:
        assert folder
        path = folder.write(1, 0, {}, json.dumps({"format": 2}))
        with pytest.raises(UserError, match=r"are of another job: their format is 2, this program reads 3\. Give"):
            Checkpoint(folder, {}, None, None, ModelWriter(mx.gluon.nn.Block(), tmp_path)).resume()
    assert path.is_file()


def test_starting_values_that_other_settings_change_are_not_told() -> None:
    assert describe_differences({"epochs": "2", "start": "1"}, {"epochs": "3", "start": "2"}) == [
        "epochs was 2, now it is 3"
    ]


def test_the_folder_of_the_model_is_none_for_checkpoints(run_tiny: RunJob, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="model is the folder of the model; name another one for the checkpoints"):
        run_tiny(checkpoint_folder=tmp_path / "x" / ".." / "model")
    assert not (tmp_path / "model").exists()


def test_a_checkpoint_is_saved_when_there_is_no_room_for_the_model(
    run_tiny: RunJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stop in the first epoch, of which nothing else would be left."""
    stop = Stop()

    def refuse(_folder: ResultFolder) -> NoReturn:
        raise StorageError("no room")

    monkeypatch.setattr(ResultFolder, "complete", refuse)
    _stop_at_call(monkeypatch, "update", 1, stop)
    with pytest.raises(StorageError, match="no room"):
        run_tiny(checkpoint_folder=tmp_path / "checkpoints", stop=stop)
    assert len(_find_checkpoints(tmp_path / "checkpoints")) == 1


def test_one_of_another_job_is_refused(run_tiny: RunJob, folder: Path) -> None:
    changes = {"backbone": "resnet-34", "epochs": "3", "learning_rate": "1e-3", "seed": "7", "class_names": "a,b,c,d"}
    before = sorted(folder.iterdir())
    with pytest.raises(UserError, match="are of another job: ") as caught:
        run_tiny({**changes, "mini_batch_size": "5"}, checkpoint_folder=folder)
    words = str(caught.value).partition("another job: ")[2].partition(". Give the same settings")[0]
    assert sorted(words.split("; ")) == [
        "backbone was resnet-18, now it is resnet-34",
        "class_names was not set, now it is a, b, c, d",
        "epochs was 2, now it is 3",
        "learning_rate was 0.01, now it is 0.001",
        "mini_batch_size was 4, now it is 5",
        "seed was 0, now it is 7",
        "the class names were background, disc, box, triangle, now they are a, b, c, d",
    ]
    assert sorted(folder.iterdir()) == before


def test_other_data_devices_versions_and_starting_values_are_refused(
    run_tiny: RunJob, folder: Path, drawn_channels: Mapping[str, Path], trained_model: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    for channel, title in (("train_annotation", "training"), ("validation", "validation")):
        changed = shutil.copytree(drawn_channels[channel], tmp_path / channel)
        path = min(changed.glob("disc*"))
        with Image.open(path) as picture:
            picture.transpose(Image.Transpose.ROTATE_180).save(path)
        with pytest.raises(UserError, match=f"the {title} photos, masks or label map have changed"):
            run_tiny(checkpoint_folder=folder, extra_channels={channel: changed})
    with pytest.raises(UserError, match="the devices were 1 cpu, now they are 2 cpu"):
        run_tiny(checkpoint_folder=folder, devices=[mx.cpu(0), mx.cpu(1)])
    with pytest.raises(UserError, match="the starting values have changed"):
        run_tiny(checkpoint_folder=folder, extra_channels={"model": trained_model})
    monkeypatch.setattr(np, "__version__", "9.9")
    with pytest.raises(UserError, match=r"numpy was .*, now it is 9\.9"):
        run_tiny(checkpoint_folder=folder)


def test_a_finished_job_writes_the_report_that_is_missing_then_ends_at_once(
    run_tiny: RunJob, folder: Path, finished_job: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def list_times() -> dict[str, int]:
        files = [path for where in (model, output, folder) for path in where.iterdir()]
        return {str(path): path.stat().st_mtime_ns for path in files}

    caplog.set_level(logging.INFO)
    model, output = shutil.copytree(finished_job / "model", tmp_path / "model"), tmp_path / "output"
    run_tiny(checkpoint_folder=folder, output_folder=output)
    assert (output / "report.html").is_file()
    assert "nothing is left to do" not in caplog.text
    before = list_times()
    outcome = run_tiny({"_workers": "1", "_logging_frequency": "7"}, checkpoint_folder=folder, output_folder=output)
    assert [result.epoch for result in outcome.results] == [0, 1]
    assert list_times() == before
    assert f"This training is finished, and its model is in {model}: nothing is left to do" in caplog.text
    assert "LRScheduler" not in caplog.text.partition("This training is finished")[2]


@pytest.mark.parametrize("missing", ["model", BEST, ONNX_FILE])
def test_a_finished_job_writes_what_is_missing_without_training(
    run_tiny: RunJob, folder: Path, finished_job: Path, tmp_path: Path, missing: str, caplog: pytest.LogCaptureFixture
) -> None:
    """On a new machine, or because the disk was full."""
    caplog.set_level(logging.INFO)
    model = tmp_path / "model"
    if missing != "model":
        shutil.copytree(finished_job / "model", model)
        (model / missing).write_bytes(b"damaged") if missing == BEST else (model / missing).unlink()
    run_tiny(checkpoint_folder=folder)
    assert "train loss" not in caplog.text
    _assert_same_model(model, finished_job / "model")
    for name in ("model_card.json", "curves.json", "hyperparams.json", ONNX_FILE):
        assert (model / name).read_bytes() == (finished_job / "model" / name).read_bytes()


def test_a_job_that_stopped_early_is_finished(
    run_tiny: RunJob, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    changes = {"early_stopping": "True", "early_stopping_min_epochs": "1", "early_stopping_patience": "1"}
    changes |= {"early_stopping_tolerance": "1", "epochs": "9", "learning_rate": "1e-9"}
    # A tolerance of 1 means that mIOU would have to double.
    first = run_tiny(changes, checkpoint_folder=tmp_path / "checkpoints")
    assert "Early stopping after epoch 1: validation mIOU has not risen" in caplog.text
    shutil.rmtree(tmp_path / "model")
    again = run_tiny(changes, checkpoint_folder=tmp_path / "checkpoints")
    assert len(first.results) == 2
    assert _get_numbers(again) == _get_numbers(first)
    assert (tmp_path / "model" / BEST).is_file()


def test_foreign_files_stay(run_tiny: RunJob, folder: Path) -> None:
    newest, before = _find_checkpoints(folder)
    newest.unlink()
    name = f"checkpoint-000009-{'0' * 64}.params"
    (folder / name).mkdir()
    (folder / "notes.txt").write_text("mine")
    (folder / "checkpoint-000007.params").write_text("mine")
    (folder / ".checkpoint.123.partial").write_text("of a job that was killed")
    foreign = {path.name for path in folder.iterdir()} - {before.name, ".checkpoint.123.partial"}
    run_tiny(checkpoint_folder=folder)
    ours = {path.name for path in _find_checkpoints(folder)}
    assert len(ours) == KEPT
    assert {path.name for path in folder.iterdir()} == foreign | ours


def test_two_jobs_cannot_keep_checkpoints_in_one_folder(tmp_path: Path) -> None:
    with open_checkpoints(tmp_path) as first:
        assert first
        with pytest.raises(UserError, match="another process keeps its checkpoints in"), open_checkpoints(tmp_path):
            pass
    with open_checkpoints(tmp_path), open_checkpoints(None) as none:
        assert none is None


def test_two_jobs_cannot_write_their_models_to_one_folder(run_tiny: RunJob, trained_model: Path) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in trained_model.iterdir()}
    message = f"another process writes its model to {trained_model}; wait for its end"
    with hold_folder(trained_model, "writes its model to"), pytest.raises(UserError, match=message):
        run_tiny(model=trained_model)
    assert {path.name: path.stat().st_mtime_ns for path in trained_model.iterdir()} == before


def test_a_folder_that_cannot_be_used_is_told_before_anything_is_read(run_tiny: RunJob, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match=r"cannot be used: (File exists|Not a directory); a file is in its place"):
            run_tiny({"num_classes": "wrong"}, checkpoint_folder=folder)
    with pytest.raises(UserError, match=r"Permission denied|Read-only|No such file"):
        run_tiny({"num_classes": "wrong"}, checkpoint_folder=Path("/proc/nothing"))


def test_a_full_disk_ends_no_training(
    run_tiny: RunJob, folder: Path, tmp_path: Path, finished_job: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    newest, before = _find_checkpoints(folder)
    newest.unlink()

    def refuse(path: Path, *_: Any) -> NoReturn:
        raise StorageError(f"{path} cannot be written: No space left on device; it needs 9 bytes")

    monkeypatch.setattr("gluonseg.train.checkpoint_file.write_pieces", refuse)
    run_tiny(checkpoint_folder=folder)
    words = rf"no checkpoint after epoch 1, .*; training goes on: {folder}\S+ cannot be written: No space .*9 bytes"
    assert re.search(words, caplog.text)
    assert list(folder.iterdir()) == [before]
    _assert_same_model(tmp_path / "model", finished_job / "model")


@pytest.mark.parametrize("has_model", [False, True])
def test_a_stop_before_training_tells_of_what_is_there(
    run_tiny: RunJob, folder: Path, tmp_path: Path, has_model: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """As a spot machine is taken away again while the data is read."""
    caplog.set_level(logging.INFO)
    model, stop = tmp_path / "model", Stop()
    model.mkdir()
    if has_model:
        (model / BEST).write_text("earlier")
    with pytest.raises(Stopped):
        run_tiny(checkpoint_folder=folder, stop=stop, check_progress=lambda _done, _total: stop.request(signal.SIGTERM))
    kept = f"the model in {model} is as it was" if has_model else "there is no model"
    words = f"before training had begun: {kept}; the next run goes on from the checkpoints in {folder}"
    assert f"Stopped by SIGTERM {words}" in caplog.text
    assert [path.name for path in model.iterdir()] == [BEST] * has_model


def test_at_each_removal_of_an_earlier_model_there_is_a_model_or_none(
    trained_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk may refuse the next one."""
    network, removed = mx.gluon.nn.Dense(1, in_units=1), []
    network.initialize()
    model = shutil.copytree(trained_model, tmp_path / "model")
    unlink = Path.unlink

    def watch(path: Path, missing_ok: bool = False) -> None:
        unlink(path, missing_ok)
        removed.append(path.name)
        if list(model.glob("model*")):
            read_folder(model)

    card = read_card(model / "model_card.json")
    result = ResultFolder(model, None, card, "", ModelWriter(network, model), Stop())
    monkeypatch.setattr(Path, "unlink", watch)
    result.begin({})
    assert set(removed) >= {path.name for path in trained_model.iterdir()}
    assert list(model.iterdir()) == []


def test_a_checkpoint_is_written_when_the_model_of_its_epoch_cannot_be(
    run_tiny: RunJob, tmp_path: Path, finished_job: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise StorageError("there is no room")

    folder = tmp_path / "checkpoints"
    with monkeypatch.context() as patch:
        patch.setattr("gluonseg.train.writer.write_pieces", refuse)
        with pytest.raises(StorageError):
            run_tiny(checkpoint_folder=folder)
    assert [path.name[:18] for path in folder.iterdir()] == ["checkpoint-000000-"]
    run_tiny(checkpoint_folder=folder)
    _assert_same_model(tmp_path / "model", finished_job / "model")
