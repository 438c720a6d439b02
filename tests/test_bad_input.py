"""Mistakes with a job end before training, with code 2 and one message that says what, where and the fix.

Mistakes with photos, masks, labels and hyperparameters are tested in test_check, test_decode, test_labels,
test_parameter and test_hyperparameters; here is how a job reports them, and the mistakes that only a job can have.
"""

from __future__ import annotations

import logging
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gluonseg.data.prepare.synthetic import prepare_synthetic
from gluonseg.errors import FAILURE_LIMIT, UserError
from gluonseg.sagemaker.contract import read_contract
from gluonseg.sagemaker.job import main, run_training
from gluonseg.train.checkpoint_file import open_checkpoints
from job_layout import TRAIN, Job, lay_out_job
from program import build_environment, run_program

Spoil = Callable[[Job], object]
CHANNELS = ("train", "train_annotation", "validation", "validation_annotation")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine pictures: enough to find every mistake in."""
    folder = tmp_path_factory.mktemp("drawn") / "channels"
    prepare_synthetic(folder, count=9, size=40)
    return folder


@pytest.fixture
def job(data: Path, tmp_path: Path) -> Job:
    return lay_out_job(tmp_path / "ml", data)


@pytest.fixture(autouse=True)
def log_level(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


def _check_refused(job: Job, code: int, words: tuple[str, ...], log: str) -> str:
    """What holds of every refusal; returns the text of the failure file."""
    failure = job.read_failure()
    assert failure is not None, log
    assert code == 2, failure
    assert failure.startswith("ClientError: ")
    assert len(failure) <= FAILURE_LIMIT
    for word in words:
        assert word in failure, failure
    assert all(line.isprintable() for line in failure.splitlines())
    assert failure in log
    assert "Traceback" not in failure + log
    assert list(job.model.iterdir()) == []
    assert [path for path in (job.base / "output").rglob("*") if path.is_file()] == [job.base / "output" / "failure"]
    return failure


def _write_bad_label(job: Job) -> None:
    path = job.channel("train_annotation") / "box_2.png"
    with Image.open(path) as mask:
        pixels = np.array(mask)
    pixels[3, 4] = 7
    Image.fromarray(pixels).save(path)


def _leave_model_channel_empty(job: Job) -> None:
    job.channel("model").mkdir()
    job.list_channels(*CHANNELS, "model")


MISTAKES: dict[str, tuple[Spoil, tuple[str, ...]]] = {
    "channel-not-listed": (
        lambda job: job.list_channels("train", "train_annotation", "validation"),
        ("the channel validation_annotation is missing", "Needed are train, train_annotation"),
    ),
    "channel-not-there": (
        lambda job: shutil.rmtree(job.channel("train")),
        ("channel train: the folder ", "input/data/train is missing", "mount it"),
    ),
    "label-out-of-range": (
        _write_bad_label,
        ("train_annotation/box_2.png has label 7 on 1 pixels", "valid are 0 to 3 and 255"),
    ),
    "several-hyperparameters": (
        lambda job: job.set_hyperparameters(epochs="0", optimizer="adamw", mini_batch_siz="4"),
        ("epochs must be", "optimizer must be", "did you mean adam?", "did you mean mini_batch_size?"),
    ),
    "label-map-no-json": (
        lambda job: (job.channel("label_map") / "train_label_map.json").write_text("scale: 3"),
        ("train_label_map.json is not a JSON object",),
    ),
    "model-channel-empty": (
        _leave_model_channel_empty,
        ("no model_best.params", "input/data/model", "give a model folder or a model.tar.gz"),
    ),
}


@pytest.mark.parametrize(("spoil", "words"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_ends_the_job(
    spoil: Spoil, words: tuple[str, ...], job: Job, caplog: pytest.LogCaptureFixture
) -> None:
    spoil(job)
    _check_refused(job, run_training(job.base), words, caplog.text)


CONFIGURATIONS: dict[str, tuple[str, bytes | None, str]] = {
    "missing": ("hyperparameters", None, r"hyperparameters\.json is missing"),
    "broken": ("hyperparameters", b'{"epochs": "1",}', r"hyperparameters\.json is not a JSON object.*line 1"),
    "list": ("hyperparameters", b'["epochs"]', "it holds a list, not an object"),
    "deep": ("hyperparameters", b'{"a":' * 10_000, r"hyperparameters\.json is not"),
    "long": ("hyperparameters", b" " * ((16 << 20) + 1), "it has 16777217 bytes, the limit is 16777216"),
    "misspelt channel": (
        "inputdataconfig",
        b'{"validation_annotations": {}}',
        r"unknown channel 'validation_annotations'.*did you mean validation_annotation\?",
    ),
    "input mode": (
        "inputdataconfig",
        b'{"train": {"TrainingInputMode": "pipe"}}',
        "channel train: TrainingInputMode 'pipe' is unknown; give File, FastFile or Pipe",
    ),
    "photos sharded without their masks": (
        "inputdataconfig",
        b'{"train": {"S3DistributionType": "ShardedByS3Key"}, "train_annotation": {}}',
        "of the channels train, train_annotation one is ShardedByS3Key.* give both the same distribution",
    ),
    "host not listed": (
        "resourceconfig",
        b'{"current_host": "algo-3", "hosts": ["algo-1"]}',
        r"resourceconfig\.json: current_host 'algo-3' is not among hosts \['algo-1'\]",
    ),
}


@pytest.mark.parametrize(("name", "content", "words"), CONFIGURATIONS.values(), ids=CONFIGURATIONS)
def test_bad_configuration(name: str, content: bytes | None, words: str, job: Job) -> None:
    if content is None:
        job.config(name).unlink()
    else:
        job.config(name).write_bytes(content)
    with pytest.raises(UserError, match=words) as caught:
        read_contract(job.base)
    assert len(str(caught.value)) < FAILURE_LIMIT


@pytest.mark.parametrize("content", ["{}", '{"current_host": "algo-1"}'])
def test_a_resource_configuration_without_hosts_is_that_of_one_host(content: str, job: Job) -> None:
    job.config("resourceconfig").write_text(content)
    assert read_contract(job.base).host == "algo-1"


def test_a_script_needs_a_resource_configuration(job: Job, caplog: pytest.LogCaptureFixture) -> None:
    job.config("resourceconfig").unlink()
    job.set_hyperparameters(sagemaker_program="train.py")
    _check_refused(job, run_training(job.base), ("resourceconfig.json is missing",), caplog.text)


def test_a_loss_that_is_no_number_stops_the_job_and_leaves_its_checkpoints(
    job: Job, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gluonseg.train.checkpoint.INTERVAL_S", 0)
    (job.base / "checkpoints").mkdir()
    rates = {"learning_rate": "1", "head_lr_mult": "100", "weight_decay": "0.99"}
    job.set_hyperparameters(epochs="30", mini_batch_size="2", **rates)
    assert run_training(job.base) == 2
    failure = job.read_failure() or ""
    assert failure.startswith("ClientError: ")
    for word in ("loss", "epoch", "iteration", "lower learning_rate"):
        assert word in failure, failure
    assert "Traceback" not in caplog.text
    with open_checkpoints(job.base / "checkpoints") as checkpoints:
        assert checkpoints
        files = checkpoints.find_files()
    assert files
    assert all(file.is_whole() for file in files)


def test_an_unexpected_error_is_an_algorithm_error(job: Job, caplog: pytest.LogCaptureFixture) -> None:
    (job.model / "model_algo-1").mkdir()
    assert run_training(job.base) == 1
    failure = job.read_failure() or ""
    assert failure.startswith("AlgorithmError: IsADirectoryError: ")
    assert str(job.model) in failure
    assert len(failure) <= FAILURE_LIMIT
    assert "Traceback" in caplog.text


def test_the_process_ends_with_2_and_forgets_how_an_earlier_job_ended(job: Job) -> None:
    (job.base / "output" / "failure").write_text("AlgorithmError: of an earlier job")
    (job.base / "output" / "success").touch()
    _write_bad_label(job)
    run = job.run()
    _check_refused(job, run.code, ("train_annotation/box_2.png has label 7 on 1 pixels",), run.log)


def test_refused_before_there_is_a_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("gluonseg.sagemaker.job.configure_logging", lambda: None)
    monkeypatch.setenv("SAGEMAKER_BASE_DIR", str(tmp_path / "nowhere"))
    assert main([]) == main(["extra"]) == 2
    assert f"ClientError: there is no training job in {tmp_path / 'nowhere'}" in caplog.text
    assert "set SAGEMAKER_BASE_DIR to the folder" in caplog.text
    assert "train takes no arguments, got ['extra']; hyperparameters belong into hyperparameters.json" in caplog.text
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.skipif(os.geteuid() == 0 and not shutil.which("setpriv"), reason="root needs setpriv to have no rights")
@pytest.mark.parametrize("name", ["model", "checkpoints"])
def test_folder_that_cannot_be_written_to(job: Job, name: str) -> None:
    """As under ``docker run --user``; found before the data is read."""
    (job.base / name).mkdir(exist_ok=True)
    (job.base / name).chmod(0o555)
    plain = ("setpriv", "--inh-caps=-all", "--bounding-set=-all") if os.geteuid() == 0 else ()
    code, log = _run_train([*plain, sys.executable, str(TRAIN)], job.base)
    (job.base / name).chmod(0o755)
    user = f"uid {os.geteuid()}"
    words = f"{user} cannot write to the folder {job.base / name}: Permission denied; give the folder to {user}"
    if name == "checkpoints":
        words = f"the folder of the checkpoints, {job.base / name}, cannot be used: Permission denied; give the folder"
    assert code == 2, log
    assert words in log
    assert "Traceback" not in log
    assert "Checked" not in log
    assert list(job.base.rglob(".writable*")) == []


def test_file_in_place_of_a_folder(job: Job) -> None:
    job.model.rmdir()
    job.model.touch()
    assert run_training(job.base) == 2
    assert f"{job.model}: File exists; a file is in its place, remove it" in (job.read_failure() or "")


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("unshare"), reason="mounting needs root and unshare")
def test_no_temporary_folder(job: Job) -> None:
    """As under ``docker run --read-only``."""
    read_only = "for each in /tmp /var/tmp; do mount --bind $each $each && mount -o remount,bind,ro $each || exit; done"
    script = f'mount --bind "$1" /mnt && {read_only}; cd /proc; shift; exec "$@"'
    command = ["unshare", "--mount", "sh", "-c", script, "sh", str(job.base)]
    code, log = _run_train([*command, sys.executable, str(TRAIN)], Path("/mnt"))
    assert code == 2, log
    assert "ClientError: no folder for temporary files can be written to" in log
    assert "Traceback" not in log
    assert "docker run --tmpfs /tmp" in (job.read_failure() or "")


def _run_train(command: list[str], base: Path) -> tuple[int, str]:
    environment = build_environment("TMPDIR", SAGEMAKER_BASE_DIR=str(base), PYTHONDONTWRITEBYTECODE="1")
    done = run_program(command, environment, timeout=120)
    return done.returncode, done.stdout
