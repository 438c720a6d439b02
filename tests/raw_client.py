"""HTTP by hand: bytes that no client would send, and what came back for them."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

TIMEOUT_S = 20.0


@dataclass(frozen=True)
class Reply:
    """An answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def read_error(self) -> str:
        """The text of an error, which has its form."""
        assert self.headers["content-type"] == "application/json"
        assert self.body.count(b"\n") == 1
        content = json.loads(self.body)
        assert list(content) == ["error"]
        return str(content["error"])


def connect(port: int) -> socket.socket:
    """A connection to a server on this machine."""
    return socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_S)


def read_reply(connection: socket.socket, method: str = "POST") -> Reply:
    """Read one answer, interim ones skipped; ConnectionError when there is none."""
    answer = http.client.HTTPResponse(connection, method=method)
    try:
        answer.begin()
        body = answer.read()
    except (http.client.HTTPException, ConnectionError) as error:
        raise ConnectionError(f"no whole answer: {error!r}") from error
    finally:
        answer.close()
    headers = {name.lower(): text for name, text in answer.getheaders()}
    return Reply(answer.status, headers, body)


def exchange(port: int, data: bytes, method: str = "POST") -> Reply:
    """Send ``data`` over a connection of its own, as far as the server takes it, and read one answer."""
    with connect(port) as connection:
        with suppress(ConnectionError):
            connection.sendall(data)
        return read_reply(connection, method)


def is_closed(connection: socket.socket) -> bool:
    """Whether the server sends nothing more; waits for it."""
    try:
        return connection.recv(1) == b""
    except ConnectionError:
        return True


def build_request(body: bytes, path: str = "/invocations", method: str = "POST", **headers: str) -> bytes:
    """A request with a Content-Length; underscores in the names of headers become hyphens."""
    fields = {"Host": "localhost", "Accept": "image/png", "Content-Length": str(len(body))}
    fields.update({name.replace("_", "-"): text for name, text in headers.items()})
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {text}" for name, text in fields.items()), "", ""]
    return "\r\n".join(lines).encode("latin-1") + body
