"""The model, in processes of its own: a picture that ends such a process closes no connection.

A thread starts each process, and another one when it has ended. A request takes a free process and talks to it through
a pipe. (A pool of ``concurrent.futures`` would need /dev/shm, which not every container has.)
"""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import queue
import signal
import threading
import time
from collections import deque
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

from gluonseg.errors import BusyError, FatalPictureError, UserError, describe_failure
from gluonseg.serve.answer import LOGGER, NOT_READY, STOPPING, configure_log
from gluonseg.serve.settings import Settings

if TYPE_CHECKING:
    from gluonseg.models.folder.card import ModelCard
    from gluonseg.serve.codec import MaskPredictor

MAX_DEATHS, DEATH_WINDOW_S = 3, 60.0
"""After so many deaths of the process within this time the server ends, and the platform replaces it."""
_ATTEMPTS = 2
"""A request whose process ends is tried once more; when that process ends too, the picture is at fault."""
_WARM_UP_SHAPE = (32, 32, 3)
"""(height, width, channels) of the first picture; what its prediction prepares serves pictures of any size."""

Load = Callable[[Settings], "MaskPredictor"]


class _EndedError(Exception):
    """The process has ended."""


def load_model(settings: Settings) -> MaskPredictor:
    """Load the model of the settings."""
    # Imported here: the process that has the connections does without the engines.
    from gluonseg.predict.predictor import load_predictor

    return load_predictor(
        settings.model_path, precision=settings.precision, max_network_pixels=settings.max_network_pixels
    )


def _run_process(pipe: Connection, load: Load, settings: Settings) -> None:
    """Load the model, send its card, or an exit code when it cannot be served, and answer requests."""
    configure_log()
    # Ctrl-C in a terminal reaches this process too; the server ends it once everything is answered.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    import numpy as np

    from gluonseg.serve.codec import compute_answer, decode_request

    start = time.monotonic()
    try:
        predictor = load(settings)
        predictor.predict_mask(np.zeros(_WARM_UP_SHAPE, np.uint8))  # the first one takes longest
    except Exception as error:
        text, exit_code = describe_failure(error)
        LOGGER.error("the model cannot be served: %s", text, exc_info=None if exit_code == 2 else error)
        pipe.send(exit_code)
        return
    # glibc keeps the memory that loading has freed, which is more than all weights.
    with contextlib.suppress(OSError, AttributeError):  # the C library is another one
        ctypes.CDLL(None).malloc_trim(0)
    LOGGER.info("the model is loaded and warm after %.1f s", time.monotonic() - start)
    with contextlib.suppress(EOFError, ConnectionError):  # the server is gone
        pipe.send(predictor.card)
        while True:
            body, media_type = pipe.recv()
            answer: bytes | Exception
            try:
                image_hwc = decode_request(body, settings.max_pixels, predictor.card.photo_range)
                answer = compute_answer(media_type, predictor, image_hwc, settings.max_response_mb)
            except UserError as error:
                answer = error
            except Exception:
                LOGGER.exception("a prediction failed through a fault of the program")
                answer = RuntimeError("a prediction failed")
            pipe.send(answer)


class _ModelProcess:
    """A process that has the model, or is loading it."""

    def __init__(self, load: Load, settings: Settings) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self.process = context.Process(target=_run_process, args=(theirs, load, settings), daemon=True)
        self.process.start()
        theirs.close()

    def wait_for_model(self) -> ModelCard | int | None:
        """Return the card once the model is ready, or an exit code; None when the process has ended before."""
        with contextlib.suppress(EOFError, OSError):
            answer: ModelCard | int = self._pipe.recv()
            return answer
        return None

    def compute(self, body: bytes, media_type: str, limit: float) -> bytes:
        """Answer a request.

        Raises:
            _EndedError: the process has ended, or was ended because there was no answer by ``limit`` (monotonic).
            UserError: see :mod:`gluonseg.serve.codec`.
        """
        with contextlib.suppress(EOFError, OSError):
            self._pipe.send((body, media_type))
            if self._pipe.poll(max(0.0, limit - time.monotonic())):
                answer = self._pipe.recv()
                if isinstance(answer, Exception):
                    raise answer
                return bytes(answer)
            LOGGER.error("the model's process (pid %d) is busy with one request for too long", self.process.pid)
            self.process.kill()
        raise _EndedError


