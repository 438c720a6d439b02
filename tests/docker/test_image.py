"""What the image is: its contract with SageMaker, what is in it and what is not."""

from __future__ import annotations

import json
from typing import Any

import pytest

from docker_engine import call_docker, run_container

pytestmark = pytest.mark.docker
LARGEST_BYTES = 1_200_000_000


def inspect(image: str) -> dict[str, Any]:
    (description,) = json.loads(call_docker("image", "inspect", image).stdout)
    assert isinstance(description, dict)
    return description


def test_entrypoint_gets_signals_and_trains_by_default(image: str) -> None:
    config = inspect(image)["Config"]
    assert config["Entrypoint"] == ["entrypoint"]
    assert config["Cmd"] == ["train"]


def test_serves_behind_another_port_in_a_pipeline(image: str) -> None:
    labels = inspect(image)["Config"]["Labels"]
    assert labels["com.amazonaws.sagemaker.capabilities.accept-bind-to-port"] == "true"


def test_size(image: str) -> None:
    assert inspect(image)["Size"] < LARGEST_BYTES


@pytest.mark.parametrize(
    ("command", "code", "output"),
    [
        (("chmod", "--version"), 0, "chmod (GNU coreutils)"),
        (("sh", "-c", "echo $0 $1; exit 7", "zero", "one"), 7, "zero one"),
        (("gluonseg", "--help"), 0, "usage: gluonseg"),
        (("--help",), 127, "this image has no command '--help'"),
        (("trian",), 127, "this image has no command 'trian'; it has train, serve"),
    ],
)
def test_entrypoint_passes_commands_through(image: str, command: tuple[str, ...], code: int, output: str) -> None:
    run = run_container(image, *command)
    assert run.code == code
    assert output in run.log


def test_sdk_v3_cleans_up_through_the_entrypoint(image: str, tmp_path: Any) -> None:
    (tmp_path / "file").touch(mode=0o600)
    assert run_container(image, "chmod", "-R", "777", "/delete", options=["--volume", f"{tmp_path}:/delete"]).code == 0
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o777


@pytest.mark.parametrize(
    "absent",
    ["command -v gcc", "command -v cc", "command -v ld", "test -e /opt/ml", "test -e /root/.cache", "test -e /build"],
)
def test_leaves_out(image: str, absent: str) -> None:
    assert run_container(image, "sh", "-c", absent, options=["--user", "0"]).code != 0


def test_everybody_can_read_and_nobody_can_write_the_program(image: str) -> None:
    search = "find /opt/gluonseg /usr/local/share/gluonseg '(' ! -perm -o=r -o -perm -o=w ')' ! -type l"
    run = run_container(image, "sh", "-c", search)
    assert (run.code, run.log) == (0, "")


def test_any_program_in_the_image_can_import_mxnet(image: str) -> None:
    code = "import mxnet, gluoncv.model_zoo; print(mxnet.__version__)"
    run = run_container(image, "python3", "-W", "ignore", "-c", code, PYTHONPATH="/tmp")
    assert run.log.split() == ["1.9.1"]
