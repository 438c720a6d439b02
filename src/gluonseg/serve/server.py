"""The server as it is shipped: waitress with our limits, and an orderly end.

Waitress reads whole requests and sends answers in one loop, beside its threads: a slow client holds a connection and
no thread. Added here: errors as JSON, and the end after SIGTERM.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol

import waitress
from flask import Flask
from waitress import wasyncore
from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser
from waitress.task import ErrorTask, WSGITask

from gluonseg.errors import UserError, describe_failure
from gluonseg.machine.limits import count_usable_cores, set_thread_count
from gluonseg.sagemaker.contract import check_temporary_folder
from gluonseg.serve.answer import LOGGER, configure_log, log_request
from gluonseg.serve.app import create_app, describe_http_error
from gluonseg.serve.model import Load, Model, load_model
from gluonseg.serve.settings import MAX_CONNECTIONS, Settings, read_settings

DRAIN_S = 22.0
"""Time to answer what was begun: SageMaker kills a container 30 seconds after SIGTERM."""
_REFUSAL_S = 1.0
"""Time to refuse what could not be answered in DRAIN_S."""
_TICK_S = 0.1
_KEEP_ALIVE_S = 75
"""Longer than clients and proxies keep an idle connection, so that none is closed while a request is on its way."""
_HEAD_LIMIT = 64 * 1024
_IN_MEMORY = 256 * 1024
"""Bytes; a longer body or answer is kept in a temporary file."""
_SPARE_THREADS = 8
"""For /ping and refusals, while the thread of each place waits for the model."""


class Served(Protocol):
    """What the application answers with: a model, or several."""

    is_stopping: bool

    @property
    def exit_code(self) -> int | None:
        """Not None once the server is to end."""

    def close(self) -> None:
        """Refuse requests, and end the processes."""


Build = Callable[[list[int]], tuple[Served, Flask]]


class _Parser(HTTPRequestParser):  # type: ignore[misc]  # waitress has no types
    """A request, as far as it has come."""

    def received(self, data: bytes) -> int:
        """Called by waitress with what has come; returns how much of it belongs to this request."""
        size = int(super().received(data))
        if self.error:  # waitress would ask the client for a body that is refused
            self.expect_continue = False
        return size


class _Task(WSGITask):  # type: ignore[misc]
    """A request for the application."""

    def build_response_header(self) -> bytes:
        """Called by waitress once there is an answer."""
        # The file of a large answer is removed only when its connection is closed.
        if self.channel.server.is_stopping or (self.content_length or 0) > _IN_MEMORY:
            self.set_close_on_finish()
        return bytes(super().build_response_header())


class _ErrorTask(ErrorTask):  # type: ignore[misc]
    """A request that waitress refuses before the application sees it."""

    def execute(self) -> None:
        """Called by waitress to write the answer."""
        error, request = self.request.error, self.request
        max_mb = self.channel.adj.max_request_body_size >> 20
        text = describe_http_error(error.code, "this is not a valid HTTP/1.1 request", max_mb)
        path = getattr(request, "path", "-")  # missing when the head could not be parsed
        body, headers = self.channel.server.encode_error(error.code, text, path)
        self.status, self.content_length = f"{error.code} {error.reason}", len(body)
        self.response_headers.extend(headers)
        self.set_close_on_finish()
        self.channel.is_refused = True
        log_request(getattr(request, "command", "-"), path, error.code, 0, len(body), time.monotonic(), text)
        self.write(body)


class _Channel(HTTPChannel):  # type: ignore[misc]
    """A connection. After a refusal it stays open, and what comes is thrown away, until the client closes it.

    Closed with unread bytes the connection would be reset, and the client would not see the answer.
    """

    parser_class, task_class, error_task_class = _Parser, _Task, _ErrorTask
    is_refused = is_leaving = False

    def received(self, data: bytes) -> bool:
        """Called by waitress with what has come."""
        return not self.is_leaving and bool(super().received(data))

    def write_soon(self, data: Any) -> int:
        """Called by waitress with a part of an answer."""
        try:
            return int(super().write_soon(data))
        except OSError:  # no room for the file of a large answer; waitress would keep the connection for ever
            self.will_close = True
            raise

    def is_busy(self) -> bool:
        """Whether a request comes in or is computed, or an answer goes out."""
        return not self.is_leaving and bool(self.request or self.requests or self.total_outbufs_len)

    def handle_close(self) -> None:
        """Called by waitress when everything is sent, the client has left, or it was silent for too long."""
        if self.is_refused and not self.is_leaving:
            self.is_leaving, self.will_close = True, False
            with contextlib.suppress(OSError):  # the client has left
                self.socket.shutdown(socket.SHUT_WR)
                return
        super().handle_close()


class _Server:
    """The listening socket and all connections."""

    def __init__(self, app: Flask, settings: Settings, listening: socket.socket, threads: int) -> None:
        self._sockets: dict[int, Any] = {}
        self._listener = waitress.create_server(
            app,
            map=self._sockets,
            sockets=[listening],
            threads=threads + _SPARE_THREADS,
            connection_limit=MAX_CONNECTIONS,
            backlog=MAX_CONNECTIONS,
            channel_timeout=_KEEP_ALIVE_S,
            cleanup_interval=5,
            max_request_header_size=_HEAD_LIMIT,
            max_request_body_size=(settings.max_payload_mb << 20) + 1,
            inbuf_overflow=_IN_MEMORY,
            outbuf_overflow=_IN_MEMORY,
            outbuf_high_watermark=1 << 40,  # no thread ever waits for a client that reads slowly
            asyncore_use_poll=True,
            ident=None,  # answers do not tell what the server is made of
        )
        self._listener.channel_class, self._listener.is_stopping = _Channel, False
        self._listener.encode_error = app.config["ENCODE_ERROR"]

    def run(self, model: Served, signals: list[int]) -> int:
        """Serve until ``signals`` has a signal or the model is not served any more; returns the exit code."""
        while model.exit_code is None and not signals:
            self._run_once()
        model.is_stopping = True
        self._close_listener()
        LOGGER.info("stopping: %d clients are still to be answered", self._count_busy())
        limit = time.monotonic() + DRAIN_S
        while model.exit_code is None and self._count_busy() and time.monotonic() < limit:
            self._run_once()
        model.close()
        limit = time.monotonic() + _REFUSAL_S
        while self._count_busy() and time.monotonic() < limit:
            self._run_once()
        return model.exit_code or 0

    def _run_once(self) -> None:
        """Wait a moment for what comes next, and handle it."""
        wasyncore.loop(_TICK_S, use_poll=True, map=self._sockets, count=1)

    def _close_listener(self) -> None:
        """Accept the clients that have connected already, and no more; each connection ends with its next answer."""
        wasyncore.loop(0, use_poll=True, map=self._sockets, count=100)
        self._listener.is_stopping = True
        wasyncore.dispatcher.close(self._listener)

    def _count_busy(self) -> int:
        return sum(isinstance(one, _Channel) and one.is_busy() for one in list(self._sockets.values()))


def run_server(settings: Settings, load: Load = load_model) -> int:
    """Serve until SIGTERM or SIGINT; return the exit code of the process.

    ``load``, a function of a module, loads the model in its process. 0 after a stop, 2 when the model cannot be used, 1
    when the port is taken or something else failed. Raises UserError without a folder for temporary files.
    """

    def build(_signals: list[int]) -> tuple[Model, Flask]:
        model = Model(absolute, load)
        return model, create_app(absolute, model)

    absolute = replace(settings, model_path=settings.model_path.resolve())
    return run_application(absolute, build, settings.max_places)


def run_application(settings: Settings, build: Build, threads: int) -> int:
    """Listen, ``build`` the application, and serve it with ``threads`` until SIGTERM or SIGINT; see run_server.

    ``build`` takes the list that a signal is put into. The working folder is then ``/``.
    """
    configure_log()
    check_temporary_folder()
    signals: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _frame: signals.append(number))
    # The processes with the model inherit this number.
    set_thread_count(max(1, count_usable_cores() // settings.workers))
    with contextlib.suppress(ValueError, OSError):
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    os.chdir("/")  # the processes with the model look for Python's own modules in this folder first
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        listening = socket.create_server((settings.host, settings.port), family=family)
    except OSError as error:
        LOGGER.error("the server cannot listen on %s:%d: %s", settings.host, settings.port, error.strerror)
        return 1
    LOGGER.info("listening on %s:%d", settings.host, settings.port)
    served, app = build(signals)
    return _Server(app, settings, listening, threads).run(served, signals)


def main() -> int:
    """Serve the model under /opt/ml as SageMaker's environment says; return the exit code."""
    configure_log()
    try:
        return run_server(read_settings(os.environ))
    except UserError as error:
        LOGGER.error("%s", describe_failure(error)[0])
        return error.exit_code
