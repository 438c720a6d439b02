"""What is sent to a client: status, headers and a body, and the line of the log about it."""

from __future__ import annotations

import json
import logging
import sys
import time
from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus

from gluonseg.errors import RequestError
from gluonseg.printable import LineFormatter

LOGGER = logging.getLogger("gluonseg.serve")
LINE_LIMIT = 170
"""Characters of a log line, 200 with the time before it; most of what is in it comes from the client."""
_RETRY_AFTER = ("Retry-After", "1")
"""With every 503: the caller may ask again after this many seconds."""
ARRIVAL = "gluonseg.arrival"
"""Key of WSGI's environment: when the request arrived (monotonic)."""
NOT_READY = "the model is not ready: it is being loaded, or its process is being replaced; try again in a few seconds"
INTERNAL = "internal error: the server's log has the details; other requests are not affected"


@dataclass(frozen=True)
class Answer:
    """An answer. Its body is ``body`` or, when there is a ``file``, the first ``size`` bytes of that."""

    status: int
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    file: int | None = None
    size: int = 0
    note: str = ""
    """For the log."""


def configure_log() -> None:
    """Our lines go to stderr, as gunicorn's do; a program that has set up its log already keeps it."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LineFormatter("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.INFO)


def build_error(status: int, text: str) -> Answer:
    """Build the answer for a request that cannot be served: one line of JSON."""
    headers = (("Content-Type", "application/json"), *((_RETRY_AFTER,) if status == 503 else ()))
    return Answer(status, headers, json.dumps({"error": text}).encode() + b"\n", note=text)


def answer_error(error: RequestError) -> Answer:
    """Build the answer for an error."""
    return build_error(error.status, str(error))


def encode_head(answer: Answer, is_last: bool) -> bytes:
    """Encode everything before the body; ``is_last`` tells the client that the connection ends with it."""
    size = answer.size if answer.file is not None else len(answer.body)
    lines = [f"HTTP/1.1 {answer.status} {HTTPStatus(answer.status).phrase}", f"Date: {formatdate(usegmt=True)}"]
    lines += [f"{name}: {value}" for name, value in answer.headers]
    lines += [f"Content-Length: {size}", f"Connection: {'close' if is_last else 'keep-alive'}", "", ""]
    return "\r\n".join(lines).encode("latin-1")


def log_request(method: str, path: str, status: int, bytes_in: int, bytes_out: int, start: float, note: str) -> None:
    """Log one line about a request that began at ``start`` (monotonic), ASCII whatever the client sent.

    A good /ping comes every few seconds and is left out.
    """
    if path == "/ping" and status == 200:
        return
    words = (
        ascii(method)[1:-1][:8],
        ascii(path)[1:-1][:40],
        str(status),
        f"in={bytes_in}"[:20],
        f"out={bytes_out}",
        f"{1000 * (time.monotonic() - start):.0f}ms",
        ascii(note)[1:-1],
    )
    LOGGER.info("%s", " ".join(words)[:LINE_LIMIT].rstrip())
