"""Training jobs on tiny drawn data: artifacts, log lines, repetition, earlier models, and what stops them."""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import mxnet as mx
import numpy as np
import numpy.typing as npt
import pytest

import gluonseg
from conftest import TINY, RunJob
from gluonseg.data.loader import Batch, Loader
from gluonseg.errors import DataError, HyperparameterError, ModelError, TrainingDivergedError
from gluonseg.hyperparameters import Hyperparameters, parse_hyperparameters
from gluonseg.labels import IGNORE
from gluonseg.models.folder.artifact import read_artifact
from gluonseg.models.params import read_arrays
from gluonseg.predict.mxnet_engine import normalise_images
from gluonseg.predict.predictor import load_predictor
from gluonseg.train.data import build_loaders, settle_data
from gluonseg.train.group import Group, T
from gluonseg.train.loop import is_stale
from gluonseg.train.start import build_start_network, load_artifact
from gluonseg.train.step import Stepper

Array = npt.NDArray[Any]
CPUS = [mx.cpu(0), mx.cpu(1)]
FLOAT = r"[0-9.e+-]+"


def _assert_same(one: Mapping[str, Array], other: Mapping[str, Array]) -> None:
    assert one.keys() == other.keys()
    assert [name for name in one if not np.array_equal(one[name], other[name])] == []


def _parse(**changes: str) -> Hyperparameters:
    return parse_hyperparameters({**TINY, **changes})


# Artifacts and log lines.


def test_artifacts_are_complete_and_readable(trained_model: Path) -> None:
    settings = json.loads((trained_model / "hyperparams.json").read_text(encoding="utf-8"))
    assert all(isinstance(value, str) for value in settings.values())
    assert {**settings, **TINY} == {**settings, "learning_rate": "0.01"}
    assert settings["num_training_samples"] == "9"
    assert parse_hyperparameters(settings).to_strings() == settings
    curves = json.loads((trained_model / "curves.json").read_text(encoding="utf-8"))
    assert [entry["epoch"] for entry in curves] == [0, 1]
    assert not any("phase" in entry for entry in curves), "training has one stage"
    assert (trained_model / "curves.png").read_bytes().startswith(b"\x89PNG")
    card = read_artifact(trained_model).card
    assert card.class_names == ("background", "disc", "box", "triangle")
    assert card.data["num_training_samples"] == 9
    best = max(curves, key=lambda entry: entry["validation"]["mIOU_builtin"])
    assert card.metrics["best_epoch"] == best["epoch"]
    assert card.metrics["centre_crop"] == best["validation"]
    assert set(card.metrics["whole_image"]["class_IoU"]) == set(card.class_names)
    mask = load_predictor(trained_model).predict_mask(np.zeros((21, 34, 3), np.uint8))
    assert mask.shape == (21, 34)
    assert int(mask.max()) < 4


EPOCH = [
    r"#progress_notice\. epoch: E, iterations: 1 speed: F samples/sec learning_rate: \d\.\d{6}",
    r"#progress_notice\. epoch: E, iterations: 2 speed: F samples/sec learning_rate: \d\.\d{6}",
    r"#quality_metric\. host: algo-1, epoch: E, train loss: F \.",
    r"#throughput_metric\. host: algo-1, epoch: E, train throughput: F samples/sec\.",
    r"#progress_notice\. epoch: E, iterations: 1 speed: F samples/sec",
    r"#quality_metric\. host: algo-1, epoch: E, validation pixel_accuracy: F \.",
    r"#quality_metric\. host: algo-1, epoch: E, validation mIOU: F \.",
    r"#throughput_metric\. host: algo-1, epoch: E, validation throughput: F samples/sec\.",
    r"Serializing model to .*/model_best\.params",
    r"#progress_metric: host=algo-1, completed P % of epochs",
    r"#metrics .*",
]
"""One epoch of the built-in's log, line by line."""


def _expect_epochs(epochs: int, best: list[int]) -> list[str]:
    lines = []
    for epoch in range(epochs):
        share = re.escape(str(100.0 * (epoch + 1) / epochs))
        body = [line for line in EPOCH if epoch in best or "Serializing" not in line]
        lines += [line.replace("E,", f"{epoch},").replace("F", FLOAT).replace("P %", f"{share} %") for line in body]
    return lines


