"""The form of an error in an answer, and of the line about a request in the log."""

from __future__ import annotations

import json
import logging
import sys
import time

from gluonseg.text import LineFormatter, shorten

LOGGER = logging.getLogger("gluonseg.serve")
LINE_LIMIT = 170
"""Characters of a log line, 200 with the time before it."""
RETRY_AFTER = {429: "20", 503: "1"}
"""Seconds after which a client may ask again, by status."""
NOT_READY = "the model is not ready: it is being loaded, or its process is being replaced; try again in a few seconds"
STOPPING = "the server is stopping: try again elsewhere"
INTERNAL = "internal error: the server's log has the details; other requests are not affected"


def configure_log() -> None:
    """Send log lines to stderr, unless the program has set up its log already."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LineFormatter("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.INFO)
    # waitress would log each client that leaves, and each request that waits for a thread.
    logging.getLogger("waitress").setLevel(logging.WARNING)
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)


Headers = list[tuple[str, str]]


def encode_error(status: int, text: str, _path: str = "") -> tuple[bytes, Headers]:
    """Encode the body, one line of JSON, and the headers of the answer to a request that cannot be served."""
    headers = [("Content-Type", "application/json"), *build_retry_header(status)]
    return json.dumps({"error": text}).encode() + b"\n", headers


def build_retry_header(status: int) -> Headers:
    """The header that says when to ask again, where that helps."""
    return [("Retry-After", RETRY_AFTER[status])] if status in RETRY_AFTER else []


def log_request(method: str, path: str, status: int, bytes_in: int, bytes_out: int, begun: float, note: str) -> None:
    """Log one ASCII line about a request that began at ``begun`` (monotonic).

    A /ping that is answered with 200 comes every few seconds and is left out.
    """
    if path == "/ping" and status == 200:
        return
    seconds = time.monotonic() - begun
    line = f"{method[:8]} {shorten(path, 40)} {status} in={bytes_in} out={bytes_out} {1000 * seconds:.0f}ms {note}"
    LOGGER.info("%s", shorten(ascii(line)[1:-1], LINE_LIMIT))
