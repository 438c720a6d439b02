"""Somebody who runs the programs of local_mode/: what the tests of both SDKs share."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from docker_engine import ROOT, call_docker
from gluonseg.data.synthetic import prepare_synthetic

SCRIPTS = ROOT / "local_mode"
TINY = ("crop_size=40", "base_size=40", "mini_batch_size=4", "validation_mini_batch_size=4")


@pytest.fixture(scope="session")
def few_photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("local_mode") / "data"
    prepare_synthetic(folder, count=16, size=40, seed=1)
    return folder


def find_port() -> int:
    with socket.socket() as one:
        one.bind(("", 0))
        port: int = one.getsockname()[1]
    return port


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


class Newcomer:
    """Somebody without an AWS account, at whose place nothing may be left behind."""

    def __init__(self, python: Path, home: Path, **environment: str) -> None:
        self.python, self.home, self.scratch = python, home, home / "scratch"
        self.scratch.mkdir()
        known = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "SAGEMAKER_"))}
        self.environment = {**known, "HOME": str(home), "TMPDIR": str(self.scratch), **environment}

    def run(self, script: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        command = [str(self.python), str(SCRIPTS / script), *map(str, arguments)]
        out = subprocess.PIPE
        done = subprocess.run(
            command, stdout=out, stderr=subprocess.STDOUT, text=True, env=self.environment, cwd=self.home, check=False
        )
        assert list_containers(self.scratch) == [], done.stdout
        assert list(self.scratch.iterdir()) == []
        return done
