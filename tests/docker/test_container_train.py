"""``docker run IMAGE train`` on a mounted /opt/ml: results, failures, signals, limits."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from docker_engine import Container, run_container, started_container
from gluonseg.data.decode import read_image, read_label
from gluonseg.data.prepare.pets import prepare_oxford_pets
from gluonseg.predict.predictor import load_predictor
from job_layout import Job, draw_channels, lay_out_job
from real_photo import find_pet_photos

pytestmark = pytest.mark.docker
LOCKED_DOWN = ("--read-only", "--tmpfs", "/tmp", "--network", "none", "--cap-drop", "ALL")


@pytest.fixture
def job(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Job:
    return lay_out_job(tmp_path / "ml", draw_channels(tmp_path_factory.getbasetemp()))


@pytest.fixture(scope="module")
def pets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Channels of a few real photos, of many sizes."""
    every, few = tmp_path_factory.mktemp("pets") / "all", tmp_path_factory.mktemp("pets") / "few"
    prepare_oxford_pets(find_pet_photos(), every)
    for split, count in (("train", 16), ("validation", 6)):
        for photo in sorted((every / split).iterdir())[:count]:
            for part in (photo, every / f"{split}_annotation" / f"{photo.stem}.png"):
                target = few / part.relative_to(every)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(part, target)
    if (every / "label_map").is_dir():
        shutil.copytree(every / "label_map", few / "label_map")
    shutil.rmtree(every)
    return few


@pytest.mark.parametrize("algorithm", ["fcn", "psp", "deeplab"])
def test_train_on_pets_then_serve(image: str, pets: Path, tmp_path: Path, algorithm: str) -> None:
    """The second container's masks are those of this process, byte for byte."""
    job = lay_out_job(tmp_path / "ml", pets, algorithm=algorithm, num_classes="3", crop_size="96", base_size="112")
    job.set_hyperparameters(prediction_size="160", learning_rate="0.001", optimizer="adam")
    run = run_container(image, "train", base=job.base, options=LOCKED_DOWN)
    assert run.code == 0, run.log
    assert "#quality_metric. host: algo-1, epoch: 0, validation mIOU: " in run.log
    assert {"model_best.params", "model_algo-1", "hyperparams.json"} <= {path.name for path in job.model.iterdir()}

    served = tmp_path / "served"
    shutil.copytree(job.model, served / "model")
    predictor = load_predictor(job.model)
    with started_container(image, "serve", base=served) as container:
        container.wait_until_served()
        for photo in sorted((pets / "validation").iterdir()):
            status, _, body = container.request("/invocations", photo.read_bytes(), {"Accept": "image/png"})
            assert status == 200, body
            (tmp_path / "mask.png").write_bytes(body)
            picture = read_image(photo)
            np.testing.assert_array_equal(read_label(tmp_path / "mask.png"), predictor.predict_mask(picture))


@pytest.mark.parametrize(
    ("hyperparameters", "code", "text"),
    [
        ({"algorithm": "vnet"}, 2, "ClientError: algorithm"),
        ({"num_classes": "2"}, 2, "ClientError: "),
        ({"use_pretrained_model": "True"}, 2, "pretrained"),
    ],
)
def test_what_the_user_can_fix(image: str, job: Job, hyperparameters: dict[str, str], code: int, text: str) -> None:
    job.set_hyperparameters(**hyperparameters)
    run = run_container(image, "train", base=job.base, options=["--network", "none"])
    assert run.code == code
    assert text in (job.read_failure() or "")
    assert "Traceback" not in run.log


def test_nothing_mounted(image: str) -> None:
    run = run_container(image)
    assert run.code == 2
    assert "mount it at /opt/ml" in run.log


def test_several_hosts(image: str, job: Job) -> None:
    job.write_config("resourceconfig", {"current_host": "algo-2", "hosts": ["algo-1", "algo-2"]})
    run = run_container(image, "train", base=job.base)
    assert run.code == 2
    assert job.read_failure() == "ClientError: the job has 2 hosts, training runs on one; set instance_count=1"


@pytest.mark.parametrize(("cores", "threads"), [("0.5", "1"), ("2", "2")])
def test_threads_follow_the_limit(image: str, cores: str, threads: str) -> None:
    if int(threads) > (os.cpu_count() or 1):
        pytest.skip("this machine has one core")
    code = "from gluonseg.machine.limits import set_thread_count; print(set_thread_count())"
    assert run_container(image, "python3", "-c", code, options=["--cpus", cores]).log == f"{threads}\n"


def test_within_limits(image: str, job: Job) -> None:
    run = run_container(image, "train", base=job.base, options=["--cpus", "1", "--memory", "1g", *LOCKED_DOWN])
    assert run.code == 0, run.log


def lay_out_script(job: Job, text: str) -> None:
    """Make it a job in script mode, as an Estimator with entry_point does; channels of any name are allowed."""
    code = job.channel("code")
    code.mkdir(parents=True)
    (code / "train.py").write_text(text, encoding="utf-8")
    settings = {"sagemaker_program": "train.py", "sagemaker_submit_directory": "/opt/ml/input/data/code", "depth": "3"}
    job.write_config("hyperparameters", settings)


SCRIPT = """
import argparse, os, sys
import mxnet, gluoncv, gluonseg
parser = argparse.ArgumentParser()
parser.add_argument("--depth", type=int)
print("depth", parser.parse_args().depth, "mxnet", mxnet.__version__)

open(os.path.join(os.environ["SM_MODEL_DIR"], "mine.txt"), "w").write(os.environ["SM_CHANNEL_TRAIN"])
"""


def test_script_of_the_user(image: str, job: Job) -> None:
    lay_out_script(job, SCRIPT)
    run = run_container(image, "train", base=job.base)
    assert run.code == 0, run.log
    assert "depth 3 mxnet 1.9.1" in run.log
    assert (job.model / "mine.txt").read_text() == "/opt/ml/input/data/train"


def test_failing_script_of_the_user(image: str, job: Job) -> None:
    lay_out_script(job, "raise ValueError('the seventh photo')")
    run = run_container(image, "train", base=job.base)
    assert run.code != 0
    assert "the seventh photo" in (job.read_failure() or "")


@pytest.fixture
def training(image: str, job: Job) -> Iterator[Container]:
    job.set_hyperparameters(epochs="500", _logging_frequency="1")
    with started_container(image, "train", base=job.base) as container:
        yield container


@pytest.mark.parametrize("moment", ["epoch: 0, iterations: 1 ", "completed 0.2 % of epochs"])
def test_sigterm_leaves_a_model(training: Container, job: Job, moment: str) -> None:
    training.wait_for_log(moment)
    code, seconds = training.stop()
    assert (code, job.read_failure()) == (0, None), training.read_log()
    assert seconds < 15
    assert "Traceback" not in training.read_log()
    photo = read_image(next(job.channel("validation").iterdir()))
    assert load_predictor(job.model).predict_mask(photo).shape == photo.shape[:2]
    assert json.loads((job.model / "hyperparams.json").read_text())["epochs"] == "500"
