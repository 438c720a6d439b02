"""A client's connection: reading and writing that make nobody else wait, and how long the client has been silent."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import socket
import time
from collections.abc import Callable
from enum import Enum, auto

from gluonseg.errors import BadRequestError, BusyError, RequestError

BLOCK = 64 * 1024
_FILE_BLOCK = 4 * 1024 * 1024
_DISCARD_BYTES = 256 * 1024 * 1024
_DISCARD_S, _DISCARD_IDLE_S = 10.0, 2.0
_LOOK_AGAIN_S = 0.05
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_WHOLE = "send the whole head and body, and the right Content-Length"
_CUT = f"the request ended early: {_WHOLE}"
_TCP_CLOSE = 7
"""The state of a connection that the client has reset, in Linux' TCP_INFO."""


class DisconnectedError(Exception):
    """The client has left, or was silent for so long that it was let go."""


class State(Enum):
    """What a connection is about. The server ends it, if it must, in any state but WAITING."""

    NEW = auto()
    """Nothing has come yet, but something is on its way: nobody connects for nothing."""
    IDLE = auto()
    """Between two requests."""
    READING = auto()
    WAITING = auto()
    """For the prediction."""
    SENDING = auto()
    LEAVING = auto()
    """Everything is sent; what the client still sends is thrown away."""


class Crowd:
    """All connections, with a limit on their number and on the bytes that are held for them.

    What goes beyond a limit costs the client that has been silent for longest its connection: one that sends a
    byte a second does not take the place of one that sends a photo.
    """

    def __init__(self, max_connections: int, max_bytes: int) -> None:
        self._max_connections, self._max_bytes = max_connections, max_bytes
        self._connections: set[Connection] = set()
        self._bytes = 0

    @property
    def is_busy(self) -> bool:
        """Whether a request is being waited for or read, or an answer sent."""
        return any(one.state not in (State.IDLE, State.LEAVING) for one in self._connections)

    def add(self, connection: Connection) -> None:
        """Take a new connection."""
        if len(self._connections) >= self._max_connections:
            self.let_one_go()
        self._connections.add(connection)

    def remove(self, connection: Connection) -> None:
        """Forget a connection, which holds nothing any more."""
        self.hold(connection, 0)
        self._connections.discard(connection)

    def hold(self, connection: Connection, size: int) -> None:
        """Note that ``size`` bytes are held for a connection now."""
        is_more = size > connection.held
        self._bytes += size - connection.held
        connection.held = size
        while is_more and self._bytes > self._max_bytes and self._let_holder_go(but=connection):
            pass

    def has_room(self, size: int) -> bool:
        """Whether ``size`` bytes can be held beside those that no connection can be ended for."""
        return size + sum(one.held for one in self._connections if one.state is State.WAITING) <= self._max_bytes

    def let_one_go(self) -> None:
        """End the connection that has been silent for longest, if there is one that can be ended.

        One that is told why lingers for that, and has its descriptor still: the oldest of those goes, too.
        """
        leaving = [one for one in self._connections if one.state is State.LEAVING]
        if not self._end_one(leaving) or len(self._connections) > self._max_connections:
            states = (State.WAITING, State.LEAVING)
            self._end_one([one for one in self._connections if one.state not in states])

    def _let_holder_go(self, but: Connection) -> bool:
        """The same among those that something is held for, which then is free; whether there was one."""
        states = (State.READING, State.SENDING)
        return self._end_one([one for one in self._connections if one is not but and one.held and one.state in states])

    def _end_one(self, candidates: list[Connection]) -> bool:
        if not candidates:
            return False
        victim = min(candidates, key=lambda one: one.silent_since)
        self._bytes -= victim.held
        victim.held = 0
        victim.let_go(BusyError("the server has too many clients, and this one is the slowest: try again later"))
        return True

    def check_time(self) -> None:
        """Let those go whose time is over; to be called several times a second."""
        now = time.monotonic()
        for connection in [one for one in self._connections if now > one.expires]:
            connection.let_go(connection.explain_end(now))


