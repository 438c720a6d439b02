"""Checkpoints: trainings that go on, bit for bit; damaged, foreign and other jobs' checkpoints."""

from __future__ import annotations

import errno
import json
import logging
import os
import pickle
import re
import shutil
import signal
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import mxnet as mx
import numpy as np
import numpy.typing as npt
import pytest

from conftest import RunJob
from gluonseg.errors import StorageError, UserError
from gluonseg.hyperparameters import OPTIMIZERS, parse_hyperparameters
from gluonseg.metrics import Confusion
from gluonseg.models.folder.artifact import read_folder
from gluonseg.models.folder.card import read_card
from gluonseg.models.folder.manifest import ONNX_FILE
from gluonseg.models.params import read_arrays
from gluonseg.train.checkpoint import Checkpoint, describe_differences
from gluonseg.train.checkpoint_file import KEPT, CheckpointFile, CheckpointFolder, open_checkpoints
from gluonseg.train.checkpoint_state import collect_arrays, collect_counts, restore_state
from gluonseg.train.folder_lock import hold_folder
from gluonseg.train.job import JobOutcome, build_trainer
from gluonseg.train.listener import EpochPart, EpochResult
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


# Every optimizer, phase and number of devices.


@pytest.mark.parametrize(
    ("changes", "devices"),
    [
        *(
            pytest.param({"optimizer": name}, 1, marks=() if name in ("sgd", "adam") else pytest.mark.slow)
            for name in OPTIMIZERS
        ),
        ({"momentum": "0", "freeze_backbone_epochs": "1", "lr_scheduler": "cosine"}, 1),
        ({"optimizer": "adam", "_kvstore": "local"}, 2),
        ({"mini_batch_size": "5"}, 3),
    ],
    ids=lambda value: "-".join(value.values()) if isinstance(value, dict) else str(value),
)
def test_resumed_after_the_first_epoch(
    run_tiny: RunJob, tmp_path: Path, changes: dict[str, str], devices: int, caplog: pytest.LogCaptureFixture
) -> None:
    contexts, folder = [mx.cpu(number) for number in range(devices)], tmp_path / "checkpoints"
    changes = {"_augmentation_type": "none", **changes}
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

    def __init__(self) -> None:
        super().__init__()
        self.weight = self.params.get("weight", shape=(3, 4), dtype="float16")

    def forward(self, x: Any) -> Any:
        return x * self.weight.data()


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_float16_states_come_back(optimizer: str) -> None:
    hp = parse_hyperparameters({"num_classes": "2", "optimizer": optimizer, "precision_dtype": "float16"})

    def build() -> tuple[Any, Any]:
        network = _Scale()
        network.initialize(mx.init.Uniform(1))
        return network, build_trainer(hp, network)

    def update(network: Any, trainer: Any) -> None:
        with mx.autograd.record():
            loss = (network(mx.nd.ones((3, 4), dtype="float16")) ** 2).sum()
        loss.backward()
        trainer.step(1)

    one, other = build(), build()
    for _ in range(3):
        update(*one)
    arrays = {key: array.asnumpy() for key, array in collect_arrays(*one).items()}
    assert arrays["parameter/weight"].dtype == np.float16
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
        ("update", 5, "after update 2 of epoch 1", {"optimizer": "adam"}, 1),
        ("predict", 2, "after update 3 of epoch 0", {"optimizer": "adam", "_kvstore": "local"}, 2),
        ("update", 5, "after update 2 of epoch 1", {"freeze_backbone_epochs": "1"}, 1),
    ],
    ids=["first update", "second epoch", "validation", "thawed"],
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


