"""Somebody who runs the programs of local_mode/: what the tests of both SDKs share."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from docker_engine import call_docker
from gluonseg.data.prepare.synthetic import prepare_synthetic
from program import build_environment, run_program
from repository import ROOT

SCRIPTS = ROOT / "local_mode"
TINY = ("crop_size=40", "base_size=40", "mini_batch_size=24", "validation_mini_batch_size=24")


@pytest.fixture(scope="session")
def few_photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("local_mode") / "data"
    prepare_synthetic(folder, count=16, size=40, seed=1)
    return folder


def list_containers(scratch: Path) -> list[str]:
    """Containers of compose files below ``scratch``, stopped ones too."""
    listing = call_docker("ps", "--all", "--format", '{{.Names}} {{.Label "com.docker.compose.project.working_dir"}}')
    return [line for line in listing.stdout.splitlines() if str(scratch) in line]


@pytest.fixture
def silent_proxy() -> Iterator[socket.socket]:
    """A proxy that notices every attempt to talk to the outside; nobody may try."""
    with socket.socket() as proxy:
        proxy.bind(("127.0.0.1", 0))
        proxy.listen()
        proxy.setblocking(False)
        yield proxy
        with pytest.raises(BlockingIOError):
            proxy.accept()


def build_watched_environment(proxy: socket.socket) -> dict[str, str]:
    """Whatever would go out goes to ``proxy``; with credentials, as telemetry goes out only with them."""
    address = "http://{}:{}".format(*proxy.getsockname())
    proxies = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), address)
    return {**proxies, "AWS_ACCESS_KEY_ID": "none", "AWS_SECRET_ACCESS_KEY": "none"}


def check_deployed(output: str, masks: Path, photos: Path) -> None:
    """Every way to ask gave the same answers, and there is a mask for each photo."""
    assert "image/png = application/x-protobuf = batch transform" in output
    assert {path.name for path in masks.iterdir()} == {f"{path.name}.out" for path in photos.iterdir()}


SHORT_SLEEP = """
import time
sleep = time.sleep
time.sleep = lambda seconds: sleep(min(seconds, 1))
"""
"""The SDKs sleep for five seconds after the first ping of an endpoint that is not up yet."""


class Newcomer:
    """Somebody without an AWS account, at whose place nothing may be left behind."""

    def __init__(self, python: Path, home: Path, **environment: str) -> None:
        self.python, self.home, self.scratch = python, home, home / "scratch"
        self.scratch.mkdir()
        (home / "python").mkdir()
        (home / "python" / "sitecustomize.py").write_text(SHORT_SLEEP, encoding="utf-8")
        places = {"HOME": str(home), "TMPDIR": str(self.scratch), "PYTHONPATH": str(home / "python")}
        self.environment = {**build_environment("AWS_", "SAGEMAKER_"), **places, **environment}

    def run(self, script: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        done = run_program([self.python, SCRIPTS / script, *arguments], self.environment, cwd=self.home, timeout=None)
        assert list_containers(self.scratch) == [], done.stdout
        assert list(self.scratch.iterdir()) == []
        return done
