"""Messages between the frontend and a backend process: small JSON objects, and files by their descriptors.

Bodies travel as files in memory, which have no name, so that an answer of any size costs the frontend no copy:
the system sends it from the file to the client's socket.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Iterator
from typing import Any, NamedTuple

_LARGEST = 64 * 1024
"""Bytes of a message; none comes near: what clients choose goes by the file."""


class Message(NamedTuple):
    """What came through a channel; whoever takes it closes the file."""

    fields: dict[str, Any]
    file: int | None


def open_channel() -> tuple[socket.socket, socket.socket]:
    """Build the two ends of a channel, which keeps messages apart."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def send_message(channel: socket.socket, fields: dict[str, Any], file: int | None = None) -> None:
    """Send one message, whole or not at all; ``file`` stays open here.

    Raises:
        OSError: the other end is gone, or does not read.
    """
    socket.send_fds(channel, [json.dumps(fields).encode()], [] if file is None else [file])


def receive_message(channel: socket.socket) -> Message | None:
    """Receive one message, or None once the other end is gone.

    Raises:
        BlockingIOError: there is none, on a channel that does not wait.
    """
    try:
        data, files, _, _ = socket.recv_fds(channel, _LARGEST, 1, socket.MSG_CMSG_CLOEXEC)
    except ConnectionError:
        return None
    return Message(json.loads(data), files[0] if files else None) if data else None


@contextlib.contextmanager
def stored(*pieces: bytes) -> Iterator[int]:
    """Write ``pieces`` to a new file in memory: its descriptor, closed afterwards."""
    file = os.memfd_create("gluonseg")
    try:
        for piece in pieces:
            rest = memoryview(piece)
            while rest:
                rest = rest[os.write(file, rest) :]
        yield file
    finally:
        os.close(file)
