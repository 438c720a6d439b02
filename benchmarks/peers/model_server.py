"""multi-model-server 1.1.11 with MXNet: its environment, its model archive, its process.

Everything is as its documentation has it: ``pip install``, ``model-archiver``, ``multi-model-server --start``, and
its defaults, that is one worker a core. The configuration file names two free ports and nothing else.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.service import Service, find_free_port
from gluonseg.models.folder.artifact import BEST_FILE

_HERE = Path(__file__).parent
_LOCK, _HANDLER = _HERE / "requirements.txt", _HERE / "handler.py"
_PYTHONS = ("python3.11", "python3.10")
"""Those that numpy 1.23.5, the newest that MXNet runs on by itself, has wheels for and the lock is made for."""
_MODEL = "segmentation"
PREDICTIONS = f"/predictions/{_MODEL}"


class PeerError(RuntimeError):
    """The peer cannot be set up here; the text says what is missing."""


def _run(*command: str | Path) -> None:
    done = subprocess.run([str(part) for part in command], stdout=sys.stderr, check=False)
    if done.returncode:
        raise PeerError(f"{Path(command[0]).name} ended with code {done.returncode}; its messages are above")


def _find_binaries(scratch: Path) -> Path:
    return scratch / "model-server-venv" / "bin"


def _prepare_environment(folder: Path) -> None:
    """A virtual environment with what the lock names, made anew when the lock has changed."""
    python = next((path for path in map(shutil.which, _PYTHONS) if path), None)
    if sys.version_info[:2] in ((3, 10), (3, 11)):
        python = sys.executable
    if not python or not shutil.which("java"):
        raise PeerError(
            "multi-model-server with MXNet needs Python 3.10 or 3.11 and Java 8 or newer on the path "
            "(Debian: apt-get install default-jre-headless)"
        )
    stamp, lock = folder / "requirements.txt", _LOCK.read_text(encoding="utf-8")
    if not stamp.is_file() or stamp.read_text(encoding="utf-8") != lock:
        _run(python, "-m", "venv", "--clear", folder)
        options = ("--disable-pip-version-check", "--quiet", "--no-deps", "--require-hashes")
        _run(folder / "bin" / "python", "-m", "pip", "install", *options, "-r", _LOCK)
        # Last: an environment with its lock is complete.
        stamp.write_text(lock, encoding="utf-8")


def prepare_model_server(scratch: Path, model: Path) -> Path:
    """Environment and model archive; returns the folder that :func:`start_model_server` takes.

    Raises PeerError when something is missing that cannot be installed from here.
    """
    folder, binaries = scratch / "model-server", _find_binaries(scratch)
    _prepare_environment(binaries.parent)
    content = folder / "store" / "content"
    shutil.rmtree(folder, ignore_errors=True)
    content.mkdir(parents=True)
    shutil.copy(_HANDLER, content)
    shutil.copy(model / BEST_FILE, content)
    names = ("--model-name", _MODEL, "--handler", f"{_HANDLER.stem}:handle", "--runtime", "python")
    _run(binaries / "model-archiver", *names, "--model-path", content, "--export-path", content.parent)
    shutil.rmtree(content)
    return folder


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
    binaries = _find_binaries(scratch)
    folders = dict.fromkeys(("TMPDIR", "TEMP", "LOG_LOCATION", "METRICS_LOCATION"), str(temporary))
    environ = {**os.environ, **folders, "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}"}
    options = ("--start", "--foreground", "--model-store", folder / "store", "--models", f"{_MODEL}={_MODEL}.mar")
    command = [str(part) for part in (binaries / "multi-model-server", *options, "--mms-config", configuration)]
    return Service(command, port, environ=environ, log=folder / "server.log", folder=folder)
