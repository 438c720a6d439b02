"""Every command that README.md shows is one that works: a new one must be covered here."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NOT_RUN = ("sudo apt-get ", "git clone ", "cd ")
"""Commands that prepare the machine. Everything else is run, or shown to be runnable."""


def read_commands(page: str) -> list[str]:
    """Return the commands in the page's fenced sh blocks, continued lines joined, comments dropped."""
    blocks = re.findall(r"^```sh\n(.*?)^```$", (ROOT / page).read_text("utf-8"), flags=re.M | re.S)
    lines = [line.strip() for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


COMMANDS = read_commands("README.md")
MAKE_COMMANDS = [command for command in COMMANDS if command.startswith("make ")]
PROGRAM_COMMANDS = [command for command in COMMANDS if command.startswith("gluonseg ")]


def build_environment() -> dict[str, str]:
    # Not as a child of the make that may run this test, and with this environment's programs first.
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "MFLAGS", "PYTHON"))}
    return {**kept, "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])}


def run_command(command: str, folder: Path) -> str:
    done = subprocess.run(
        shlex.split(command), cwd=folder, env=build_environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


def test_two_commands_come_first() -> None:
    assert COMMANDS[:2] == ["make demo", "make test"]


def test_every_command_is_covered() -> None:
    assert [text for text in COMMANDS if not text.startswith(("make ", "gluonseg ", *NOT_RUN))] == []


@pytest.mark.parametrize("command", MAKE_COMMANDS)
def test_make_knows_the_target(command: str) -> None:
    assert ".venv/bin/" in run_command(f"{command} --just-print", ROOT)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which the README's reader is, with the files that its commands name."""
    # HOOK: once README.md shows gluonseg commands, make what they name here (drawn data, a tiny trained model).
    return tmp_path_factory.mktemp("readme")


@pytest.mark.skipif(not PROGRAM_COMMANDS, reason="README.md shows no gluonseg command yet")
def test_gluonseg_commands_run_in_order(workplace: Path) -> None:
    for command in PROGRAM_COMMANDS:
        run_command(command, workplace)


@pytest.mark.parametrize("page", ["README.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md")))])
def test_links_lead_somewhere(page: str) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)", (ROOT / page).read_text("utf-8"))
    local = [target for target in targets if "://" not in target]
    assert [target for target in local if not ((ROOT / page).parent / target).exists()] == []


def test_system_packages_are_the_same_everywhere() -> None:
    pages = [ROOT / "README.md", ROOT / "docs/install.md"]
    lists = [re.search(r"^sudo apt-get install (.*)$", page.read_text("utf-8"), flags=re.M) for page in pages]
    (first, second) = [set(found[1].split()) for found in lists if found]
    script = set((ROOT / ".ci/run").read_text("utf-8").split())
    assert first == second
    assert first <= script
