"""Say in one line what this machine lacks to run gluonseg, and the command that brings it.

The Makefile runs this file on whatever Python it was given, before anything is installed:
``python3 -I src/gluonseg/doctor.py``. So it needs the standard library alone and is written for
Python 3.6 (quoted annotations for one): an old Python must reach the message, not a SyntaxError.
"""

import ctypes
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from typing import NamedTuple

OLDEST_PYTHON = (3, 10)
NEWEST_PYTHON = (3, 14)
OLDEST_GLIBC = (2, 28)
"""What the locked wheels of OpenCV, gevent and scipy are built for."""

LIBRARY_PACKAGES = (
    ("libgcc_s.so.1", "libgcc-s1"),
    ("libgomp.so.1", "libgomp1"),
    ("libquadmath.so.0", "libquadmath0"),
    ("libstdc++.so.6", "libstdc++6"),
)
"""The libraries that MXNet's wheel loads and does not bring, with Debian's package of each."""


class Machine(NamedTuple):
    """What the checks look at: read_machine() finds it out, a test makes one up."""

    executable: str
    implementation: str
    python: "tuple[int, int]"
    other_python: str
    system: str
    architecture: str
    libc: "tuple[str, str]"
    lacks_venv: bool
    lacks_compiler: bool
    lacks_python_header: bool
    lacks_libc_header: bool
    missing_libraries: "tuple[str, ...]"
    is_root: bool


def find_blocker(machine: Machine) -> "str | None":
    """Return why gluonseg cannot be installed on this machine and the way out, in one line; None if it can."""
    return find_python_blocker(machine) or find_platform_blocker(machine) or find_package_blocker(machine)


def find_python_blocker(machine: Machine) -> "str | None":
    """Return what is wrong with the Python itself, or None."""
    if machine.implementation == "cpython" and OLDEST_PYTHON <= machine.python <= NEWEST_PYTHON:
        return None
    supported = f"{_join_version(OLDEST_PYTHON)} to {_join_version(NEWEST_PYTHON)}"
    found = f"{machine.executable} is {machine.implementation} {_join_version(machine.python)}"
    way_out = machine.other_python or "python3.12, after installing that"
    return f"gluonseg needs CPython {supported}, and {found}: run make again with PYTHON={way_out}"


def find_platform_blocker(machine: Machine) -> "str | None":
    """Return what is wrong with the operating system or the processor, or None."""
    is_known = (machine.system, machine.architecture, machine.libc[0]) == ("Linux", "x86_64", "glibc")
    if is_known and _parse_version(machine.libc[1]) >= OLDEST_GLIBC:
        return None
    found = f"{machine.system} on {machine.architecture} with {' '.join(machine.libc).strip() or 'no glibc'}"
    supported = f"x86_64 Linux with glibc {_join_version(OLDEST_GLIBC)} or newer"
    return f"gluonseg runs on {supported}, and this is {found}: use such a machine, Debian 12 in a container for one"


def find_package_blocker(machine: Machine) -> "str | None":
    """Return which parts of the system are missing, with the apt-get command that installs all of them, or None."""
    missing = list(_iter_missing(machine))
    if not missing:
        return None
    what = ", ".join(name for name, _ in missing)
    sudo = "" if machine.is_root else "sudo "
    install = f"{sudo}apt-get update && {sudo}apt-get install -y {' '.join(package for _, package in missing)}"
    return f"gluonseg cannot be installed yet: this machine lacks {what}. On Debian or Ubuntu: {install}"


def _iter_missing(machine: Machine) -> "Iterator[tuple[str, str]]":
    version = "python" + _join_version(machine.python)
    if machine.lacks_venv:
        yield "Python's venv module", version + "-venv"
    if machine.lacks_compiler:
        yield "a C compiler", "gcc"
    if machine.lacks_libc_header:
        yield "the C library's headers", "libc6-dev"
    if machine.lacks_python_header:
        yield "Python.h", version + "-dev"
    packages = dict(LIBRARY_PACKAGES)
    for library in machine.missing_libraries:
        yield library, packages[library]


def read_machine() -> Machine:
    """Look at the Python that runs this and at the machine under it."""
    include = sysconfig.get_paths()["include"]
    compiler = _find_compiler()
    return Machine(
        executable=sys.executable,
        implementation=sys.implementation.name,
        python=sys.version_info[:2],
        other_python=_find_other_python(),
        system=platform.system(),
        architecture=platform.machine(),
        libc=platform.libc_ver(),
        lacks_venv=importlib.util.find_spec("ensurepip") is None,
        lacks_compiler=compiler is None,
        lacks_python_header=not os.path.isfile(os.path.join(include, "Python.h")),
        lacks_libc_header=not _can_include(compiler or "", "stdlib.h"),
        missing_libraries=tuple(name for name, _ in LIBRARY_PACKAGES if not _can_load(name)),
        is_root=os.geteuid() == 0,
    )


def _find_compiler() -> "str | None":
    # sagemaker-training is published as source only, and has a small module in C.
    configured = os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc"
    return shutil.which(configured.split()[0])


def _can_include(compiler: str, header: str) -> bool:
    if not compiler:
        return os.path.isfile(os.path.join("/usr/include", header))
    command = [compiler, "-fsyntax-only", "-x", "c", "-"]
    source = f"#include <{header}>\n".encode()
    return subprocess.run(command, input=source, stderr=subprocess.DEVNULL).returncode == 0


def _can_load(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def _find_other_python() -> str:
    """Return the newest supported python3.x on the PATH, or an empty text."""
    for minor in range(NEWEST_PYTHON[1], OLDEST_PYTHON[1] - 1, -1):
        found = shutil.which(f"python3.{minor}")
        if found:
            return found
    return ""


def _join_version(version: "tuple[int, ...]") -> str:
    return ".".join(str(number) for number in version)


def _parse_version(text: str) -> "tuple[int, ...]":
    return tuple(int(number) for number in text.split(".") if number.isdigit())


def main() -> int:
    """Print the blocker to stderr, if there is one; the exit code is 1 then, and 0 otherwise."""
    blocker = find_blocker(read_machine())
    if blocker is None:
        return 0
    sys.stderr.write(blocker + "\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
