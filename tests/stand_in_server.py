"""A server with the stand-in for a model, in processes of its own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from local_server import ServerProcess, serving
from program import build_environment
from repository import ROOT

STAND_IN = str(ROOT / "tests" / "stand_in.py")
CHANGED = (
    "import dataclasses, os, sys; from gluonseg.serve import server, settings; "
    "changed = dataclasses.replace(settings.read_settings(os.environ), {}); "
    "sys.exit(server.run_server(changed, 'stand_in:load'))"
)
"""Program for settings that no environment variable changes: ``CHANGED.format("max_connections=20")``."""


def _join_path() -> str:
    """The package and the tests, ahead of what PYTHONPATH says."""
    return os.pathsep.join([str(ROOT / "src"), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])


def describe_stand_in(port: int, **variables: str) -> dict[str, str]:
    """The environment of such a server."""
    return build_environment(SAGEMAKER_BIND_TO_PORT=str(port), PYTHONPATH=_join_path(), **variables)


@contextmanager
def starting(folder: Path, *command: str, **variables: str) -> Iterator[ServerProcess]:
    """A server that has just been started."""
    with serving(folder, folder / "serve.log", *(command or (STAND_IN,)), PYTHONPATH=_join_path(), **variables) as one:
        yield one


@contextmanager
def stand_in(folder: Path, *command: str, **variables: str) -> Iterator[ServerProcess]:
    """A server that is ready."""
    with starting(folder, *command, **variables) as server:
        server.wait_until_served()
        yield server
