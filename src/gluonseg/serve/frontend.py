"""The event loop that holds all clients: it reads requests, gives them to the dispatcher, and sends the answers.

Nothing here computes or waits for a single client, so that /ping and a refusal take milliseconds whatever the
backends and the other clients do.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from gluonseg.errors import BusyError, RequestError
from gluonseg.serve.answer import Answer, answer_error, encode_head, log_request
from gluonseg.serve.connection import CONTINUE, Connection, Crowd, DisconnectedError, State
from gluonseg.serve.dispatcher import Dispatcher, Job, close_file
from gluonseg.serve.request import Head, check_size, read_body, read_head
from gluonseg.serve.settings import MEBIBYTE, Settings

LOGGER = logging.getLogger("gluonseg.serve")
DRAIN_S = 22.0
"""SageMaker kills a container 30 seconds after SIGTERM; by 25 the server is to have ended."""
_FAREWELL_S = (0.2, 1.0)
"""At least and at most, for the last answers to go out."""
_TICK_S = 0.2
_KEEP_ALIVE_S = 75.0
"""Longer than clients and proxies keep an idle connection, so that none is closed while a request is on its way."""
_ACCEPTS = 64
_ACCEPT_AGAIN_S = 0.1
_DESCRIPTORS_BESIDES = 64
"""What is open besides the clients' connections: the listener, channels, files of bodies."""
_FEWEST_CONNECTIONS = 8
_SMALL = 64 * 1024
_STOPPING = "the server is stopping: try again elsewhere"
_CLIENT_LEFT = 499
"""In the log only, as nginx writes it."""


@dataclass
class _Exchange:
    """A request, as far as it has come."""

    head: Head
    start: float
    is_unread: bool
    """Whether the client may still be sending the body."""
    is_active: bool = False
    """Whether it was taken: it is finished then, even when the server is told to stop meanwhile."""


