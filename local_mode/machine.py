"""What a local run needs around it: checks before, no AWS, and a clean machine afterwards.

Neither an AWS account nor credentials nor a region are needed, and nothing is sent to anybody.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

CONFIG = Path(__file__).resolve().with_name("sagemaker_config.yaml")
CONFIG_VARIABLE = "SAGEMAKER_USER_CONFIG_OVERRIDE"
"""Both SDKs take their defaults, the telemetry switch among them, from the file this variable names."""
WORKING_DIR = "com.docker.compose.project.working_dir"
"""A container's label with the folder of its compose file, here one inside the run's scratch folder."""
NETWORK = "sagemaker-local"
"""The Docker network that both SDKs make and leave behind."""


def _ask(*command: str) -> str | None:
    """What a command prints, or None when it fails or is missing."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return done.stdout if done.returncode == 0 else None


def check_machine(image: str, port: int, compose: str = "v") -> None:
    """End the program with one line that says what is missing; the SDK's own message would be a long traceback.

    The version of Docker's compose plugin must begin with ``compose``; the separate program may have any version.
    """
    if _ask("docker", "version") is None:
        sys.exit("Docker does not answer: is it installed and started, and may this user use it (try: docker ps)?")
    if compose not in (_ask("docker", "compose", "version") or "") and shutil.which("docker-compose") is None:
        sys.exit("this SDK finds no Docker Compose that it knows: apt-get install docker-compose")
    if _ask("docker", "image", "inspect", image) is None:
        sys.exit(f"there is no image {image!r} on this machine: make image")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError as error:
            sys.exit(f"port {port} cannot be had ({error.strerror}): stop what uses it, or choose another with --port")


def stay_local() -> None:
    """No telemetry, no search for credentials on the network, and only errors of the SDK's own log."""
    os.environ[CONFIG_VARIABLE] = str(CONFIG)
    # Without credentials boto3 would look for a machine of Amazon's around this one, which costs seconds.
    os.environ.setdefault("AWS_EC2_METADATA_DISABLED", "true")
    os.environ.setdefault("SAGEMAKER_SUPPRESS_V2_WARNING", "1")
    # Among them compose files, and failed attempts while the server starts.
    for noisy in ("sagemaker", "sagemaker.local", "urllib3.connectionpool"):
        logging.getLogger(noisy).setLevel(logging.ERROR)


@contextmanager
def heeding_signals() -> Iterator[None]:
    """Ctrl-C and SIGTERM in the block end the program, although both SDKs swallow the exception that should do it.

    The SDKs' telemetry returns within a ``finally``, so that a stopped training looks like a finished one.
    """
    seen: list[int] = []

    def stop(number: int, _frame: FrameType | None) -> None:
        seen.append(number)
        raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)

    handlers = {which: signal.signal(which, stop) for which in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for which, handler in handlers.items():
            signal.signal(which, handler)
    for number in seen:
        stop(number, None)


def _remove_containers(scratch: Path) -> None:
    """Remove the run's containers: the SDK leaves stopped ones behind, and running ones when something fails."""
    listing = _ask("docker", "ps", "--all", "--format", f'{{{{.ID}}}} {{{{.Label "{WORKING_DIR}"}}}}') or ""
    rows = [line.split(maxsplit=1) for line in listing.splitlines()]
    ours = [row[0] for row in rows if len(row) == 2 and Path(row[1]).is_relative_to(scratch)]
    if ours:
        _ask("docker", "rm", "--force", "--volumes", *ours)


def _remove_folder(folder: Path, image: str) -> None:
    """Remove the folder. Its files belong to root: for any other user a container changes their owner first."""
    if os.getuid() != 0:
        mount, owner = f"{folder}:/folder", f"{os.getuid()}:{os.getgid()}"
        _ask("docker", "run", "--rm", "--network", "none", "-v", mount, image, "chown", "-R", owner, "/folder")
    # An error here would hide the one that may have ended the run.
    shutil.rmtree(folder, ignore_errors=True)
    if folder.exists():
        sys.stderr.write(f"{folder} could not be removed: sudo rm -r {folder}\n")


@contextmanager
def open_scratch(image: str) -> Iterator[Path]:
    """A folder for the files of the SDK and its containers; at the end both are gone, and so is the SDK's network."""
    had_network = _ask("docker", "network", "inspect", NETWORK) is not None
    scratch = Path(tempfile.mkdtemp(prefix="gluonseg-local-")).resolve()
    try:
        yield scratch
    finally:
        # A second, impatient Ctrl-C would end the clean-up half-way.
        earlier = signal.signal(signal.SIGINT, signal.SIG_IGN)
        _remove_containers(scratch)
        # Only an unused one: Docker would also remove the network of somebody else's stopped containers.
        if not had_network and not (_ask("docker", "ps", "--all", "--quiet", "--filter", f"network={NETWORK}") or ""):
            _ask("docker", "network", "rm", NETWORK)
        _remove_folder(scratch, image)
        signal.signal(signal.SIGINT, earlier)
