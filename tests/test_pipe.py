"""Pipe mode with an augmented manifest: a feeder writes RecordIO into named pipes, as SageMaker does."""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import mxnet as mx
import pytest

from conftest import TINY
from gluonseg.sagemaker.job import run_training
from gluonseg.sagemaker.pipe import iter_records
from gluonseg.sagemaker.spool import spool_channels
from gluonseg.train.step import Stepper
from gluonseg.train.stop import Stop
from job_layout import Job, lay_out_job
from pipe_feeder import MAGIC, encode_record, feeding, read_pairs, shuffle

PIPE = {"TrainingInputMode": "Pipe", "RecordWrapperType": "RecordIO", "ContentType": "application/x-recordio"}
FILE = {"TrainingInputMode": "File"}
INPUTS: Mapping[str, Any] = {"train": PIPE, "validation": PIPE, "label_map": FILE}
JPEG, PNG = b"\xff\xd8\xff photo", b"\x89PNG\r\n\x1a\n mask"


@pytest.fixture
def data(drawn_channels: Mapping[str, Path]) -> Path:
    return drawn_channels["train"].parent


@pytest.fixture
def job(data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Job:
    """The tiny job in Pipe mode, without its pipes."""
    caplog.set_level(logging.INFO)
    job = lay_out_job(tmp_path / "ml", data, link=True, **TINY)
    for split in ("train", "validation"):
        job.channel(split).unlink()
        job.channel(f"{split}_annotation").unlink()
    job.write_config("inputdataconfig", INPUTS)
    return job


def _encode(*records: bytes) -> bytes:
    return b"".join(encode_record(record) for record in records)


def _name_pipe(job: Job, channel: str) -> Path:
    return job.channel(f"{channel}_0")


def _read_parameters(job: Job) -> list[bytes]:
    return [(job.model / name).read_bytes() for name in ("model_best.params", "model_algo-1")]


def _run_fed(job: Job, data: Path, seed: int) -> int:
    """Run the job on pipes whose photos come in an order that ``seed`` decides; the code that it ends with."""
    with ExitStack() as pipes:
        for split in ("train", "validation"):
            _name_pipe(job, split).unlink(missing_ok=True)
            stream = _encode(*shuffle(read_pairs(data, split), seed))
            pipes.enter_context(feeding(_name_pipe(job, split), stream, step=700))
        return run_training(job.base)


def test_two_orders_and_a_stop_between_give_the_same_model(
    job: Job, data: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Each run of the job gets the photos in another order."""
    monkeypatch.setattr("gluonseg.train.job._export", lambda _folder: None)  # takes longer than the training
    assert _run_fed(job, data, seed=1) == 0, caplog.text
    assert "Read 9 photos with their masks from channel train" in caplog.text
    expected = _read_parameters(job)
    (job.base / "checkpoints").mkdir()
    update, calls = Stepper.update, iter(range(100))

    def stop_in_second_epoch(*arguments: Any) -> Any:
        if next(calls) == 3:
            signal.raise_signal(signal.SIGTERM)
        return update(*arguments)

    monkeypatch.setattr(Stepper, "update", stop_in_second_epoch)
    assert _run_fed(job, data, seed=2) == 0, caplog.text
    assert "Stopped by SIGTERM after epoch 0" in caplog.text
    monkeypatch.setattr(Stepper, "update", update)
    assert _run_fed(job, data, seed=3) == 0, caplog.text
    assert "Resuming from checkpoint" in caplog.text
    assert _read_parameters(job) == expected


def test_a_late_pipe_that_trickles_gives_the_records_of_mxnets_writer(tmp_path: Path) -> None:
    """It cuts records where their bytes look like the beginning of another one."""
    records = [b"photo", MAGIC, b"12345678" + MAGIC + b"1234" + MAGIC, b"", b"x" * 1001]
    writer = mx.recordio.MXRecordIO(str(tmp_path / "file.rec"), "w")
    for record in records:
        writer.write(record)
    writer.close()
    stream = (tmp_path / "file.rec").read_bytes()
    assert encode_record(records[2], parts=3) in stream
    with feeding(tmp_path / "train_0", stream, late_s=0.3, step=7, pause_s=0.001):
        assert list(iter_records("train", tmp_path / "train_0", Stop())) == records


def test_files_are_named_by_what_is_in_them(tmp_path: Path) -> None:
    """So that a file that the check complains of is found again; a line of the manifest may occur twice."""
    photo, mask = (hashlib.sha256(content).hexdigest()[:16] for content in (JPEG, PNG))
    names = [f"{photo}-{mask}", f"{photo}-{mask}-2"]
    with feeding(tmp_path / "train_0", _encode(JPEG, PNG, JPEG, PNG)):
        channels = spool_channels({"train": tmp_path / "train"}, tmp_path, Stop())
    assert sorted(path.stem for path in channels["train"].iterdir()) == names
    assert {path.name: path.read_bytes() for path in channels["train_annotation"].iterdir()} == {
        f"{name}.png": PNG for name in names
    }


@pytest.mark.parametrize("has_pipe", [False, True])
def test_a_stop_while_the_job_waits(job: Job, has_pipe: bool, caplog: pytest.LogCaptureFixture) -> None:
    def terminate() -> None:
        while "is in pipe input mode" not in caplog.text:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    if has_pipe:
        os.mkfifo(_name_pipe(job, "train"))
    thread = threading.Thread(target=terminate)
    thread.start()
    assert run_training(job.base) == 0
    thread.join()
    assert "Stopped by SIGTERM before training had begun: there is no model" in caplog.text
    assert job.read_failure() is None


# --- mistakes


def test_what_needs_no_data_is_checked_before_the_copy(job: Job, caplog: pytest.LogCaptureFixture) -> None:
    job.set_hyperparameters(use_pretrained_model="True")
    assert run_training(job.base) == 2
    assert "Three ways out" in (job.read_failure() or "")
    assert "pipe input mode" not in caplog.text


Prepare = Callable[[pytest.MonkeyPatch], object]


def _leave_room_for(count: int) -> Prepare:
    """Let the disk be full after so many files."""

    def prepare(patch: pytest.MonkeyPatch) -> None:
        write, calls = Path.write_bytes, iter(range(100))

        def write_bytes(path: Path, content: bytes) -> int:
            if "gluonseg-job-" in str(path) and next(calls) >= count:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
            return write(path, content)

        patch.setattr(Path, "write_bytes", write_bytes)

    return prepare


CONFIGURATIONS: dict[str, tuple[dict[str, object], tuple[str, ...]]] = {
    "no wrapper": (
        {"validation": {**PIPE, "RecordWrapperType": "None"}},
        ("channel validation: RecordWrapperType is None", 'give record_wrapping="RecordIO"'),
    ),
    "masks as a channel": (
        {"train_annotation": PIPE},
        ("channel train_annotation: in Pipe mode the masks come with their photos", "leave it out", "for train give"),
    ),
    "mixed modes": (
        {"validation": FILE},
        ("channel train is in Pipe mode, validation is in File mode; give both in the same mode",),
    ),
    "label map": ({"label_map": PIPE}, ("channel label_map: it is never read from a pipe", 'input_mode="File"')),
    "model": ({"model": PIPE}, ("channel model: it is never read from a pipe", 'input_mode="File"')),
}
STREAMS: dict[str, tuple[bytes | None, tuple[str, ...]]] = {
    "no pipe": (None, ("train_0 has not come within 0.3 s", 'input_mode="File"')),
    "empty": (b"", ("channel train: its pipe ended without a record", "manifest has lines")),
    "no RecordIO": (JPEG, ("record 1 does not begin as RecordIO does", r"b'\xff\xd8\xff '", "record_wrapping")),
    "garbage after records": (_encode(JPEG, PNG) + b"?", ("record 3 does not begin as RecordIO does",)),
    "cut": (_encode(JPEG, PNG)[:-4], ("the stream ends within record 2; start the job again",)),
    "cut header": (_encode(JPEG, PNG)[:25], ("the stream ends within record 2",)),
    "last part missing": (encode_record(JPEG + MAGIC, parts=2)[:-8], ("the stream ends within record 1",)),
    "last part alone": (MAGIC + b"\0\0\0\x60", ("record 1 is no RecordIO: a part of flag 3 after 0 parts",)),
    "unknown flag": (MAGIC + b"\0\0\0\xa0", ("a part of flag 5",)),
    "odd": (_encode(JPEG, PNG, JPEG), ("3 records came, an odd number: a photo is without its mask", "give s3_data")),
    "photos alone": (_encode(JPEG, JPEG), ("record 2, where a mask belongs, is a JPEG, as the record before it is",)),
    "other way round": (_encode(PNG, JPEG), ("record 2, where a mask", "are the other way round", "the photo first")),
    "text": (_encode(b"s3://bucket/a.jpg"), ("record 1 is the text 's3://bucket/a.jpg'", "name ends in -ref")),
    "JSON": (_encode(JPEG, b'{"a":\n 1}'), ("record 2 is the text", "name ends in -ref")),
    "no pictures": (_encode(JPEG, PNG), ("files cannot be used", "is damaged")),
}
ROOM = ("No space left on device; photos and masks of all channels need 44 bytes", "were free", "a larger volume_size")
MISTAKES: dict[str, tuple[Mapping[str, object], bytes | None, float, Prepare, tuple[str, ...]]] = {
    **{name: (inputs, None, 0, bool, words) for name, (inputs, words) in CONFIGURATIONS.items()},
    **{name: ({}, stream, 0, bool, words) for name, (stream, words) in STREAMS.items()},
    "no next byte": ({}, _encode(JPEG), 1, bool, ("no byte came through the pipe", "for 0.3 s, after 7 bytes")),
    "full disk": ({}, _encode(JPEG, PNG), 0, _leave_room_for(1), ROOM),
}


@pytest.mark.parametrize(("inputs", "stream", "pause_s", "prepare", "words"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_ends_the_job(
    inputs: Mapping[str, object], stream: bytes | None, pause_s: float, prepare: Prepare, words: tuple[str, ...],
    job: Job, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """With code 2 and one message."""
    monkeypatch.setattr("gluonseg.sagemaker.pipe.WAIT_S", 0.3)
    prepare(monkeypatch)
    job.write_config("inputdataconfig", {**INPUTS, **inputs})
    with ExitStack() as pipes:
        if stream is not None:
            pipes.enter_context(feeding(_name_pipe(job, "train"), stream, step=7, pause_s=pause_s))
            pipes.enter_context(feeding(_name_pipe(job, "validation"), _encode(JPEG, PNG)))
        code = run_training(job.base)
    failure = job.read_failure() or ""
    assert code == 2, failure
    assert failure.startswith("ClientError: ")
    for word in words:
        assert word in failure
    assert "Traceback" not in caplog.text
    assert list(job.model.iterdir()) == []