class Model:
    """Answers requests with ``settings.workers`` processes. ``load``, a function of a module, loads the model in each.

    Once ``exit_code`` is not None the model is not served any more; the log says why.
    """

    def __init__(self, settings: Settings, load: Load = load_model) -> None:
        self.exit_code: int | None = None
        self.card: ModelCard | None = None
        """None until the model has been loaded for the first time."""
        self.is_stopping = False
        """/ping then says 503; requests on open connections are still answered."""
        self._settings, self._load = settings, load
        self._places = threading.Semaphore(settings.max_places)
        self._processes: set[_ModelProcess] = set()
        self._ready: set[_ModelProcess] = set()
        self._free: queue.Queue[_ModelProcess | None] = queue.Queue()
        """Processes with nothing to do, some of which may have ended; None tells a request that the model is closed."""
        self._deaths: deque[float] = deque(maxlen=MAX_DEATHS)
        for _ in range(settings.workers):
            threading.Thread(target=self._keep_running, daemon=True).start()

    def check_ready(self) -> None:
        """Raise BusyError while no process has its model."""
        if not self._ready:
            raise BusyError(NOT_READY if self.exit_code is None else STOPPING)

    def predict(self, read_body: Callable[[], bytes], media_type: str) -> bytes:
        """Return the answer to a request as ``media_type``; its body is read when its turn has come.

        Raises:
            BusyError: there are too many requests, or this one was not begun within the deadline, or took too long.
            FatalPictureError: the picture has ended two processes.
            UserError: see :mod:`gluonseg.serve.codec`.
        """
        deadline = time.monotonic() + self._settings.deadline_s
        if not self._places.acquire(blocking=False):
            raise BusyError(f"the server has {self._settings.max_places} requests already: try again in a second")
        try:
            for _ in range(_ATTEMPTS):
                process = self._wait_for_process(deadline)
                try:
                    return process.compute(read_body(), media_type, deadline + self._settings.timeout_s)
                except _EndedError:
                    self._ready.discard(process)
                finally:
                    self._free.put(process)
        finally:
            self._places.release()
        raise FatalPictureError("this picture has ended the process that computes it, twice: send another one")

    def close(self, exit_code: int = 0) -> None:
        """Refuse all requests, also those that wait, and end the processes."""
        self.exit_code = exit_code if self.exit_code is None else self.exit_code
        for _ in range(self._settings.max_places):
            self._free.put(None)
        for process in list(self._processes):
            process.process.kill()

    def _wait_for_process(self, deadline: float) -> _ModelProcess:
        while (seconds := deadline - time.monotonic()) > 0:
            with contextlib.suppress(queue.Empty):
                process = self._free.get(timeout=seconds)
                if process is None:
                    raise BusyError(STOPPING)
                if process in self._ready:
                    return process
        raise BusyError(f"no answer in {self._settings.deadline_s} s: try again, or send a smaller picture")

    def _keep_running(self) -> None:
        """Start a process, and another one when it has ended."""
        while self.exit_code is None:
            process = _ModelProcess(self._load, self._settings)
            self._processes.add(process)
            found = process.wait_for_model()
            if isinstance(found, int):
                self.close(found)
            elif found:
                self.card = found
                self._ready.add(process)
                self._free.put(process)
            process.process.join()
            self._ready.discard(process)
            self._processes.discard(process)
            if self.exit_code is None:  # else close() has ended it
                self._count_death()

    def _count_death(self) -> None:
        LOGGER.error("the model's process has ended; a request that it had is tried once more")
        self._deaths.append(time.monotonic())
        if len(self._deaths) == MAX_DEATHS and self._deaths[-1] - self._deaths[0] < DEATH_WINDOW_S:
            LOGGER.error("it has ended %d times within %.0f s: the server ends, too", MAX_DEATHS, DEATH_WINDOW_S)
            self.close(1)
