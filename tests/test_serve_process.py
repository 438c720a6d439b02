"""``container/serve`` as a process over a real model folder, as Docker would start it: answers, limits, and its end."""

from __future__ import annotations

import http.client
import io
import os
import shutil
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gluonseg.models.folder.manifest import BEST_FILE
from gluonseg.models.params import read_arrays, write_params
from local_server import SERVE, Answer, ServerProcess, serving
from notebook_client import parse_mask, parse_probabilities, read_record
from picture import draw_noise, encode_picture
from process_tree import is_running, iter_tree
from program import build_environment, run_program
from raw_client import build_request, connect, exchange, is_closed, read_reply
from served_model import prepare_base
from stand_in_server import STAND_IN, ping, post_all, stand_in, wait_until

PICTURE = draw_noise(90, 70)
PNG = encode_picture(PICTURE)
LIMIT = 1 << 20
HEAD = b"POST /invocations HTTP/1.1\r\nHost: localhost\r\nAccept: image/png\r\n"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like /opt/ml with an untrained FCN in it."""
    return prepare_base(tmp_path_factory.mktemp("ml"))


@pytest.fixture(scope="module")
def pings() -> list[int]:
    """What /ping answered until it said 200."""
    return []


@pytest.fixture(scope="module")
def server(base: Path, pings: list[int]) -> Iterator[ServerProcess]:
    with serving(base, base / "serve.log", SAGEMAKER_MAX_PAYLOAD_IN_MB="1") as running:
        pings.extend(running.wait_until_served())
        yield running


def _count_files(server: ServerProcess) -> int:
    """How many files and connections the server has open."""
    return len(os.listdir(f"/proc/{server.process.pid}/fd"))


def _begin(server: ServerProcess, stack: ExitStack, count: int) -> list[socket.socket]:
    """Send requests that the server has read when this returns; the connections, which ``stack`` closes."""
    connections = [stack.enter_context(connect(server.port)) for _ in range(count)]
    for connection in connections:
        connection.sendall(build_request(PNG))
    assert ping(server).status == 200  # a later connection: its answer comes after the others were read
    return connections


def _post(server: ServerProcess, body: bytes, **headers: str) -> Answer:
    return server.request("/invocations", body, {name.replace("_", "-"): text for name, text in headers.items()})


def test_ping_says_503_until_the_model_is_loaded(server: ServerProcess, pings: list[int]) -> None:
    assert pings[0] == 503
    assert set(pings) == {503, 200}
    assert server.request("/ping")[::2] == (200, b"")
    assert "the model is loaded and warm" in server.read_log()


def test_every_answer_has_the_same_mask_of_the_size_that_was_sent(server: ServerProcess) -> None:
    status, content_type, body = _post(server, PNG, Content_Type="image/png", Accept="image/png")
    assert (status, content_type) == (200, "image/png")
    mask = np.array(Image.open(io.BytesIO(body)))
    assert mask.shape == (90, 70)
    assert mask.dtype == np.uint8
    assert len(np.unique(mask)) > 1

    status, content_type, body = _post(server, PNG)
    assert (status, content_type) == (200, "application/x-recordio-protobuf")
    np.testing.assert_array_equal(parse_mask(body), mask)
    np.testing.assert_allclose(parse_probabilities(read_record(body)).sum(axis=0), 1, atol=1e-5)


def test_good_and_bad_requests_at_the_same_time(server: ServerProcess) -> None:
    good = [encode_picture(draw_noise(*size, seed=size[0])) for size in ((1, 1), (300, 400), (17, 9), (64, 64))]
    bodies = [*good, good[1][:5000], b"no picture"]
    alone = [exchange(server.port, build_request(body)) for body in bodies]
    assert [reply.status for reply in alone] == [200] * 4 + [400, 415]
    assert {frozenset(reply.headers) for reply in alone} == {frozenset({"content-type", "content-length", "date"})}
    together = [reply.result() for reply in post_all(server, bodies * 3)]
    assert [(one.status, one.body) for one in together] == [(one.status, one.body) for one in alone * 3]


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GARBAGE\r\n\r\n", 400),
        (HEAD + b"Transfer-Encoding: gzip\r\n\r\nabc", 501),
        (HEAD + b"X: " + b"x" * 70_000 + b"\r\n\r\n", 431),
    ],
    ids=["no-http", "coding", "head"],
)
def test_what_is_no_valid_http_is_refused_in_json(server: ServerProcess, data: bytes, status: int) -> None:
    with connect(server.port) as connection:
        connection.sendall(data)
        reply = read_reply(connection)
        assert reply.status == status
        assert reply.read_error()
        assert is_closed(connection)
    assert _post(server, PNG)[0] == 200


def test_a_body_is_limited_before_it_is_read(server: ServerProcess) -> None:
    assert exchange(server.port, build_request(PNG + bytes(LIMIT - len(PNG)))).status == 200
    unsent = exchange(server.port, build_request(b"", Content_Length=str(LIMIT + 1)))
    with connect(server.port) as connection:
        connection.sendall(build_request(b"", Content_Length=str(LIMIT + 1), Expect="100-continue"))
        asked = read_reply(connection)
    chunk = b"%x\r\n%b\r\n" % (LIMIT // 8, bytes(LIMIT // 8))
    chunked = exchange(server.port, HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunk * 9)
    # A client that sends everything before it reads has its answer all the same.
    whole = _post(server, bytes(30 * LIMIT))
    assert [one.status for one in (unsent, asked, chunked, whole)] == [413] * 4
    assert "the body is larger than 1 MB: send a smaller" in unsent.read_error()


def test_a_body_in_chunks_and_several_requests_on_a_connection(server: ServerProcess) -> None:
    mask = _post(server, PNG, Accept="image/png").body
    connection = http.client.HTTPConnection("127.0.0.1", server.port)
    for _ in range(2):
        chunks = (PNG[start : start + 700] for start in range(0, len(PNG), 700))
        connection.request("POST", "/invocations", chunks, {"Accept": "image/png"}, encode_chunked=True)
        assert connection.getresponse().read() == mask
    connection.close()


def test_an_answer_that_has_no_room_ends_its_connection_alone(tmp_path: Path) -> None:
    limit = "import resource, runpy; resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20)); "
    program = f"{limit}runpy.run_path({STAND_IN!r}, run_name='__main__')"
    large = build_request(encode_picture(np.full((700, 700, 3), 9, np.uint8)), Accept="application/x-recordio-protobuf")
    with stand_in(tmp_path, "-c", program) as server:
        with pytest.raises(ConnectionError):
            exchange(server.port, large)
        assert exchange(server.port, build_request(PNG)).status == 200
        assert server.stop() == 0


def test_clients_that_leave_at_any_moment(server: ServerProcess) -> None:
    data = build_request(PNG, Accept="application/x-recordio-protobuf")
    before = _count_files(server)
    for number in range(12):
        with connect(server.port) as one:
            one.sendall(data[: (20, 300, len(data))[number % 3]])
    assert _post(server, PNG)[0] == 200
    wait_until(lambda: _count_files(server) <= before)
    assert "Traceback" not in server.read_log()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_finishes_what_was_begun(tmp_path: Path, number: int) -> None:
    data = build_request(PNG)
    with (
        stand_in(tmp_path, STAND_IN_SECONDS="0.4") as server,
        connect(server.port) as pinging,
        connect(server.port) as half,
        connect(server.port) as refused,
        ExitStack() as stack,
    ):
        refused.sendall(build_request(b"", Content_Length=str(LIMIT << 10)) + b"the first bytes")
        assert read_reply(refused).status == 413
        processes = list(iter_tree(server.process.pid))
        half.sendall(data[:-9])
        taken = _begin(server, stack, 4)
        server.process.send_signal(number)
        wait_until(lambda: "stopping: " in server.read_log())
        server.process.send_signal(number)
        pinging.sendall(b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n")
        pinged = read_reply(pinging, "GET")
        half.sendall(data[-9:])
        with pytest.raises(ConnectionRefusedError):
            ping(server)
        assert (pinged.status, "stopping" in pinged.read_error()) == (503, True)
        assert read_reply(half).status == 200
        replies = [read_reply(connection) for connection in taken]
        assert [(reply.status, reply.headers["connection"]) for reply in replies] == [(200, "close")] * 4
        assert server.process.wait(timeout=10) == 0
        wait_until(lambda: not any(map(is_running, processes)), 5)


def test_what_cannot_be_finished_in_time_is_told_so_before_the_platform_kills(tmp_path: Path) -> None:
    command = "import runpy, gluonseg.serve.server as s; s.DRAIN_S = 1.0; runpy.run_path({!r}, run_name='__main__')"
    with stand_in(tmp_path, "-c", command.format(STAND_IN), STAND_IN_SECONDS="60") as server, ExitStack() as stack:
        taken = _begin(server, stack, 2)
        assert server.stop() == 0
        assert [read_reply(connection).status for connection in taken] == [503] * 2


def test_a_killed_server_leaves_nothing_behind(tmp_path: Path) -> None:
    with stand_in(tmp_path) as server:
        processes = list(iter_tree(server.process.pid))
        server.process.kill()
        wait_until(lambda: not any(map(is_running, processes)), 5)


def test_an_answer_that_is_not_read_holds_nobody_up(server: ServerProcess) -> None:
    large = build_request(encode_picture(np.full((700, 700, 3), 9, np.uint8)), Accept="application/x-recordio-protobuf")
    with connect(server.port) as idler:
        idler.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        idler.sendall(large)
        reply = exchange(server.port, large)
        assert (reply.status, len(reply.body) > 5_000_000) == (200, True)
        assert reply.headers["connection"] == "close"  # with it goes the file of the answer
        assert _post(server, PNG)[0] == 200
        assert idler.recv(12) == b"HTTP/1.1 200"


def test_weights_that_overflow(base: Path, tmp_path: Path) -> None:
    shutil.copytree(base / "model", tmp_path / "model", ignore=shutil.ignore_patterns("*.onnx"))
    arrays = dict(read_arrays(tmp_path / "model" / BEST_FILE))
    name = [name for name, array in arrays.items() if array.ndim == 4][-1]
    arrays[name] = np.full_like(arrays[name], np.nan)
    write_params(arrays, tmp_path / "model" / BEST_FILE)
    with serving(tmp_path, tmp_path / "log") as server:
        assert server.process.wait(timeout=60) == 2
        assert "the model cannot be served" in server.read_log()


def test_a_model_that_is_not_there_ends_the_server_with_one_line(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    with serving(tmp_path, tmp_path / "serve.log") as server:
        assert server.process.wait(timeout=60) == 2
    text = server.read_log()
    assert text.count("ClientError: no model_best.params") == 1
    assert "Traceback" not in text


def test_a_bad_variable_or_a_port_that_is_taken_ends_the_server(tmp_path: Path, server: ServerProcess) -> None:
    for code, text, variable in (
        (2, "SAGEMAKER_MODEL_SERVER_WORKERS must be a whole number from 1 to 64, got 'many'", "many"),
        (1, f"the server cannot listen on 0.0.0.0:{server.port}: Address already in use", "1"),
    ):
        environment = build_environment(
            SAGEMAKER_BIND_TO_PORT=str(server.port), SAGEMAKER_MODEL_SERVER_WORKERS=variable
        )
        done = run_program([sys.executable, SERVE], environment)
        assert done.returncode == code
        assert text in done.stdout
        assert "Traceback" not in done.stdout
