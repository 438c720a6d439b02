"""multi-model-server 1.1.11 with MXNet: its environment, its model archive, its process.

Everything is as its documentation has it: ``pip install``, ``model-archiver``, ``multi-model-server --start``, and
its defaults, that is one worker a core. The configuration file names two free ports and nothing else.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.service import Service, find_free_port
from gluonseg.models.artifact import BEST_FILE

_HERE = Path(__file__).parent
_LOCK = _HERE / "requirements.txt"
_HANDLER = _HERE / "handler.py"
_PYTHONS = ("python3.11", "python3.10")
"""Those that numpy 1.23.5, the newest that MXNet runs on by itself, has wheels for and the lock is made for."""
_JAVA_PACKAGE = "default-jre-headless"
_MODEL = "segmentation"
PREDICTIONS = f"/predictions/{_MODEL}"


class PeerError(RuntimeError):
    """The peer cannot be set up here; the text says what is missing."""


def _run(*command: str | Path) -> None:
    done = subprocess.run([str(part) for part in command], stdout=sys.stderr, check=False)
    if done.returncode:
        raise PeerError(f"{Path(command[0]).name} ended with code {done.returncode}; its messages are above")


def _find_python() -> str:
    if sys.version_info[:2] in ((3, 10), (3, 11)):
        return sys.executable
    found = next((path for path in map(shutil.which, _PYTHONS) if path), None)
    if not found:
        raise PeerError(
            "multi-model-server with MXNet needs Python 3.10 or 3.11 beside this one: "
            "install one, with pyenv or uv for instance, and put it on the path"
        )
    return found


def _ensure_java() -> None:
    """Java on the path, or where JAVA_HOME says; installed by root on Debian and Ubuntu."""
    home = os.environ.get("JAVA_HOME")
    if shutil.which(f"{home}/bin/java" if home else "java"):
        return
    apt = shutil.which("apt-get")
    if not apt or os.geteuid() != 0:
        raise PeerError(f"multi-model-server needs Java 8 or newer: sudo apt-get install {_JAVA_PACKAGE}")
    _run(apt, "update", "--quiet")
    _run(apt, "install", "--yes", "--quiet", "--no-install-recommends", _JAVA_PACKAGE)


@functools.cache
def _prepare_environment(folder: Path) -> Path:
    """A virtual environment with what the lock names, made anew when the lock has changed; returns its bin folder."""
    python, stamp, lock = _find_python(), folder / "requirements.txt", _LOCK.read_text(encoding="utf-8")
    if not stamp.is_file() or stamp.read_text(encoding="utf-8") != lock:
        _run(python, "-m", "venv", "--clear", folder)
        options = ("--disable-pip-version-check", "--quiet", "--no-deps", "--require-hashes")
        _run(folder / "bin" / "python", "-m", "pip", "install", *options, "-r", _LOCK)
        # Last: an environment with its lock is complete.
        stamp.write_text(lock, encoding="utf-8")
    return folder / "bin"


def _build_archive(binaries: Path, model: Path, store: Path) -> None:
    """``store/segmentation.mar`` with the handler and the parameters of the model folder."""
    content = store / "content"
    shutil.rmtree(store, ignore_errors=True)
    content.mkdir(parents=True)
    shutil.copy(_HANDLER, content)
    shutil.copy(model / BEST_FILE, content)
    names = ("--model-name", _MODEL, "--handler", f"{_HANDLER.stem}:handle", "--runtime", "python")
    _run(binaries / "model-archiver", *names, "--model-path", content, "--export-path", store)
    shutil.rmtree(content)


def prepare_model_server(scratch: Path, model: Path) -> Path:
    """Environment and model archive; returns the folder that :func:`start_model_server` takes.

    Raises PeerError when something is missing that cannot be installed from here.
    """
    folder = scratch / "model-server"
    _ensure_java()
    _build_archive(_prepare_environment(scratch / "model-server-venv"), model, folder / "store")
    return folder


def _build_command(binaries: Path, folder: Path, configuration: Path) -> Sequence[str]:
    options = ("--start", "--foreground", "--model-store", folder / "store", "--models", f"{_MODEL}={_MODEL}.mar")
    return [str(part) for part in (binaries / "multi-model-server", *options, "--mms-config", configuration)]


def start_model_server(scratch: Path, folder: Path) -> Service:
    """The server, once /ping has said 200."""
    port, management = find_free_port(), find_free_port()
    configuration, temporary = folder / "config.properties", folder / "tmp"
    configuration.write_text(
        f"inference_address=http://127.0.0.1:{port}\nmanagement_address=http://127.0.0.1:{management}\n",
        encoding="ascii",
    )
    # It keeps the process id of the one server that a machine may have there, and does not remove it.
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    binaries = _prepare_environment(scratch / "model-server-venv")
    environ = {"TMPDIR": str(temporary), "TEMP": str(temporary), "LOG_LOCATION": str(temporary)}
    environ |= {"METRICS_LOCATION": str(temporary), "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}"}
    command = _build_command(binaries, folder, configuration)
    return Service(command, port, environ=environ, log=folder / "server.log", folder=folder)
