"""Checkpoints: trainings that go on, bit for bit; damaged, foreign and other jobs' checkpoints."""

from __future__ import annotations

import json
import logging
import os
import pickle
import re
import shutil
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import mxnet as mx
import numpy as np
import pytest
from PIL import Image

from conftest import RunJob
from gluonseg.errors import StorageError, UserError
from gluonseg.hyperparameters import OPTIMIZERS, parse_hyperparameters
from gluonseg.models.folder.artifact import read_folder
from gluonseg.models.folder.card import read_card
from gluonseg.models.params import read_arrays
from gluonseg.predict.mxnet_engine import MXNetEngine
from gluonseg.train.checkpoint import Checkpoint
from gluonseg.train.checkpoint_file import KEPT, CheckpointFolder, open_checkpoints
from gluonseg.train.checkpoint_state import collect_arrays, collect_counts, restore_state
from gluonseg.train.folder_lock import hold_folder
from gluonseg.train.group import Group
from gluonseg.train.job import JobOutcome, build_trainer
from gluonseg.train.loop import seed_update
from gluonseg.train.result import ResultFolder
from gluonseg.train.step import Stepper
from gluonseg.train.stop import Stop, Stopped
from gluonseg.train.writer import ModelWriter

BEST, LAST = "model_best.params", "model_algo-1"
_UPDATE = Stepper, "update"


@pytest.fixture
def folder(finished_job: Path, tmp_path: Path) -> Path:
    """A copy of the checkpoints of the shared job of two epochs."""
    return shutil.copytree(finished_job / "checkpoints", tmp_path / "checkpoints")


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[CheckpointFolder]:
    """A folder without checkpoints."""
    with open_checkpoints(tmp_path) as checkpoints:
        assert checkpoints
        yield checkpoints


def _find_checkpoints(folder: Path) -> list[Path]:
    """The last epoch's first."""
    with open_checkpoints(folder) as checkpoints:
        assert checkpoints
        return [file.path for file in checkpoints.find_files()]


def _assert_same_model(one: Path, other: Path) -> None:
    for name in (BEST, LAST):
        found, expected = read_arrays(one / name), read_arrays(other / name)
        assert found.keys() == expected.keys()
        assert [key for key in found if found[key].tobytes() != expected[key].tobytes()] == []


