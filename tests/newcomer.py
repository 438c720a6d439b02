"""Somebody who runs the programs of local_mode/: what the tests of both SDKs share."""

from __future__ import annotations

import re
import socket
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from docker_engine import call_docker
from gluonseg.data.prepare.synthetic import prepare_synthetic
from program import build_environment, run_program
from repository import ROOT

SCRIPTS = ROOT / "local_mode"
TINY = ("crop_size=40", "base_size=40", "mini_batch_size=4", "validation_mini_batch_size=4")


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


def check_deployed(output: str, model: Path, masks: Path, photos: Path) -> None:
    """Every way to ask gave the same answers, the model is complete, and there is a mask for each photo."""
    assert "image/png = application/x-protobuf = batch transform" in output
    assert 0 <= float(re.findall(r"mIOU of the last epoch (\S+)", output)[0]) <= 1
    with tarfile.open(model) as archive:
        assert {"model_best.params", "model_algo-1", "hyperparams.json"} <= set(archive.getnames())
    answers = {path.name for path in masks.iterdir()}
    assert answers == {f"{path.name}.out" for path in (photos / "validation").iterdir()}


class Newcomer:
    """Somebody without an AWS account, at whose place nothing may be left behind."""

    def __init__(self, python: Path, home: Path, **environment: str) -> None:
        self.python, self.home, self.scratch = python, home, home / "scratch"
        self.scratch.mkdir()
        known = build_environment("AWS_", "SAGEMAKER_")
        self.environment = {**known, "HOME": str(home), "TMPDIR": str(self.scratch), **environment}

    def run(self, script: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        done = run_program([self.python, SCRIPTS / script, *arguments], self.environment, cwd=self.home, timeout=None)
        assert list_containers(self.scratch) == [], done.stdout
        assert list(self.scratch.iterdir()) == []
        return done
