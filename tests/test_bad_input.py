"""Everything a caller can get wrong about a job: each ends in one message that says what, where and the fix."""

from __future__ import annotations

import gzip
import io
import logging
import os
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from fault_case import mark_cases
from file_tree import add_member
from gluonseg.data.synthetic import prepare_synthetic
from gluonseg.errors import FAILURE_LIMIT
from gluonseg.sagemaker.job import run_training
from job_layout import TRAIN, Job, lay_out_job, train_once
from program import build_environment, run_program

Spoil = Callable[[Job], object]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six pictures: enough to find every mistake in."""
    folder = tmp_path_factory.mktemp("drawn") / "channels"
    prepare_synthetic(folder, count=9, size=40)
    return folder


@pytest.fixture(autouse=True)
def quiet_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One thread, and no weights anywhere on this machine or in any network."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("MXNET_HOME", str(tmp_path / "mxnet"))
    monkeypatch.setenv("MXNET_GLUON_REPO", "http://127.0.0.1:9/")
    monkeypatch.delenv("GLUONSEG_PRETRAINED_DIR", raising=False)


@pytest.fixture(autouse=True)
def log_level(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    with caplog.at_level(logging.INFO):
        yield


def _first(job: Job, channel: str) -> Path:
    return min(path for path in job.channel(channel).iterdir())


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


def _write_mask(path: Path, change: Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.generic]]) -> None:
    with Image.open(path) as mask:
        pixels = np.array(mask)
    Image.fromarray(change(pixels)).save(path, "PNG")


def _set_pixel(label: int) -> Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.generic]]:
    def change(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.generic]:
        pixels[3, 4] = label
        return pixels

    return change


def _flip_byte(path: Path, after: bytes) -> None:
    """Change the fourth byte behind the word ``after``."""
    content = bytearray(path.read_bytes())
    content[content.index(after) + len(after) + 3] ^= 0xFF
    path.write_bytes(content)


def _leave_hidden_files(job: Job) -> None:
    _empty(job.channel("validation"))
    for name in (".DS_Store", "Thumbs.db", "._x.jpg"):
        (job.channel("validation") / name).touch()


def _ignore_all(job: Job) -> None:
    for path in job.channel("train_annotation").iterdir():
        _write_mask(path, lambda pixels: np.full_like(pixels, 255))


def _replace_by_jpeg_masks(job: Job) -> None:
    for path in list(job.channel("train_annotation").iterdir()):
        with Image.open(path) as mask:
            mask.convert("L").save(path.with_suffix(".jpg"))
        path.unlink()


def _replace_by_fifo(job: Job) -> None:
    path = _first(job, "train")
    path.unlink()
    os.mkfifo(path)


def _rename(job: Job, channel: str, change: Callable[[str], str]) -> None:
    path = _first(job, channel)
    path.rename(path.with_name(change(path.name)))


def _check_refused(job: Job, code: int, words: tuple[str, ...], log: str) -> str:
    """What holds of every refusal, whatever it is for; returns the text of the failure file."""
    failure = job.read_failure()
    assert failure is not None, log
    assert code == 2, failure
    assert failure.startswith("ClientError: ")
    assert len(failure) <= FAILURE_LIMIT
    for word in words:
        assert word in failure, failure
    assert all(line.isprintable() for line in failure.splitlines())
    assert "Traceback" not in failure + log
    assert list(job.model.iterdir()) == []
    assert [path for path in (job.base / "output").rglob("*") if path.is_file()] == [job.base / "output" / "failure"]
    return failure


def _run(job: Job, words: tuple[str, ...], caplog: pytest.LogCaptureFixture) -> str:
    code = run_training(job.base)
    failure = _check_refused(job, code, words, caplog.text)
    assert failure in caplog.text
    return failure


DATA: dict[str, tuple[Spoil, tuple[str, ...]]] = {
    "channel-not-listed": (
        lambda job: job.list_channels("train", "train_annotation", "validation"),
        ("the channel validation_annotation is missing", "Needed are train, train_annotation"),
    ),
    "channel-not-there": (
        lambda job: shutil.rmtree(job.channel("train")),
        ("channel train: the folder ", "input/data/train is missing", "mount it"),
    ),
    "channel-misspelt": (
        lambda job: job.list_channels("train", "train_annotation", "validation", "validation_annotations"),
        ("unknown channel 'validation_annotations'", "did you mean validation_annotation?"),
    ),
    "channel-empty": (
        lambda job: _empty(job.channel("train")),
        ("the channel train holds no images", "Check the channel's S3 URI"),
    ),
    "channel-hidden-files-only": (
        _leave_hidden_files,
        ("the channel validation holds no images",),
    ),
    "masks-empty": (
        lambda job: _empty(job.channel("train_annotation")),
        ("the channel train_annotation holds no masks",),
    ),
    "masks-are-jpeg": (
        _replace_by_jpeg_masks,
        ("the channel train_annotation holds no masks", "Masks must be PNG files (JPEG changes labels)"),
    ),
    "orphan-image": (
        lambda job: (job.channel("train_annotation") / "box_2.png").unlink(),
        ("1 images of train have no mask in train_annotation: box_2", "Every image x.jpg needs its mask x.png"),
    ),
    "orphan-mask": (
        lambda job: (job.channel("validation") / _first(job, "validation").name).unlink(),
        ("1 masks of validation_annotation have no image in validation: ", "needs its mask"),
    ),
    "names-differ-in-case": (
        lambda job: _rename(job, "train", str.upper),
        ("'BOX_2' and 'box_2' are not", "upper case"),
    ),
    "two-images-of-one-name": (
        lambda job: shutil.copy(_first(job, "train"), job.channel("train") / "box_2.png"),
        ("1 names stand for two files in train or train_annotation: box_2", "Keep one file of each name"),
    ),
    "fifo-for-an-image": (_replace_by_fifo, ("have no image in train: box_2",)),
    "jpeg-truncated": (
        lambda job: os.truncate(_first(job, "train"), _first(job, "train").stat().st_size // 2),
        ("train/box_2.jpg is damaged", "truncated"),
    ),
    "png-truncated": (
        lambda job: os.truncate(_first(job, "train_annotation"), 90),
        ("train_annotation/box_2.png is damaged",),
    ),
    "png-corrupt": (
        lambda job: _flip_byte(_first(job, "train_annotation"), b"IDAT"),
        ("train_annotation/box_2.png is damaged",),
    ),
    "png-corrupt-header": (
        lambda job: _flip_byte(_first(job, "train_annotation"), b"IHDR"),
        ("train_annotation/box_2.png is damaged",),
    ),
    "zero-bytes": (
        lambda job: _first(job, "validation").write_bytes(b""),
        ("validation/", ".jpg is empty (0 bytes)"),
    ),
    "html-called-jpg": (
        lambda job: _first(job, "train").write_text("<html>404 Not Found</html>"),
        ("train/box_2.jpg is not a picture", "JPEG, PNG"),
    ),
    "label-out-of-range": (
        lambda job: _write_mask(_first(job, "train_annotation"), _set_pixel(7)),
        ("train_annotation/box_2.png has label 7 on 1 pixels", "valid are 0 to 3 and 255"),
    ),
    "label-out-of-range-in-validation": (
        lambda job: _write_mask(_first(job, "validation_annotation"), _set_pixel(200)),
        ("validation_annotation/", "label 200 on 1 pixels"),
    ),
    "mask-of-another-size": (
        lambda job: _write_mask(_first(job, "train_annotation"), lambda pixels: pixels[:-1]),
        ("1 masks differ in size from their image: train/box_2.jpg is ", "train_annotation/box_2.png is "),
    ),
    "mask-transposed": (
        lambda job: _write_mask(_first(job, "train_annotation"), lambda pixels: np.ascontiguousarray(pixels.T)),
        ("train/box_2.jpg is ", "the sides are swapped"),
    ),
    "mask-in-colour": (
        lambda job: _write_mask(
            _first(job, "train_annotation"), lambda pixels: np.stack([pixels * 60, pixels, pixels], axis=-1)
        ),
        ("train_annotation/box_2.png is a colour mask", "save it as a palette PNG"),
    ),
    "mask-of-16-bits": (
        lambda job: _write_mask(_first(job, "train_annotation"), lambda pixels: pixels.astype(np.uint16) * 999),
        ("train_annotation/box_2.png is a 16-bit mask", "labels must be 0 to 255"),
    ),
    "everything-ignored": (
        _ignore_all,
        ("every pixel of every mask of train_annotation is ignored", "Check the masks and the label map"),
    ),
    "image-over-max-pixels": (
        lambda job: job.set_hyperparameters(max_pixels="100"),
        ("train/box_2.jpg has ", "the limit is 100 in all", "make it smaller"),
    ),
}

HYPERPARAMETERS: dict[str, tuple[dict[str, object], tuple[str, ...]]] = {
    "int": ({"epochs": "ten"}, ("epochs must be a whole number, at least 1 and at most 1000000; got 'ten'",)),
    "int-fraction": ({"epochs": "1.5"}, ("epochs must be a whole number", "got '1.5'")),
    "int-low": ({"num_classes": "1"}, ("num_classes must be a whole number, at least 2 and at most 254; got '1'",)),
    "int-crop": (
        {"crop_size": "16"},
        ("crop_size must be a whole number, greater than 16 and at most 16384; got '16'",),
    ),
    "float": ({"learning_rate": "fast"}, ("learning_rate must be a number, greater than 0 and at most 1; got 'fast'",)),
    "float-nan": ({"weight_decay": "nan"}, ("weight_decay must be a number", "got 'nan'")),
    "float-infinite": ({"learning_rate": "1e999"}, ("learning_rate must be a number", "got '1e999'")),
    "bool": ({"syncbn": "maybe"}, ("syncbn must be True or False; got 'maybe'",)),
    "choice": ({"algorithm": "vnet"}, ("algorithm must be one of fcn, psp, deeplab", "; got 'vnet'")),
    "choice-near": ({"backbone": "resnet50"}, ("got 'resnet50' (did you mean resnet-50?)",)),
    "list": ({"lr_scheduler_step": "5, x"}, ("lr_scheduler_step must be numbers with commas", "got '5, x'")),
    "list-length": ({"class_weights": "1, 2"}, ("class_weights needs one entry a class: num_classes is 4, got 2",)),
    "list-names": ({"class_names": "a,,b"}, ("class_names must be names with commas between them",)),
    "missing": ({"num_classes": None}, ("num_classes is required",)),
    "empty": ({"epochs": ""}, ("epochs is empty; leave it out or give a value: at least 1",)),
    "unknown-near": (
        {"learning_ratee": "0.1"},
        ("'learning_ratee' is not a hyperparameter; did you mean learning_rate",),
    ),
    "unknown": ({"xyzzy": "1"}, ("'xyzzy' is not a hyperparameter; valid names are", "num_training_samples")),
    "conflict": ({"lr_scheduler": "step"}, ('lr_scheduler "step" needs lr_scheduler_step', '"10, 20"')),
    "float16-without-gpu": ({"precision_dtype": "float16"}, ("float16", "GPU", "float32")),
    "several": (
        {"epochs": "0", "optimizer": "adamw", "mini_batch_siz": "4"},
        ("epochs must be", "optimizer must be", "did you mean adam?", "did you mean mini_batch_size?"),
    ),
    "hostile": ({"epochs": "$(reboot)\n\x1b[31m" + "9" * 1_000_000}, ("epochs must be", "$(reboot)\\n\\x1b[31m999")),
    "hostile-name": ({"\x1b[31m../" * 99: "1"}, ("is not a hyperparameter",)),
}

LABEL_MAPS: dict[str, tuple[bytes, tuple[str, ...]]] = {
    "not-json": (b"scale: 3", ("train_label_map.json is not a JSON object",)),
    "utf-16": ('{"scale": 3}'.encode("utf-16"), ("train_label_map.json is not a JSON object",)),
    "empty": (b"", ("train_label_map.json is not a JSON object",)),
    "array": (b"[0, 5, 2]", ("it holds a list, not an object", '{"map": {"0": 5, "1": 0}}')),
    "unknown-key": (b'{"mapping": {"0": 1}}', ("train_label_map.json is not understood", '{"scale": 3}')),
    "scale-zero": (b'{"scale": 0}', ("scale must be 1 to 255, got 0",)),
    "scale-text": (b'{"scale": "three"}', ("scale must be a whole number, got 'three'",)),
    "label-twice": (b'{"map": {"0": 5, "1": 5}}', ("label 5 is given to class 0 and to class 1",)),
    "key-twice": (b'{"map": {"0": 5, "0": 6}}', ("the key '0' appears twice",)),
    "label-over-255": (b'{"map": {"0": 300}}', ('"0": 300 is outside the range', "labels 0 to 255")),
    "outside-num-classes": (
        b'{"map": {"0": 0, "1": 1, "2": 2, "9": 3}}',
        ("train_label_map.json gives the class 9", "Classes are 0 to 3 (num_classes=4)"),
    ),
    "labels-left-out": (b'{"map": {"0": 0, "1": 1}}', ("hold labels out of range", "Add them to the label map")),
    "everything-ignored": (
        b'{"map": {"255": 0, "0": 77}}',
        ("out of range",),
    ),
}

CONFIG: dict[str, tuple[str, bytes | None, tuple[str, ...]]] = {
    "hyperparameters-missing": ("hyperparameters", None, ("hyperparameters.json is missing", "needs it")),
    "hyperparameters-empty": ("hyperparameters", b"", ("hyperparameters.json is not a JSON object",)),
    "hyperparameters-broken": (
        "hyperparameters",
        b'{"epochs": "1",}',
        ("hyperparameters.json is not a JSON object", "line 1"),
    ),
    "hyperparameters-list": (
        "hyperparameters",
        b'["epochs"]',
        ("it holds a list, not an object",),
    ),
    "hyperparameters-nan": (
        "hyperparameters",
        b'{"epochs": NaN}',
        ("hyperparameters.json", "NaN is not a JSON number"),
    ),
    "hyperparameters-twice": (
        "hyperparameters",
        b'{"epochs": "1", "epochs": "2"}',
        ("hyperparameters.json", "the key 'epochs' appears twice"),
    ),
    "hyperparameters-deep": (
        "hyperparameters",
        b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
        ("hyperparameters.json is not",),
    ),
    "hyperparameters-utf-16": ("hyperparameters", '{"epochs": "1"}'.encode("utf-16"), ("hyperparameters.json is not",)),
    "hyperparameters-long": (
        "hyperparameters",
        b" " * ((16 << 20) + 1),
        ("hyperparameters.json is not a JSON object", "it has 16777217 bytes, the limit is 16777216"),
    ),
    "channels-broken": ("inputdataconfig", b"{", ("inputdataconfig.json is not a JSON object",)),
    "channels-list": ("inputdataconfig", b'["train"]', ("inputdataconfig.json is not a JSON object",)),
    "channels-unknown": ("inputdataconfig", b'{"training": {}}', ("unknown channel 'training'", "did you mean train?")),
    "channels-path": ("inputdataconfig", b'{"../../etc": {}}', ("unknown channel '../../etc'",)),
    "channels-pipe": (
        "inputdataconfig",
        b'{"train": {"TrainingInputMode": "Pipe"}}',
        ("channel train: TrainingInputMode 'Pipe' is not supported", "use File or FastFile"),
    ),
    "channels-recordio": (
        "inputdataconfig",
        b'{"train": {"TrainingInputMode": "File", "RecordWrapperType": "RecordIO"}}',
        ("channel train: RecordWrapperType 'RecordIO' is not supported", "give image files"),
    ),
    "hosts-two": (
        "resourceconfig",
        b'{"current_host": "algo-1", "hosts": ["algo-1", "algo-2"]}',
        ("the job has 2 hosts", "set instance_count=1"),
    ),
    "hosts-without-current": (
        "resourceconfig",
        b'{"current_host": "algo-3", "hosts": ["algo-1"]}',
        ("resourceconfig.json: current_host 'algo-3' is not among hosts ['algo-1']",),
    ),
    "hosts-broken": ("resourceconfig", b"no JSON", ("resourceconfig.json is not a JSON object",)),
    "hosts-missing-for-a-script": (
        "hyperparameters",
        b'{"sagemaker_program": "train.py"}',
        ("resourceconfig.json is missing",),
    ),
}


FAMILIES = {
    "channel-not-listed": 1,
    "channel-not-there": 1,
    "channel-misspelt": 18,
    "channel-empty": 1,
    "channel-hidden-files-only": 1,
    "masks-empty": 2,
    "masks-are-jpeg": 2,
    "orphan-image": 3,
    "orphan-mask": 3,
    "names-differ-in-case": 5,
    "two-images-of-one-name": 4,
    "fifo-for-an-image": 16,
    "jpeg-truncated": 7,
    "png-truncated": 7,
    "png-corrupt": 7,
    "png-corrupt-header": 7,
    "zero-bytes": 7,
    "html-called-jpg": 8,
    "label-out-of-range": 10,
    "label-out-of-range-in-validation": 10,
    "mask-of-another-size": 6,
    "mask-transposed": 6,
    "mask-in-colour": 9,
    "mask-of-16-bits": 9,
    "everything-ignored": 11,
    "image-over-max-pixels": 12,
    "channels-unknown": 18,
    "channels-path": 18,
    "channels-pipe": 18,
    "channels-recordio": 18,
    "hosts-two": 65,
    "hosts-without-current": 47,
    "hosts-broken": 47,
    "hosts-missing-for-a-script": 47,
    "absent": 29,
    "zero-bytes-archive": 29,
    "no-archive": 29,
    "gzip-truncated": 29,
    "archive-cut": 29,
    "without-model": 35,
    "link": 30,
    "climbs-out": 30,
    "not-parameters": 31,
}
"""The families of the fault catalogue that the cases above and below are of."""
REFUSED = "refused: exit code 2, file and fix in one message, before training"


@pytest.mark.parametrize(("spoil", "words"), mark_cases(DATA, FAMILIES, REFUSED))
def test_bad_data(
    spoil: Spoil, words: tuple[str, ...], data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    job = lay_out_job(tmp_path / "ml", data)
    spoil(job)
    _run(job, words, caplog)


@pytest.mark.fault(family=20, outcome="refused (2) in one message, naming the nearest valid name")
@pytest.mark.fault(family=21, outcome="refused (2), naming the value and what is valid")
@pytest.mark.fault(family=23, outcome="refused (2) before the data is read")
@pytest.mark.fault(family=25, outcome="refused (2), shown short and escaped")
@pytest.mark.parametrize(("values", "words"), HYPERPARAMETERS.values(), ids=HYPERPARAMETERS.keys())
def test_bad_hyperparameters(
    values: dict[str, object], words: tuple[str, ...], data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    job = lay_out_job(tmp_path / "ml", data, link=True)
    job.set_hyperparameters(**values)
    if values == {"num_classes": None}:
        job.write_config("hyperparameters", {"epochs": "1"})
    _run(job, words, caplog)
    assert len(caplog.text) < 10_000


@pytest.mark.fault(family=27, outcome="refused (2), naming the file and the fix")
@pytest.mark.parametrize(("content", "words"), LABEL_MAPS.values(), ids=LABEL_MAPS.keys())
def test_bad_label_map(
    content: bytes, words: tuple[str, ...], data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    job = lay_out_job(tmp_path / "ml", data)
    (job.channel("label_map") / "train_label_map.json").write_bytes(content)
    _run(job, words, caplog)


@pytest.mark.parametrize(("name", "content", "words"), mark_cases(CONFIG, FAMILIES, REFUSED))
def test_bad_configuration(
    name: str,
    content: bytes | None,
    words: tuple[str, ...],
    data: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    job = lay_out_job(tmp_path / "ml", data, link=True)
    if content is None:
        job.config(name).unlink()
    else:
        job.config(name).write_bytes(content)
    if "resourceconfig.json is missing" in words:
        job.config("resourceconfig").unlink()
    _run(job, words, caplog)


def _tar(name: str, content: bytes = b"", **fields: Any) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        add_member(archive, name, content, **fields)
    return buffer.getvalue()


ARCHIVES: dict[str, tuple[bytes | None, tuple[str, ...]]] = {
    "absent": (None, ("no model_best.params", "input/data/model", "give a model folder or a model.tar.gz")),
    "zero-bytes-archive": (b"", ("model.tar.gz is not a usable model.tar.gz",)),
    "no-archive": (b"this is not an archive", ("model.tar.gz is not a usable model.tar.gz",)),
    "gzip-truncated": (gzip.compress(bytes(range(256)) * 99)[:200], ("is not a usable model.tar.gz",)),
    "archive-cut": (_tar("model_best.params", os.urandom(9999))[:5000], ("is not a usable model.tar.gz",)),
    "without-model": (
        _tar("code/inference.py", b"print('never run')"),
        ("there is no model_best.params in ", "at its root"),
    ),
    "link": (
        _tar("model_best.params", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
        ("'model_best.params' in ", "links are not followed"),
    ),
    "climbs-out": (_tar("../../model_best.params", b"x"), ("which leads out of it",)),
    "not-parameters": (_tar("model_best.params", b"no parameters"), ("model_best.params",)),
}


@pytest.mark.parametrize(("content", "words"), mark_cases(ARCHIVES, FAMILIES, REFUSED))
def test_bad_model_channel(
    content: bytes | None, words: tuple[str, ...], data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    job = lay_out_job(tmp_path / "ml", data, link=True)
    job.channel("model").mkdir()
    if content is not None:
        (job.channel("model") / "model.tar.gz").write_bytes(content)
    job.list_channels("train", "train_annotation", *("validation", "validation_annotation", "model"))
    start = time.monotonic()
    _run(job, words, caplog)
    assert time.monotonic() - start < 20


@pytest.mark.fault(family=31, outcome=REFUSED, inputs=2)
@pytest.mark.fault(family=23, outcome="refused (2), naming both networks")
@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"backbone": "resnet-34"}, ("fcn on resnet-18", "fcn on resnet-34", "set algorithm and backbone")),
        ({"algorithm": "psp"}, ("fcn on resnet-18", "psp on resnet-18", "set algorithm and backbone")),
    ],
    ids=["backbone", "algorithm"],
)
def test_a_model_of_another_network(
    values: dict[str, object],
    words: tuple[str, ...],
    data: Path,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    caplog: pytest.LogCaptureFixture,
) -> None:
    trained, _ = train_once(tmp_path_factory.getbasetemp())
    job = lay_out_job(tmp_path / "ml", data, link=True, **values)
    job.channel("model").symlink_to(trained.model)
    job.list_channels("train", "train_annotation", "validation", "validation_annotation", "model")
    _run(job, words, caplog)


@pytest.mark.fault(family=23, outcome="refused (2) in seconds, with the ways out")
def test_pretrained_weights_that_nobody_has(data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    job = lay_out_job(tmp_path / "ml", data, link=True, use_pretrained_model="True")
    start = time.monotonic()
    failure = _run(job, ("ImageNet weights for resnet-18", "use_pretrained_model=False", "'pretrained'"), caplog)
    assert time.monotonic() - start < 20
    assert "GLUONSEG_PRETRAINED_DIR" in failure


@pytest.mark.fault(family=26, outcome="ends with 2, naming loss, epoch and learning_rate")
def test_a_loss_that_is_no_number_stops_the_job(data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rates = {"learning_rate": "1", "head_lr_mult": "100", "weight_decay": "0.99"}
    job = lay_out_job(tmp_path / "ml", data, link=True, epochs="30", mini_batch_size="2", **rates)
    code = run_training(job.base)
    failure = job.read_failure()
    assert (code, failure is not None) == (2, True)
    assert failure is not None
    assert failure.startswith("ClientError: ")
    for word in ("loss", "epoch", "learning_rate"):
        assert word in failure, failure
    assert "Traceback" not in caplog.text


def test_an_unexpected_error_is_an_algorithm_error(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    job = lay_out_job(tmp_path / "ml", data, link=True)
    (job.model / "model_algo-1").mkdir()
    assert run_training(job.base) == 1
    failure = job.read_failure()
    assert failure is not None
    assert failure.startswith("AlgorithmError: IsADirectoryError: ")
    assert str(job.model) in failure
    assert len(failure) <= FAILURE_LIMIT
    assert "Traceback" in caplog.text


def test_a_long_list_of_problems_is_cut_to_what_sagemaker_shows(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    job = lay_out_job(tmp_path / "ml", data)
    for number in range(500):
        name = f"a_rather_long_name_of_a_photo_without_a_mask_number_{number:04}"
        shutil.copy(job.channel("train") / "box_2.jpg", job.channel("train") / f"{name}.jpg")
    (job.channel("validation") / _first(job, "validation").name).unlink()
    failure = _run(
        job, ("500 images of train have no mask", "and 498 more", "validation_annotation have no image"), caplog
    )
    assert failure.count("number_") >= 2


PROCESSES: dict[str, tuple[Spoil, tuple[str, ...]]] = {
    "label-out-of-range": DATA["label-out-of-range"],
    "several-hyperparameters": (
        lambda job: job.set_hyperparameters(**HYPERPARAMETERS["several"][0]),
        HYPERPARAMETERS["several"][1],
    ),
    "broken-json": (
        lambda job: job.config("hyperparameters").write_bytes(b"{"),
        ("hyperparameters.json is not a JSON object",),
    ),
    "nothing-mounted": (
        lambda job: shutil.rmtree(job.base / "input" / "data"),
        ("channel train: the folder", "is missing"),
    ),
}


@pytest.mark.parametrize(("spoil", "words"), PROCESSES.values(), ids=PROCESSES.keys())
def test_the_process_ends_with_2(spoil: Spoil, words: tuple[str, ...], data: Path, tmp_path: Path) -> None:
    job = lay_out_job(tmp_path / "ml", data)
    spoil(job)
    run = job.run()
    failure = _check_refused(job, run.code, words, run.log)
    assert f"ERROR {run.log.split('ERROR ')[1].split(']')[0]}] {failure}" in run.log


@pytest.mark.fault(family=48, outcome="refused (2), naming the folder that is missing")
def test_no_job_at_all(tmp_path: Path) -> None:
    run = Job(tmp_path / "nowhere").run()
    assert run.code == 2
    assert f"ClientError: there is no training job in {tmp_path / 'nowhere'}" in run.log
    assert "SAGEMAKER_BASE_DIR" in run.log
    assert "Traceback" not in run.log
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.fault(family=48, outcome="refused (2), naming the folder that is missing")
@pytest.mark.skipif(Path("/opt/ml/input").exists(), reason="this machine has a job in /opt/ml")
def test_nothing_in_opt_ml() -> None:
    environment = build_environment("SAGEMAKER_BASE_DIR")
    done = subprocess.run(
        [sys.executable, str(TRAIN)], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2
    assert "there is no training job in /opt/ml: /opt/ml/input/config is missing; mount it" in done.stdout
    assert done.stderr == ""


@pytest.mark.fault(family=45, outcome="refused (2) before the data is read, naming folder and uid")
@pytest.mark.skipif(os.geteuid() == 0 and not shutil.which("setpriv"), reason="root needs setpriv to have no rights")
@pytest.mark.parametrize("name", ["model", "output", "output/data", ""])
def test_folder_that_cannot_be_written_to(data: Path, tmp_path: Path, name: str) -> None:
    """As under ``docker run --user``; found before the data is read."""
    job = lay_out_job(tmp_path / "ml", data, link=True)
    (job.base / "output" / "failure").write_text("AlgorithmError: of an earlier job")
    (job.base / "output" / "success").touch()
    if not name:
        job.model.rmdir()
    (job.base / name).chmod(0o555)
    plain = ("setpriv", "--inh-caps=-all", "--bounding-set=-all") if os.geteuid() == 0 else ()
    code, log = _run_train([*plain, sys.executable, str(TRAIN)], job.base)
    (job.base / name).chmod(0o755)
    folder = job.base / (name or "model")
    user = f"uid {os.geteuid()}"
    text = f"ClientError: {user} cannot write to the folder {folder}: Permission denied; give the folder to {user}"
    assert code == 2, log
    assert f"{text}, or run the container without --user" in log
    assert "Traceback" not in log
    assert "Checked" not in log
    assert (job.read_failure() or "").startswith(text)
    assert list(job.base.rglob(".writable*")) == []


@pytest.mark.fault(family=45, outcome="refused (2), naming the file")
def test_file_in_place_of_a_folder(data: Path, tmp_path: Path) -> None:
    job = lay_out_job(tmp_path / "ml", data, link=True)
    job.model.rmdir()
    job.model.touch()
    assert run_training(job.base) == 2
    assert f"{job.model}: File exists; a file is in its place, remove it" in (job.read_failure() or "")


@pytest.mark.fault(family=46, outcome="refused (2), with the option of docker run that helps")
@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("unshare"), reason="mounting needs root and unshare")
@pytest.mark.parametrize("program", ["train", "serve"])
def test_no_temporary_folder(data: Path, tmp_path: Path, program: str) -> None:
    """As under ``docker run --read-only``."""
    job = lay_out_job(tmp_path / "ml", data)
    read_only = "for each in /tmp /var/tmp; do mount --bind $each $each && mount -o remount,bind,ro $each || exit; done"
    script = f'mount --bind "$1" /mnt && {read_only}; cd /proc; shift; exec "$@"'
    command = ["unshare", "--mount", "sh", "-c", script, "sh", str(job.base)]
    code, log = _run_train([*command, sys.executable, str(TRAIN.with_name(program))], Path("/mnt"))
    assert code == 2, log
    assert "ClientError: no folder for temporary files can be written to" in log
    assert "docker run --tmpfs /tmp" in log
    assert "Traceback" not in log
    assert ("docker run --tmpfs /tmp" in (job.read_failure() or "")) == (program == "train")


def _run_train(command: list[str], base: Path) -> tuple[int, str]:
    environment = build_environment("TMPDIR", SAGEMAKER_BASE_DIR=str(base), PYTHONDONTWRITEBYTECODE="1")
    done = run_program(command, environment, timeout=120)
    return done.returncode, done.stdout
