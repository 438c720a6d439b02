"""Faults of hyperparameters, configuration files and label maps: each is refused by name, or taken as documented."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from conftest import RunJob
from gluonseg.errors import FAILURE_LIMIT, DataError, HyperparameterError, TrainingDivergedError, UserError
from gluonseg.hyperparameters import parse_hyperparameters
from gluonseg.labels import IGNORE, UNKNOWN, parse_label_map
from gluonseg.sagemaker.contract import read_contract
from gluonseg.train.checkpoint_file import open_checkpoints
from job_layout import Job, draw_channels, lay_out_job

CONFIGURATIONS: dict[str, tuple[bytes, str | None]] = {
    "byte-order mark": (b'\xef\xbb\xbf{"epochs": "1"}', None),
    "blanks": (b'\r\n\t {"epochs" : "1"}\n\n', None),
    "no bytes": (b"", "is not a JSON object"),
    "blanks alone": (b" \n", "is not a JSON object"),
    "NUL": (b'{"epochs": "1"}\0', "is not a JSON object"),
    "latin-1": ('{"class_names": "Straße"}'.encode("latin-1"), "is not a JSON object"),
    "half a surrogate": (b'{"epochs": "\xed\xa0\x80"}', "is not a JSON object"),
    "infinity": (b'{"epochs": -Infinity}', "-Infinity is not a JSON number"),
    "a comment": (b'{"epochs": "1"} // one', "is not a JSON object"),
    "two objects": (b'{"epochs": "1"}{"epochs": "2"}', "is not a JSON object"),
    "a string": (b'"epochs"', "holds a str, not an object"),
    "null": (b"null", "holds a NoneType, not an object"),
    "a key twice inside": (b'{"a": {"b": 1, "b": 2}}', "the key 'b' appears twice"),
    "deep list": (b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deeply"),
    "a long number": (b'{"a": ' + b"9" * 10_000 + b"}", "is not a JSON object"),
}


@pytest.fixture
def job(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Job:
    return lay_out_job(tmp_path / "ml", draw_channels(tmp_path_factory.getbasetemp()), link=True)


@pytest.mark.fault(family=19, outcome="refused (2), naming the file and what is wrong; a byte-order mark is read")
@pytest.mark.parametrize("name", ["hyperparameters", "inputdataconfig", "resourceconfig"])
@pytest.mark.parametrize(("content", "words"), CONFIGURATIONS.values(), ids=CONFIGURATIONS.keys())
def test_configuration_files(job: Job, name: str, content: bytes, words: str | None) -> None:
    job.config(name).write_bytes(content)
    if words is None and name != "inputdataconfig":
        assert read_contract(job.base).host == "algo-1"
        return
    with pytest.raises(UserError, match=words or "unknown channel 'epochs'") as caught:
        read_contract(job.base)
    assert len(str(caught.value)) < FAILURE_LIMIT


REFUSED: list[tuple[str, Any]] = [
    *(("num_classes", value) for value in ("0", "1", "-1", "255", "256", "1e9", "2.5", "", "two", "٣", "0x10", "1_0")),
    *(("epochs", value) for value in ("0", "-1", "1.5", "nan", "inf", "1e400", "9" * 5000, "True")),
    *(("learning_rate", value) for value in ("0", "-0.1", "nan", "inf", "-inf", "1e9", "1e999", "0,1", "1.0.0")),
    *(("momentum", value) for value in ("1.1", "-0.1", "nan")),
    *(("weight_decay", value) for value in ("1", "-1e-4", "nan")),
    *(("crop_size", value) for value in ("0", "1", "7", "16", "-240", "240.5")),
    *(("base_size", value) for value in ("0", "16", "-1")),
    *(("mini_batch_size", value) for value in ("0", "-1", "1.5")),
    *(("algorithm", value) for value in ("vnet", "FCN", "fcn ; reboot", "../fcn", "fcn\0", "fcn\nalgorithm: psp")),
    *(("backbone", value) for value in ("resnet50", "ResNet-50", "resnet-50\x1b[31m", "$(reboot)")),
    ("backbone", "resnet-50" * 99_999),
    *(("optimizer", value) for value in ("__import__('os')", "sgd.mro", "adamw")),
    *(("precision_dtype", value) for value in ("bfloat16", "float32;float16", "object")),
    *(("class_names", value) for value in ("a,\n", "a,\x1b[31m", "a,,b", "a,b,c", "a", "a,a")),
    *(("class_weights", value) for value in ("1,nan", "1,-1", "1", "1,2,3", "[1, [2]]", "{}")),
    *(("lr_scheduler_step", value) for value in ("1,1", "2,1", "0", "1;2", "[[1]]")),
]


@pytest.mark.fault(family=22, outcome="refused before the data is read, naming value and range")
@pytest.mark.parametrize(("name", "value"), REFUSED, ids=lambda value: ascii(value)[1:20])
def test_values_out_of_range(name: str, value: Any) -> None:
    with pytest.raises(HyperparameterError, match=name) as caught:
        parse_hyperparameters({"num_classes": "2", name: value})
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < FAILURE_LIMIT


@pytest.mark.fault(family=22, outcome="taken by the documented rule: the crop is rounded up, too small is padded")
@pytest.mark.parametrize(("crop", "base", "used"), [("17", "17", 24), ("33", "20", 40), ("240", "17", 240)])
def test_sizes_by_rule(crop: str, base: str, used: int) -> None:
    assert parse_hyperparameters({"num_classes": "2", "crop_size": crop, "base_size": base}).crop_size == used


@pytest.mark.fault(family=22, outcome="trains: what is smaller than the crop is padded and not scored")
@pytest.mark.parametrize("algorithm", ["psp", "deeplab"])
def test_a_base_smaller_than_the_crop(run_tiny: RunJob, algorithm: str) -> None:
    changes = {"algorithm": algorithm, "crop_size": "41", "base_size": "20", "epochs": "1"}
    assert np.isfinite(run_tiny(changes).results[0].train_loss)


@pytest.mark.fault(family=26, outcome="ends with 2, naming epoch and iteration; the checkpoints before it stay")
def test_a_divergence_leaves_the_checkpoints(run_tiny: RunJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gluonseg.train.checkpoint.INTERVAL_S", 0)
    changes = {"learning_rate": "1", "head_lr_mult": "100", "weight_decay": "0.99", "epochs": "30"}
    folder = tmp_path / "checkpoints"
    with pytest.raises(TrainingDivergedError, match=r"epoch \d+, iteration \d+.*lower learning_rate"):
        run_tiny(changes, checkpoint_folder=folder)
    with open_checkpoints(folder) as checkpoints:
        assert checkpoints
        files = checkpoints.find_files()
    assert files
    assert all(file.is_whole() for file in files)


LABEL_MAPS: dict[str, tuple[bytes, str | None]] = {
    "byte-order mark": (b'\xef\xbb\xbf{"map": {"0": 1}}', None),
    "gaps": (b'{"map": {"0": 10, "7": 20}}', None),
    "a class of 255": (b'{"map": {"0": 255, "1": 0}}', None),
    "to 255": (b'{"map": {"0": 1, "255": 0}}', None),
    "numbers as text": (b'{"map": {" 0 ": " 7 "}}', None),
    "all 254 classes": (json.dumps({"map": {str(n): n for n in range(254)}}).encode(), None),
    "10,000 entries": (json.dumps({"map": {str(n): n for n in range(10_000)}}).encode(), "is outside the range"),
    "a class twice": (b'{"map": {"1": 4, "01": 5}}', "names a class id twice"),
    "a label twice": (b'{"map": {"1": 4, "2": "4"}}', "label 4 is given to class 1 and to class 2"),
    "a negative label": (b'{"map": {"1": -4}}', "is outside the range"),
    "a negative class": (b'{"map": {"-1": 4}}', "is outside the range"),
    "a fraction": (b'{"map": {"1": 4.5}}', "must be a whole number, got 4.5"),
    "a large number": (b'{"map": {"1": 1e99}}', "is outside the range"),
    "true": (b'{"map": {"1": true}}', "must be a whole number, got True"),
    "null": (b'{"map": {"1": null}}', "must be a whole number, got None"),
    "a list": (b'{"map": {"1": [4]}}', "must be a whole number"),
    "a list of pairs": (b'{"map": [[1, 4]]}', "is not understood"),
    "HTML": (b'{"map": {"<script>": 4}}', "must be a whole number, got '<script>'"),
    "control characters": (b'{"map": {"\\u001b[31m": 4}}', "must be a whole number, got "),
    "UTF-16": ('{"map": {"0": 1}}'.encode("utf-16"), "is not a JSON object"),
    "UTF-32": ('{"map": {"0": 1}}'.encode("utf-32"), "is not a JSON object"),
    "a picture": (b"\x89PNG\r\n\x1a\n" + bytes(99), "is not a JSON object"),
    "scale and map": (b'{"scale": 1, "map": {"0": 1}}', "is not understood"),
    "a scale of 0": (b'{"scale": 0}', "scale must be 1 to 255"),
    "a negative scale": (b'{"scale": -1}', "scale must be 1 to 255"),
    "a scale of 1e400": (b'{"scale": 1e400}', "scale must be"),
}


@pytest.mark.fault(family=27, outcome="refused (2), a message for each fault, naming the file; else as documented")
@pytest.mark.parametrize(("content", "words"), LABEL_MAPS.values(), ids=LABEL_MAPS.keys())
def test_label_maps(content: bytes, words: str | None) -> None:
    if words is None:
        table = parse_label_map(content, "train_label_map.json").table
        assert table.shape == (256,)
        assert set(table) - {IGNORE, UNKNOWN}
        return
    with pytest.raises(DataError, match=words) as caught:
        parse_label_map(content, "train_label_map.json")
    assert "train_label_map.json" in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.fault(family=27, outcome="taken: each split has its own map", inputs=1)
def test_another_map_for_validation(run_tiny: RunJob, tmp_path: Path, drawn_channels: dict[str, Path]) -> None:
    folder = tmp_path / "label_map"
    folder.mkdir()
    masks = tmp_path / "validation_annotation"
    masks.mkdir()
    for path in drawn_channels["validation_annotation"].iterdir():
        with Image.open(path) as mask:
            labels = np.array(mask)
        Image.fromarray(np.where(labels == 255, labels, labels * 10).astype(np.uint8)).save(masks / path.name)
    (folder / "train_label_map.json").write_text('{"scale": 1}')
    (folder / "validation_label_map.json").write_text('{"scale": 10}')
    channels = {"label_map": folder, "validation_annotation": masks}
    found = run_tiny({"epochs": "1"}, extra_channels=channels)
    same = run_tiny({"epochs": "1"}, tmp_path / "same")
    assert (found.results[0].confusion.matrix == same.results[0].confusion.matrix).all()


@pytest.mark.fault(family=28, outcome="refused (2): every pixel of every mask is ignored", inputs=2)
@pytest.mark.parametrize("split", ["train", "validation"])
def test_a_map_that_ignores_everything(
    run_tiny: RunJob, tmp_path: Path, drawn_channels: dict[str, Path], split: str
) -> None:
    folder, masks = tmp_path / "label_map", tmp_path / "masks"
    folder.mkdir()
    masks.mkdir()
    for path in drawn_channels[f"{split}_annotation"].iterdir():
        with Image.open(path) as mask:
            Image.fromarray(np.full((mask.height, mask.width), 9, np.uint8)).save(masks / path.name)
    (folder / f"{split}_label_map.json").write_text('{"map": {"0": 0, "255": 9}}')
    channels = {"label_map": folder, f"{split}_annotation": masks}
    with pytest.raises(DataError, match=f"every pixel of every mask of {split}_annotation is ignored"):
        run_tiny(extra_channels=channels)
    assert not (tmp_path / "model").exists()
