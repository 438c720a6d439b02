"""What answers and the log have in common: the form of an error, and the line about a request."""

from __future__ import annotations

import json
import logging
import sys
import time

from gluonseg.text import LineFormatter, shorten

LOGGER = logging.getLogger("gluonseg.serve")
LINE_LIMIT = 170
"""Characters of a log line, 200 with the time before it; most of what is in it comes from the client."""
NOT_READY = "the model is not ready: it is being loaded, or its process is being replaced; try again in a few seconds"
STOPPING = "the server is stopping: try again elsewhere"
INTERNAL = "internal error: the server's log has the details; other requests are not affected"


def configure_log() -> None:
    """Our lines go to stderr; a program that has set up its log already keeps it."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LineFormatter("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.INFO)
    # A client that leaves is not worth a line of waitress's beside ours, nor is each request that waits for a thread.
    logging.getLogger("waitress").setLevel(logging.WARNING)
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)


def encode_error(status: int, text: str) -> tuple[bytes, list[tuple[str, str]]]:
    """Encode the body and the headers of an answer to a request that cannot be served: one line of JSON."""
    headers = [("Content-Type", "application/json")]
    if status == 503:  # after so many seconds the caller may ask again
        headers.append(("Retry-After", "1"))
    return json.dumps({"error": text}).encode() + b"\n", headers


def log_request(method: str, path: str, status: int, bytes_in: int, bytes_out: int, begun: float, note: str) -> None:
    """Log one line about a request that began at ``begun`` (monotonic), ASCII whatever the client sent.

    A good /ping comes every few seconds and is left out.
    """
    if path == "/ping" and status == 200:
        return
    seconds = time.monotonic() - begun
    line = f"{method[:8]} {shorten(path, 40)} {status} in={bytes_in} out={bytes_out} {1000 * seconds:.0f}ms {note}"
    LOGGER.info("%s", shorten(ascii(line)[1:-1], LINE_LIMIT))
