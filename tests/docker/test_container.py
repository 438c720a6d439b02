"""What the images do with a job: the full one trains and serves, ``gluonseg:serve`` serves the same model."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import numpy as np
import pytest

from docker_engine import Container, call_docker, run_container, started_container
from gluonseg.cli import TRAINING_MODULES
from gluonseg.data.decode import read_image, read_label
from gluonseg.models.folder.card import read_card
from gluonseg.predict.predictor import load_predictor
from job_layout import Job, draw_channels, lay_out_job
from notebook_client import parse_mask

pytestmark = pytest.mark.docker
LOCKED_DOWN = (
    *("--read-only", "--tmpfs", "/tmp:size=64m", "--network", "none"),
    *("--cap-drop", "ALL", "--security-opt", "no-new-privileges"),
    *("--pids-limit", "128", "--cpus", "1", "--memory", "1g"),
)
ANOTHER_USER = ("--user", "4321:4321")


@pytest.fixture
def job(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Job:
    return lay_out_job(tmp_path / "ml", draw_channels(tmp_path_factory.getbasetemp()))


@pytest.fixture(scope="module")
def trained(image: str, tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A job that the image has trained without any privilege; every user can read its files."""
    job = lay_out_job(tmp_path_factory.mktemp("trained") / "ml", draw_channels(tmp_path_factory.getbasetemp()))
    run = run_container(image, "train", base=job.base, options=LOCKED_DOWN)
    assert run.code == 0, run.log
    assert "#quality_metric. host: algo-1, epoch: 0, validation mIOU: " in run.log
    assert {"model_best.params", "model_algo-1", "hyperparams.json"} <= {path.name for path in job.model.iterdir()}
    for path in (job.base.parent, job.base, *job.base.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return job


@pytest.fixture(scope="module")
def photo(trained: Job) -> Path:
    return next(trained.channel("validation").iterdir())


def mount_model(job: Job) -> tuple[str, ...]:
    return ("--volume", f"{job.model}:/opt/ml/model:ro")


# --- train


def test_the_image_has_no_weights(image: str, job: Job) -> None:
    job.set_hyperparameters(use_pretrained_model="True")
    run = run_container(image, "train", base=job.base, options=["--network", "none"])
    assert run.code == 2
    assert "pretrained" in (job.read_failure() or "")
    assert "Traceback" not in run.log


def test_nothing_mounted(image: str) -> None:
    run = run_container(image)
    assert run.code == 2
    assert "mount it at /opt/ml" in run.log


def test_threads_follow_the_limit(image: str) -> None:
    code = "from gluonseg.machine.limits import set_thread_count; print(set_thread_count())"
    assert run_container(image, "python3", "-c", code, options=["--cpus", "0.5"], OMP_NUM_THREADS="").log == "1\n"


SCRIPT = """
import argparse, os
import mxnet, gluoncv, gluonseg
parser = argparse.ArgumentParser()
parser.add_argument("--depth", type=int)
print("depth", parser.parse_args().depth, "mxnet", mxnet.__version__)
open(os.path.join(os.environ["SM_MODEL_DIR"], "mine.txt"), "w").write(os.environ["SM_CHANNEL_TRAIN"])
"""


def test_script_of_the_user(image: str, job: Job) -> None:
    """Script mode, as an Estimator with entry_point asks for it; channels of any name are allowed."""
    job.channel("code").mkdir(parents=True)
    (job.channel("code") / "train.py").write_text(SCRIPT, encoding="utf-8")
    settings = {"sagemaker_program": "train.py", "sagemaker_submit_directory": "/opt/ml/input/data/code", "depth": "3"}
    job.write_config("hyperparameters", settings)
    run = run_container(image, "train", base=job.base)
    assert run.code == 0, run.log
    assert "depth 3 mxnet 1.9.1" in run.log
    assert (job.model / "mine.txt").read_text() == "/opt/ml/input/data/train"


def test_sigterm_leaves_a_model(image: str, job: Job) -> None:
    job.set_hyperparameters(epochs="500", _logging_frequency="1")
    with started_container(image, "train", base=job.base) as training:
        training.wait_for_log("epoch: 0, iterations: 1 ")
        code, seconds = training.stop()
        assert (code, job.read_failure()) == (0, None), training.read_log()
    assert seconds < 15
    picture = read_image(next(job.channel("validation").iterdir()))
    assert load_predictor(job.model).predict_mask(picture).shape == picture.shape[:2]


# --- serve

ASK = """
import base64, pathlib, urllib.request
photo = pathlib.Path("/photo").read_bytes()
print(urllib.request.urlopen("http://127.0.0.1:8080/ping", timeout=5).status)
answer = urllib.request.urlopen("http://127.0.0.1:8080/invocations", photo, timeout=60)
print(base64.b64encode(answer.read()).decode())
"""


def ask_inside(container: Container) -> tuple[str, bytes]:
    """What /ping and /invocations say to a client in the container, which no other client can reach."""
    for _ in range(100):
        done = call_docker("exec", container.name, "python3", "-c", ASK)
        if done.returncode == 0:
            break
    status, body = done.stdout.split()
    return status, base64.b64decode(body)


def test_serving_without_any_privilege(image: str, trained: Job, photo: Path) -> None:
    mounts = (*mount_model(trained), "--volume", f"{photo}:/photo:ro")
    with started_container(image, "serve", options=[*ANOTHER_USER, *LOCKED_DOWN, *mounts]) as container:
        status, body = ask_inside(container)
        code, seconds = container.stop(grace=30)
        assert (code, "Traceback" in container.read_log()) == (0, False)
    assert status == "200"
    assert seconds < 25
    np.testing.assert_array_equal(parse_mask(body), load_predictor(trained.model).predict_mask(read_image(photo)))


# --- gluonseg:serve


def test_the_serve_image_has_nothing_of_training_and_is_smaller(image: str, serve_image: str) -> None:
    source = f"import importlib.util; print([name for name in {TRAINING_MODULES} if importlib.util.find_spec(name)])"
    assert run_container(serve_image, "python3", "-c", source).log == "[]\n"
    run = run_container(serve_image, "train")
    assert (run.code, "no command 'train'; it has serve, app, gluonseg (" in run.log) == (127, True)
    small, full = (int(call_docker("inspect", "--format", "{{.Size}}", one).stdout) for one in (serve_image, image))
    assert small < 0.6 * full


def test_the_serve_image_evaluates(serve_image: str, trained: Job) -> None:
    options = [*ANOTHER_USER, *mount_model(trained), "--volume", f"{trained.base / 'input/data'}:/data:ro"]
    command = ("gluonseg", "evaluate", "/data/validation", "/data/validation_annotation", "--model", "/opt/ml/model")
    found = json.loads(run_container(serve_image, *command, "--json", options=options).log)
    assert found["mIoU"] == read_card(trained.model / "model_card.json").metrics["whole_image"]["mIoU"]


def test_the_serve_image_serves_without_a_command(serve_image: str, trained: Job, photo: Path, tmp_path: Path) -> None:
    options = [*ANOTHER_USER, "--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL", *mount_model(trained)]
    with started_container(serve_image, options=options) as container:
        container.wait_until_served()
        answer = container.request("/invocations", photo.read_bytes(), {"Accept": "image/png"})
        assert container.stop(grace=30)[0] == 0
    (tmp_path / "mask.png").write_bytes(answer.body)
    wanted = load_predictor(trained.model).predict_mask(read_image(photo))
    np.testing.assert_array_equal(read_label(tmp_path / "mask.png"), wanted)


# --- app


def test_the_page_has_a_model_of_its_own(image: str) -> None:
    with started_container(
        image, "app", options=[*ANOTHER_USER, "--read-only", "--tmpfs", "/tmp:size=64m"]
    ) as container:
        container.wait_until_served()
        (model,) = json.loads(container.request("/api/models").body)["models"]
        assert [one["name"] for one in model["classes"]] == ["background", "disc", "box", "triangle"]
        photo = container.request(model["examples"][0]).body
        answer = container.request(f"/api/models/{model['name']}/prediction", photo, {"Accept": "application/json"})
        shares = {one["name"]: one["share"] for one in json.loads(answer.body)["classes"]}
        assert shares["background"] > 0.5
        assert max(shares["disc"], shares["box"], shares["triangle"]) > 0.02
        assert b'id="demo"' in container.request("/").body
