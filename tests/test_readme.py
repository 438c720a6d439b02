"""Every command that README.md shows is one that works: a new one must be covered here."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from gluonseg.data.decode import read_image, read_label

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
CURL_COMMANDS = [command for command in COMMANDS if command.startswith("curl ")]
DOCKER_COMMANDS = [command for command in COMMANDS if command.startswith("docker ")]
SDK_COMMANDS = [command for command in COMMANDS if command.startswith(".venv-sdk-")]
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


def find_free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
    return port


def wait_until_served(port: int, server: subprocess.Popen[bytes]) -> None:
    for _ in range(600):
        assert server.poll() is None
        try:
            with urllib.request.urlopen(f"http://localhost:{port}/ping", timeout=5):
                return
        except urllib.error.HTTPError as not_yet:
            not_yet.close()
        except OSError:
            pass
        time.sleep(0.1)
    pytest.fail("the server did not come up within a minute")


def test_step_by_step_runs_in_order(tmp_path: Path) -> None:
    """As a reader would, but for one epoch of training and a port that is free here."""
    *steps, serve, compare = PROGRAM_COMMANDS
    for command in steps:
        run_command(f"{command} --epochs 1" if command.startswith("gluonseg train ") else command, tmp_path)
    assert compare.startswith("gluonseg compare ")
    run_command(f"{compare} --epochs 1 --seeds 1 --algorithms fcn,psp", tmp_path)
    assert (tmp_path / "comparison" / "report.html").stat().st_size > 10_000
    assert len(list((tmp_path / "masks").glob("*_overlay.png"))) == len(list((tmp_path / "data/validation").iterdir()))

    port = find_free_port()
    assert serve.startswith("gluonseg serve ")
    arguments = shlex.split(serve.replace("8080", str(port)))
    server = subprocess.Popen(arguments, cwd=tmp_path, env=build_environment(), stderr=subprocess.DEVNULL)
    try:
        wait_until_served(port, server)
        if shutil.which("curl") is None:
            pytest.skip("every step ran but the last one: curl is not installed here")
        (curl,) = CURL_COMMANDS
        run_command(f"{curl.replace('8080', str(port))} --silent --fail", tmp_path)
    finally:
        server.terminate()
        assert server.wait(timeout=40) == 0
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
