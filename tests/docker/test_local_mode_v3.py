"""SageMaker local mode with SDK v3: local_mode/train_deploy_v3.py as a newcomer runs it, and script mode."""

from __future__ import annotations

import socket
import stat
import subprocess
import tarfile
from pathlib import Path

import pytest

from docker_engine import FindSdk, call_docker
from local_server import find_free_port
from newcomer import TINY, Newcomer, build_watched_environment, check_deployed
from repository import ROOT

pytestmark = pytest.mark.docker
SCRIPT = ROOT / "local_mode" / "train_deploy_v3.py"

OWN_JOB = """
import sys
sys.path.insert(0, {folder!r})
from machine import open_scratch, stay_local
from sagemaker.train import ModelTrainer
from sagemaker.train.configs import Compute, SourceCode
from sagemaker.train.model_trainer import Mode
stay_local()
with open_scratch({image!r}) as scratch:
    ModelTrainer(
        training_mode=Mode.LOCAL_CONTAINER,
        training_image={image!r},
        compute=Compute(instance_type="local", instance_count=1),
        source_code=SourceCode(source_dir={source!r}, entry_script="train.py"),
        hyperparameters={{"classes": 3}},
        local_container_root=str(scratch),
    ).train()
    (scratch / "compressed_artifacts" / "model.tar.gz").rename({target!r})
"""
OWN_SCRIPT = """
import argparse, os
import mxnet, gluoncv
import gluonseg
parser = argparse.ArgumentParser()
parser.add_argument("--classes", type=int)
classes = parser.parse_args().classes
network = gluonseg.get_segmentation_model("fcn", backbone="resnet18", pretrained_base=False, nclass=classes)
network.initialize()
network(mxnet.nd.zeros((1, 3, 32, 32)))
network.save_parameters(os.path.join(os.environ["SM_MODEL_DIR"], "own.params"))
"""


@pytest.fixture
def newcomer(image: str, find_sdk: FindSdk, tmp_path: Path) -> Newcomer:
    return Newcomer(find_sdk("v3"), tmp_path)


def test_train_deploy_predict_transform(
    image: str,
    find_sdk: FindSdk,
    tmp_path: Path,
    few_photos: Path,
    silent_proxy: socket.socket,
) -> None:
    local = {"NO_PROXY": "localhost", "no_proxy": "localhost"}
    user = Newcomer(find_sdk("v3"), tmp_path, **build_watched_environment(silent_proxy), **local)
    place = ("--image", image, "--data", few_photos, "--port", str(find_free_port()))
    done = user.run(str(SCRIPT), *place, "--epochs", "1", "--set", *TINY)
    assert done.returncode == 0, done.stdout
    results = tmp_path / "demo" / "sdk_v3"
    check_deployed(done.stdout, results / "model" / "model.tar.gz", results / "masks", few_photos)


def test_several_hosts_are_refused(image: str, newcomer: Newcomer, few_photos: Path) -> None:
    done = newcomer.run(
        str(SCRIPT), "--image", image, "--data", few_photos, "--instance_count", "2", "--port", str(find_free_port())
    )
    assert done.returncode == 1
    assert "ClientError: the job has 2 hosts, training runs on one; set instance_count=1" in done.stdout
    assert done.stdout.splitlines()[-1] == "the training failed; its last lines, above, say why"


def test_a_wrong_hyperparameter_is_named(image: str, newcomer: Newcomer, few_photos: Path) -> None:
    done = newcomer.run(
        str(SCRIPT), "--image", image, "--data", few_photos, "--port", str(find_free_port()), "--set", "optimizer=sdg"
    )
    assert done.returncode == 2
    assert done.stdout.splitlines()[-1].startswith("train_deploy_v3.py: optimizer must be one of")


def run_own_job(newcomer: Newcomer, image: str, text: str) -> subprocess.CompletedProcess[str]:
    """Run ``text`` as the user's train.py; its model ends in own.tar.gz."""
    source = newcomer.home / "source"
    source.mkdir()
    (source / "train.py").write_text(text)
    names = {"folder": str(SCRIPT.parent), "source": str(source), "target": str(newcomer.home / "own.tar.gz")}
    job = newcomer.home / "job.py"
    job.write_text(OWN_JOB.format(image=image, **names))
    return newcomer.run(str(job))


def test_a_script_of_the_user(image: str, newcomer: Newcomer) -> None:
    """SDK v3 starts the script with the image's Python, past the image's own train."""
    done = run_own_job(newcomer, image, OWN_SCRIPT)
    assert done.returncode == 0, done.stdout
    with tarfile.open(newcomer.home / "own.tar.gz") as archive:
        assert archive.getnames() == ["own.params"]


def test_a_script_of_the_user_that_fails(image: str, newcomer: Newcomer) -> None:
    done = run_own_job(newcomer, image, "import sys\nsys.exit('my own mistake')\n")
    assert done.returncode != 0
    assert "my own mistake" in done.stdout


def test_the_sdk_gets_rid_of_files_of_root(image: str, tmp_path: Path) -> None:
    """What SDK v3 runs when it may not delete the files of a container."""
    folder = tmp_path / "output"
    folder.mkdir(mode=0o700)
    done = call_docker("run", "--rm", "-v", f"{tmp_path}:/delete", image, "chmod", "-R", "777", "/delete")
    assert done.returncode == 0, done.stdout
    assert stat.S_IMODE(folder.stat().st_mode) == 0o777
