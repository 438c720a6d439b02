"""``container/train`` as a process over a real /opt/ml layout, as Docker would start it, and serving what it made."""

from __future__ import annotations

import io
import json
import re
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import gluonseg
from gluonseg.data.decode import read_image
from gluonseg.errors import FAILURE_LIMIT
from gluonseg.predict.predictor import load_predictor
from job_layout import Job, JobRun, draw_channels, lay_out_job, train_once
from local_server import serving

NUMBER = r"([0-9.eE+-]+)"
# The expressions that were run against logs of the built-in algorithm, and how often each matches in two epochs.
METRICS = {
    "train:loss": r"#quality_metric\. host: \S+, epoch: \d+, train loss: ([0-9.eE+-]+|nan|inf)",
    "train:throughput": rf"#throughput_metric\. host: \S+, epoch: \d+, train throughput: {NUMBER}",
    "validation:pixel_accuracy": rf"#quality_metric\. host: \S+, epoch: \d+, validation pixel_accuracy: {NUMBER}",
    "validation:mIOU": rf"#quality_metric\. host: \S+, epoch: \d+, validation mIOU: {NUMBER}",
    "validation:throughput": rf"#throughput_metric\. host: \S+, epoch: \d+, validation throughput: {NUMBER}",
}
PREFIX = r"\[\d\d/\d\d/\d{4} \d\d:\d\d:\d\d (?:INFO|WARNING|ERROR) \d+\] "
SCRIPT = """
import argparse, json, os, sys
import mxnet as mx
import gluonseg

parser = argparse.ArgumentParser()
parser.add_argument("--epochs", type=int)
parser.add_argument("--note")
given = parser.parse_args()
total = float(mx.nd.arange(given.epochs).sum().asscalar())
names = sorted(os.listdir(os.environ["SM_CHANNEL_TRAINING"]))
with open(os.path.join(os.environ["SM_MODEL_DIR"], "mine.json"), "w") as file:
    json.dump({"total": total, "note": given.note, "names": names, "gluonseg": gluonseg.__version__}, file)
"""
FAILING_SCRIPT = """
print("about to fail")
raise ValueError("no such thing as a blue cat")
"""


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_channels(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Job, JobRun]:
    return train_once(tmp_path_factory.getbasetemp())


def test_a_good_job_ends_with_0_and_leaves_the_artifacts(trained: tuple[Job, JobRun]) -> None:
    job, run = trained
    assert run.code == 0
    assert run.failure is None
    artifacts = {"model_best.params", "model_algo-1", "hyperparams.json", "model_card.json", "model_symbol.json"}
    artifacts |= {"curves.json", "curves.png", "model.onnx", "model_manifest.json"}
    assert {path.name for path in job.model.iterdir()} == artifacts
    output = {"curves.json", "curves.png", "report.html", "report.json", "report.csv", "report.md"}
    assert {path.name for path in (job.base / "output" / "data").iterdir()} == output
    assert [path.name for path in (job.base / "output").iterdir()] == ["data"]
    assert json.loads((job.model / "hyperparams.json").read_text())["num_training_samples"] == "18"
    assert len(json.loads((job.model / "curves.json").read_text())) == 2


def test_the_metric_expressions_match_once_an_epoch(trained: tuple[Job, JobRun]) -> None:
    log = trained[1].log
    found = {name: [float(value) for value in re.findall(regex, log)] for name, regex in METRICS.items()}
    assert {name: len(values) for name, values in found.items()} == dict.fromkeys(METRICS, 2)
    for definition in gluonseg.METRIC_DEFINITIONS:
        values = [float(value) for value in re.findall(definition["Regex"], log)]
        assert values == found.get(definition["Name"], values[:1])
    curves = json.loads((trained[0].model / "curves.json").read_text())
    assert found["train:loss"] == [epoch["train_loss"] for epoch in curves]
    assert found["validation:mIOU"] == [epoch["validation"]["mIOU_builtin"] for epoch in curves]


def test_every_line_has_the_prefix_but_metrics(trained: tuple[Job, JobRun]) -> None:
    lines = [line for line in trained[1].log.splitlines() if not line.startswith("#metrics {")]
    assert [line for line in lines if not re.match(PREFIX, line)] == []
    bare = [re.sub(PREFIX, "", line, count=1) for line in lines]
    assert bare[0] == "Docker entrypoint called with argument(s): train"
    assert bare.count("Test data is not provided.") == 1
    assert not any(line.startswith("#metrics") for line in bare)


def test_a_channel_that_holds_the_next_one_is_warned_of_and_not_read(trained: tuple[Job, JobRun]) -> None:
    (warning,) = [line for line in trained[1].log.splitlines() if "WARNING" in line and "next channel" in line]
    assert "train/train_annotation; validation/validation_annotation" in warning
    assert "S3 address without a slash" in warning


