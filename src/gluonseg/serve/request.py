"""Reading a request: its head, which gunicorn parses, and its body, whose size is limited before it is read."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from typing import Any

from gunicorn.http.errors import LimitRequestHeaders, LimitRequestLine, ParseException
from gunicorn.http.message import Request
from gunicorn.http.unreader import IterUnreader

from gluonseg.errors import BadRequestError, HeadTooLargeError, PayloadTooLargeError
from gluonseg.serve.connection import Connection

_HEAD_LIMIT = 64 * 1024
HEADER_LIMIT = 16 * 1024
"""Bytes of one header."""
_CHUNK_LINE_LIMIT = 256
_TRAILER_LIMIT = 8 * 1024
MAX_CHUNKS = 65_536
"""More of them than any client has use for, and each costs more to read than its bytes do."""
_CHUNKS_AT_ONCE = 64
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,16})[ \t]*(?:;[\t\x20-\x7e\x80-\xff]*)?\r\n")
_FIRST_BYTES = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ\r"


@dataclass(frozen=True)
class Head:
    """What the server wants to know of a request before it reads the body. ``size`` None: the body comes in chunks."""

    method: str
    path: str
    size: int | None
    content_type: str | None
    accept: str | None
    expects_continue: bool
    is_last: bool
    is_http_1_0: bool

    @property
    def has_body(self) -> bool:
        return self.size != 0


def _find_header(request: Any, name: str) -> str | None:
    """All values of a header, as WSGI joins them."""
    values = [value for key, value in request.headers if key == name]
    return ",".join(values) if values else None


def parse_head(data: bytes, cfg: Any, peer: Any) -> Head:
    """Parse a head, which ends with an empty line; ``cfg`` is gunicorn's configuration.

    Raises:
        BadRequestError: it is not valid, or it is not clear where the body ends.
        HeadTooLargeError: a line is too long, or there are too many.
    """
    try:
        request = Request(cfg, IterUnreader([data]), peer)
    except (LimitRequestLine, LimitRequestHeaders):
        text = "the address or a header is too long, or there are more than 100 headers: send fewer and shorter ones"
        raise HeadTooLargeError(text) from None
    except (ParseException, OSError):
        raise BadRequestError("this is not a valid HTTP/1.1 request") from None
    length, coding = (_find_header(request, name) for name in ("CONTENT-LENGTH", "TRANSFER-ENCODING"))
    is_chunked = coding is not None
    # Older versions of gunicorn read more into it. Whoever stands in front may see another end of the body there.
    if coding is not None and (coding.strip().lower() != "chunked" or length is not None):
        raise BadRequestError("it is not clear where the body ends: send Content-Length, or chunks")
    return Head(
        method=request.method,
        path=request.path,
        size=None if is_chunked else int(length or 0),
        content_type=_find_header(request, "CONTENT-TYPE"),
        accept=_find_header(request, "ACCEPT"),
        expects_continue=_find_header(request, "EXPECT") is not None,
        is_last=request.should_close(),
        is_http_1_0=request.version < (1, 1),
    )


async def read_head(connection: Connection, cfg: Any, peer: Any) -> Head:
    """Read the head of a request. The first byte of it has come already.

    Raises:
        RequestError: see :func:`parse_head`, or the client was let go.
        DisconnectedError: the client has left.
    """
    if connection.buffer[0] not in _FIRST_BYTES:
        # Another protocol, mostly TLS: it may never send the end of a line.
        raise BadRequestError("this is not an HTTP request: use http://, no TLS")
    data = await connection.read_until(b"\r\n\r\n", _HEAD_LIMIT)
    if data is None:
        text = f"the head of the request is larger than {_HEAD_LIMIT} bytes: send fewer and shorter headers"
        raise HeadTooLargeError(text)
    return parse_head(data, cfg, peer)


def check_size(size: int | None, max_mb: int) -> None:
    """Refuse a body of ``size`` bytes before it is read.

    Raises:
        PayloadTooLargeError: it is larger than ``max_mb`` MiB.
    """
    if size is not None and size > max_mb << 20:
        raise PayloadTooLargeError(
            f"the body is larger than {max_mb} MB: send a smaller or more compressed picture"
        )


async def read_body(connection: Connection, head: Head, max_mb: int) -> bytes:
    """Read the whole body, whose size, where the head tells it, was checked.

    Raises:
        RequestError: chunks are broken, or together more than ``max_mb`` MiB; or the client was let go.
        DisconnectedError: the client has left.
    """
    if head.size is None:
        return await _read_chunks(connection, max_mb)
    while len(connection.buffer) < head.size:
        connection.hold(len(connection.buffer))
        await connection.read()
    return connection.take(head.size)


async def _read_chunks(connection: Connection, max_mb: int) -> bytes:
    body = bytearray()
    for count in range(MAX_CHUNKS + 1):
        if count % _CHUNKS_AT_ONCE == 0:
            await asyncio.sleep(0)  # thousands of small ones come in one piece
        size = await _read_chunk_size(connection)
        if size == 0:
            await _skip_trailer(connection)
            return bytes(body)
        check_size(len(body) + size, max_mb)
        connection.hold(len(body) + len(connection.buffer))
        while len(connection.buffer) < size + 2:
            await connection.read()
            connection.hold(len(body) + len(connection.buffer))
        body += connection.take(size)
        if connection.take(2) != b"\r\n":
            raise BadRequestError("a chunk of the body does not end where it says")
    raise BadRequestError(f"the body has more than {MAX_CHUNKS} chunks: send larger ones, or a Content-Length")


async def _read_chunk_size(connection: Connection) -> int:
    line = await connection.read_until(b"\n", _CHUNK_LINE_LIMIT)
    match = _CHUNK_SIZE.fullmatch(line or b"")
    if match is None:
        raise BadRequestError("the size of a chunk of the body is not valid")
    return int(match[1], 16)


async def _skip_trailer(connection: Connection) -> None:
    size = 0
    while size < _TRAILER_LIMIT:
        line = await connection.read_until(b"\n", _TRAILER_LIMIT)
        if line is None or not line.endswith(b"\r\n"):
            break
        if line == b"\r\n":
            return
        size += len(line)
    raise BadRequestError("what follows the last chunk of the body is not valid")
