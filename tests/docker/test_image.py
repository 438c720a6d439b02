"""What the image is: its contract with SageMaker, what is in it and what is not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from docker_engine import call_docker, run_container

pytestmark = pytest.mark.docker
LARGEST_BYTES = 1_200_000_000


def test_contract_and_size(image: str) -> None:
    (description,) = json.loads(call_docker("image", "inspect", image).stdout)
    config = description["Config"]
    # In this form, not as a line for a shell, the entrypoint gets the signals.
    assert (config["Entrypoint"], config["Cmd"]) == (["entrypoint"], ["train"])
    # It can serve behind the port that a pipeline of containers gives it.
    assert config["Labels"]["com.amazonaws.sagemaker.capabilities.accept-bind-to-port"] == "true"
    assert description["Size"] < LARGEST_BYTES


@pytest.mark.parametrize(
    ("command", "code", "output"),
    [
        (("sh", "-c", "echo $0 $1; exit 7", "zero", "one"), 7, "zero one"),
        (("gluonseg", "--help"), 0, "usage: gluonseg"),
        (("trian",), 127, "this image has no command 'trian'; it has train, serve, app"),
    ],
)
def test_entrypoint_passes_commands_through(image: str, command: tuple[str, ...], code: int, output: str) -> None:
    run = run_container(image, *command)
    assert run.code == code
    assert output in run.log


def test_sdk_v3_cleans_up_through_the_entrypoint(image: str, tmp_path: Path) -> None:
    """What SDK v3 runs when it may not delete the files of a container."""
    (tmp_path / "file").touch(mode=0o600)
    done = call_docker("run", "--rm", "-v", f"{tmp_path}:/delete", image, "chmod", "-R", "777", "/delete")
    assert done.returncode == 0, done.stdout
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o777


def test_holds_no_compiler_and_no_leftovers_and_nobody_can_change_the_program(image: str) -> None:
    found = """
        for compiler in gcc cc ld; do command -v $compiler; done
        ls -d /opt/ml /root/.cache /build 2>/dev/null
        find /opt/gluonseg /usr/local/share/gluonseg '(' ! -perm -o=r -o -perm -o=w ')' ! -type l
    """
    run = run_container(image, "sh", "-c", found, options=["--user", "0"])
    assert (run.code, run.log) == (0, "")


def test_any_program_in_the_image_can_import_mxnet(image: str) -> None:
    code = "import mxnet, gluoncv.model_zoo; print(mxnet.__version__)"
    run = run_container(image, "python3", "-W", "ignore", "-c", code, PYTHONPATH="/tmp")
    assert run.log.split() == ["1.9.1"]