def test_a_damaged_checkpoint_is_passed_over(
    run_tiny: RunJob, folder: Path, finished_job: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
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


# What is in a file, of a network of one layer.


def _build_checkpoint(folder: CheckpointFolder) -> Checkpoint:
    network = mx.gluon.nn.Dense(3, in_units=2)
    network.initialize(mx.init.Uniform(1))
    trainer = build_trainer(parse_hyperparameters({"num_classes": "3", "optimizer": "adam"}), network)
    return Checkpoint(folder, {"epochs": "2"}, network, trainer, ModelWriter(network, folder.folder))


def _save(folder: CheckpointFolder) -> CheckpointFile:
    """A checkpoint after one update of epoch 1."""
    checkpoint = _build_checkpoint(folder)
    with mx.autograd.record():
        loss = checkpoint._network(mx.nd.ones((1, 2))).sum()
    loss.backward()
    checkpoint._trainer.step(1)
    first = EpochResult(0, 0.1, 1.5, 9.0, Confusion(np.eye(3, dtype=np.int64)), 9.0)
    checkpoint.best = checkpoint._writer.copy_parameters()
    checkpoint.save([first], EpochPart(1, 1.25, 1, 0.5))
    (file,) = folder.find_files()
    return file


def _drop_states(arrays: dict[str, Array]) -> None:
    for name in [name for name in arrays if name.startswith("state/")]:
        del arrays[name]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda content, arrays: content.pop("optimizer"), "it lacks 'optimizer'"),
        (lambda content, arrays: content["epochs"].pop(), "argument 2 is longer"),
        (lambda content, arrays: content["part"].update(updates=2), "it is one after update 2 of epoch 1"),
        (lambda content, arrays: content["part"].pop("updates"), "it is one after epoch 0"),
        (lambda content, arrays: content["epochs"][0].pop("train_loss"), "'train_loss'"),
        (lambda content, arrays: content.update(peak_mb="x"), "'x'"),
        (lambda content, arrays: content["optimizer"].update(updates=[1]), "attribute"),
        (lambda content, arrays: content["optimizer"]["updates"].update({"0": {"x": 1}}), "it lacks 'x'"),
        (lambda content, arrays: content["optimizer"]["updates"].update({"0": {}}), "/0 is not of the network, or of"),
        (lambda content, arrays: _drop_states(arrays), "it lacks state/bias/0"),
        (lambda content, arrays: arrays.pop("parameter/bias"), "it lacks parameter/bias"),
        (
            lambda content, arrays: arrays.update({"parameter/x": np.zeros(9, "f4")}),
            "parameter/x is not of the net",
        ),
        (lambda content, arrays: arrays.update({"best/x": np.zeros(9, "f4")}), "the parameters of its best epoch are"),
        (
            lambda content, arrays: arrays.update({"state/bias/0": np.zeros(9, "f4")}),
            "state/bias/0 is float32 (9,), not float32 (3,)",
        ),
        (lambda content, arrays: arrays["parameter/bias"].fill(np.inf), "parameter/bias is not finite"),
        (lambda content, arrays: arrays["best/bias"].fill(np.nan), "best/bias is not finite"),
    ],
)
def test_one_with_the_right_checksum_and_the_wrong_content(
    tmp_path: Path, change: Any, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    with open_checkpoints(tmp_path) as folder:
        assert folder
        file = _save(folder)
        assert _build_checkpoint(folder).resume()[1] == EpochPart(1, 1.25, 1, 0.5), "a good one is taken"
        arrays, content = file.read()
        file.path.unlink()
        change(content, arrays)
        folder.write(file.epochs, file.updates, arrays, json.dumps(content))
        checkpoint = _build_checkpoint(folder)
        before = {name: one.asnumpy() for name, one in checkpoint._writer.copy_parameters().items()}
        with pytest.raises(UserError, match="all 1 checkpoints"):
            checkpoint.resume()
        _assert_same({name: one.asnumpy() for name, one in checkpoint._writer.copy_parameters().items()}, before)
    assert words in caplog.text


def test_one_that_cannot_be_read_is_not_taken_for_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_file: CheckpointFile) -> NoReturn:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with open_checkpoints(tmp_path) as folder:
        assert folder
        file = _save(folder)
        monkeypatch.setattr(CheckpointFile, "is_whole", refuse)
        words = rf"the checkpoint {file.path} cannot be read: Input/output error \(errno {errno.EIO}\)"
        with pytest.raises(UserError, match=words):
            _build_checkpoint(folder).resume()
        assert folder.find_files() == [file]


