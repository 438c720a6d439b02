"""The server when several things go wrong at a time: clients that have left, processes that end, huge heads."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from gunicorn.config import Config

from gluonseg.errors import BadRequestError
from gluonseg.serve import dispatcher as dispatcher_module
from gluonseg.serve.dispatcher import FAILED, Dispatcher
from gluonseg.serve.request import parse_head
from gluonseg.serve.settings import Settings, read_settings
from gluonseg.serve.strike import STRIKES
from picture import draw_noise, encode_picture
from process_tree import find_backends, find_worker
from raw_client import build_request, connect, exchange, read_reply
from stand_in import KILLS
from stand_in_server import CHANGED, PNG, draw, ping, post_all, stand_in, wait_until

PNG_REQUEST = build_request(PNG)


@pytest.mark.fault(family=60, outcome="a client that has left before a process ends takes nobody with it", inputs=3)
def test_clients_that_have_left_when_the_backend_ends(tmp_path: Path) -> None:
    with stand_in(tmp_path, STAND_IN_SECONDS="1.5") as server:
        worker = find_worker(server.process.pid)
        left = [connect(server.port) for _ in range(3)]
        for number, connection in enumerate(left):
            connection.sendall(build_request(draw(number)))
        time.sleep(0.3)
        for connection in left:
            connection.close()
        time.sleep(0.3)
        stayed = post_all(server, [PNG, draw(9)])
        time.sleep(0.1)
        os.kill(find_backends(server.process.pid)[0], signal.SIGKILL)
        assert [reply.result().status for reply in stayed] == [200, 200]
        time.sleep(0.5)
        assert find_worker(server.process.pid) == worker
        assert "Traceback" not in server.read_log()


@pytest.mark.fault(family=59, outcome="huge heads, many at a time: an answer to each, and no process ends", inputs=120)
def test_huge_heads_at_the_same_time(tmp_path: Path) -> None:
    accept = "image/png, x/" + "\xe9" * 15_000
    data = build_request(b"", Accept=accept, Connection="close")
    lines = "".join(f"Accept: x/{chr(0xE9) * 15_000}\r\n" for _ in range(3)).encode("latin-1")
    data = data.replace(b"\r\n", b"\r\n" + lines, 1)
    with stand_in(tmp_path) as server:
        backend = find_backends(server.process.pid)
        with ThreadPoolExecutor(4) as pool:
            replies = list(pool.map(lambda _: exchange(server.port, data), range(120)))
        assert {reply.status for reply in replies} == {400}
        assert all("the body is empty" in reply.read_error() for reply in replies)
        assert find_backends(server.process.pid) == backend


def test_room_is_made_by_those_that_hold_something(tmp_path: Path) -> None:
    picture = encode_picture(np.full((1000, 1400, 3), 9, np.uint8))
    large = build_request(picture, Accept="application/x-recordio-protobuf")
    with stand_in(tmp_path, "-c", CHANGED.format("max_buffer_mb=20")) as server, ExitStack() as stack:
        sender, idler, reader = (stack.enter_context(connect(server.port)) for _ in range(3))
        sender.sendall(PNG_REQUEST[:20])
        idler.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        idler.sendall(large)
        time.sleep(0.5)
        reader.sendall(large)
        reply = read_reply(reader)
        assert (reply.status, len(reply.body) > 16_000_000) == (200, True)
        sender.sendall(PNG_REQUEST[20:])
        assert read_reply(sender).status == 200


def test_one_answer_leaves_room_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gluonseg.serve.settings.find_memory_limit", lambda: 64 << 30)
    for variables in ({}, {"SAGEMAKER_MAX_PAYLOAD_IN_MB": "0"}, {"GLUONSEG_MAX_RESPONSE_IN_MB": "1"}):
        settings = read_settings(variables)
        assert settings.max_buffer_mb >= 2 * max(settings.max_payload_mb, settings.max_response_mb)


@pytest.mark.fault(family=44, outcome="bodies and answers take a quarter of the memory at most", inputs=2)
def test_what_is_held_for_clients_leaves_room_for_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gluonseg.serve.settings.find_memory_limit", lambda: 1 << 30)
    assert read_settings({}).max_buffer_mb == 256
    monkeypatch.setattr("gluonseg.serve.settings.find_memory_limit", lambda: None)
    assert read_settings({}).max_buffer_mb == 2048


@pytest.mark.fault(family=60, outcome="those that are let go do not linger beyond the limit", inputs=60)
def test_the_limit_of_connections_holds(tmp_path: Path) -> None:
    with stand_in(tmp_path, "-c", CHANGED.format("max_connections=8")) as server, ExitStack() as stack:
        files = Path(f"/proc/{find_worker(server.process.pid)}/fd")
        before = len(list(files.iterdir()))
        for _ in range(60):
            stack.enter_context(connect(server.port)).sendall(b"GET /pi")
            time.sleep(0.01)
        assert len(list(files.iterdir())) <= before + 10
        assert exchange(server.port, build_request(PNG)).status == 200


@pytest.mark.fault(family=49, outcome="bodies in chunks count as others do: the most silent give way", inputs=4)
def test_chunked_bodies_are_counted(tmp_path: Path) -> None:
    head = b"POST /invocations HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunk = b"4000\r\n" + bytes(0x4000) + b"\r\n"
    with stand_in(tmp_path, "-c", CHANGED.format("max_buffer_mb=8")) as server, ExitStack() as stack:
        clients = [stack.enter_context(connect(server.port)) for _ in range(4)]
        for connection in clients:
            connection.sendall(head)
            for _ in range(200):  # each comes whole
                connection.sendall(chunk)
                time.sleep(0.001)
        reply = read_reply(clients[0])
        assert (reply.status, "slowest" in reply.read_error()) == (503, True)
        assert ping(server).status == 200


@pytest.mark.fault(family=61, outcome="500 for pictures that end processes; two end no server", inputs=2)
def test_two_pictures_that_end_processes(tmp_path: Path) -> None:
    poison = encode_picture(draw_noise(*KILLS))
    with stand_in(tmp_path) as server:
        for _ in range(2):
            assert exchange(server.port, build_request(poison)).status == 500
            wait_until(lambda: ping(server).status == 200)
        assert exchange(server.port, build_request(PNG)).status == 200


@pytest.mark.fault(family=44, outcome="backends that cannot be started: tried again, then the server ends")
def test_backends_that_cannot_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[float] = []

    def refuse(*_arguments: Any) -> Any:
        tries.append(time.monotonic())
        raise OSError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(dispatcher_module, "BackendProcess", refuse)
    monkeypatch.setattr(dispatcher_module, "_START_AGAIN_S", 0.01)

    async def run() -> int:
        ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        Dispatcher(Settings(), "none:none", ended.set_result).start()
        return await asyncio.wait_for(ended, 10)

    assert asyncio.run(run()) == FAILED
    assert len(tries) == STRIKES


def test_no_backend_takes_the_place_of_one_whose_model_cannot_be_served(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Any] = []

    def start(_settings: Settings, _load: str, on_message: Any, on_end: Any) -> Any:
        started.append(SimpleNamespace(is_loaded=False, pid=1, on_message=on_message, on_end=on_end))
        return started[-1]

    monkeypatch.setattr(dispatcher_module, "BackendProcess", start)
    codes: list[int] = []
    dispatcher = Dispatcher(Settings(), "none:none", codes.append)
    dispatcher.start()
    (backend,) = started
    backend.on_message(backend, SimpleNamespace(fields={"event": "failed", "exit_code": 2}, file=None))
    backend.on_end(backend, 2)
    assert codes == [2]
    assert started == [backend]


@pytest.mark.fault(family=49, outcome="400: two lengths, or a coding that only some understand", inputs=4)
@pytest.mark.parametrize("coding", ["identity", "gzip", "x, chunked", "chunked\r\nContent-Length: 5"])
def test_it_is_clear_where_a_body_ends(coding: str) -> None:
    head = f"POST /invocations HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: {coding}\r\n\r\n".encode()
    with pytest.raises(BadRequestError):
        parse_head(head, Config(), ("127.0.0.1", 1))


def test_a_signal_before_the_loop_begins(tmp_path: Path) -> None:
    """gunicorn's handler only notes it; the loop has to look."""
    from gluonseg.serve.server import Worker

    drained: list[bool] = []
    worker = Worker.__new__(Worker)
    worker.alive = False
    worker.app = SimpleNamespace(settings=Settings(), load_model="none:none")
    worker.sockets, worker.cfg, worker.notify = [], None, lambda: None

    class Noted:
        def __init__(self, *_arguments: Any) -> None:
            pass

        def drain(self) -> None:
            drained.append(True)

        async def run(self) -> int:
            return 0

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gluonseg.serve.server.Frontend", Noted)
        assert asyncio.run(worker._serve()) == 0
    assert drained == [True]
