"""The process around the application: gunicorn, started from here, and the model loaded in each worker.

There is neither a gunicorn.conf.py nor a wsgi.py: the settings come from SageMaker's environment variables,
not from gunicorn's own files, and ``gluonseg serve`` runs the same server where no container/ folder exists.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import logging
import os
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter
from gunicorn.http.errors import ParseException
from gunicorn.workers.gthread import ThreadWorker

from gluonseg.cores import count_usable_cores, set_thread_count
from gluonseg.errors import UserError, describe_failure
from gluonseg.printable import LineFormatter
from gluonseg.sagemaker.contract import find_temporary_folder
from gluonseg.serve.settings import Settings, read_settings

if TYPE_CHECKING:
    from flask import Flask

    from gluonseg.serve.codec import MaskPredictor

LOGGER = logging.getLogger("gluonseg.serve")
_GRACE_S = 25
"""SageMaker kills a container 30 seconds after SIGTERM."""
_WARM_UP_SHAPE = (32, 32, 3)
"""What a first prediction prepares does not depend on the picture's size."""

# A worker that ends with one of gunicorn's two codes stops the master, too, instead of being started again.
_STOP_CODES = {2: Arbiter.APP_LOAD_ERROR, 1: Arbiter.WORKER_BOOT_ERROR}


def _release_memory() -> None:
    """Give the memory that loading has used and freed back to the system: glibc keeps it, more than all weights."""
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


class ModelLoader:
    """Loads and warms up the model in a thread, so that /ping answers (503) meanwhile.

    A model that cannot be loaded ends the process: ``stop`` is called with the exit code of the failure.
    """

    def __init__(self, load: Callable[[], MaskPredictor], stop: Callable[[int], None]) -> None:
        self._load = load
        self._stop = stop
        self._predictor: MaskPredictor | None = None

    def start(self) -> None:
        """Begin; returns at once."""
        threading.Thread(target=self._run, name="model-loader", daemon=True).start()

    def find(self) -> MaskPredictor | None:
        """Return the model once it has made its first prediction."""
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


def _encode_raw_error(status: int, reason: str, text: str) -> bytes:
    body = json.dumps({"error": text}).encode() + b"\n"
    head = (
        f"HTTP/1.1 {status} {reason}\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


class Worker(ThreadWorker):  # type: ignore[misc]  # gunicorn has no types
    """gunicorn's threaded worker, with a limit on idle clients, and JSON for what is not even HTTP."""

    def handle(self, conn: Any) -> Any:
        """Serve one request of a connection."""
        limit = struct.pack("ll", self.app.settings.idle_timeout_s, 0)
        # Kernel options, because gunicorn itself sets and clears the socket's time limit several times a request.
        conn.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
        conn.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
        return super().handle(conn)

    def handle_error(self, _request: Any, client: socket.socket, _address: Any, error: Exception) -> None:
        """Answer a request that gunicorn could not read; its own answer is a page of HTML."""
        if isinstance(error, ParseException):
            LOGGER.info("- - 400 %s", type(error).__name__)
            answer = _encode_raw_error(400, "Bad Request", "this is not a valid HTTP/1.1 request")
        else:
            LOGGER.error("a request failed outside the application", exc_info=error)
            answer = _encode_raw_error(500, "Internal Server Error", "internal error")
        with contextlib.suppress(OSError):
            client.sendall(answer)


def _find_writable_folder() -> str:
    """Return a folder for the workers' heartbeat files, in memory if possible (a slow disk would stall them)."""
    shared_memory = "/dev/shm"
    return shared_memory if os.access(shared_memory, os.W_OK | os.X_OK) else find_temporary_folder()


def _load_predictor(settings: Settings) -> MaskPredictor:
    # Here and not at the top: engines start threads, which a fork would lose.
    from gluonseg.predict.predictor import load_predictor

    return load_predictor(
        settings.model_path, precision=settings.precision, max_network_pixels=settings.max_network_pixels
    )


class Server(BaseApplication):  # type: ignore[misc]  # gunicorn has no types
    """gunicorn with our settings; ``load`` runs in each worker, after the fork, and so does ``load_model``."""

    def __init__(self, settings: Settings, load_model: Callable[[Settings], MaskPredictor] = _load_predictor) -> None:
        self.settings = settings
        self._load_model = load_model
        super().__init__()

    def load_config(self) -> None:
        """Called by gunicorn: fill in its configuration."""
        settings = self.settings
        values = {
            "bind": f"{settings.host}:{settings.port}",
            "workers": settings.workers,
            "worker_class": Worker,
            "threads": settings.threads,
            "timeout": settings.timeout_s,
            "graceful_timeout": _GRACE_S,
            "worker_tmp_dir": _find_writable_folder(),
            # It would be created in the home folder, which may be read-only, and nobody needs it.
            "control_socket_disable": True,
        }
        for name, value in values.items():
            if name in self.cfg.settings:  # gunicorn before 25 has no control socket
                self.cfg.set(name, value)

    def load(self) -> Flask:
        """Called by gunicorn in a new worker: begin to load the model and return the application."""
        loader = ModelLoader(
            lambda: self._load_model(self.settings), lambda exit_code: os._exit(_STOP_CODES[exit_code])
        )
        loader.start()
        # Here and not at the top: Flask takes its time to import, and has it while the model is being loaded.
        from gluonseg.serve.app import create_app

        return create_app(loader.find, self.settings)


def _configure_log() -> None:
    """Our lines go to stderr, as gunicorn's do; a program that has set up its log already keeps it."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LineFormatter("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.INFO)


def run_server(settings: Settings, load_model: Callable[[Settings], MaskPredictor] = _load_predictor) -> int:
    """Serve until SIGTERM or SIGINT; return the exit code of the process.

    0 after a stop, 2 when the model cannot be used, 1 when the port is taken or something else failed.
    Must run before MXNet is imported, and in the main thread. UserError is raised when there is no folder for
    temporary files.
    """
    _configure_log()
    set_thread_count(max(1, count_usable_cores() // settings.workers))
    # The model's libraries need it in any case, and gunicorn turns an error in its configuration into one of its own.
    find_temporary_folder()
    try:
        Server(settings, load_model).run()
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
        return {Arbiter.APP_LOAD_ERROR: 2, 0: 0}.get(code, 1)
    return 0


def main() -> int:
    """Serve the model under /opt/ml as SageMaker's environment says; return the exit code."""
    _configure_log()
    try:
        return run_server(read_settings(os.environ))
    except UserError as error:
        LOGGER.error("%s", describe_failure(error)[0])
        return error.exit_code
