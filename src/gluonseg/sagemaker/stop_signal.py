"""SIGTERM, SIGINT and SIGHUP end a job: within seconds, whatever its main thread is computing.

Python runs signal handlers in the main thread, between two of its own instructions; one update of a large network
keeps that thread in MXNet for a minute. So what has to be done is done in a thread of its own, which hears of a signal
through :func:`signal.set_wakeup_fd`. No signal is blocked, so nothing is passed down to child processes. As the first
process of a container a program gets SIGTERM only if it has a handler, which it has here.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
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

    def close(self, *, owns_process: bool) -> None:
        """Put everything back as it was, or ignore the signals in a process that is about to end."""
        for number, handler in self._earlier.items():
            signal.signal(number, signal.SIG_IGN if owns_process else handler)
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
            # Not left to stopping_job: raised in its first moment, this goes past it.
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
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


def _end_process(code: int, children: Iterable[int] = ()) -> None:
    """End now, and the children too, without waiting for threads or for MXNet; the log is written out first."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):
            stream.flush()
    _send(signal.SIGTERM, children)
    os._exit(code)


def _send(number: int, processes: Iterable[int]) -> None:
    for process in processes:
        with suppress(ProcessLookupError):
            os.kill(process, number)


@contextmanager
def stopping_job(
    stop: Stop,
    get_code: Callable[[signal.Signals], int],
    fail: Callable[[Exception], int],
    *,
    owns_process: bool = False,
) -> Iterator[None]:
    """Let SIGTERM, SIGINT and SIGHUP ask for ``stop`` while the block runs; nothing happens outside the main thread.

    When the block does not end in time, the process ends here, with the code that ``get_code`` gives for the signal,
    or ``fail`` for an error on the way. A block that ends in time ends with :class:`Stopped`, when there is nothing
    to keep, or as usual; a signal in its first or last moment can raise that around the block. Once a stop was asked
    for, later SIGTERMs are ignored up to the end of the process, which is forced if it takes too long; a second SIGINT
    ends it at once. With ``owns_process`` the process ends after the block, and signals that come after it are ignored.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    stopper = _JobStopper(stop, get_code, fail)
    # Under nohup the end of the terminal is to change nothing.
    hangup = () if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else (signal.SIGHUP,)
    receiver = _Receiver((signal.SIGTERM, signal.SIGINT, *hangup), stopper.handle, stopper.react)
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
            receiver.close(owns_process=owns_process)


def find_children(process: int | None = None) -> list[int]:
    """Process ids of the children of a process, of this one by default; none where there is no /proc."""
    process = process or os.getpid()
    children = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has ended
            # pid (name) state parent ...; the name may hold anything, brackets too.
            parent = path.read_text(errors="replace").rpartition(")")[2].split()[1]
            if int(parent) == process:
                children.append(int(path.parent.name))
    return children


def _is_deaf_shell(process: int) -> bool:
    """Whether it is a shell without a trap for SIGTERM."""
    try:
        program = Path(os.readlink(f"/proc/{process}/exe")).name
        status = Path(f"/proc/{process}/status").read_text(errors="replace")
    except OSError:
        return False
    caught = re.search(r"^SigCgt:\s*([0-9a-f]+)$", status, re.MULTILINE)
    return program.endswith("sh") and caught is not None and not int(caught[1], 16) >> signal.SIGTERM - 1 & 1


def find_receivers(process: int) -> list[int]:
    """``process`` and, if it is a shell without a trap, the programs it runs: a shell does not pass signals on.

    The workers of any other program are left to it: it may need them to end well.
    """
    below = find_children(process) if _is_deaf_shell(process) else []
    return [process, *(each for child in below for each in find_receivers(child))]


class Script:
    """A user's own script, and what SIGTERM means: before it begins, while it runs, and when it has ended."""

    def __init__(self) -> None:
        self._earlier: frozenset[int] | None = None
        self._has_ended = False

    def begin(self) -> None:
        """From here on a new child process is the script; what was installed for it is."""
        self._earlier = frozenset(find_children())

    def end(self) -> None:
        """The script has ended, or will not begin; what comes of the job is settled."""
        self._has_ended = True

    def react(self, number: int) -> None:
        """Pass the signal on to the script; before it begins end the process, with 0."""
        if self._has_ended:
            return
        if self._earlier is None:
            _log.info("Stopped by SIGTERM before the script had begun")
            _end_process(0, find_children())
        receivers = self._wait_for_receivers()
        if receivers:
            _log.info("SIGTERM is passed on to the script")
            _send(number, receivers)

    def _wait_for_receivers(self) -> list[int]:
        """The script's processes: in the moment after it has begun there are none yet."""
        while not self._has_ended:
            children = set(find_children()) - (self._earlier or set())
            if children:
                return [each for child in sorted(children) for each in find_receivers(child)]
            time.sleep(0.02)
        return []


@contextmanager
def passing_on_sigterm(script: Script, *, owns_process: bool = False) -> Iterator[None]:
    """Pass SIGTERM on to the script while the block runs; nothing happens outside the main thread.

    How the job ends is up to the script. With ``owns_process`` the process ends after the block, and signals that come
    after it are ignored.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    receiver = _Receiver((signal.SIGTERM,), lambda _number, _frame: None, script.react)
    try:
        yield
    finally:
        receiver.close(owns_process=owns_process)
