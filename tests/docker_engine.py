"""The image in a real Docker engine: what the tests marked ``docker`` share.

They skip, with the reason, where there is no engine or no image. GLUONSEG_REQUIRE_DOCKER=1 makes that a failure;
GLUONSEG_IMAGE, GLUONSEG_GPU_IMAGE and GLUONSEG_SERVE_IMAGE name the images.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import pytest

from local_server import LocalServer
from program import run_program
from repository import ROOT

FindSdk = Callable[[str], Path]


def _skip(reason: str) -> NoReturn:
    if os.environ.get("GLUONSEG_REQUIRE_DOCKER") == "1":
        pytest.fail(f"{reason} (GLUONSEG_REQUIRE_DOCKER=1 allows no skip)")
    pytest.skip(reason)


def call_docker(*arguments: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """Run the docker client; stderr goes into stdout."""
    return run_program(["docker", *arguments], timeout=timeout)


def _find_image(name: str, target: str) -> str:
    if shutil.which("docker") is None or call_docker("version").returncode:
        _skip("no Docker engine answers")
    if call_docker("image", "inspect", name).returncode:
        _skip(f"there is no image {name}: make {target}")
    return name


@pytest.fixture(scope="session")
def image() -> str:
    """The name of the image under test."""
    return _find_image(os.environ.get("GLUONSEG_IMAGE", "gluonseg"), "image")


@pytest.fixture(scope="session")
def gpu_image() -> str:
    """The name of the image for GPUs."""
    return _find_image(os.environ.get("GLUONSEG_GPU_IMAGE", "gluonseg:gpu"), "image-gpu")


@pytest.fixture(scope="session")
def serve_image() -> str:
    """The name of the image that only uses models."""
    return _find_image(os.environ.get("GLUONSEG_SERVE_IMAGE", "gluonseg:serve"), "image-serve")


@pytest.fixture(scope="session")
def find_sdk() -> FindSdk:
    """Returns the Python of the environment of SDK "v2" or "v3"."""

    def find(version: str) -> Path:
        python = ROOT / f".venv-sdk-{version}" / "bin" / "python"
        if not python.exists():
            _skip(f"SDK {version} is not installed: make sdk-{version}")
        return python

    return find


def name_container() -> str:
    return f"gluonseg-test-{uuid.uuid4().hex[:12]}"


@dataclass(frozen=True)
class ContainerRun:
    """How a container ended."""

    code: int
    log: str


def build_arguments(base: Path | None, options: Sequence[str], environment: Mapping[str, str]) -> list[str]:
    """Options of ``docker run``: ``base`` is mounted at /opt/ml; the files written belong to who runs the tests.

    One thread, as several wait for one another when the cores are busy: a training then takes five times as long.
    """
    arguments = ["--user", f"{os.getuid()}:{os.getgid()}"]
    if base is not None:
        arguments += ["--volume", f"{base}:/opt/ml"]
    for name, value in {"OMP_NUM_THREADS": "1", **environment}.items():
        arguments += ["--env", f"{name}={value}"]
    return [*arguments, *options]


def run_container(
    image: str, *command: str, base: Path | None = None, options: Sequence[str] = (), **environment: str
) -> ContainerRun:
    """Run the image to its end and remove the container."""
    name = name_container()
    arguments = build_arguments(base, options, environment)
    try:
        done = call_docker("run", "--rm", "--name", name, *arguments, image, *command)
    except subprocess.TimeoutExpired:
        call_docker("rm", "--force", name)
        raise
    return ContainerRun(done.returncode, done.stdout)


@dataclass(frozen=True)
class Container(LocalServer):
    """A container that runs in the background."""

    name: str

    def read_log(self) -> str:
        return call_docker("logs", self.name).stdout

    def is_running(self) -> bool:
        return call_docker("inspect", "--format", "{{.State.Running}}", self.name).stdout.strip() == "true"

    def wait_for_log(self, text: str, timeout: float = 120) -> str:
        """Wait until ``text`` is in the log."""
        deadline = time.monotonic() + timeout
        while text not in (log := self.read_log()):
            if time.monotonic() > deadline or not self.is_running():
                pytest.fail(f"{text!r} did not come up in the log of {self.name}:\n{log}")
            time.sleep(0.2)
        return log

    def stop(self, grace: int = 120) -> tuple[int, float]:
        """Send SIGTERM, and SIGKILL after ``grace`` seconds, as SageMaker does; exit code and seconds it took."""
        start = time.monotonic()
        call_docker("stop", "--time", str(grace), self.name, timeout=grace + 60)
        taken = time.monotonic() - start
        return int(call_docker("inspect", "--format", "{{.State.ExitCode}}", self.name).stdout), taken

    def find_port(self) -> int:
        """The port of this machine behind which the container's port 8080 is."""
        found = call_docker("port", self.name, "8080/tcp").stdout.split()
        if not found:
            raise ConnectionRefusedError(f"{self.name} has no port 8080, or has ended")
        return int(found[0].rpartition(":")[2])


@contextmanager
def started_container(
    image: str, *command: str, base: Path | None = None, options: Sequence[str] = (), **environment: str
) -> Iterator[Container]:
    """Start the image in the background, with its port published; it is removed at the end, whatever happened."""
    container = Container(name_container())
    arguments = build_arguments(base, options, environment)
    publish = [] if "--network" in options else ["--publish", "127.0.0.1::8080"]
    done = call_docker("run", "--detach", "--name", container.name, *publish, *arguments, image, *command)
    try:
        assert done.returncode == 0, done.stdout
        yield container
    finally:
        call_docker("rm", "--force", "--volumes", container.name)
