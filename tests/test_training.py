"""Training jobs on tiny drawn data: artifacts, log lines, repetition, devices, restarts, and what stops them."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mxnet as mx
import numpy as np
import numpy.typing as npt
import pytest

import gluonseg
from conftest import TINY, RunJob
from gluonseg.data.loader import Batch
from gluonseg.errors import DataError, HyperparameterError, ModelError, TrainingDivergedError
from gluonseg.hyperparameters import Hyperparameters, parse_hyperparameters
from gluonseg.labels import IGNORE
from gluonseg.models.folder.artifact import read_artifact
from gluonseg.models.network import build_network
from gluonseg.predict.mxnet_engine import normalise_images
from gluonseg.predict.predictor import load_predictor
from gluonseg.train.data import build_loaders, settle_data
from gluonseg.train.job import build_trainer
from gluonseg.train.loop import is_stale
from gluonseg.train.losses import MixedLoss, build_weight_table
from gluonseg.train.start import build_start_network, load_artifact
from gluonseg.train.step import Stepper

Array = npt.NDArray[Any]
CPUS = [mx.cpu(0), mx.cpu(1)]
FLOAT = r"[0-9.e+-]+"


def _read(path: Path) -> dict[str, Array]:
    return {name: array.asnumpy() for name, array in mx.nd.load(str(path)).items()}


def _assert_same(one: Mapping[str, Array], other: Mapping[str, Array]) -> None:
    assert one.keys() == other.keys()
    assert [name for name in one if not np.array_equal(one[name], other[name])] == []


def _parse(**changes: str) -> Hyperparameters:
    return parse_hyperparameters({**TINY, **changes})


# Artifacts and log lines.


def test_artifacts_are_complete_and_readable(trained_model: Path) -> None:
    names = {path.name for path in trained_model.iterdir()}
    files = {"model_best.params", "model_algo-1", "hyperparams.json", "model_card.json", "curves.json", "curves.png"}
    files |= {"model.onnx", "model_manifest.json", "model_symbol.json"}
    assert names == files
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
    outcome = run_tiny()
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
    "train:loss": ("#quality_metric. host: algo-1, epoch: 0, train loss: 1.475714725452465 .", 1.475714725452465),
    "train:throughput": (
        "#throughput_metric. host: algo-1, epoch: 0, train throughput: 55.0439202038 samples/sec.", 55.0439202038),
    "validation:pixel_accuracy": (
        "#quality_metric. host: algo-1, epoch: 0, validation pixel_accuracy: 0.8472626958559429 .", 0.8472626958559429),
    "validation:mIOU": (
        "#quality_metric. host: algo-1, epoch: 0, validation mIOU: 0.5063982026717044 .", 0.5063982026717044),
    "validation:throughput": (
        "#throughput_metric. host: algo-1, epoch: 0, validation throughput: 36.7295854993 samples/sec.", 36.7295854993),
}  # fmt: skip


def test_metric_definitions_read_the_builtins_own_lines() -> None:
    """Those of a real log, too: test_train_process.py."""
    definitions = {one["Name"]: one["Regex"] for one in gluonseg.METRIC_DEFINITIONS}
    assert len(definitions) <= 40
    assert all(len(regex) <= 500 for regex in definitions.values())
    for name, (line, value) in BUILTIN_LINES.items():
        hits = {other: re.search(regex, line) for other, regex in definitions.items()}
        assert [other for other, hit in hits.items() if hit] == [name]
        assert float(re.findall(definitions[name], line)[0]) == value
    nan = "#quality_metric. host: algo-1, epoch: 3, train loss: nan ."
    assert re.findall(definitions["train:loss"], nan) == ["nan"]


def test_lines_have_the_builtins_prefix() -> None:
    code = (
        "import logging\nfrom gluonseg.sagemaker.log import configure_logging\nconfigure_logging()\n"
        "logging.getLogger('any').info('#quality_metric. %s', 'x')\nlogging.getLogger('any').info('#metrics %s', '{}')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    first, second = done.stdout.splitlines()
    assert re.fullmatch(r"\[\d\d/\d\d/\d{4} \d\d:\d\d:\d\d INFO \d+\] #quality_metric\. x", first)
    assert second == "#metrics {}"


# Repetition.


def test_the_same_seed_gives_the_same_parameters(
    run_tiny: RunJob, trained_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gluonseg.train.data.count_usable_cores", lambda: 5)
    run_tiny({"_workers": "5"})
    run_tiny({"seed": "1"}, tmp_path / "seed")
    for name in ("model_best.params", "model_algo-1"):
        expected = _read(trained_model / name)
        _assert_same(_read(tmp_path / "model" / name), expected)
        assert (_read(tmp_path / "seed" / name)["head.block.0.weight"] != expected["head.block.0.weight"]).any()


def test_training_learns(run_tiny: RunJob) -> None:
    outcome = run_tiny({"epochs": "8", "optimizer": "adam", "learning_rate": "0.003", "_augmentation_type": "none"})
    losses = [result.train_loss for result in outcome.results]
    assert min(losses[-3:]) < 0.7 * losses[0]


# One update.


def _draw_batch(count: int, size: int = 24, seed: int = 0) -> Batch:
    rng = np.random.default_rng(seed)
    class_ids = rng.integers(0, 4, (count, size, size)).astype(np.uint8)
    # The parts of a batch have different numbers of scored pixels.
    class_ids[0, : size // 2] = IGNORE
    return Batch(rng.integers(0, 256, (count, size, size, 3), dtype=np.uint8), class_ids)


def _build_steady(devices: list[Any]) -> Any:
    """A network in which no picture depends on another: fixed statistics, no dropout."""
    mx.random.seed(3)
    network = build_network("fcn", "resnet-18", 4, ctx=devices, norm_kwargs={"use_global_stats": True})
    network.initialize(mx.init.Xavier(), ctx=devices, force_reinit=True)

    def disable(block: Any) -> None:
        if isinstance(block, mx.gluon.nn.Dropout):
            block._rate = 0

    network.apply(disable)
    network.hybridize(static_alloc=True)
    return network


def _build_stepper(network: Any, devices: list[Any], hp: Hyperparameters) -> Stepper:
    loss, table = MixedLoss(4, hp._aux_weight), build_weight_table(4, (1, 2, 1, 0.5))
    return Stepper(network, loss, build_trainer(hp, network, len(devices)), devices, table)


def _save(network: Any, path: Path) -> dict[str, Array]:
    network.save_parameters(str(path))
    return _read(path)


@pytest.mark.parametrize(("kvstore", "count"), [("device", 3), ("device", 1), ("local", 4)])
def test_several_devices_update_as_one(tmp_path: Path, kvstore: str, count: int) -> None:
    """Even and uneven cuts, and more devices than pictures."""
    saved, losses = [], []
    start: dict[str, Array] = {}
    for devices in ([mx.cpu(0)], CPUS):
        network = _build_steady(devices)
        network(mx.nd.zeros((1, 3, 24, 24), ctx=devices[0]))
        path = tmp_path / "start.params"
        if start:
            network.load_parameters(str(path), ctx=devices)
        else:
            start = _save(network, path)
        stepper = _build_stepper(network, devices, _parse(_kvstore=kvstore, momentum="0.9"))
        losses.append([float(stepper.update(_draw_batch(count, seed=n), 0.05).asscalar()) for n in range(2)])
        saved.append(_save(network, tmp_path / f"{len(devices)}.params"))
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4)
    for name, value in saved[0].items():
        moved = np.abs(value - start[name]).max()
        np.testing.assert_allclose(saved[1][name], value, atol=1e-3 * moved + 1e-7, err_msg=name)
    assert np.abs(saved[0]["head.block.4.weight"] - start["head.block.4.weight"]).max() > 1e-4


def test_the_learning_rate_is_used_and_ten_times_for_heads() -> None:
    changes = {}
    for rate in (0.01, 0.02):
        network = _build_steady([mx.cpu()])
        network(mx.nd.zeros((1, 3, 24, 24)))
        hp = _parse(momentum="0", weight_decay="0")
        parameters = network._collect_params_with_prefix()
        names = ("head.block.4.weight", "layer4.1.conv2.weight")
        before = {name: parameters[name].data().asnumpy() for name in names}
        _build_stepper(network, [mx.cpu()], hp).update(_draw_batch(2), rate).wait_to_read()
        for name in names:
            step = before[name] - parameters[name].data().asnumpy()
            ratio = np.abs(step).sum() / np.abs(parameters[name].grad().asnumpy()).sum()
            changes[name, rate] = ratio
    assert changes["head.block.4.weight", 0.01] == pytest.approx(0.1, rel=1e-2)
    assert changes["layer4.1.conv2.weight", 0.01] == pytest.approx(0.01, rel=1e-2)
    assert changes["head.block.4.weight", 0.02] == pytest.approx(0.2, rel=1e-2)


def test_a_batch_without_a_scored_pixel_changes_nothing_but_decay() -> None:
    network = _build_steady([mx.cpu()])
    network(mx.nd.zeros((1, 3, 24, 24)))
    stepper = _build_stepper(network, [mx.cpu()], _parse(weight_decay="0"))
    batch = _draw_batch(2)
    parameter = network._collect_params_with_prefix()["layer1.0.conv1.weight"]
    before = parameter.data().asnumpy()
    loss = stepper.update(Batch(batch.images, np.full_like(batch.class_ids, IGNORE)), 0.1)
    assert loss.asscalar() == 0
    assert (parameter.data().asnumpy() == before).all()


# Starting from an earlier model.


def test_incremental_training_takes_everything_over_on_every_device(trained_model: Path) -> None:
    artifact = read_artifact(trained_model)
    network = build_start_network(_parse(seed="9"), CPUS, artifact)
    for device in CPUS:
        network(mx.nd.zeros((1, 3, 16, 16), ctx=device))
        values = {k: p.data(device).asnumpy() for k, p in network._collect_params_with_prefix().items()}
        _assert_same(values, artifact.arrays)


def test_another_class_count_is_told(trained_model: Path, caplog: pytest.LogCaptureFixture) -> None:
    build_start_network(_parse(num_classes="6"), [mx.cpu()], read_artifact(trained_model))
    assert "has 4 classes, num_classes is 6" in caplog.text
    assert "the parameters head.* and auxlayer.* start from random values" in caplog.text


def test_the_model_channel_of_a_job(run_tiny: RunJob, trained_model: Path) -> None:
    started = run_tiny({"epochs": "1", "learning_rate": "1e-6"}, extra_channels={"model": trained_model})
    scratch = json.loads((trained_model / "curves.json").read_text(encoding="utf-8"))
    assert started.results[0].train_loss < scratch[0]["train_loss"]


@pytest.mark.parametrize("changes", [{"backbone": "resnet-34"}, {"algorithm": "unet"}])
def test_another_network_is_refused(trained_model: Path, changes: dict[str, str]) -> None:
    message = "the model channel holds fcn on resnet-18, the hyperparameters ask for .*; set algorithm and backbone"
    with pytest.raises(ModelError, match=message):
        load_artifact(None, read_artifact(trained_model), _parse(**changes))


# What stops a job.


def _spoil_update(monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    """Make the loss of the update number ``at`` (from 1) infinite."""
    original, calls = Stepper.update, []

    def update(self: Stepper, batch: Batch, learning_rate: float) -> Any:
        calls.append(1)
        loss = original(self, batch, learning_rate)
        return loss / 0 if len(calls) == at else loss

    monkeypatch.setattr(Stepper, "update", update)


@pytest.mark.parametrize(
    ("update", "place", "left"),
    [
        (2, "epoch 0, iteration 2", set()),
        (3, "epoch 1, iteration 1", {"hyperparams.json", "model_card.json", "model_symbol.json", "model_best.params"}),
    ],
)
def test_a_loss_that_is_no_number_leaves_the_best_model_so_far(
    run_tiny: RunJob, tmp_path: Path, update: int, place: str, left: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _spoil_update(monkeypatch, at=update)
    with pytest.raises(TrainingDivergedError, match=f"loss became inf at {place}; lower learning_rate"):
        run_tiny()
    assert {path.name for path in (tmp_path / "model").iterdir()} == left
    if left:
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
    with pytest.raises(
        TrainingDivergedError, match=r"the parameter \S+ is no longer finite after epoch 0, iteration 2"
    ):
        run_tiny()
    assert not (tmp_path / "model/model_best.params").exists()


@pytest.mark.parametrize(
    ("history", "rule", "ends"),
    [
        ([], (0, 1, 0.0), False),
        ([0.5], (0, 1, 0.0), False),
        ([0.5, 0.5], (0, 1, 0.0), True),
        ([0.5, 0.4], (3, 1, 0.0), False),
        ([0.5, 0.4, 0.6], (0, 2, 0.0), False),
        ([0.5, 0.4, 0.6, 0.5, 0.6], (0, 2, 0.0), True),
        ([0.5, 0.54, 0.54], (0, 2, 0.1), True),
        ([0.5, 0.52, 0.54, 0.56], (0, 3, 0.1), False),
        ([0.0, 0.0, 0.0], (0, 2, 0.5), True),
    ],
)
def test_rule_of_early_stopping(history: list[float], rule: tuple[int, int, float], ends: bool) -> None:
    assert is_stale(history, *rule) is ends


@pytest.mark.parametrize(
    ("changes", "devices", "message"),
    [
        ({"precision_dtype": "float16"}, [], "float16 needs a GPU"),
        ({"syncbn": "True"}, CPUS, "syncbn over several devices needs GPUs"),
        ({"mini_batch_size": "1"}, CPUS, "mini_batch_size 1 is less than one crop for each of 2 devices"),
    ],
)
def test_what_these_devices_cannot_do_is_refused(
    run_tiny: RunJob, tmp_path: Path, changes: dict[str, str], devices: list[Any], message: str
) -> None:
    with pytest.raises(HyperparameterError, match=message):
        run_tiny(changes, devices=devices)
    assert not (tmp_path / "model").exists()


def test_missing_imagenet_weights_stop_the_job_at_once(
    run_tiny: RunJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MXNET_GLUON_REPO", "http://127.0.0.1:9/")  # nobody listens there
    monkeypatch.setenv("MXNET_HOME", str(tmp_path / "store"))
    monkeypatch.setenv("GLUONSEG_PRETRAINED_DIR", str(tmp_path / "none"))
    with pytest.raises(ModelError) as caught:
        run_tiny({"use_pretrained_model": "True"})
    for way in ("Three ways out: (1) put", "(2) train with use_pretrained_model=False", "(3) give the job a network"):
        assert way in str(caught.value)
    assert not (tmp_path / "model").exists()


def test_bad_data_stops_the_job_before_any_compute(
    run_tiny: RunJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a network was built")

    monkeypatch.setattr("gluonseg.train.job.build_start_network", refuse)
    with pytest.raises(DataError):
        run_tiny({"num_classes": "3", "class_names": "a, b, c"})
    assert not (tmp_path / "model").exists()


def test_photos_are_kept_where_there_is_memory(
    drawn_channels: Mapping[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    hp, check = settle_data(_parse(), drawn_channels)
    for limit, is_kept in ((None, True), (1 << 30, True), (8 * 100, False)):
        monkeypatch.setattr("gluonseg.train.data.find_memory_limit", lambda limit=limit: limit)
        for loader in build_loaders(hp, check):
            assert (loader.dataset.read(0)[0] is loader.dataset.read(0)[0]) is is_kept


# Settings.


@pytest.mark.parametrize(("given", "warned"), [("8", True), ("9", False)])
def test_the_number_of_samples_is_corrected_and_class_names_of_the_job_win(
    drawn_channels: Mapping[str, Path], caplog: pytest.LogCaptureFixture, given: str, warned: bool
) -> None:
    settings = _parse(num_training_samples=given, class_names="ground, round, square, three")
    hp, check = settle_data(settings, drawn_channels)
    assert ("num_training_samples is 8, the train channel has 9: using 9" in caplog.text) is warned
    assert hp.to_strings()["num_training_samples"] == "9"
    assert check.class_names == ("ground", "round", "square", "three")


def test_balanced_class_weights(run_tiny: RunJob, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    run_tiny({"class_weights": "balanced", "epochs": "1"})
    shown = re.search(
        r"class_weights balanced: background ([\d.]+), disc ([\d.]+), box ([\d.]+), triangle", caplog.text
    )
    assert shown is not None
    ground, *shapes = (float(number) for number in shown.groups())
    assert ground < 1 < min(shapes)


@pytest.mark.parametrize(
    "changes",
    [
        {"algorithm": "deeplab", "_aux_loss": "False", "syncbn": "True"},
        {"mini_batch_size": "100", "validation_mini_batch_size": "100"},
        {"lr_scheduler": "step", "lr_scheduler_step": "1", "warmup_epochs": "1"},
        {"colour_jitter": "0.3", "prediction_size": "48", "class_weights": "1, 2, 3, 4", "ignore_label": "0"},
    ],
)
def test_other_settings_run_through(run_tiny: RunJob, changes: dict[str, str]) -> None:
    outcome = run_tiny({**changes, "epochs": "1"})
    assert np.isfinite(outcome.results[0].train_loss)
    assert outcome.card.prediction_size == int(changes.get("prediction_size", 0))


def test_curves_go_to_the_output_folder_too(run_tiny: RunJob, tmp_path: Path) -> None:
    run_tiny({"epochs": "1"}, output_folder=tmp_path / "output/data")
    assert {path.name for path in (tmp_path / "output/data").iterdir()} == {
        *("curves.json", "curves.png"),
        *("report.html", "report.json", "report.csv", "report.md"),
    }
