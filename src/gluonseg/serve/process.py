"""A backend process as the frontend sees it: started, given requests, listened to, ended."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from gluonseg.serve.channel import Message, open_channel, receive_message, send_message
from gluonseg.serve.settings import Settings

LOGGER = logging.getLogger("gluonseg.serve")
SILENCE_S = 10.0
"""After this long without a sign of life a backend does not count as ready."""
_REAP_S = 0.01
# The modules come from where the frontend's come from, and from nowhere else: not from the current folder, say.
_PROGRAM = (
    "import sys; sys.path[:] = filter(None, sys.path); import json; sys.path[:] = json.loads(sys.argv[1]); "
    "from gluonseg.serve.backend import main; main(sys.argv[2:])"
)


def _build_command(descriptor: int, settings: Settings, load_model: str) -> list[str]:
    fields = {**dataclasses.asdict(settings), "model_path": str(settings.model_path)}
    return [sys.executable, "-c", _PROGRAM, json.dumps(sys.path), str(descriptor), load_model, json.dumps(fields)]


class BackendProcess:
    """One process. ``on_message`` gets what it sends; ``on_end`` is called once, when it is gone, with its exit code.

    Both are called in the event loop, which this is to be used in.
    """

    def __init__(
        self,
        settings: Settings,
        load_model: str,
        on_message: Callable[[BackendProcess, Message], None],
        on_end: Callable[[BackendProcess, int], None],
    ) -> None:
        self._on_message, self._on_end = on_message, on_end
        self._loop = asyncio.get_running_loop()
        self.is_loaded = False
        self.last_sign = time.monotonic()
        self._channel, theirs = open_channel()
        self._channel.setblocking(False)
        with theirs:
            command = _build_command(theirs.fileno(), settings, load_model)
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()])
        self._loop.add_reader(self._channel, self._read)

    def is_ready(self, now: float) -> bool:
        """Whether it has its model, and had given a sign of life of late at ``now`` (monotonic)."""
        return self.is_loaded and now - self.last_sign < SILENCE_S

    @property
    def pid(self) -> int:
        return self._process.pid

    def send(self, fields: dict[str, Any], file: int | None = None) -> None:
        """Send a message. Where that fails the process is gone, or has not read hundreds of them: its end follows."""
        try:
            send_message(self._channel, fields, file)
        except OSError:
            self.kill()

    def kill(self) -> None:
        """End the process at once; ``on_end`` follows."""
        self._process.kill()

    def _read(self) -> None:
        while self._channel.fileno() >= 0:
            try:
                message = receive_message(self._channel)
            except BlockingIOError:
                return
            if message is None:
                self._end()
            else:
                self.last_sign = time.monotonic()
                self._on_message(self, message)

    def _end(self) -> None:
        self.is_loaded = False
        self._loop.remove_reader(self._channel)
        self._channel.close()
        self.kill()
        self._reap()

    def _reap(self) -> None:
        """Wait without blocking: a process with much memory takes a while to go."""
        exit_code = self._process.poll()
        if exit_code is None:
            self._loop.call_later(_REAP_S, self._reap)
        else:
            self._on_end(self, exit_code)
