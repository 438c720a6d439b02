"""A step of a run in a process of its own: its log followed, its memory measured, stopped when it is asked for."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, NamedTuple

import gluonseg

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_POLL_S = 0.2
STOP_PATIENCE_S = 120.0
"""For a training that is asked to stop: as long as SageMaker gives it."""
_MB = 1 << 20 if sys.platform == "darwin" else 1 << 10  # ru_maxrss is in bytes there, in KiB elsewhere


class Interrupted(Exception):
    """The comparison was asked to stop by signal ``number``."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class StopSignals:
    """Within the block SIGINT, SIGTERM and SIGHUP are counted and do nothing else; the first one's number is kept.

    One that is ignored stays so: nohup ignores SIGHUP.
    """

    def __init__(self) -> None:
        self.number = 0
        self.count = 0
        self._earlier: dict[int, Any] = {}

    def check(self) -> None:
        """Raise Interrupted when a signal has come."""
        if self.count:
            raise Interrupted(self.number)

    def __enter__(self) -> StopSignals:
        for number in _SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._earlier[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        for number, handler in self._earlier.items():
            signal.signal(number, handler)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.number = self.number or number
        self.count += 1


class Ended(NamedTuple):
    """How a child ended: exit code (minus the signal's number when one killed it), wall-clock time, peak memory."""

    code: int
    seconds: float
    peak_mb: float


class _Tail:
    """Gives the complete lines that are added to a file."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        self._file.seek(0, os.SEEK_END)
        self._rest = b""

    def read_lines(self) -> list[str]:
        *lines, self._rest = (self._rest + self._file.read()).split(b"\n")
        return [line.decode(errors="replace") for line in lines]

    def close(self) -> None:
        self._file.close()


def _build_environment() -> dict[str, str]:
    """This process's variables, and where its packages are.

    With ``-m`` Python looks for modules first in the folder that it is started in, which may be anybody's.
    """
    root = str(Path(gluonseg.__file__).resolve().parents[1])
    paths = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    return {**os.environ, "PYTHONSAFEPATH": "1", "PYTHONPATH": os.pathsep.join([*paths, root])}


def run_child(
    arguments: Sequence[str],
    log: Path,
    stop: StopSignals,
    *,
    keep_open: int,
    on_lines: Callable[[Sequence[str]], None],
    on_stop: Callable[[], None],
) -> Ended:
    """Run ``python`` with ``arguments``, whose output is added to ``log``.

    Args:
        keep_open: a file descriptor that the child keeps open.
        on_lines: called several times a second with the new lines of the log, often none.
        on_stop: called once when the child is asked to stop.

    Raises:
        Interrupted: ``stop`` was asked for, and the child has not come to a good end. It gets SIGTERM, and is killed
            when it takes longer than STOP_PATIENCE_S or when the stop is asked for again.
    """
    stop.check()
    with log.open("ab") as output:
        tail = _Tail(log)
        # In a session of its own: Ctrl-C in the terminal is not for it.
        process = subprocess.Popen(
            [sys.executable, *arguments],
            env=_build_environment(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=[keep_open],
        )
    try:
        return _wait(process, stop, lambda: on_lines(tail.read_lines()), on_stop)
    finally:
        tail.close()
        if process.returncode is None:
            process.kill()
            process.wait()


def _wait(
    process: subprocess.Popen[bytes], stop: StopSignals, on_poll: Callable[[], None], on_stop: Callable[[], None]
) -> Ended:
    start = time.monotonic()
    deadline = None
    while True:
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        on_poll()
        if pid:
            process.returncode = os.waitstatus_to_exitcode(status)
            break
        if stop.count and deadline is None:
            deadline = time.monotonic() + STOP_PATIENCE_S
            process.terminate()
            on_stop()
        if deadline is not None and (stop.count > 1 or time.monotonic() > deadline):
            with suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
        time.sleep(_POLL_S)
    if process.returncode:
        stop.check()
    return Ended(process.returncode, time.monotonic() - start, usage.ru_maxrss / _MB)
