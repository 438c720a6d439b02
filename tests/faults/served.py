"""A server for hostile requests, and what must be so after each: it serves the next one, and has leaked nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from local_server import ServerProcess
from picture import draw_noise, encode_picture
from process_tree import find_backends
from raw_client import Reply, build_request, exchange
from stand_in import encode_mask
from stand_in_server import stand_in

PAYLOAD_MB = 1
PICTURE = draw_noise(20, 30)
PNG = encode_picture(PICTURE)
MASK = encode_mask(PICTURE)
_INSIDE = re.compile(rb"/[a-z]+/[a-z]|Traceback|File \"|python|gunicorn|flask|werkzeug|\d+\.\d+\.\d+", re.I)
"""Paths, traces, names and versions of what the server is made of."""


@dataclass(frozen=True)
class Served:
    """A server, what its model was asked for, and what Python was asked for on the way."""

    server: ServerProcess
    begun: Path
    audit: Path

    @property
    def port(self) -> int:
        return self.server.port

    def ask(self, data: bytes, method: str = "POST") -> Reply:
        """Send a request by hand; the answer tells nothing of the server's inside."""
        reply = exchange(self.port, data, method)
        words = b" ".join(text.encode() for pair in reply.headers.items() for text in pair)
        if reply.headers.get("content-type") == "application/json":
            words += reply.body
        assert not _INSIDE.search(words.replace(b"HTTP/1.1", b"")), words
        return reply

    def check_next(self) -> None:
        """The next valid request is answered rightly, and nothing was run or fetched on the way."""
        reply = exchange(self.port, build_request(PNG))
        assert (reply.status, reply.body) == (200, MASK)
        assert not self.audit.exists(), self.audit.read_text(encoding="utf-8")

    def count_predictions(self) -> int:
        return len(self.begun.read_text(encoding="ascii").splitlines()) if self.begun.exists() else 0

    def forget_peak_mb(self) -> float:
        """The memory that the process with the model has now, from which on its peak is counted."""
        (self._find_process() / "clear_refs").write_text("5", encoding="ascii")
        return self.read_peak_mb()

    def read_peak_mb(self) -> float:
        """The most memory that the process with the model has had since then."""
        text = (self._find_process() / "status").read_text(encoding="ascii")
        return int(text.partition("VmHWM:")[2].split()[0]) / 1024

    def _find_process(self) -> Path:
        (backend,) = find_backends(self.server.process.pid)
        return Path(f"/proc/{backend}")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server with a stand-in for a model, ready; it ends as it should when everything is over."""
    folder = tmp_path_factory.mktemp("served")
    begun, audit = folder / "begun", folder / "audit"
    variables = {"STAND_IN_LOG": str(begun), "STAND_IN_AUDIT": str(audit)}
    with stand_in(folder, SAGEMAKER_MAX_PAYLOAD_IN_MB=str(PAYLOAD_MB), **variables) as server:
        yield Served(server, begun, audit)
        assert "has ended with code" not in server.read_log()
        assert server.stop() == 0
