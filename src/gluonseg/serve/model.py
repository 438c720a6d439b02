"""The model, in a process of its own: a picture that ends that process ends no connection.

Requests wait in one queue, first come, first served. Each process has a thread here, which gives it one at a time.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import multiprocessing
import os
import queue
import signal
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError  # the built-in one from Python 3.11 on
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from typing import TYPE_CHECKING

from gluonseg.errors import BusyError, describe_failure
from gluonseg.serve.answer import LOGGER, NOT_READY, STOPPING, configure_log
from gluonseg.serve.settings import Settings

if TYPE_CHECKING:
    from gluonseg.serve.codec import MaskPredictor

MAX_DEATHS, DEATH_WINDOW_S = 3, 60.0
"""So many ends of the process within this time end the server: the platform is to replace it."""
_ATTEMPTS = 2
"""A prediction can be made twice; but a picture that has ended two processes is to blame for it."""
_WARM_UP_SHAPE = (32, 32, 3)
"""What a first prediction prepares does not depend on the picture's size."""

Load = Callable[[Settings], "MaskPredictor"]


def load_model(settings: Settings) -> MaskPredictor:
    """Load the model of the settings."""
    # Here and not at the top: the process that has the connections has no use for the engines.
    from gluonseg.predict.predictor import load_predictor

    return load_predictor(
        settings.model_path, precision=settings.precision, max_network_pixels=settings.max_network_pixels
    )


# What the process with the model runs.


def _set_up() -> None:
    """End with the server, but not by a signal that a terminal sends to both: the server finishes what it has."""
    configure_log()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def end_with_parent() -> None:
        wait([parent.sentinel] if parent else [])
        os._exit(0)

    threading.Thread(target=end_with_parent, daemon=True).start()


@functools.cache
def _get_predictor(load: Load, settings: Settings) -> MaskPredictor:
    """The model, which is loaded by the first call."""
    return load(settings)


def _warm_up(load: Load, settings: Settings) -> int:
    """Load the model and make the first prediction, which takes longest of all; returns the number of the process."""
    import numpy as np

    _get_predictor(load, settings).predict_mask(np.zeros(_WARM_UP_SHAPE, np.uint8))
    # glibc keeps the memory that loading has used and freed, which is more than all weights.
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)
    return os.getpid()


def _answer(load: Load, settings: Settings, body: bytes, media_type: str) -> bytes:
    """Turn the body of a request into that of its answer."""
    from gluonseg.serve.codec import decode_request, encode_answer

    image_hwc = decode_request(body, settings.max_pixels)
    return encode_answer(media_type, _get_predictor(load, settings), image_hwc, settings.max_response_mb)


# What the process with the connections runs.


class _ModelProcess:
    """A process that has the model, loaded and warm. Starting it raises what loading raises."""

    def __init__(self, load: Load, settings: Settings) -> None:
        self._load, self._settings = load, settings
        self._pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), _set_up)
        pid = self._pool.submit(_warm_up, load, settings).result()
        self._process = next(child for child in multiprocessing.active_children() if child.pid == pid)

    def compute(self, body: bytes, media_type: str, limit: float) -> bytes:
        """Answer a request, at the latest at ``limit`` (monotonic).

        Raises:
            BrokenProcessPool: the process has ended, or was ended because the request takes too long.
            Exception: whatever the model raises.
        """
        answer = self._pool.submit(_answer, self._load, self._settings, body, media_type)
        try:
            return answer.result(max(0.0, limit - time.monotonic()))
        except FutureTimeoutError:
            LOGGER.error("the model's process (pid %d) is busy with one request for too long", self._process.pid)
            self._process.kill()
            raise BrokenProcessPool from None

    def wait_for_end(self) -> None:
        wait([self._process.sentinel])


class Model:
    """Answers requests with ``settings.workers`` processes. ``load``, a function of a module, loads the model in each.

    ``exit_code`` says, once it is not None, that the model is not served any more; the log has the reason.
    """

    def __init__(self, settings: Settings, load: Load = load_model) -> None:
        self.exit_code: int | None = None
        self.is_stopping = False
        """For /ping; what comes on connections that are open is answered."""
        self._settings, self._load = settings, load
        self._max_requests = settings.max_requests * settings.workers
        self._places = threading.Semaphore(self._max_requests)
        self._ready: set[_ModelProcess] = set()
        self._free: queue.Queue[_ModelProcess | None] = queue.Queue()
        """Of those that are ready; who waits longest gets the next. None: there are no more."""
        self._deaths: deque[float] = deque(maxlen=MAX_DEATHS)
        for _ in range(settings.workers):
            threading.Thread(target=self._keep_running, daemon=True).start()

    def check_ready(self) -> None:
        """Raise BusyError while no process has its model."""
        if not self._ready:
            raise BusyError(NOT_READY)

    def predict(self, body: bytes, media_type: str) -> bytes:
        """Return the answer to a request as ``media_type``.

        Raises:
            BusyError: there are too many requests, or this one was not begun within the deadline.
            UserError: see :mod:`gluonseg.serve.codec`.
        """
        deadline = time.monotonic() + self._settings.deadline_s
        if not self._places.acquire(blocking=False):
            raise BusyError(f"the server has {self._max_requests} requests already: try again in a second")
        try:
            for _ in range(_ATTEMPTS):
                process, has_ended = self._wait_for_process(deadline), False
                try:
                    return process.compute(body, media_type, deadline + self._settings.timeout_s)
                except BrokenProcessPool:
                    has_ended = True
                finally:
                    if not has_ended:
                        self._free.put(process)
        finally:
            self._places.release()
        raise RuntimeError("a picture has ended the model's process twice")

    def close(self, exit_code: int = 0) -> None:
        """Refuse all requests, those too that wait, and end the processes."""
        self.exit_code = exit_code if self.exit_code is None else self.exit_code
        for _ in range(self._max_requests):
            self._free.put(None)
        for child in multiprocessing.active_children():
            child.kill()

    def _wait_for_process(self, deadline: float) -> _ModelProcess:
        with contextlib.suppress(queue.Empty):
            process = self._free.get(timeout=max(0.0, deadline - time.monotonic()))
            if process is None:
                raise BusyError(STOPPING)
            return process
        raise BusyError(f"there was no answer within {self._settings.deadline_s} s: try again")

    def _keep_running(self) -> None:
        """Start a process, and another one when it has ended."""
        while self.exit_code is None:
            start = time.monotonic()
            try:
                process = _ModelProcess(self._load, self._settings)
            except BrokenProcessPool:
                self._count_death()
            except BaseException as error:
                text, exit_code = describe_failure(error)
                # A fault of the user needs no trace, one of the program does.
                LOGGER.error("the model cannot be served: %s", text, exc_info=None if exit_code == 2 else error)
                self.close(exit_code)
            else:
                LOGGER.info("the model is loaded and warm after %.1f s", time.monotonic() - start)
                self._ready.add(process)
                self._free.put(process)
                process.wait_for_end()
                self._ready.discard(process)
                self._count_death()

    def _count_death(self) -> None:
        if self.exit_code is not None:  # it was ended on purpose
            return
        LOGGER.error("the model's process has ended; requests that it had are tried once more")
        self._deaths.append(time.monotonic())
        if len(self._deaths) == MAX_DEATHS and self._deaths[-1] - self._deaths[0] < DEATH_WINDOW_S:
            LOGGER.error("it has ended %d times within %.0f s: the server ends, too", MAX_DEATHS, DEATH_WINDOW_S)
            self.close(1)
