"""The locks hold what setup.py asks for, the Makefile's targets exist, and what the machine lacks is one line."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from program import MAKE_VARIABLES, build_environment
from repository import ROOT

SERVE_LOCK = "docker/requirements-serve.txt"
LOCKS = (
    "docker/requirements.txt",
    "docker/requirements-test.txt",
    "docker/requirements-build.txt",
    "docker/requirements-gpu.txt",
    SERVE_LOCK,
    "local_mode/sdk_v2/requirements.txt",
    "local_mode/sdk_v3/requirements.txt",
)
SOURCE_ONLY = {"sagemaker-training", "inotify-simple"}


def read_lock(name: str) -> list[tuple[Requirement, list[str]]]:
    """Return every requirement of a lock with its hashes."""
    text = re.sub(r"^\s*(#|--(only|no)-binary).*\n", "", (ROOT / name).read_text("utf-8"), flags=re.M)
    entries = [line.split("--hash=") for line in text.replace("\\\n", " ").splitlines()]
    return [(Requirement(head), [value.strip() for value in hashes]) for head, *hashes in entries]


def read_pins(name: str) -> set[str]:
    return {f"{requirement.name}{requirement.specifier}" for requirement, _ in read_lock(name)}


def read_names(name: str) -> set[str]:
    return {canonicalize_name(requirement.name) for requirement, _ in read_lock(name)}


def read_metadata(name: str) -> list[Requirement]:
    """Return one of the lists of packages in setup.py, without running it."""
    tree = ast.parse((ROOT / "setup.py").read_text("utf-8"))
    lists = {ast.unparse(node.targets[0]): node.value for node in tree.body if isinstance(node, ast.Assign)}
    return [Requirement(text) for text in ast.literal_eval(lists[name])]


@pytest.mark.parametrize(
    ("packages", "lock"), [("USE", SERVE_LOCK), ("USE", LOCKS[0]), ("TRAIN", LOCKS[0]), ("TEST", LOCKS[1])]
)
def test_lock_fits_metadata(packages: str, lock: str) -> None:
    pins = [requirement for requirement, _ in read_lock(lock)]
    for wanted in read_metadata(packages):
        found = [pin for pin in pins if canonicalize_name(pin.name) == canonicalize_name(wanted.name)]
        assert found, wanted
        versions = [next(iter(pin.specifier)).version for pin in found]
        assert [version for version in versions if version not in wanted.specifier] == []


def test_serving_lock_has_nothing_of_training_and_is_bound_to_no_machine() -> None:
    training = {canonicalize_name(requirement.name) for requirement in read_metadata("TRAIN")}
    assert (training | {"scipy"}) & read_names(SERVE_LOCK) == set()
    assert "platform_machine" not in (ROOT / SERVE_LOCK).read_text("utf-8")


@pytest.mark.parametrize("lock", [LOCKS[0], LOCKS[2], SERVE_LOCK])
def test_smaller_lock_is_part_of_test_lock(lock: str) -> None:
    assert read_pins(lock) - read_pins(LOCKS[1]) == set()


@pytest.mark.parametrize("lock", LOCKS)
def test_every_line_is_exact_and_hashed_names_no_place_and_builds_little(lock: str) -> None:
    for requirement, hashes in read_lock(lock):
        assert [specifier.operator for specifier in requirement.specifier] == ["=="], requirement
        assert hashes, requirement
        assert all(re.fullmatch("sha256:[0-9a-f]{64}", value) for value in hashes), requirement
    text = (ROOT / lock).read_text("utf-8")
    assert re.findall(r"://|index-url|find-links|@ ", text) == []
    assert "--only-binary :all:" in text
    assert set(re.findall(r"^--no-binary (\S+)$", text, flags=re.M)) == SOURCE_ONLY & read_names(lock)


def test_setuptools_still_has_distutils() -> None:
    (version,) = [next(iter(r.specifier)).version for r, _ in read_lock(LOCKS[0]) if r.name == "setuptools"]
    assert int(version.split(".")[0]) < 81


def test_runtime_lock_has_no_test_tool() -> None:
    tools = {canonicalize_name(requirement.name) for requirement in read_metadata("TEST")}
    assert tools & read_names(LOCKS[0]) == set()


def run_make(*arguments: str, exit_code: int = 0) -> subprocess.CompletedProcess[str]:
    environment = build_environment(*MAKE_VARIABLES)
    command = ["make", *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == exit_code, done.stderr
    return done


def test_help_lists_every_target() -> None:
    targets = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text("utf-8"), flags=re.M)
    assert targets
    listed = re.findall(r"^make ([\w-]+)\t\S", run_make("help").stdout, flags=re.M)
    assert listed == targets[1].split()


@pytest.mark.parametrize(("target", "lock"), [("demo", LOCKS[0]), ("test", LOCKS[1]), ("lint", LOCKS[1])])
def test_target_installs_its_lock_with_hashes(target: str, lock: str, tmp_path: Path) -> None:
    commands = run_make("-n", target, f"VENV={tmp_path}/venv", f"PYTHON={sys.executable}").stdout
    for name in (LOCKS[2], lock):
        (line,) = [line for line in commands.splitlines() if f"-r {name} " in line]
        assert "--require-hashes" in line
        assert "--no-deps" in line


def test_unchanged_lock_is_not_installed_again(tmp_path: Path) -> None:
    version = sys.version.split()[0]
    (tmp_path / f"requirements-test.{version}").touch()
    arguments = ("-n", "test", f"VENV={tmp_path}", f"PYTHON={sys.executable}")
    assert "pip install" not in run_make(*arguments).stdout
    assert "pip install" in run_make(*arguments, "-W", "docker/requirements-test.txt").stdout


def test_demo_passes_data_on() -> None:
    command = run_make("-n", "demo", "DATA=/data/my pets").stdout.splitlines()[-1]
    assert shlex.split(command)[1:] == ["container/demo.py", "--data", "/data/my pets"]


def test_missing_python_is_one_line(tmp_path: Path) -> None:
    done = run_make("test", "PYTHON=python3.99", f"VENV={tmp_path}/venv", exit_code=2)
    first, *rest = done.stderr.splitlines()
    assert "no 'python3.99' here" in first
    assert "PYTHON=" in first
    assert all(line.startswith("make") for line in rest)


def test_machine_that_lacks_nothing() -> None:
    done = run_make("-s", "check-machine", f"PYTHON={sys.executable}")
    assert (done.stdout, done.stderr) == ("", "")


@pytest.mark.parametrize(
    ("version", "change", "expected"),
    [
        ("3.9.2", "", ["CPython 3.10 to 3.14", "is Python 3.9.2", "PYTHON=python3.12"]),
        ("3.15.0", "", ["is Python 3.15.0"]),
        ("3.12.1", "platform.machine = lambda: 'aarch64'", ["x86_64 Linux with glibc", "Linux aarch64", "Debian 12"]),
        ("3.12.1", "platform.libc_ver = lambda: ('glibc', '2.17')", ["glibc 2.28 or newer", "Linux x86_64 glibc 2.17"]),
        ("3.12.1", "shutil.which = str.isdigit", ["lacks a C compiler. ", "apt-get install -y gcc libc6-dev"]),
        (
            "3.12.1",
            "sys.version_info = (3, 12); importlib.util.find_spec = os.path.isfile = str.isdigit; ctypes.CDLL = open",
            ["venv module, Python.h, libgomp.so.1, libq", "-y python3.12-venv python3.12-dev libgomp1 libquadmath0"],
        ),
    ],
)
def test_what_the_machine_lacks_is_one_line(version: str, change: str, expected: list[str], tmp_path: Path) -> None:
    python = tmp_path / "python"
    source = f"import ctypes, importlib.util, os, platform, shutil, sys; {change}; exec(sys.argv[3])"
    run = f'[ "$1" = -V ] && echo Python {version} || exec {sys.executable} -c "{source}" "$@"'
    python.write_text(f"#!/bin/sh\n{run}\n", encoding="utf-8")
    python.chmod(0o755)
    line, *rest = run_make("-s", "check-machine", f"PYTHON={python}", exit_code=2).stderr.splitlines()
    assert [part for part in expected if part not in line] == []
    assert all(text.startswith("make") for text in rest)


def test_oldest_python_is_that_of_the_metadata() -> None:
    oldest = re.search(r"^PYTHONS := (\S+)", (ROOT / "Makefile").read_text("utf-8"), flags=re.M)
    assert oldest
    assert f'python_requires=">={oldest[1]}"' in (ROOT / "setup.py").read_text("utf-8")
