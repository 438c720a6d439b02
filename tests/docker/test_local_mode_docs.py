"""docs/local-mode.md, command after command; what installs something is left to the machine's set-up."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from docker_engine import FindSdk
from local_server import find_free_port
from newcomer import Newcomer
from repository import ROOT, read_commands

COMMANDS = read_commands("docs/local-mode.md")
PROGRAMS = [command for command in COMMANDS if re.match(r"\.venv-sdk-v[23]/bin/python local_mode/", command)]
INSTALLING = ("sudo ", "make ", ".venv-sdk-v2/bin/python -m ")


def test_every_command_is_covered() -> None:
    assert [command for command in COMMANDS if command not in PROGRAMS and not command.startswith(INSTALLING)] == []


@pytest.mark.docker
def test_programs_run_in_order(image: str, find_sdk: FindSdk, tmp_path: Path) -> None:
    """As a reader would, but for one epoch and a free port."""
    newcomer = Newcomer(find_sdk("v2"), tmp_path)
    for command in PROGRAMS:
        python, script, *arguments = shlex.split(command)
        newcomer.python = find_sdk(python.removeprefix(".venv-sdk-").partition("/")[0])
        shorter = [] if "builtin" in script else ["--epochs", "1"]
        done = newcomer.run(Path(script).name, *arguments, *shorter, "--image", image, "--port", str(find_free_port()))
        assert done.returncode == 0, f"{command}\n{done.stdout}"
    assert (ROOT / "local_mode/notebooks/train_and_deploy.ipynb").is_file()
