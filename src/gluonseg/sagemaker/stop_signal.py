"""SIGTERM and SIGINT end a job: within seconds, whatever its main thread is computing.

Python runs signal handlers in the main thread, between two of its own instructions; one update of a large network
keeps that thread in MXNet for a minute. So what has to be done is done in a thread of its own, which hears of a signal
through :func:`signal.set_wakeup_fd`. No signal is blocked, so nothing is passed down to child processes. As the first
process of a container a program gets SIGTERM only if it has a handler, which it has here.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

from gluonseg.train.stop import Stop, Stopped

_log = logging.getLogger(__name__)
_Handler = Callable[[int, FrameType | None], None]


class _Receiver:
    """Calls ``react`` in a thread with the number of each signal that comes in, until :meth:`close`.

    ``handler`` is Python's own handler, called in the main thread when that comes round to it.
    """

    def __init__(self, numbers: tuple[int, ...], handler: _Handler, react: Callable[[int], None]) -> None:
        self._numbers = numbers
        self._react = react
        self._source, self._sink = socket.socketpair()
        self._sink.setblocking(False)
        self._earlier_sink = signal.set_wakeup_fd(self._sink.fileno(), warn_on_full_buffer=False)
        self._earlier: Mapping[int, Any] = {number: signal.signal(number, handler) for number in numbers}
        threading.Thread(target=self._run, name="signals", daemon=True).start()

    def close(self) -> None:
        """Put everything back as it was."""
        for number, handler in self._earlier.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._earlier_sink)
        self._sink.close()

    def _run(self) -> None:
        with self._source:
            while received := self._source.recv(64):
                for number in received:
                    if number in self._numbers:
                        self._react(number)


class _JobStopper:
    """Reacts to the signals of a training job."""

    def __init__(self, stop: Stop, get_code: Callable[[signal.Signals], int], fail: Callable[[Exception], int]) -> None:
        self._stop = stop
        self._get_code = get_code
        self._fail = fail
        self._has_raised = False
        self._timer: threading.Timer | None = None

    def handle(self, number: int, _frame: FrameType | None) -> None:
        """End a job that has nothing to keep yet, wherever it is; one that has looks for the stop itself."""
        self._stop.request(number)
        if not self._has_raised and not self._stop.has_begun:
            self._has_raised = True
            raise Stopped

    def react(self, number: int) -> None:
        if self._timer:
            if number == signal.SIGINT:
                _end_process(128 + number)
            return
        self._stop.request(number)
        if self._stop.has_begun:
            again = "; once more ends it at once, with whatever is written" if number == signal.SIGINT else ""
            _log.info("%s: the job ends%s", self._stop.name, again)
        self._timer = threading.Timer(self._stop.patience_s, self._end)
        self._timer.daemon = True
        self._timer.start()

    def cancel(self) -> None:
        """The job is on its way to another end."""
        if self._timer:
            self._timer.cancel()

    def _end(self) -> None:
        """The job has not come round to the stop: do what has to be done, and end the process."""
        try:
            self._stop.conclude()
        except Exception as error:
            _end_process(self._fail(error))
        _end_process(self._get_code(signal.Signals(self._stop.signal or signal.SIGTERM)))


def _end_process(code: int) -> None:
    """End now, without waiting for threads or for MXNet; the log is written out first."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):
            stream.flush()
    os._exit(code)


@contextmanager
def stopping_job(
    stop: Stop, get_code: Callable[[signal.Signals], int], fail: Callable[[Exception], int]
) -> Iterator[None]:
    """Let SIGTERM and SIGINT ask for ``stop`` while the block runs; nothing happens outside the main thread.

    When the block does not end in time, the process ends here, with the code that ``get_code`` gives for the signal,
    or ``fail`` for an error on the way. A block that ends in time ends with :class:`Stopped`, when there is nothing
    to keep, or as usual. Once a stop was asked for, later SIGTERMs are ignored up to the end of the process, which is
    forced if it takes too long; a second SIGINT ends it at once.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    stopper = _JobStopper(stop, get_code, fail)
    receiver = _Receiver((signal.SIGTERM, signal.SIGINT), stopper.handle, stopper.react)
    try:
        yield
    except Exception:
        stopper.cancel()
        raise
    finally:
        if stop.is_requested:
            # Python itself puts handlers back, but not this, before it ends.
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        else:
            receiver.close()


def find_children() -> list[int]:
    """Process ids of the children of this process; none where there is no /proc."""
    children = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has ended
            # pid (name) state parent ...; the name may hold anything, brackets too.
            parent = path.read_text(errors="replace").rpartition(")")[2].split()[1]
            if int(parent) == os.getpid():
                children.append(int(path.parent.name))
    return children


def _stop_script(number: int) -> None:
    children = find_children()
    if not children:
        _log.info("Stopped by SIGTERM before the script had begun")
        _end_process(0)
    _log.info("SIGTERM is passed on to the script")
    for child in children:
        with suppress(ProcessLookupError):
            os.kill(child, number)


@contextmanager
def passing_on_sigterm() -> Iterator[None]:
    """Pass SIGTERM on to the child processes while the block runs; nothing happens outside the main thread.

    How the job ends is up to them. With no child yet the process ends with 0.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    receiver = _Receiver((signal.SIGTERM,), lambda _number, _frame: None, _stop_script)
    try:
        yield
    finally:
        receiver.close()
