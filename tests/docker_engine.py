"""The image in a real Docker engine: what the tests marked ``docker`` share.

They skip, with the reason, where there is no engine or no image. GLUONSEG_REQUIRE_DOCKER=1 makes that a failure;
GLUONSEG_IMAGE and GLUONSEG_GPU_IMAGE name the images.
"""

from __future__ import annotations

import http.client
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

ROOT = Path(__file__).resolve().parents[1]
FindSdk = Callable[[str], Path]


def _skip(reason: str) -> NoReturn:
    if os.environ.get("GLUONSEG_REQUIRE_DOCKER") == "1":
        pytest.fail(f"{reason} (GLUONSEG_REQUIRE_DOCKER=1 allows no skip)")
    pytest.skip(reason)


def call_docker(*arguments: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """Run the docker client; stderr goes into stdout."""
    command, out = ["docker", *arguments], subprocess.PIPE
    return subprocess.run(command, stdout=out, stderr=subprocess.STDOUT, text=True, timeout=timeout, check=False)


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
def find_sdk() -> FindSdk:
    """Returns the Python of the environment of SDK "v2" or "v3"."""

    def find(version: str) -> Path:
        python = ROOT / f".venv-sdk-{version}" / "bin" / "python"
        if not python.exists():
            _skip(f"SDK {version} is not installed: make sdk-{version}")
        return python

    return find


@dataclass(frozen=True)
class ContainerRun:
    """How a container ended."""

    code: int
    log: str


def build_arguments(base: Path | None, options: Sequence[str], environment: Mapping[str, str]) -> list[str]:
    """Options of ``docker run``: ``base`` is mounted at /opt/ml; the files written belong to who runs the tests."""
    arguments = ["--user", f"{os.getuid()}:{os.getgid()}"]
    if base is not None:
        arguments += ["--volume", f"{base}:/opt/ml"]
    for name, value in environment.items():
        arguments += ["--env", f"{name}={value}"]
    return [*arguments, *options]


def run_container(
    image: str,
    *command: str,
    base: Path | None = None,
    options: Sequence[str] = (),
    timeout: float = 300,
    **environment: str,
) -> ContainerRun:
    """Run the image to its end and remove the container."""
    name = f"gluonseg-test-{uuid.uuid4().hex[:12]}"
    arguments = build_arguments(base, options, environment)
    try:
        done = call_docker("run", "--rm", "--name", name, *arguments, image, *command, timeout=timeout)
    except subprocess.TimeoutExpired:
        call_docker("rm", "--force", name)
        raise
    return ContainerRun(done.returncode, done.stdout)


@dataclass(frozen=True)
class Container:
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

    def find_port(self, inside: int = 8080) -> int:
        """The port of the host behind which the container's port is."""
        return int(call_docker("port", self.name, f"{inside}/tcp").stdout.split()[0].rpartition(":")[2])

    def request(
        self, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None, inside: int = 8080
    ) -> tuple[int, bytes]:
        """POST ``body`` when there is one, GET otherwise; status and body of the answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.find_port(inside), timeout=60)
        try:
            connection.request("GET" if body is None else "POST", path, body, dict(headers or {}))
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def wait_until_served(self, timeout: float = 120, inside: int = 8080) -> float:
        """Wait for a 200 of /ping; the seconds it took."""
        start = time.monotonic()
        while time.monotonic() < start + timeout and self.is_running():
            try:
                if self.request("/ping", inside=inside)[0] == 200:
                    return time.monotonic() - start
            except (OSError, http.client.HTTPException):
                pass
            time.sleep(0.1)
        pytest.fail(f"the container does not serve:\n{self.read_log()}")


@contextmanager
def started_container(
    image: str, *command: str, base: Path | None = None, options: Sequence[str] = (), **environment: str
) -> Iterator[Container]:
    """Start the image in the background, with port 8080 published; it is removed at the end, whatever happened."""
    container = Container(f"gluonseg-test-{uuid.uuid4().hex[:12]}")
    arguments = build_arguments(base, options, environment)
    publish = [] if "--publish" in options or "--network" in options else ["--publish", "127.0.0.1::8080"]
    done = call_docker("run", "--detach", "--name", container.name, *publish, *arguments, image, *command)
    try:
        assert done.returncode == 0, done.stdout
        yield container
    finally:
        call_docker("rm", "--force", "--volumes", container.name)