class Frontend:
    """Serves ``listeners`` until :meth:`drain` is called or the dispatcher gives up.

    ``cfg`` is gunicorn's configuration, ``notify`` gives it a sign of life.
    """

    def __init__(
        self, settings: Settings, load_model: str, listeners: Sequence[Any], cfg: Any, notify: Callable[[], None]
    ) -> None:
        self._settings, self._cfg, self._notify = settings, cfg, notify
        self._listeners = listeners
        self._loop = asyncio.get_running_loop()
        self._crowd = Crowd(_limit_connections(settings.max_connections), settings.max_buffer_mb * MEBIBYTE)
        self._dispatcher = Dispatcher(settings, load_model, self._stop)
        self._tasks: set[asyncio.Task[None]] = set()
        self._active = 0
        """Requests that were taken before the end began."""
        self._drain_limit: float | None = None
        self._exit_code: int | None = None

    async def run(self) -> int:
        """Serve; returns the exit code."""
        parent = os.getppid()
        self._dispatcher.start()
        self._listen()
        while self._exit_code is None:
            self._notify()
            if os.getppid() != parent:
                self.drain()
            self._crowd.check_time()
            self._dispatcher.check_time()
            if self._drain_limit and (not self._active or time.monotonic() > self._drain_limit):
                self._stop(0)
            await asyncio.sleep(_TICK_S if self._drain_limit is None else _TICK_S / 10)
        await self._say_farewell()
        return self._exit_code

    def drain(self) -> None:
        """Finish what was taken, refuse everything else, and end."""
        if self._drain_limit is None:
            LOGGER.info("stopping: %d requests are still to be answered", self._active)
            self._drain_limit = time.monotonic() + DRAIN_S

    def _stop(self, exit_code: int) -> None:
        if self._exit_code is None:
            self._exit_code = exit_code

    async def _say_farewell(self) -> None:
        """Answer what is left with 503, and give the answers time to go out."""
        self._drain_limit = self._drain_limit or time.monotonic()
        self._dispatcher.close(_STOPPING)
        for listener in self._listeners:
            while self._accept(listener):
                pass
            self._loop.remove_reader(listener)
            listener.close()
        least, most = (time.monotonic() + seconds for seconds in _FAREWELL_S)
        while time.monotonic() < (most if self._crowd.is_busy else least):
            await asyncio.sleep(_TICK_S / 20)

    def _listen(self) -> None:
        if self._exit_code is not None:  # they are closed
            return
        for listener in self._listeners:
            listener.setblocking(False)
            self._loop.add_reader(listener, self._accept, listener)

    def _accept(self, listener: Any) -> bool:
        """Take the clients that wait; whether there may be more."""
        for _ in range(_ACCEPTS):
            try:
                client, address = listener.accept()
            except BlockingIOError:
                return False
            except ConnectionError:
                continue
            except OSError:
                # No descriptor or no memory is left: not for long, when a client goes.
                self._crowd.let_one_go()
                self._loop.remove_reader(listener)
                self._loop.call_later(_ACCEPT_AGAIN_S, self._listen)
                return False
            try:
                connection = Connection(client, self._crowd, self._settings.idle_timeout_s)
            except OSError:  # it has left already
                client.close()
                continue
            task = self._loop.create_task(self._serve(connection, address))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return True

    async def _serve(self, connection: Connection, address: Any) -> None:
        """Serve one client until one of the two has enough."""
        try:
            while await self._serve_request(connection, address):
                connection.enter(State.IDLE, _KEEP_ALIVE_S)
            await connection.leave()
        except DisconnectedError:
            pass
        except Exception:
            LOGGER.exception("a connection failed through a fault of the server")
        finally:
            connection.close()

    async def _serve_request(self, connection: Connection, address: Any) -> bool:
        """Read and answer one request; whether another may follow on the same connection."""
        while not connection.buffer:
            await connection.read()
        start = time.monotonic()
        connection.enter(State.READING, limit=start + self._settings.idle_timeout_s)
        try:
            head = await read_head(connection, self._cfg, address)
        except RequestError as error:
            await self._send(connection, None, answer_error(error), start)
            return False
        exchange = _Exchange(head, start, is_unread=head.has_body)
        try:
            answer = await self._answer(connection, exchange)
            try:
                return await self._send(connection, exchange, answer, start)
            finally:
                close_file(answer)
        finally:
            self._active -= exchange.is_active

    async def _answer(self, connection: Connection, exchange: _Exchange) -> Answer:
        head = exchange.head
        try:
            if self._drain_limit is not None:
                raise BusyError(_STOPPING)
            self._dispatcher.check_ready()
            if head.path == "/ping" and head.method in ("GET", "HEAD"):
                return Answer(200)
            self._dispatcher.check_room()
            check_size(head.size, self._settings.max_payload_mb)
            if not self._crowd.has_room(head.size or 0):
                raise BusyError("the server holds too many pictures and answers already: try again in a second")
            self._active += 1
            exchange.is_active = True
            return await self._predict(connection, exchange)
        except RequestError as error:
            return answer_error(error)

    async def _predict(self, connection: Connection, exchange: _Exchange) -> Answer:
        head, deadline = exchange.head, exchange.start + self._settings.deadline_s
        if head.expects_continue and head.has_body and not head.is_http_1_0:
            await connection.send(CONTINUE)
        connection.enter(State.READING, self._settings.idle_timeout_s, deadline, BusyError)
        body = await read_body(connection, head, self._settings.max_payload_mb)
        exchange.is_unread = False
        connection.enter(State.WAITING)
        connection.hold(len(body))
        job = Job(
            {
                "method": head.method,
                "path": head.path,
                "content_type": head.content_type,
                "accept": head.accept,
                "arrival": exchange.start,
            },
            body,
            deadline,
            connection.is_gone,
        )
        self._dispatcher.submit(job)
        connection.watch(lambda: self._dispatcher.cancel(job), not head.is_http_1_0)
        try:
            return await job.reply
        except asyncio.CancelledError:
            log_request(head.method, head.path, _CLIENT_LEFT, len(body), 0, exchange.start, "the client has left")
            raise DisconnectedError from None
        finally:
            connection.unwatch()

    async def _send(self, connection: Connection, exchange: _Exchange | None, answer: Answer, start: float) -> bool:
        """Send an answer; whether another request may follow."""
        is_last = exchange is None or exchange.head.is_last or exchange.is_unread or self._drain_limit is not None
        method, path = (exchange.head.method, exchange.head.path) if exchange else ("-", "-")
        if answer.file is None:  # else the application has logged it
            log_request(method, path, answer.status, 0, len(answer.body), start, answer.note)
        connection.enter(State.SENDING, self._settings.idle_timeout_s)
        connection.hold(0)
        data = encode_head(answer, is_last)
        is_small = answer.size <= _SMALL
        if method != "HEAD":
            data += os.pread(answer.file, answer.size, 0) if answer.file is not None and is_small else answer.body
        await connection.send(data)
        if answer.file is not None and not is_small and method != "HEAD":
            await connection.send_file(answer.file, answer.size)
        return not is_last


def _limit_connections(wanted: int) -> int:
    """Allow this process as many open files as that takes; returns how many connections it can have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # A connection has a socket and, while its answer is sent, a file.
    needed = 2 * wanted + _DESCRIPTORS_BESIDES
    limit = max(soft, needed if hard == resource.RLIM_INFINITY else min(hard, needed))
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    return max(_FEWEST_CONNECTIONS, min(wanted, (limit - _DESCRIPTORS_BESIDES) // 2))
