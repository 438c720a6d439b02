"""The locks hold what setup.py asks for, the Makefile's targets exist, and the doctor names the way out."""

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

from gluonseg import doctor
from program import MAKE_VARIABLES, build_environment
from repository import ROOT

LOCKS = (
    "docker/requirements.txt",
    "docker/requirements-test.txt",
    "docker/requirements-build.txt",
    "docker/requirements-gpu.txt",
    "local_mode/sdk_v2/requirements.txt",
    "local_mode/sdk_v3/requirements.txt",
)
SOURCE_ONLY = {"sagemaker-training", "inotify-simple"}

GOOD = doctor.Machine(
    executable="/usr/bin/python3",
    implementation="cpython",
    python=(3, 12),
    other_python="",
    system="Linux",
    architecture="x86_64",
    libc=("glibc", "2.36"),
    lacks_venv=False,
    lacks_compiler=False,
    lacks_python_header=False,
    lacks_libc_header=False,
    missing_libraries=(),
    is_root=False,
)


def read_lock(name: str) -> list[tuple[Requirement, list[str]]]:
    """Return every requirement of a lock with its hashes."""
    text = re.sub(r"^\s*(#|--(only|no)-binary).*\n", "", (ROOT / name).read_text("utf-8"), flags=re.M)
    entries = [line.split("--hash=") for line in text.replace("\\\n", " ").splitlines()]
    return [(Requirement(head), [value.strip() for value in hashes]) for head, *hashes in entries]


def read_pins(name: str) -> set[str]:
    return {f"{requirement.name}{requirement.specifier}" for requirement, _ in read_lock(name)}


def read_names(name: str) -> set[str]:
    return {canonicalize_name(requirement.name) for requirement, _ in read_lock(name)}


def read_metadata(field: str) -> list[Requirement]:
    """Return install_requires or the test extra as setup.py writes it, without running it."""
    tree = ast.parse((ROOT / "setup.py").read_text("utf-8"))
    lists = {
        node.targets[0].id: ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }
    if field in lists:
        return [Requirement(text) for text in lists[field]]
    value = next(node.value for node in ast.walk(tree) if isinstance(node, ast.keyword) and node.arg == field)
    assert isinstance(value, ast.List)
    constants = [element.value for element in value.elts if isinstance(element, ast.Constant)]
    starred = [element.value.id for element in value.elts if isinstance(element, ast.Starred)]  # type: ignore[attr-defined]
    return [Requirement(str(text)) for text in [*constants, *(text for name in starred for text in lists[name])]]


@pytest.mark.parametrize(("field", "lock"), [("install_requires", LOCKS[0]), ("TEST", LOCKS[1])])
def test_lock_fits_metadata(field: str, lock: str) -> None:
    pins = [requirement for requirement, _ in read_lock(lock)]
    for wanted in read_metadata(field):
        found = [pin for pin in pins if canonicalize_name(pin.name) == canonicalize_name(wanted.name)]
        assert found, wanted
        versions = [next(iter(pin.specifier)).version for pin in found]
        assert [version for version in versions if version not in wanted.specifier] == []


@pytest.mark.parametrize("lock", [LOCKS[0], LOCKS[2]])
def test_smaller_lock_is_part_of_test_lock(lock: str) -> None:
    assert read_pins(lock) - read_pins(LOCKS[1]) == set()


@pytest.mark.parametrize("lock", LOCKS)
def test_every_line_is_exact_and_hashed(lock: str) -> None:
    for requirement, hashes in read_lock(lock):
        assert [specifier.operator for specifier in requirement.specifier] == ["=="], requirement
        assert hashes, requirement
        assert all(re.fullmatch("sha256:[0-9a-f]{64}", value) for value in hashes), requirement


@pytest.mark.parametrize("lock", LOCKS)
def test_lock_names_no_place(lock: str) -> None:
    text = (ROOT / lock).read_text("utf-8")
    assert re.findall(r"://|index-url|find-links|@ ", text) == []


@pytest.mark.parametrize("lock", LOCKS)
def test_only_source_packages_are_built(lock: str) -> None:
    text = (ROOT / lock).read_text("utf-8")
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


@pytest.mark.parametrize("minor", range(10, 15))
def test_supported_python_is_not_blocked(minor: int) -> None:
    assert doctor.find_blocker(GOOD._replace(python=(3, minor))) is None


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"python": (3, 9)}, ["3.10 to 3.14", "cpython 3.9", "/usr/bin/python3", "PYTHON=python3.12"]),
        ({"python": (3, 15), "other_python": "/usr/bin/python3.13"}, ["cpython 3.15", "PYTHON=/usr/bin/python3.13"]),
        ({"implementation": "pypy"}, ["CPython", "pypy 3.12"]),
        ({"system": "Darwin", "architecture": "arm64", "libc": ("", "")}, ["x86_64 Linux", "Darwin on arm64"]),
        ({"architecture": "aarch64"}, ["x86_64 Linux", "Linux on aarch64", "container"]),
        ({"libc": ("", "")}, ["glibc 2.28", "no glibc"]),
        ({"libc": ("glibc", "2.17")}, ["glibc 2.28 or newer", "glibc 2.17"]),
        ({"lacks_venv": True}, ["venv", "sudo apt-get install -y python3.12-venv"]),
        ({"lacks_venv": True, "is_root": True}, [": apt-get update && apt-get install -y python3.12-venv"]),
        ({"lacks_compiler": True, "lacks_libc_header": True}, ["C compiler", "install -y gcc libc6-dev"]),
        ({"lacks_python_header": True}, ["Python.h", "install -y python3.12-dev"]),
        ({"missing_libraries": ("libgomp.so.1", "libquadmath.so.0")}, ["libgomp.so.1", "-y libgomp1 libquadmath0"]),
    ],
)
def test_blocker_names_cause_and_way_out(change: dict[str, object], expected: list[str]) -> None:
    blocker = doctor.find_blocker(GOOD._replace(**change))  # type: ignore[arg-type]
    assert blocker is not None
    assert "\n" not in blocker
    assert [part for part in expected if part not in blocker] == []


def test_one_command_installs_all_that_is_missing() -> None:
    nothing = GOOD._replace(
        lacks_venv=True,
        lacks_compiler=True,
        lacks_libc_header=True,
        lacks_python_header=True,
        missing_libraries=tuple(name for name, _ in doctor.LIBRARY_PACKAGES),
    )
    packages = str(doctor.find_blocker(nothing)).split("install -y ")[1].split()
    assert {"gcc", "libc6-dev", "python3.12-dev", "python3.12-venv", "libgomp1", "libquadmath0"} <= set(packages)


def test_doctor_runs_without_any_package() -> None:
    command = [sys.executable, "-I", "-S", str(ROOT / "src/gluonseg/doctor.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_doctor_is_readable_for_an_old_python() -> None:
    tree = ast.parse((ROOT / "src/gluonseg/doctor.py").read_text("utf-8"), feature_version=(3, 7))
    annotations = [node.annotation for node in ast.walk(tree) if isinstance(node, ast.AnnAssign | ast.arg)]
    evaluated = [node for node in annotations if isinstance(node, ast.Subscript | ast.BinOp)]
    assert evaluated == [], "quote it: list[str] and X | None do not exist on an old Python"


def test_doctor_agrees_with_metadata() -> None:
    text = (ROOT / "setup.py").read_text("utf-8")
    newest_minor = doctor.NEWEST_PYTHON[1] + 1
    assert f'python_requires=">=3.{doctor.OLDEST_PYTHON[1]},<3.{newest_minor}"' in text