def test_a_model_that_is_refused_as_onnx_is_scored_in_mxnet(
    run_tiny: RunJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(_artifact: Any) -> Any:
        raise ModelError("the logits differ")

    monkeypatch.setattr("gluonseg.train.job.build_checked_file", refuse)
    caplog.set_level(logging.INFO)
    outcome = run_tiny({"epochs": "1"})
    assert outcome.confusion is not None
    assert "The model is complete, but without model.onnx; try gluonseg export: the logits differ" in caplog.text
    assert "Predicting with MXNet on cpu(0)" in caplog.text
    assert not (tmp_path / "model" / "model.onnx").exists()


def test_log_lines_in_the_builtins_order(run_tiny: RunJob, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    outcome = run_tiny()
    logged = [record.getMessage() for record in caplog.records if record.name.startswith("gluonseg")]
    scores = [result.miou for result in outcome.results]
    best = [epoch for epoch, score in enumerate(scores) if all(score > earlier for earlier in scores[:epoch])]
    expected = [
        "Number of GPUs being used: 0: MXNet for CUDA is not installed",
        r"#label_map train :\{'scale': 1\}",
        r"#label_map validation :\{'scale': 1\}",
        r"Final configuration: .*",
        r"LRScheduler setup: iters per epoch: 2, num_epochs 2",
        r"#metrics .*init_train_data_iter.*",
        *_expect_epochs(2, best),
        "#metrics .*totaltime.*",
        r"Serializing model to .*/model_algo-1",
        r"model\.onnx gives MXNet's logits up to \S+ of the largest one",
        r"Evaluating the best epoch on 3 whole validation images",
        r"Predicting with ONNX Runtime",
    ]
    kept = [line for line in logged if not line.startswith("1 training images have a side")]
    assert len(kept) == len(expected)
    for line, pattern in zip(kept, expected, strict=True):
        assert re.fullmatch(pattern, line), (pattern, line)
    metrics = [json.loads(line.removeprefix("#metrics ")) for line in logged if line.startswith("#metrics ")]
    for entry in metrics:
        assert entry.keys() == {"Metrics", "EndTime", "StartTime", "Dimensions"}
        assert entry["StartTime"] <= entry["EndTime"]
        assert entry["Dimensions"]["Algorithm"] == "AWS/Semantic Segmentation"
    assert [entry["Dimensions"].get("epoch") for entry in metrics] == [None, 0, 1, None]
    last = metrics[-1]
    assert last["Metrics"].keys() == {"epochs", "setuptime", "totaltime"}
    assert last["StartTime"] == pytest.approx(metrics[0]["StartTime"], abs=5)
    assert last["Metrics"]["totaltime"]["sum"] >= 1000 * (metrics[2]["EndTime"] - metrics[1]["StartTime"])


BUILTIN_LINES = {
    "train:loss": "#quality_metric. host: algo-1, epoch: 0, train loss: 1.475714725452465 .",
    "train:throughput": "#throughput_metric. host: algo-1, epoch: 0, train throughput: 55.0439202038 samples/sec.",
    "validation:pixel_accuracy": "#quality_metric. host: algo-1, epoch: 0, validation pixel_accuracy: 0.8472626958 .",
    "validation:mIOU": "#quality_metric. host: algo-1, epoch: 0, validation mIOU: 0.5063982026717044 .",
    "validation:throughput": "#throughput_metric. host: algo-1, epoch: 0, validation throughput: 36.7295 samples/sec.",
}


def test_metric_definitions_read_the_builtins_own_lines() -> None:
    """Those of a real log, too: test_train_process.py."""
    definitions = {one["Name"]: one["Regex"] for one in gluonseg.METRIC_DEFINITIONS}
    assert len(definitions) <= 40
    assert all(len(regex) <= 500 for regex in definitions.values())
    for name, line in BUILTIN_LINES.items():
        assert [other for other, regex in definitions.items() if re.search(regex, line)] == [name]
        assert re.findall(definitions[name], line) == [line.split(": ")[-1].split()[0]]
    nan = "#quality_metric. host: algo-1, epoch: 3, train loss: nan ."
    assert re.findall(definitions["train:loss"], nan) == ["nan"]


# Repetition.


def test_the_same_seed_gives_the_same_parameters(
    run_tiny: RunJob, trained_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gluonseg.train.data.count_usable_cores", lambda: 5)
    run_tiny({"_workers": "5"})
    for name in ("model_best.params", "model_algo-1"):
        _assert_same(read_arrays(tmp_path / "model" / name), read_arrays(trained_model / name))
    starts = [build_start_network(_parse(seed=seed), CPUS[:1]).collect_params() for seed in ("0", "1")]
    first, second = (next(iter(start.values())).data().asnumpy() for start in starts)
    assert (first != second).any()


def test_training_learns(run_tiny: RunJob) -> None:
    outcome = run_tiny({"epochs": "8", "optimizer": "adam", "learning_rate": "0.003", "_augmentation_type": "none"})
    losses = [result.train_loss for result in outcome.results]
    assert min(losses[-3:]) < 0.7 * losses[0]


# Starting from an earlier model.


def test_incremental_training_takes_everything_over_on_every_device(trained_model: Path) -> None:
    artifact = read_artifact(trained_model)
    network = build_start_network(_parse(seed="9"), CPUS, artifact)
    for device in CPUS:
        network(mx.nd.zeros((1, 3, 16, 16), ctx=device))
        values = {k: p.data(device).asnumpy() for k, p in network._collect_params_with_prefix().items()}
        _assert_same(values, artifact.arrays)


def test_a_model_keeps_the_photo_range_of_its_training(run_tiny: RunJob, tmp_path: Path) -> None:
    first = run_tiny({"epochs": "1", "photo_range": "0, 4095"}, tmp_path / "first")
    second = run_tiny({"epochs": "1"}, extra_channels={"model": tmp_path / "first"})
    for outcome, folder in ((first, "first"), (second, "model")):
        assert outcome.card.photo_range == read_artifact(tmp_path / folder).card.photo_range == (0, 4095)
        assert outcome.card.hyperparameters["photo_range"] == "0, 4095"


def test_epochs_without_a_scored_pixel_are_told_once(
    run_tiny: RunJob, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    iter_batches = Loader.iter_batches

    def iter_ignored(self: Loader, epoch: int, done: int = 0) -> Iterator[Batch]:
        for batch in iter_batches(self, epoch, done):
            yield Batch(batch.images, np.full_like(batch.class_ids, IGNORE))

    monkeypatch.setattr(Loader, "iter_batches", iter_ignored)
    run_tiny()
    assert caplog.text.count("its loss of 0 stands for none") == 1


def test_another_class_count_is_told(trained_model: Path, caplog: pytest.LogCaptureFixture) -> None:
    build_start_network(_parse(num_classes="6"), [mx.cpu()], read_artifact(trained_model))
    assert "has 4 classes, num_classes is 6" in caplog.text
    assert "the parameters head.* and auxlayer.* start from random values" in caplog.text


def test_another_network_is_refused(trained_model: Path) -> None:
    message = "holds fcn on resnet-18, the hyperparameters ask for fcn on resnet-34; set algorithm and backbone"
    with pytest.raises(ModelError, match=message):
        load_artifact(None, read_artifact(trained_model), _parse(backbone="resnet-34"))


# What stops a job.


def test_a_loss_that_is_no_number_leaves_the_best_model_so_far(
    run_tiny: RunJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, calls = Stepper.update, []

    def update(self: Stepper, batch: Batch, learning_rate: float) -> float:
        calls.append(1)
        loss = original(self, batch, learning_rate)
        return math.nan if len(calls) == 3 else loss

    monkeypatch.setattr(Stepper, "update", update)
    with pytest.raises(TrainingDivergedError, match="loss became nan at epoch 1, iteration 1; lower learning_rate"):
        run_tiny()
    files = {"hyperparams.json", "model_card.json", "model_symbol.json", "model_best.params"}
    assert {path.name for path in (tmp_path / "model").iterdir()} == files
    assert load_predictor(tmp_path / "model").predict_mask(np.zeros((9, 9, 3), np.uint8)).shape == (9, 9)


def test_first_layers_that_are_lost_stop_the_job_though_the_loss_is_finite(
    run_tiny: RunJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def normalise(images: Array) -> Array:
        calls.append(1)
        # ReLU turns not-a-number into 0: the loss of this batch is finite.
        return np.asarray(normalise_images(images) * (np.nan if len(calls) == 2 else 1), dtype=np.float32)

    monkeypatch.setattr("gluonseg.train.step.normalise_images", normalise)
    message = r"the parameter \S+ is no longer finite after epoch 0, iteration 2"
    with pytest.raises(TrainingDivergedError, match=message):
        run_tiny()
    assert not (tmp_path / "model/model_best.params").exists()


@pytest.mark.parametrize(
    ("history", "rule", "ends"),
    [
        ([], (0, 1, 0.0), False),
        ([0.5, 0.5], (0, 1, 0.0), True),
        ([0.5, 0.4], (3, 1, 0.0), False),
        ([0.5, 0.4, 0.6, 0.5, 0.6], (0, 2, 0.0), True),
        ([0.5, 0.54, 0.54], (0, 2, 0.1), True),
        ([0.5, 0.52, 0.54, 0.56], (0, 3, 0.1), False),
        ([0.0, 0.0, 0.0], (0, 2, 0.5), True),
    ],
)
def test_rule_of_early_stopping(history: list[float], rule: tuple[int, int, float], ends: bool) -> None:
    assert is_stale(history, *rule) is ends


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"precision_dtype": "float16"}, HyperparameterError, "float16 needs a GPU"),
        ({"syncbn": "True"}, HyperparameterError, "syncbn over several devices needs GPUs"),
        ({"mini_batch_size": "1"}, HyperparameterError, "1 is less than one crop for each of 2 devices"),
        ({"use_pretrained_model": "True"}, ModelError, r"Three ways out: \(1\) put"),
        ({"num_classes": "3", "class_names": "a, b, c"}, DataError, "num_classes"),
    ],
)
def test_a_job_that_cannot_run_is_refused_before_any_compute(
    run_tiny: RunJob, tmp_path: Path, changes: dict[str, str], error: type[Exception], message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a network was built")

    monkeypatch.setattr("gluonseg.train.job.build_start_network", refuse)
    monkeypatch.setenv("MXNET_GLUON_REPO", "http://127.0.0.1:9/")  # nobody listens there
    for name in ("MXNET_HOME", "GLUONSEG_PRETRAINED_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    with pytest.raises(error, match=message):
        run_tiny(changes, devices=CPUS)
    assert not (tmp_path / "model").exists()


class _Copies(Group):
    """Several hosts that all say the same."""

    def all_gather(self, value: T) -> list[T]:
        return [value] * self.size


@pytest.mark.parametrize(
    ("changes", "size", "error", "message"),
    [
        ({"syncbn": "True"}, 2, HyperparameterError, "syncbn works between the devices of one host only"),
        ({"mini_batch_size": "2"}, 3, HyperparameterError, "2 is less than one crop for each of 3 devices on 3 hosts"),
        ({"mini_batch_size": "16"}, 10, DataError, r"has 9 photos, fewer than the job has hosts \(10\)"),
    ],
)
def test_what_several_hosts_cannot_train_is_refused(
    run_tiny: RunJob, changes: dict[str, str], size: int, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        run_tiny(changes, group=_Copies([f"algo-{number}" for number in range(size)]))


def test_photos_are_kept_where_there_is_memory(
    drawn_channels: Mapping[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    hp, check = settle_data(_parse(), drawn_channels, Group())
    for limit, is_kept in ((None, True), (1 << 30, True), (8 * 100, False)):
        monkeypatch.setattr("gluonseg.train.data.find_memory_limit", lambda limit=limit: limit)
        for loader in build_loaders(hp, check, Group()):
            assert (loader.dataset.read(0)[0] is loader.dataset.read(0)[0]) is is_kept


# Settings.


def test_the_number_of_samples_is_corrected_and_class_names_of_the_job_win(
    drawn_channels: Mapping[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    settings = _parse(num_training_samples="8", class_names="ground, round, square, three")
    hp, check = settle_data(settings, drawn_channels, Group())
    assert "num_training_samples is 8, the train channel has 9: using 9" in caplog.text
    assert hp.to_strings()["num_training_samples"] == "9"
    assert check.class_names == ("ground", "round", "square", "three")


@pytest.mark.parametrize(
    "changes",
    [
        {"algorithm": "deeplab", "_aux_loss": "False", "syncbn": "True", "warmup_epochs": "1"},
        {"mini_batch_size": "100", "class_weights": "1, 2, 3, 4", "ignore_label": "0"},
        {"colour_jitter": "0.3", "prediction_size": "48", "class_weights": "balanced", "loss": "ohem+focal"},
    ],
)
def test_other_settings_run_through(
    run_tiny: RunJob, changes: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    outcome = run_tiny({**changes, "epochs": "1"})
    assert np.isfinite(outcome.results[0].train_loss)
    assert outcome.card.prediction_size == int(changes.get("prediction_size", 0))
    names = ("background", "disc", "box", "triangle")
    weights = re.search("class_weights balanced: " + ", ".join(rf"{name} ([\d.]+)" for name in names), caplog.text)
    assert bool(weights) == (changes.get("class_weights") == "balanced")
    if weights:
        assert float(weights[1]) < 1 < min(float(weight) for weight in weights.groups()[1:3])