class Connection:
    """One client. Only one task reads and writes; ``crowd`` may end its waiting."""

    def __init__(self, client: socket.socket, crowd: Crowd, idle_s: float) -> None:
        client.setblocking(False)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = bytearray()
        """What has come and was not used yet."""
        self.held = 0
        self.silent_since = time.monotonic()
        self._socket, self._crowd = client, crowd
        self._loop = asyncio.get_running_loop()
        self._waiter: asyncio.Future[None] | None = None
        self._failure: Exception | None
        self._watcher: Callable[[], None] | None = None
        self._knows_interim = False
        self._has_ended = False
        self.enter(State.NEW, idle_s)
        crowd.add(self)

    def enter(
        self,
        state: State,
        patience_s: float = math.inf,
        limit: float = math.inf,
        late: type[RequestError] = BadRequestError,
    ) -> None:
        """Begin something that the client may be silent in for ``patience_s``.

        It ends at ``limit``; a client that is still sending its request then gets the error ``late``.
        """
        self.state = state
        self._failure = None
        self._patience_s, self._limit, self._late = patience_s, limit, late
        self.silent_since = time.monotonic()

    @property
    def expires(self) -> float:
        """When the client's time is over (monotonic)."""
        return min(self._limit, self.silent_since + self._patience_s)

    def explain_end(self, now: float) -> RequestError:
        """Why the client's time is over."""
        if now > self._limit:
            return self._late("the request has not come whole in time: send it faster, or a smaller picture")
        return BadRequestError(f"nothing has come for {self._patience_s:g} seconds: {_WHOLE}")

    def hold(self, size: int) -> None:
        """Note that ``size`` bytes are held for this client now."""
        self._crowd.hold(self, size)

    def let_go(self, error: Exception) -> None:
        """End what the client is being waited for. While its request is read it is told why."""
        failure = error if self.state is State.READING else DisconnectedError()
        self.enter(State.LEAVING)
        if self._waiter and not self._waiter.done():
            self._waiter.set_exception(failure)
        else:
            self._failure = failure

    async def read(self) -> None:
        """Append what the client sends next to :attr:`buffer`.

        Raises:
            DisconnectedError: it has left.
            RequestError: it was let go, or sends no more in the middle of a request.
        """
        data = await self._receive()
        if not data:
            raise BadRequestError(_CUT) if self.state is State.READING else DisconnectedError()
        self.buffer += data

    async def read_until(self, end: bytes, limit: int) -> bytes | None:
        """Take everything up to and with ``end`` from the client; None when that is more than ``limit`` bytes."""
        searched = 0
        while (found := self.buffer.find(end, searched, limit)) < 0:
            if len(self.buffer) >= limit:
                return None
            searched = max(0, len(self.buffer) - len(end) + 1)
            await self.read()
        return self.take(found + len(end))

    def take(self, size: int) -> bytes:
        """Take the first ``size`` bytes from :attr:`buffer`, or all when there are fewer."""
        with memoryview(self.buffer) as view:
            data = bytes(view[:size])
        del self.buffer[:size]
        return data

    async def send(self, data: bytes) -> None:
        """Send all of ``data``; DisconnectedError when that cannot be done."""
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[self._socket.send(rest) :]
                self.silent_since = time.monotonic()
            except BlockingIOError:
                await self._wait(is_writing=True)
            except OSError:
                raise DisconnectedError from None

    async def send_file(self, file: int, size: int) -> None:
        """Send the first ``size`` bytes of a file; DisconnectedError when that cannot be done."""
        offset = 0
        # All of it until the end: the file does not shrink while it is sent.
        self.hold(size)
        while offset < size:
            try:
                offset += os.sendfile(self._socket.fileno(), file, offset, min(_FILE_BLOCK, size - offset))
                self.silent_since = time.monotonic()
                await asyncio.sleep(0)  # one that reads fast must not keep the others waiting
            except BlockingIOError:
                await self._wait(is_writing=True)
            except OSError:
                raise DisconnectedError from None

    async def leave(self) -> None:
        """Send no more, and throw away what the client still sends; bounded in bytes and time.

        A connection closed with unread bytes is reset, and a client that is still sending would see that
        instead of its answer.
        """
        self.enter(State.LEAVING, _DISCARD_IDLE_S, time.monotonic() + _DISCARD_S)
        discarded = 0
        with contextlib.suppress(DisconnectedError, OSError):
            self._socket.shutdown(socket.SHUT_WR)
            while discarded < _DISCARD_BYTES and (data := await self._receive()):
                discarded += len(data)

    def close(self) -> None:
        """Close the connection, whatever is still to be sent."""
        self._crowd.remove(self)
        self._socket.close()

    def watch(self, on_gone: Callable[[], None], knows_interim: bool) -> None:
        """Until :meth:`unwatch`, call ``on_gone`` once when the client has left.

        Half of a connection that the client has closed may mean that it waits for the answer and sends nothing
        more. So it is sent an interim answer, which a client skips (one of HTTP/1.0 does not know any), and a
        closed connection answers with a reset.
        """
        self._watcher, self._knows_interim = on_gone, knows_interim
        if self._has_ended:
            self._look_again()
        else:
            self._loop.add_reader(self._socket, self._look)

    def unwatch(self) -> None:
        """The answer is there."""
        self._watcher = None
        self._loop.remove_reader(self._socket)

    def is_gone(self) -> bool:
        """Whether the client is known to have left."""
        if self._socket.fileno() < 0:
            return True
        if not self._has_ended:
            return False
        return self._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == _TCP_CLOSE

    def _look(self) -> None:
        try:
            data = self._socket.recv(BLOCK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self.buffer += data
        if data and len(self.buffer) < BLOCK:
            return
        self._loop.remove_reader(self._socket)
        if not data:
            self._has_ended = True
            if self._knows_interim:
                with contextlib.suppress(OSError):
                    self._socket.send(CONTINUE)
            self._look_again()

    def _look_again(self) -> None:
        if self._watcher is None:
            return
        if self.is_gone():
            self._watcher()
        else:
            self._loop.call_later(_LOOK_AGAIN_S, self._look_again)

    async def _receive(self) -> bytes:
        """What the client sends next; nothing when that was all."""
        while True:
            self._check_failure()
            try:
                data = self._socket.recv(BLOCK)
            except BlockingIOError:
                await self._wait(is_writing=False)
                continue
            except OSError:
                raise DisconnectedError from None
            self.silent_since = time.monotonic()
            # One that sends faster than it is read must not keep the others waiting.
            await asyncio.sleep(0)
            return data

    def _check_failure(self) -> None:
        """Raise what the client was let go for, while nobody waited for it."""
        if self._failure:
            failure, self._failure = self._failure, None
            raise failure

    async def _wait(self, *, is_writing: bool) -> None:
        """Wait until the socket can be read or written, or the client is let go."""
        self._check_failure()
        waiter = self._waiter = self._loop.create_future()
        add, remove = self._loop.add_reader, self._loop.remove_reader
        if is_writing:
            add, remove = self._loop.add_writer, self._loop.remove_writer
        add(self._socket, _wake, waiter)
        try:
            await waiter
        finally:
            self._waiter = None
            remove(self._socket)


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
