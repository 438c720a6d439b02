"""SageMaker local mode with SDK v2: the programs of local_mode/, run as a newcomer runs them."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path

import pytest

from backbone_array import draw_arrays
from docker_engine import FindSdk
from gluonseg.models.params import write_params
from local_server import find_free_port
from newcomer import TINY, Newcomer, build_watched_environment, check_deployed

pytestmark = pytest.mark.docker


@pytest.fixture
def newcomer(image: str, find_sdk: FindSdk, tmp_path: Path) -> Newcomer:
    return Newcomer(find_sdk("v2"), tmp_path)


def test_train_deploy_predict_transform(
    image: str, find_sdk: FindSdk, tmp_path: Path, few_photos: Path, silent_proxy: socket.socket
) -> None:
    user = Newcomer(find_sdk("v2"), tmp_path, **build_watched_environment(silent_proxy))
    place = ("--image", image, "--data", few_photos, "--port", str(find_free_port()))
    done = user.run("train_deploy_v2.py", *place, "--epochs", "1", "--set", *TINY)
    assert done.returncode == 0, done.stdout
    results = tmp_path / "demo" / "sdk_v2"
    check_deployed(done.stdout, results / "model" / "model.tar.gz", results / "masks", few_photos)


def test_the_public_notebook_runs_to_its_end(image: str, newcomer: Newcomer, few_photos: Path, tmp_path: Path) -> None:
    """Pretrained weights and all; only size and number of epochs are a test's."""
    data = tmp_path / "data"
    shutil.copytree(few_photos, data)
    (data / "pretrained").mkdir()
    write_params(draw_arrays("resnet-50"), data / "pretrained" / "resnet-50.params")
    place = ("--image", image, "--data", data, "--port", str(find_free_port()))
    done = newcomer.run("builtin_notebook.py", *place, "--set", "epochs=1", *TINY)
    assert done.returncode == 0, done.stdout
    assert "'use_pretrained_model': 'True'" in done.stdout
    assert "== Run to the end" in done.stdout


def test_several_hosts_are_refused(image: str, newcomer: Newcomer, few_photos: Path) -> None:
    place = ("--image", image, "--data", few_photos, "--port", str(find_free_port()))
    done = newcomer.run("train_deploy_v2.py", *place, "--instance_count", "2")
    assert done.returncode == 1
    assert "ClientError: the job has 2 hosts, training runs on one; set instance_count=1" in done.stdout
    assert done.stdout.splitlines()[-1] == "the training failed; its last lines, above, say why"


def test_a_port_in_use_is_named(image: str, newcomer: Newcomer) -> None:
    with socket.socket() as busy:
        busy.bind(("", 0))
        busy.listen()
        port = busy.getsockname()[1]
        done = newcomer.run("train_deploy_v2.py", "--image", image, "--port", str(port))
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1].startswith(f"port {port} cannot be had (Address already in use)")


def test_a_missing_image_is_named(newcomer: Newcomer) -> None:
    done = newcomer.run("train_deploy_v2.py", "--image", "no-such-image")
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1].startswith("there is no image 'no-such-image' on this machine")


def test_a_setting_without_a_value_is_named(newcomer: Newcomer) -> None:
    done = newcomer.run("train_deploy_v2.py", "--set", "epochs")
    assert done.returncode == 2
    assert "'epochs' is not NAME=VALUE" in done.stdout


def test_mapped_labels_are_not_counted(image: str, newcomer: Newcomer, few_photos: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(few_photos, data)
    (data / "label_map" / "class_names.json").unlink()
    (data / "label_map" / "train_label_map.json").write_text('{"scale": 1}', encoding="utf-8")
    done = newcomer.run("train_deploy_v2.py", "--image", image, "--data", data, "--port", str(find_free_port()))
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1].endswith("--set num_classes=N")