def test_serve_on_the_same_folder_gives_the_mask_that_the_model_predicts(
    trained: tuple[Job, JobRun], tmp_path: Path
) -> None:
    job = trained[0]
    photo = min(job.channel("validation").glob("*.jpg"))
    with serving(job.base, tmp_path / "serve.log") as server:
        server.wait_until_served()
        headers = {"Content-Type": "image/jpeg", "Accept": "image/png"}
        answer = server.request("/invocations", photo.read_bytes(), headers)
    assert answer.status == 200
    expected = load_predictor(job.model).predict_mask(read_image(photo))
    with Image.open(io.BytesIO(answer.body)) as picture:
        assert picture.mode == "L"
        np.testing.assert_array_equal(np.array(picture), expected)


def test_a_job_as_local_mode_writes_it(trained: tuple[Job, JobRun], data: Path, tmp_path: Path) -> None:
    """JSON-quoted and JSON-typed hyperparameters, SageMaker's own keys, mounted channels, blanks in the path.

    The job continues from the last one's archive.
    """
    job = lay_out_job(tmp_path / "opt and more" / "ml", data, link=True)
    job.set_hyperparameters(
        algorithm='"fcn"',
        backbone='"resnet-18"',
        use_pretrained_model="true",
        syncbn="true",
        class_weights="[1, 2, 2, 2]",
        _tuning_objective_metric="validation:mIOU",
        sagemaker_job_name='"job"',
        num_training_samples="99",
    )
    job.channel("model").mkdir()
    with tarfile.open(job.channel("model") / "model.tar.gz", "w:gz", compresslevel=1) as archive:
        archive.add(trained[0].model / "model_best.params", "model_best.params")
    channels = {name: {"TrainingInputMode": "File", "ContentType": "image/jpeg"} for name in ("train", "validation")}
    others = ("train_annotation", "validation_annotation", "label_map", "model")
    job.write_config("inputdataconfig", {**channels, **{name: {"TrainingInputMode": "File"} for name in others}})
    hosts = {"current_host": "algo-1-x7k2p", "hosts": ["algo-1-x7k2p"], "network_interface_name": "ethwe"}
    job.write_config("resourceconfig", {**hosts, "current_instance_type": "local", "instance_groups": None})
    run = job.run()
    assert run.code == 0, run.log
    assert run.failure is None
    saved = json.loads((job.model / "hyperparams.json").read_text())
    assert (saved["algorithm"], saved["use_pretrained_model"], saved["syncbn"]) == ("fcn", "True", "True")
    assert saved["class_weights"] == "1.0, 2.0, 2.0, 2.0"
    card = json.loads((job.model / "model_card.json").read_text())
    assert card["class_names"] == ["background", "disc", "box", "triangle"]
    assert "#quality_metric. host: algo-1-x7k2p, epoch: 0, train loss: " in run.log
    assert "num_training_samples is 99, the train channel has 18: using 18" in run.log
    losses = [float(value) for value in re.findall(METRICS["train:loss"], trained[1].log)]
    assert float(re.findall(METRICS["train:loss"], run.log)[0]) < losses[0]


def _lay_out_script_job(base: Path, script: str) -> Job:
    job = Job(base)
    for folder in ("input/config", "input/data/training"):
        (base / folder).mkdir(parents=True)
    (job.channel("training") / "anything.csv").write_text("1,2\n")
    source = base.parent / "source"
    source.mkdir()
    (source / "train.py").write_text(script)
    settings = {"sagemaker_program": "train.py", "sagemaker_submit_directory": str(source)}
    # Framework estimators and ModelTrainer write every value as JSON.
    values = {name: json.dumps(value) for name, value in {**settings, "epochs": 4, "note": "a b"}.items()}
    job.write_config("hyperparameters", values)
    job.list_channels("training")
    job.write_config("resourceconfig", {"current_host": "algo-1", "hosts": ["algo-1"]})
    return job


def test_a_users_own_script_runs_with_mxnet_and_gluonseg(tmp_path: Path) -> None:
    job = _lay_out_script_job(tmp_path / "ml", SCRIPT)
    run = job.run()
    assert run.code == 0, run.log
    assert run.failure is None
    assert [path.name for path in job.model.iterdir()] == ["mine.json"]
    assert json.loads((job.model / "mine.json").read_text()) == {
        "total": 6.0, "note": "a b", "names": ["anything.csv"], "gluonseg": gluonseg.__version__,
    }  # fmt: skip


def test_a_users_failing_script_fails_the_job(tmp_path: Path) -> None:
    run = _lay_out_script_job(tmp_path / "ml", FAILING_SCRIPT).run()
    assert run.code == 1
    assert "about to fail" in run.log
    assert "no such thing as a blue cat" in (run.failure or "")[:FAILURE_LIMIT]
