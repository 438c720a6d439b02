"""SIGTERM, SIGINT and SIGHUP end a job: by handlers, which Python runs in the main thread between two instructions.

As the first process of a container a program gets a signal only if it has a handler for it.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from types import FrameType

from gluonseg.train.stop import Stop

_log = logging.getLogger(__name__)
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@contextmanager
def handling_signals(
    numbers: Iterable[int], handler: Callable[[int, FrameType | None], None], *, owns_process: bool = False
) -> Iterator[None]:
    """Handle the signals while the block runs, in the main thread; one that is ignored stays so, as under nohup.

    With ``owns_process`` the process ends after the block, and signals that come after it are ignored.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heard = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
    earlier = {number: signal.signal(number, handler) for number in heard}
    try:
        yield
    finally:
        for number, before in earlier.items():
            signal.signal(number, signal.SIG_IGN if owns_process else before)


def stopping_job(stop: Stop, *, owns_process: bool = False) -> AbstractContextManager[None]:
    """Let SIGTERM, SIGINT and SIGHUP ask for ``stop`` while the block runs.

    A second SIGTERM or SIGINT ends the process; a terminal that is closed can send SIGHUP twice, itself and its shell.
    """
    seen: set[int] = set()

    def handle(number: int, _frame: FrameType | None) -> None:
        if number in seen and number != signal.SIGHUP:
            os._exit(128 + number)
        seen.add(number)
        stop.request(number)

    return handling_signals(STOP_SIGNALS, handle, owns_process=owns_process)


def find_children(process: int) -> list[int]:
    """Process ids of the children of a process."""
    import psutil  # type: ignore[import-untyped]  # comes with the toolkit

    try:
        return [child.pid for child in psutil.Process(process).children()]
    except psutil.NoSuchProcess:
        return []


def find_receivers(process: int) -> list[int]:
    """``process`` and, if it is a shell without a trap, the programs it runs: a shell does not pass signals on.

    The workers of any other program are left to it: it may need them to end well.
    """
    try:
        program = os.readlink(f"/proc/{process}/exe")
        caught = re.search(r"^SigCgt:\s*(\w+)", Path(f"/proc/{process}/status").read_text(), re.MULTILINE)
    except OSError:  # it has ended
        return [process]
    has_trap = caught and int(caught[1], 16) >> signal.SIGTERM - 1 & 1
    below = find_children(process) if program.endswith("sh") and not has_trap else []
    return [process, *(each for child in below for each in find_receivers(child))]


class Script:
    """A user's own script, and what SIGTERM means: before it begins, while it runs, and when it has ended."""

    def __init__(self) -> None:
        self._has_begun = self._has_ended = False

    def begin(self) -> None:
        """From here on a child process is the script; what was installed for it is."""
        self._has_begun = True

    def end(self) -> None:
        """The script has ended, or will not begin; what comes of the job is settled."""
        self._has_ended = True

    def handle(self, number: int, _frame: FrameType | None) -> None:
        """Pass the signal on to the script; before it begins end the process, with 0."""
        if self._has_ended:
            return
        receivers = [each for child in find_children(os.getpid()) for each in find_receivers(child)]
        for receiver in receivers:
            with suppress(ProcessLookupError):
                os.kill(receiver, number)
        if self._has_begun and receivers:
            _log.info("SIGTERM is passed on to the script")
        else:
            _log.info("Stopped by SIGTERM before the script had begun")
            os._exit(0)


def passing_on_sigterm(script: Script, *, owns_process: bool = False) -> AbstractContextManager[None]:
    """Pass SIGTERM on to the script while the block runs; how the job ends is up to the script."""
    return handling_signals((signal.SIGTERM,), script.handle, owns_process=owns_process)
