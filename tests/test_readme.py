"""Every command that README.md shows is one that works: a new one must be covered here."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest

from gluonseg.data.decode import read_image, read_label
from local_server import find_free_port, started_server
from program import MAKE_VARIABLES, build_environment, run_program
from repository import ROOT, read_commands

NOT_RUN = ("sudo apt-get ", "git clone ", "cd ")
"""Commands that prepare the machine. Everything else is run, or shown to be runnable."""
PORT = find_free_port()
CHANGES = {
    "synthetic data": "synthetic data --count 20 --size 40",
    "--crop_size 96 --base_size 96": "--crop_size 40 --base_size 40",
    "--epochs 16": "--epochs 1",
    "--algorithms fcn,unet": "--algorithms fcn",
    "--seeds 1,2": "--seeds 1",
    "8080": str(PORT),
}
"""What is typed instead, so that it takes seconds."""


COMMANDS = read_commands("README.md")
MAKE_COMMANDS = [command for command in COMMANDS if command.startswith("make ")]
CURL_COMMANDS = [command for command in COMMANDS if command.startswith("curl ")]
DOCKER_COMMANDS = [command for command in COMMANDS if command.startswith("docker ")]
SDK_COMMANDS = [command for command in COMMANDS if command.startswith(".venv-sdk-")]
PROGRAM_COMMANDS = [command for command in COMMANDS if command.startswith("gluonseg ")]


def build_reader_environment() -> dict[str, str]:
    """This environment's programs come first."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return {**build_environment(*MAKE_VARIABLES), "PATH": path}


def run_command(command: str, folder: Path) -> str:
    done = run_program(shlex.split(command), build_reader_environment(), cwd=folder, timeout=None)
    assert done.returncode == 0, f"{command}\n{done.stdout}"
    return done.stdout


def test_every_command_is_covered() -> None:
    known = ("make ", "gluonseg ", "curl ", "docker ", ".venv-sdk-", *NOT_RUN)
    assert [text for text in COMMANDS if not text.startswith(known)] == []


def test_docker_commands_are_run() -> None:
    """docker/test_container_docs.py runs those of docs/container.md; here they run in the foreground."""
    page = [command.replace(" -d --name pets", "") for command in read_commands("docs/container.md")]
    assert set(DOCKER_COMMANDS) <= set(page)


def test_sdk_commands_are_run() -> None:
    tests = "".join(path.read_text("utf-8") for path in (ROOT / "tests" / "docker").glob("test_local_mode_*.py"))
    for command in SDK_COMMANDS:
        _, script, *arguments = shlex.split(command)
        assert (ROOT / script).is_file()
        assert Path(script).name in tests
        assert not arguments


@pytest.mark.parametrize("command", MAKE_COMMANDS)
def test_make_knows_the_target(command: str) -> None:
    printed = run_command(f"{command} --always-make --just-print", ROOT)
    assert ("docker/build.sh" if command == "make image" else ".venv") in printed


def read_changed_commands() -> list[str]:
    """The commands of the program itself after CHANGES, and curl's, each of which must apply."""
    text = "\n".join([*PROGRAM_COMMANDS, *CURL_COMMANDS])
    for shown, typed in CHANGES.items():
        assert shown in text
        text = text.replace(shown, typed)
    return text.splitlines()


def test_step_by_step_runs_in_order(tmp_path: Path) -> None:
    """As a reader would, but for CHANGES."""
    *steps, serve, compare, app, curl = read_changed_commands()
    for command in steps:
        run_command(command, tmp_path)
    assert compare.startswith("gluonseg compare ")
    run_command(compare, tmp_path)
    assert (tmp_path / "comparison" / "report.html").stat().st_size > 10_000
    assert len(list((tmp_path / "masks").glob("*_overlay.png"))) == len(list((tmp_path / "data/validation").iterdir()))

    assert serve.startswith("gluonseg serve ")
    log = tmp_path / "serve.log"
    with started_server(shlex.split(serve), PORT, log, build_reader_environment(), cwd=tmp_path) as server:
        server.wait_until_served()
        if shutil.which("curl"):
            run_command(f"{curl} --silent --fail", tmp_path)
        assert server.stop() == 0
    arguments = [*shlex.split(app), "--port", str(PORT)]
    with started_server(arguments, PORT, log, build_reader_environment(), cwd=tmp_path) as server:
        server.wait_until_served()
        assert b"FCN on resnet-18" in server.request("/").body
    if not shutil.which("curl"):
        pytest.skip("every step ran but the last one: curl is not installed here")
    mask = read_label(tmp_path / "mask.png")
    assert mask.shape == read_image(tmp_path / "data/validation/disc_1.jpg").shape[:2]


@pytest.mark.parametrize("page", ["README.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md")))])
def test_links_lead_somewhere(page: str) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)", (ROOT / page).read_text("utf-8"))
    local = [target for target in targets if "://" not in target]
    assert [target for target in local if not ((ROOT / page).parent / target).exists()] == []


def test_system_packages_are_the_same_everywhere() -> None:
    pages = [ROOT / "README.md", ROOT / "docs/install.md"]
    lists = [re.search(r"^sudo apt-get install (.*)$", page.read_text("utf-8"), flags=re.M) for page in pages]
    (first, second) = [set(found[1].split()) for found in lists if found]
    script = set(re.findall(r"[\w.-]+", (ROOT / ".ci/run").read_text("utf-8")))
    assert first == second
    assert first <= script
