"""The process that has the model: it answers the requests that the frontend gives it, a few at a time.

A picture that brings a decoder or the engine down ends this process alone; the frontend, which holds the clients'
connections, starts another.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import io
import json
import logging
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import numpy as np
from werkzeug.wrappers import Response

from gluonseg.errors import describe_failure
from gluonseg.serve.answer import ARRIVAL, configure_log
from gluonseg.serve.channel import receive_message, send_message, stored
from gluonseg.serve.settings import Settings
from gluonseg.serve.turn import Job, Turn

if TYPE_CHECKING:
    from gluonseg.serve.codec import MaskPredictor

LOGGER = logging.getLogger("gluonseg.serve")
SIGN_OF_LIFE_S = 1.0
_WARM_UP_SHAPE = (32, 32, 3)
"""What a first prediction prepares does not depend on the picture's size."""
_DIE_WITH_PARENT = 1
"""Linux' PR_SET_PDEATHSIG."""

Load = Callable[[Settings, AbstractContextManager[None]], "MaskPredictor"]
"""Loads the model; what is given besides the settings is held while the network computes."""


def load(settings: Settings, turn: AbstractContextManager[None]) -> MaskPredictor:
    """Load the model of the settings."""
    # Here and not at the top: the frontend has no use for the engines.
    from gluonseg.predict.predictor import load_predictor

    return load_predictor(
        settings.model_path, precision=settings.precision, max_network_pixels=settings.max_network_pixels, turn=turn
    )


def _release_memory() -> None:
    """Give the memory that loading has used and freed back to the system: glibc keeps it, more than all weights."""
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


class ModelLoader:
    """Loads and warms up the model in a thread, so that the process gives signs of life meanwhile.

    A model that cannot be loaded ends the process: ``stop`` is called with the exit code of the failure.
    ``announce`` is called once the model is there.
    """

    def __init__(
        self,
        load_model: Callable[[], MaskPredictor],
        stop: Callable[[int], None],
        announce: Callable[[], None],
    ) -> None:
        self._load = load_model
        self._stop = stop
        self._announce = announce
        self._predictor: MaskPredictor | None = None

    def start(self) -> None:
        """Begin; returns at once."""
        threading.Thread(target=self._run, name="model-loader", daemon=True).start()

    def get(self) -> MaskPredictor:
        """The model, which has made its first prediction; to be asked for once it was announced."""
        if self._predictor is None:
            raise RuntimeError("there is no model yet")
        return self._predictor

    def _run(self) -> None:
        start = time.monotonic()
        try:
            predictor = self._load()
            # The first prediction of a network takes longer than all others.
            predictor.predict_mask(np.zeros(_WARM_UP_SHAPE, np.uint8))
            _release_memory()
        except BaseException as error:
            text, exit_code = describe_failure(error)
            # A fault of the user needs no trace, one of the program does.
            LOGGER.error("the model cannot be served: %s", text, exc_info=None if exit_code == 2 else error)
            self._stop(exit_code)
            return
        LOGGER.info("the model is loaded and warm after %.1f s", time.monotonic() - start)
        self._predictor = predictor
        self._announce()


def _build_environ(fields: dict[str, Any], body: bytes) -> dict[str, Any]:
    """The environment of WSGI for a request; only what the application looks at comes from the client."""
    environ = {
        "REQUEST_METHOD": fields["method"],
        "SCRIPT_NAME": "",
        "PATH_INFO": unquote(fields["path"], "latin-1"),
        "QUERY_STRING": "",
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "CONTENT_LENGTH": str(len(body)),
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(body),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
        ARRIVAL: fields["arrival"],
    }
    for key, name in (("CONTENT_TYPE", "content_type"), ("HTTP_ACCEPT", "accept")):
        if fields[name] is not None:
            environ[key] = fields[name]
    return environ


class Backend:
    """Answers what comes through ``channel`` until its other end is gone."""

    def __init__(self, channel: socket.socket, settings: Settings, load_model: Load) -> None:
        self._channel = channel
        self._turn = Turn()
        self._jobs: dict[int, Job] = {}
        self._pool = ThreadPoolExecutor(settings.threads)
        loader = ModelLoader(lambda: load_model(settings, self._turn), self._stop, self._announce)
        loader.start()
        # Flask takes its time to import, and has it while the model is being loaded.
        from gluonseg.serve.app import create_app

        self._app = create_app(loader.get, settings)

    def run(self) -> None:
        """Never returns: the process ends when the frontend does."""
        self._send({"event": "alive"})
        poll = select.poll()
        poll.register(self._channel, select.POLLIN)
        while True:
            if not poll.poll(1000 * SIGN_OF_LIFE_S):
                self._send({"event": "alive"})
                continue
            message = receive_message(self._channel)
            if message is None:
                os._exit(0)
            if message.file is None:
                self._cancel(message.fields["id"])
            else:
                self._take(message.fields, message.file)

    def _send(self, fields: dict[str, Any], file: int | None = None) -> None:
        # Without a frontend there is nobody to tell; the loop notices that, too.
        with contextlib.suppress(ConnectionError):
            send_message(self._channel, fields, file)

    def _announce(self) -> None:
        self._send({"event": "ready"})

    def _stop(self, exit_code: int) -> None:
        self._send({"event": "failed", "exit_code": exit_code})
        os._exit(exit_code)

    def _cancel(self, job_id: int) -> None:
        job = self._jobs.get(job_id)
        if job:
            job.is_cancelled = True

    def _take(self, fields: dict[str, Any], file: int) -> None:
        job = self._jobs[fields["id"]] = Job(fields["id"], fields["deadline"])
        self._pool.submit(self._answer, job, fields, file)

    def _answer(self, job: Job, fields: dict[str, Any], file: int) -> None:
        try:
            head = json.loads(os.pread(file, fields["head"], 0))
            body = os.pread(file, fields["size"], fields["head"])
            os.close(file)
            with self._turn.working_on(job):
                response = Response.from_app(self._app, _build_environ(head, body))
                data = response.get_data()
            headers = [pair for pair in response.headers.items() if pair[0] != "Content-Length"]
            with stored(data) as reply:
                self._send(
                    {
                        "event": "answer",
                        "id": job.job_id,
                        "status": response.status_code,
                        "headers": headers,
                        "size": len(data),
                    },
                    reply,
                )
        except BaseException:
            LOGGER.exception("a request failed outside the application")
            self._send({"event": "lost", "id": job.job_id})
        finally:
            del self._jobs[job.job_id]


def _find_function(name: str) -> Load:
    """``module:function`` to the function; the name comes from the program that starts the server."""
    module, function = name.split(":")
    found: Load = getattr(importlib.import_module(module), function)
    return found


def _leave_signals_to_the_frontend() -> None:
    """A terminal or a service manager signals all processes, but this one has to finish what it has."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)


def main(arguments: Sequence[str]) -> None:
    """Run a backend; the arguments are those of ``gluonseg.serve.process``. Never returns."""
    descriptor, name, settings = arguments
    _leave_signals_to_the_frontend()
    configure_log()
    fields = json.loads(settings)
    fields["model_path"] = Path(fields["model_path"])
    Backend(socket.socket(fileno=int(descriptor)), Settings(**fields), _find_function(name)).run()