def _get_numbers(outcome: JobOutcome) -> list[tuple[object, ...]]:
    return [
        (one.epoch, one.learning_rate, one.train_loss, one.confusion.matrix.tolist(), one.phase)
        for one in outcome.results
    ]


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def _stop_at_call(monkeypatch: pytest.MonkeyPatch, owner: type, name: str, number: int) -> Stop:
    """A stop that is asked for in the call of that number (from 1) of a method of ``owner``."""
    stop, original, calls = Stop(), getattr(owner, name), []

    def call(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == number:
            stop.request(signal.SIGTERM)
        return original(*arguments)

    monkeypatch.setattr(owner, name, call)
    return stop


# Trainings that go on. After the first epoch, each network does: test_networks.py.


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

    def collect(pair: tuple[Any, Any]) -> dict[str, Any]:
        return {key: array.asnumpy() for key, array in collect_arrays(*pair).items()}

    one, other = build(), build()
    for _ in range(3):
        update(*one)
    arrays = collect(one)
    assert arrays["parameter/weight"].dtype == np.dtype(dtype)
    assert "state/weight/0" in arrays
    assert all(array.dtype == np.float32 for key, array in arrays.items() if key.startswith("state/"))
    restore_state(*other, arrays, json.loads(json.dumps(collect_counts(*one))))
    for pair in (one, other):
        update(*pair)
    expected, found = collect(one), collect(other)
    assert {key: array.tobytes() for key, array in found.items()} == {
        key: array.tobytes() for key, array in expected.items()
    }


def test_what_an_update_draws_depends_on_seed_and_number_alone() -> None:
    def draw(seed: int, number: int, used: int) -> bytes:
        mx.nd.random.uniform(shape=used)
        seed_update(seed, number)
        with mx.autograd.train_mode():
            values: bytes = mx.nd.Dropout(mx.nd.ones(1000), p=0.5).asnumpy().tobytes()
        return values

    assert draw(0, 1, used=5) == draw(0, 1, used=700)
    assert len({draw(seed, number, used=1) for seed in (0, 1) for number in (0, 1)}) == 4


@pytest.mark.parametrize(
    ("method", "number", "position", "changes", "devices"),
    [
        ((Stepper, "predict"), 2, (1, 3), {"optimizer": "adam", "_kvstore": "local"}, 2),
        ((MXNetEngine, "compute_logits"), 2, (0, 3), {"validation_mini_batch_size": "1"}, 2),
        (_UPDATE, 5, (1, 2), {"freeze_backbone_epochs": "1", "momentum": "0", "lr_scheduler": "cosine"}, 3),
        (_UPDATE, 5, (1, 2), {"loss": "cross_entropy+dice", "rotation": "20", "vertical_flip": "True"}, 1),
        (_UPDATE, 5, (1, 2), {"class_balanced_crops": "True"}, 1),
    ],
    ids=["crops", "photos", "thawed", "augmented", "balanced"],
)
def test_a_job_stopped_inside_an_epoch_goes_on_there(
    run_tiny: RunJob, tmp_path: Path, method: tuple[type, str], number: int, position: tuple[int, int],
    changes: dict[str, str], devices: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """However often checkpoints are written from then on, nothing of the training changes."""
    contexts, folder = [mx.cpu(number) for number in range(devices)], tmp_path / "checkpoints"
    changes = {"mini_batch_size": "3", "validation_mini_batch_size": "2", **changes}
    expected = run_tiny(changes, tmp_path / "whole", devices=contexts)
    with monkeypatch.context() as patch:
        stop = _stop_at_call(patch, *method, number)
        stopped = run_tiny(changes, devices=contexts, checkpoint_folder=folder, stop=stop)
    assert len(stopped.results) == position[0]
    written, write = [], CheckpointFolder.write

    def watch(self: CheckpointFolder, epochs: int, updates: int, *content: Any) -> Path:
        written.append((epochs, updates))
        return write(self, epochs, updates, *content)

    monkeypatch.setattr(CheckpointFolder, "write", watch)
    monkeypatch.setattr("gluonseg.train.checkpoint.INTERVAL_S", 0)
    caplog.set_level(logging.INFO)
    resumed = run_tiny(changes, devices=contexts, checkpoint_folder=folder)
    assert re.search(rf"Resuming from checkpoint \S+ after update {position[1]} of epoch {position[0]}, ", caplog.text)
    everything = [(0, 1), (0, 2), (0, 3), (1, 0), (1, 1), (1, 2), (1, 3), (2, 0)]
    assert written == everything[everything.index(position) + 1 :]
    names = sorted(path.name.rpartition("-")[0] for path in folder.iterdir())
    assert names == ["checkpoint-000001", "checkpoint-000001-000003"]
    assert _get_numbers(resumed) == _get_numbers(expected)
    _assert_same_model(tmp_path / "model", tmp_path / "whole")


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
    resumed = run_tiny(checkpoint_folder=folder)
    assert f"The checkpoint {newest} cannot be used: its checksum is not that of its name" in caplog.text
    assert f"Resuming from checkpoint {before} after epoch 0, " in caplog.text
    assert "epoch: 0, train loss" not in caplog.text
    assert resumed.earlier_seconds > 0
    assert resumed.earlier_peak_mb > 50
    _assert_same_model(tmp_path / "model", finished_job / "model")
    curves = [json.loads((job / "model" / "curves.json").read_text()) for job in (tmp_path, finished_job)]
    assert curves[0][0] == curves[1][0], "throughputs of the epochs before are kept, too"
    assert not newest.exists()
    assert len(_find_checkpoints(folder)) == KEPT


def test_a_finished_job_writes_what_is_missing_then_ends_at_once(
    run_tiny: RunJob, folder: Path, finished_job: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model, output = tmp_path / "model", tmp_path / "output"

    def run(changes: Mapping[str, str] | None = None) -> dict[str, int]:
        """When each file was written."""
        caplog.clear()
        run_tiny(changes, checkpoint_folder=folder, output_folder=output)
        return {str(path): path.stat().st_mtime_ns for where in (model, output, folder) for path in where.iterdir()}

    def check() -> None:
        assert "train loss" not in caplog.text
        assert "nothing is left to do" not in caplog.text
        _assert_same_model(model, finished_job / "model")
        for name in ("model_card.json", "curves.json", "hyperparams.json", "model.onnx"):
            assert (model / name).read_bytes() == (finished_job / "model" / name).read_bytes()
        assert (output / "report.html").is_file()

    caplog.set_level(logging.INFO)
    run()  # on a new machine
    check()
    (model / BEST).write_bytes(b"damaged")
    before = run()
    check()
    assert run({"_workers": "1", "_logging_frequency": "7"}) == before
    assert f"This training is finished, and its model is in {model}: nothing is left to do" in caplog.text
    assert "LRScheduler" not in caplog.text


def test_early_stopping_waits_for_the_second_stage_and_finishes_the_job(
    run_tiny: RunJob, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    changes = {"early_stopping": "True", "early_stopping_min_epochs": "0", "early_stopping_patience": "1"}
    # A tolerance of 1 means that mIOU would have to double.
    changes |= {"early_stopping_tolerance": "1", "learning_rate": "1e-9", "epochs": "9", "freeze_backbone_epochs": "2"}
    first = run_tiny(changes, checkpoint_folder=tmp_path / "checkpoints")
    assert "Early stopping after epoch 3: validation mIOU has not risen" in caplog.text
    assert [result.phase for result in first.results] == ["head", "head", "all", "all"]
    shutil.rmtree(tmp_path / "model")
    again = run_tiny(changes, checkpoint_folder=tmp_path / "checkpoints")
    assert _get_numbers(again) == _get_numbers(first)
    assert (tmp_path / "model" / BEST).is_file()


# Checkpoints that are not used.


def test_the_furthest_one_counts_whatever_the_clock_says(empty: CheckpointFolder) -> None:
    for age, position in enumerate(["000008", "000009-000009", "000009-000010", "000009", "1000000"]):
        path = empty.folder / f"checkpoint-{position}-{'0' * 64}.params"
        path.touch()
        os.utime(path, (1000 - age, 1000 - age))
    found = [(file.epochs, file.updates) for file in empty.find_files()]
    assert found == [(1_000_001, 0), (10, 0), (9, 10), (9, 9), (9, 0)]


@pytest.mark.parametrize(
    ("is_damaged", "words"),
    [
        (False, r"are of another job: their format is 2, this program reads 3\. Give"),
        (True, r"all 1 checkpoints in .* are damaged; .* remove them to start"),
    ],
)
def test_when_none_can_be_used_the_job_is_refused(empty: CheckpointFolder, is_damaged: bool, words: str) -> None:
    path = empty.write(1, 0, {}, json.dumps({"format": 2}))
    if is_damaged:
        _flip(path)
    with pytest.raises(UserError, match=words):
        Checkpoint(empty, {}, None, None, ModelWriter(mx.gluon.nn.Block(), empty.folder), Group()).resume()
    assert path.is_file()


def test_checkpoints_of_another_number_of_hosts_are_refused(empty: CheckpointFolder) -> None:
    """A checkpoint that names none is of one host."""
    empty.write(1, 0, {}, json.dumps({"format": 3, "identity": {}}))
    with pytest.raises(UserError, match="the number of hosts was 1, now it is 2"):
        Checkpoint(empty, {"hosts": "2"}, None, None, ModelWriter(mx.gluon.nn.Block(), empty.folder), Group()).resume()


def test_checkpoints_of_another_job_are_refused(
    run_tiny: RunJob, folder: Path, drawn_channels: Mapping[str, Path], trained_model: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Other settings, data, devices, versions and starting values; all of them are named."""
    changed = {}
    for channel in ("train_annotation", "validation"):
        changed[channel] = shutil.copytree(drawn_channels[channel], tmp_path / channel)
        path = min(changed[channel].glob("disc*"))
        with Image.open(path) as picture:
            picture.transpose(Image.Transpose.ROTATE_180).save(path)
    changes = {"backbone": "resnet-34", "learning_rate": "1e-3", "seed": "7", "class_names": "a,b,c,d"}
    files = _find_checkpoints(folder)
    monkeypatch.setattr(np, "__version__", "9.9")
    with pytest.raises(UserError, match="are of another job: ") as caught:
        run_tiny(changes, checkpoint_folder=folder, extra_channels=changed, devices=[mx.cpu(0), mx.cpu(1)])
    monkeypatch.undo()
    words = str(caught.value).partition("another job: ")[2].partition(". Give the same settings")[0]
    assert sorted(words.split("; ")) == [
        "backbone was resnet-18, now it is resnet-34",
        "class_names was not set, now it is a, b, c, d",
        "learning_rate was 0.01, now it is 0.001",
        f"numpy was {np.__version__}, now it is 9.9",
        "seed was 0, now it is 7",
        "the class names were background, disc, box, triangle, now they are a, b, c, d",
        "the devices were 1 cpu, now they are 2 cpu",
        "the training photos, masks or label map have changed",
        "the validation photos, masks or label map have changed",
    ]
    with pytest.raises(UserError, match="the starting values have changed"):
        run_tiny(checkpoint_folder=folder, extra_channels={"model": trained_model})
    assert _find_checkpoints(folder) == files
    assert not (tmp_path / "model").exists()


# Folders.


def test_foreign_files_stay(empty: CheckpointFolder) -> None:
    folder = empty.folder
    (folder / f"checkpoint-000009-{'0' * 64}.params").mkdir()
    (folder / "notes.txt").write_text("mine")
    (folder / "checkpoint-000007.params").write_text("mine")
    foreign = set(folder.iterdir())
    written = [empty.write(epochs, 0, {}) for epochs in range(1, 4)]
    assert set(folder.iterdir()) == foreign | set(written[-KEPT:])


def test_what_a_killed_job_had_begun_to_write_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".checkpoint.123.partial").touch()
    with open_checkpoints(tmp_path):
        assert not list(tmp_path.iterdir())


def test_two_jobs_cannot_keep_checkpoints_in_one_folder(tmp_path: Path) -> None:
    message = "another process keeps its checkpoints in"
    with open_checkpoints(tmp_path), pytest.raises(UserError, match=message), open_checkpoints(tmp_path):
        pass
    with open_checkpoints(tmp_path), open_checkpoints(None) as none:
        assert none is None


def test_two_jobs_cannot_write_their_models_to_one_folder(run_tiny: RunJob, tmp_path: Path) -> None:
    message = f"another process writes its model to {tmp_path}; wait for its end"
    with hold_folder(tmp_path, "writes its model to"), pytest.raises(UserError, match=message):
        run_tiny(model=tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("file", "cannot be used: File exists; a file is in its place"),
        ("file/below", "cannot be used: Not a directory; a file is in its place"),
        ("/proc/nothing", "Permission denied|Read-only|No such file"),
        ("x/../model", "model is the folder of the model; name another one for the checkpoints"),
    ],
)
def test_a_folder_that_cannot_be_used_is_told_before_anything_is_read(
    run_tiny: RunJob, tmp_path: Path, name: str, words: str
) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match=words):
        run_tiny({"num_classes": "wrong"}, checkpoint_folder=tmp_path / name)
    assert not (tmp_path / "model").exists()


# Disks without room, and stops.


def _refuse(path: Path, *_: Any) -> NoReturn:
    raise StorageError(f"{path} cannot be written: No space left on device; it needs 9 bytes")


def test_a_full_disk_ends_no_training(
    run_tiny: RunJob, folder: Path, tmp_path: Path, finished_job: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    newest, before = _find_checkpoints(folder)
    newest.unlink()
    monkeypatch.setattr("gluonseg.train.checkpoint_file.write_pieces", _refuse)
    run_tiny(checkpoint_folder=folder)
    words = rf"no checkpoint after epoch 1, .*; training goes on: {folder}\S+ cannot be written: No space .*9 bytes"
    assert re.search(words, caplog.text)
    assert list(folder.iterdir()) == [before]
    _assert_same_model(tmp_path / "model", finished_job / "model")


@pytest.mark.parametrize(("is_stopped", "name"), [(True, "checkpoint-000000-000001-"), (False, "checkpoint-000000-")])
def test_a_checkpoint_is_written_when_there_is_no_room_for_the_model(
    run_tiny: RunJob, tmp_path: Path, is_stopped: bool, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a stop in the first epoch nothing else would be left."""
    stop = _stop_at_call(monkeypatch, Stepper, "update", 1) if is_stopped else Stop()
    monkeypatch.setattr("gluonseg.train.writer.write_pieces", _refuse)
    with pytest.raises(StorageError):
        run_tiny(checkpoint_folder=tmp_path / "checkpoints", stop=stop)
    assert [path.name[:-71] for path in (tmp_path / "checkpoints").iterdir()] == [name]


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
