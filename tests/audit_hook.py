"""Watches a Python process, and all that it starts, for code, libraries and connections that come from data.

The folder that :func:`write_startup` makes is put on ``PYTHONPATH``: then every Python installs the hook before the
program itself begins, and appends what it sees to a log. What code planted in data does first is to say so.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import CodeType
from typing import Any

TOKEN = "canary_that_must_not_sing"
"""Every planted file has this word in it."""
LOG_VARIABLE, DATA_VARIABLE = "GLUONSEG_AUDIT_LOG", "GLUONSEG_AUDIT_DATA"
STARTED, CASE, SUNG = "started", "gluonseg.case", "gluonseg.canary"
ALWAYS = (
    "pickle.find_class",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "subprocess.Popen",
    "socket.connect",
    "socket.getaddrinfo",
    "socket.gethostbyname",
    CASE,
    SUNG,
)
"""Events that are written down whatever they are about."""
_LOADED = {"ctypes.dlopen": 0, "import": 1}
"""Events about a file, and which of their arguments is its path: written down when it is among the data."""


def _holds_token(value: Any) -> bool:
    """Whether source or code, with all that is nested in it, was planted."""
    if isinstance(value, CodeType):
        words = (*value.co_names, *value.co_consts)
        return any(_holds_token(word) for word in words if isinstance(word, str | bytes | CodeType))
    text = bytes(value).decode("latin-1") if isinstance(value, bytes | bytearray | memoryview) else value
    return isinstance(text, str) and TOKEN in text


class _Watch:
    def __init__(self, log: str, data: Sequence[str]) -> None:
        # Opened once: an open is an event, too.
        self._log = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._data = tuple(os.path.realpath(path) for path in data)

    def write(self, event: str, *arguments: Any) -> None:
        line = json.dumps([event, *(str(argument)[:300] for argument in arguments)])
        os.write(self._log, f"{line}\n".encode())

    def _is_among_data(self, path: Any) -> bool:
        # "<string>" and the like are no paths, and would be taken for files of the folder that all is started in.
        if not isinstance(path, str | bytes) or not path or path[:1] in ("<", b"<"):
            return False
        real = os.path.realpath(os.fsdecode(path))
        return any(real.startswith(folder + os.sep) for folder in self._data)

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in ALWAYS:
            self.write(event, *arguments)
        elif event in _LOADED:
            path = arguments[_LOADED[event]]
            # A library of a bare name is looked for where the system has its libraries, and not here.
            if self._is_among_data(path) and os.sep in str(path):
                self.write(event, *arguments)
        elif event == "exec":
            code = arguments[0]
            if self._is_among_data(code.co_filename) or _holds_token(code):
                self.write(event, code.co_filename)
        elif event == "compile" and (_holds_token(arguments[0]) or self._is_among_data(arguments[1])):
            self.write(event, arguments[1])


def install() -> None:
    """Install the hook for the rest of this process."""
    watch = _Watch(os.environ[LOG_VARIABLE], os.environ[DATA_VARIABLE].split(os.pathsep))
    watch.write(STARTED, os.getpid())
    sys.addaudithook(watch)


def write_startup(folder: Path) -> Path:
    """Make ``folder``, from which every Python that has it on ``PYTHONPATH`` installs the hook as it starts."""
    folder.mkdir(parents=True)
    here = str(Path(__file__).resolve().parent)
    lines = ("import sys", f"sys.path.append({here!r})", "import audit_hook", "sys.path.pop()", "audit_hook.install()")
    (folder / "sitecustomize.py").write_text("\n".join([*lines, ""]), encoding="utf-8")
    return folder


def build_variables(startup: Path, log: Path, data: Sequence[Path]) -> Mapping[str, str]:
    """The environment of a program to watch; ``data`` are the folders from which nothing may be run."""
    others = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    return {
        "PYTHONPATH": os.pathsep.join([str(startup), *others]),
        LOG_VARIABLE: str(log),
        DATA_VARIABLE: os.pathsep.join(map(str, data)),
    }


def read_events(log: Path) -> list[list[str]]:
    """What was written down: the event and its arguments, in order."""
    return [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
