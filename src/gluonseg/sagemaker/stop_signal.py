"""SIGTERM, SIGINT and SIGHUP end a job: by handlers, which Python runs in the main thread between two instructions.

As the first process of a container a program gets a signal only if it has a handler for it.
"""

from __future__ import annotations

import logging
import os
import re
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

from gluonseg.train.stop import Stop

_log = logging.getLogger(__name__)
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@contextmanager
def handling_signals(numbers: Iterable[int], handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Handle the signals while the block runs; a signal that is ignored stays ignored, as under nohup."""
    heard = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
    earlier = {number: signal.signal(number, handler) for number in heard}
    try:
        yield
    finally:
        for number, before in earlier.items():
            signal.signal(number, before)


def stopping_job(stop: Stop) -> AbstractContextManager[None]:
    """Let SIGTERM, SIGINT and SIGHUP ask for ``stop`` while the block runs.

    A second SIGTERM or SIGINT ends the process at once. A second SIGHUP does not: when a terminal is closed, both the
    terminal and its shell may send one.
    """
    seen: set[int] = set()

    def handle(number: int, _frame: FrameType | None) -> None:
        if number in seen and number != signal.SIGHUP:
            os._exit(128 + number)
        seen.add(number)
        stop.request(number)

    return handling_signals(STOP_SIGNALS, handle)


def find_receivers(process: Any) -> list[Any]:
    """``process`` and, if it is a shell without a trap, the programs it runs: such a shell passes no signal on.

    The workers of any other program get no signal: it may need them to end well. Processes are psutil's.
    """
    caught = re.search(r"^SigCgt:\s*(\w+)", Path(f"/proc/{process.pid}/status").read_text(), re.MULTILINE)
    has_trap = caught and int(caught[1], 16) >> signal.SIGTERM - 1 & 1
    children = process.children() if process.exe().endswith("sh") and not has_trap else []
    return [process, *(receiver for child in children for receiver in find_receivers(child))]


def _signal_children(number: int) -> bool:
    """Send the signal to the programs that this process has started; returns whether there is one."""
    import psutil  # type: ignore[import-untyped]  # comes with the toolkit

    children = psutil.Process().children()
    for child in children:
        with suppress(OSError, psutil.Error):  # the child has ended meanwhile
            for receiver in find_receivers(child):
                receiver.send_signal(number)
    return bool(children)


def stop_before_script(number: int, _frame: FrameType | None) -> None:
    """End the job with exit code 0, and with it the program that installs what the script needs."""
    _signal_children(number)
    _log.info("Stopped by SIGTERM before the script had begun")
    os._exit(0)


def stop_script(number: int, frame: FrameType | None) -> None:
    """Pass the signal on to the script, which decides how the job ends."""
    if not _signal_children(number):  # the toolkit is about to start it
        stop_before_script(number, frame)
    _log.info("SIGTERM is passed on to the script")