def test_one_of_an_earlier_format_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_checkpoints(tmp_path) as folder:
        assert folder
        with monkeypatch.context() as patch:
            patch.setattr("gluonseg.train.checkpoint._FORMAT", 2)
            file = _save(folder)
        with pytest.raises(UserError, match=r"are of another job: their format is 2, this program reads 3\. Give"):
            _build_checkpoint(folder).resume()
        assert folder.find_files() == [file]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, []),
        ({"class names": "sky, disc"}, ["the class names were ground, disc, now they are sky, disc"]),
        (
            {"class names": "sky, disc", "class_names": "sky, disc"},
            ["class_names was not set, now it is sky, disc"],
        ),
        ({"start": "2", "epochs": "3"}, ["epochs was 2, now it is 3"]),
    ],
)
def test_what_is_different_in_another_job(changes: Mapping[str, str], words: list[str]) -> None:
    identity = {"epochs": "2", "class names": "ground, disc", "start": "1"}
    assert describe_differences(identity, {**identity, **changes}) == words


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
    ]
    assert sorted(folder.iterdir()) == before


def test_other_data_devices_versions_and_starting_values_are_refused(
    run_tiny: RunJob, folder: Path, drawn_channels: Mapping[str, Path], trained_model: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    for split, title in (("train", "training"), ("validation", "validation")):
        masks = shutil.copytree(drawn_channels[f"{split}_annotation"], tmp_path / split)
        one, other, *_ = sorted(masks.iterdir())
        photos = shutil.copytree(drawn_channels[split], tmp_path / f"{split}_photos")
        for path in (one, next(photos.glob(f"{one.stem}.*"))):
            source = other if path == one else next(photos.glob(f"{other.stem}.*"))
            path.write_bytes(source.read_bytes())
        with pytest.raises(UserError, match=f"the {title} photos, masks or label map have changed"):
            run_tiny(checkpoint_folder=folder, extra_channels={split: photos, f"{split}_annotation": masks})
    with pytest.raises(UserError, match="the devices were 1 cpu, now they are 2 cpu"):
        run_tiny(checkpoint_folder=folder, devices=[mx.cpu(0), mx.cpu(1)])
    with pytest.raises(UserError, match="the starting values have changed"):
        run_tiny(checkpoint_folder=folder, extra_channels={"model": trained_model})
    monkeypatch.setattr(np, "__version__", "9.9")
    with pytest.raises(UserError, match=r"numpy was .*, now it is 9\.9"):
        run_tiny(checkpoint_folder=folder)


def test_a_finished_job_ends_at_once_with_its_model_as_it_is(
    run_tiny: RunJob, folder: Path, finished_job: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    model = shutil.copytree(finished_job / "model", tmp_path / "model")
    before = {path.name: path.stat().st_mtime_ns for path in (*model.iterdir(), *folder.iterdir())}
    outcome = run_tiny({"_workers": "1", "_logging_frequency": "7"}, checkpoint_folder=folder)
    assert [result.epoch for result in outcome.results] == [0, 1]
    assert {path.name: path.stat().st_mtime_ns for path in (*model.iterdir(), *folder.iterdir())} == before
    assert f"This training is finished, and its model is in {model}: nothing is left to do" in caplog.text
    assert "LRScheduler" not in caplog.text


def test_a_finished_job_without_its_onnx_file_writes_it(
    run_tiny: RunJob, folder: Path, finished_job: Path, tmp_path: Path
) -> None:
    """The disk was full when the training ended, say."""
    model = shutil.copytree(finished_job / "model", tmp_path / "model")
    (model / ONNX_FILE).unlink()
    with hold_folder(model, "writes its model to"), pytest.raises(UserError, match="another process writes its model"):
        run_tiny(checkpoint_folder=folder)
    assert not (model / ONNX_FILE).exists()
    run_tiny(checkpoint_folder=folder)
    assert (model / ONNX_FILE).read_bytes() == (finished_job / "model" / ONNX_FILE).read_bytes()


def test_a_finished_job_whose_report_is_missing_writes_it(
    run_tiny: RunJob, folder: Path, finished_job: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    output = tmp_path / "output"
    shutil.copytree(finished_job / "model", tmp_path / "model")
    for removed in (output / "report.html", output / "curves.json"):
        removed.unlink(missing_ok=True)
        run_tiny(checkpoint_folder=folder, output_folder=output)
        assert removed.is_file()
    assert "nothing is left to do" not in caplog.text
    run_tiny(checkpoint_folder=folder, output_folder=output)
    assert "nothing is left to do" in caplog.text


@pytest.mark.parametrize("damaged", [None, BEST, LAST])
def test_a_finished_job_without_its_model_makes_it_anew(
    run_tiny: RunJob, folder: Path, finished_job: Path, tmp_path: Path, damaged: str | None
) -> None:
    model = tmp_path / "model"
    if damaged:
        shutil.copytree(finished_job / "model", model)
        _flip(model / damaged)
    run_tiny(checkpoint_folder=folder)
    _assert_same_model(model, finished_job / "model")
    for name in ("model_card.json", "curves.json", "hyperparams.json"):
        assert (model / name).read_bytes() == (finished_job / "model" / name).read_bytes()


def test_a_job_that_stopped_early_is_finished(run_tiny: RunJob, tmp_path: Path) -> None:
    changes = {"early_stopping": "True", "early_stopping_min_epochs": "1", "early_stopping_patience": "1"}
    changes |= {"early_stopping_tolerance": "1", "epochs": "9", "learning_rate": "1e-9"}
    first = run_tiny(changes, checkpoint_folder=tmp_path / "checkpoints")
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
    (folder / f"checkpoint-000008-{'0' * 64}.params").symlink_to(before)
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

    def refuse(descriptor: int) -> None:
        partial = folder / f".checkpoint.{os.getpid()}.partial"
        if partial.exists() and os.path.samestat(os.fstat(descriptor), partial.stat()):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("gluonseg.train.checkpoint_file.os.fsync", refuse)
    run_tiny(checkpoint_folder=folder)
    words = rf"checkpoint after epoch 1 cannot be written to {folder}, where it needs \d\d\.\d MB: No space left on"
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


def test_removing_an_earlier_model_leaves_a_model_or_none(
    trained_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = mx.gluon.nn.Dense(1, in_units=1)
    network.initialize()
    unlink = Path.unlink
    for count in range(len([path for path in trained_model.iterdir() if path.is_file()])):
        model = shutil.copytree(trained_model, tmp_path / str(count))
        removed: list[Path] = []

        def refuse(path: Path, missing_ok: bool = False, removed: list[Path] = removed, count: int = count) -> None:
            if path.exists() and len(removed) == count:
                raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
            removed += [path] if path.exists() else []
            unlink(path, missing_ok)

        result = ResultFolder(
            model, None, read_card(model / "model_card.json"), "", ModelWriter(network, model), Stop()
        )
        with monkeypatch.context() as patch:
            patch.setattr(Path, "unlink", refuse)
            with pytest.raises(OSError, match="Read-only"):
                result.begin({})
        assert len(removed) == count
        if list(model.glob("model*")):
            read_folder(model)


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


@pytest.mark.parametrize("call", ["replace", "open"])
def test_a_file_system_that_checkpoints_cannot_be_kept_on(
    tmp_path: Path, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some mounts of object stores cannot rename; a folder may be one to write to and not to read."""

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(f"gluonseg.train.folder_lock.os.{call}", refuse)
    words = "cannot be used: Function not implemented; use another folder, or train without checkpoints"
    with pytest.raises(UserError, match=words), open_checkpoints(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_the_name_of_a_leftover(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / ".checkpoint.7.partial").mkdir()
    with open_checkpoints(tmp_path) as checkpoints:
        assert checkpoints
    assert "is left of a job that was killed, and cannot be removed: " in caplog.text


@pytest.mark.parametrize(("number", "is_told"), [(errno.EINVAL, False), (errno.ENOTSUP, False), (errno.EIO, True)])
def test_a_folder_that_cannot_be_synced_does_not_grow(
    tmp_path: Path, number: int, is_told: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr("gluonseg.train.checkpoint_file.os.fsync", refuse)
    told = []
    with open_checkpoints(tmp_path) as checkpoints:
        assert checkpoints
        for epoch in range(4):
            try:
                checkpoints.write(epoch + 1, 0, {"a": np.arange(3)})
            except OSError as error:
                told.append(error.errno)
        assert [file.epochs for file in checkpoints.find_files()] == [4, 3]
    assert told == ([number] * 4 if is_told else [])


def test_nothing_is_pickled_or_unpickled(
    run_tiny: RunJob, tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_arguments: Any, **_options: Any) -> NoReturn:
        raise AssertionError("pickle was used")

    for name in ("dumps", "loads", "dump", "load", "Pickler", "Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)
    newest, _ = _find_checkpoints(folder)
    newest.unlink()
    run_tiny(checkpoint_folder=folder)
    assert len(_find_checkpoints(folder)) == KEPT
    head = newest.name[: len("checkpoint-000001-")]
    assert any(path.name.startswith(head) for path in folder.iterdir())
