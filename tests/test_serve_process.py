"""``container/serve`` as a process over a real model folder, as Docker would start it: answers, limits, and its end."""

from __future__ import annotations

import http.client
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from gluonseg.models.folder.manifest import BEST_FILE
from gluonseg.models.params import read_arrays, write_params
from local_server import Answer, ServerProcess, find_free_port, serving
from notebook_client import parse_mask, parse_probabilities, read_record
from picture import draw_noise, encode_picture
from process_tree import is_running, iter_tree
from raw_client import build_request, connect, exchange, is_closed, read_reply
from served_model import NAMES, prepare_base
from stand_in_server import STAND_IN, describe_stand_in, ping, post_all, stand_in, starting, wait_until

PICTURE = draw_noise(90, 70)
PNG = encode_picture(PICTURE)
LIMIT = 1 << 20
HEAD = b"POST /invocations HTTP/1.1\r\nHost: localhost\r\nAccept: image/png\r\n"
AT_ONCE_S = 2.0


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


def _post(server: ServerProcess, body: bytes, **headers: str) -> Answer:
    return server.request("/invocations", body, {name.replace("_", "-"): text for name, text in headers.items()})


def _read_png(body: bytes) -> npt.NDArray[np.uint8]:
    return np.array(Image.open(io.BytesIO(body)))


def test_ping_says_503_until_the_model_is_loaded(server: ServerProcess, pings: list[int]) -> None:
    assert pings[0] == 503
    assert set(pings) == {503, 200}
    assert server.request("/ping")[::2] == (200, b"")
    assert "the model is loaded and warm" in server.read_log()


def test_every_answer_has_the_same_mask_of_the_size_that_was_sent(server: ServerProcess) -> None:
    status, content_type, body = _post(server, PNG, Content_Type="image/png", Accept="image/png")
    assert (status, content_type) == (200, "image/png")
    mask = _read_png(body)
    assert mask.shape == (90, 70)
    assert mask.dtype == np.uint8
    assert len(np.unique(mask)) > 1

    status, content_type, body = _post(server, PNG)
    assert (status, content_type) == (200, "application/x-recordio-protobuf")
    np.testing.assert_array_equal(parse_mask(body), mask)
    np.testing.assert_allclose(parse_probabilities(read_record(body)).sum(axis=0), 1, atol=1e-5)

    answer = json.loads(_post(server, PNG, Accept="application/json")[2])
    class_ids, lengths = np.array(answer["mask"]["runs"]).T
    np.testing.assert_array_equal(np.repeat(class_ids, lengths).reshape(90, 70), mask)
    assert [entry["name"] for entry in answer["classes"]] == list(NAMES)

    np.testing.assert_array_equal(np.load(io.BytesIO(_post(server, PNG, Accept="application/x-npy")[2])), mask)
    assert _read_png(_post(server, PNG, Accept="image/x-overlay+png")[2]).shape == (90, 70, 3)


@pytest.mark.parametrize("size", [(1, 1), (33, 200), (1, 4000)])
def test_any_size_of_a_jpeg(server: ServerProcess, size: tuple[int, int]) -> None:
    body = encode_picture(np.resize(PICTURE, (*size, 3)), "JPEG")
    assert _read_png(_post(server, body, Content_Type="image/jpeg", Accept="image/png")[2]).shape == size


def test_good_and_bad_requests_at_the_same_time(server: ServerProcess) -> None:
    good = [encode_picture(draw_noise(*size, seed=size[0])) for size in ((1, 1), (300, 400), (17, 9), (64, 64))]
    bodies = [*good, good[1][:5000], b"no picture"]
    alone = [exchange(server.port, build_request(body)) for body in bodies]
    assert [reply.status for reply in alone] == [200] * 4 + [400, 415]
    together = [reply.result() for reply in post_all(server, bodies * 3)]
    assert [(one.status, one.body) for one in together] == [(one.status, one.body) for one in alone * 3]


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GARBAGE\r\n\r\n", 400),
        (HEAD + b"Content-Length: -5\r\n\r\nabc", 400),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n", 400),
        (HEAD + b"Transfer-Encoding: gzip\r\n\r\nabc", 501),
        (HEAD + b"X: " + b"x" * 70_000 + b"\r\n\r\n", 431),
    ],
    ids=["no-http", "length", "chunk", "coding", "head"],
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
    assert unsent.seconds < AT_ONCE_S
    assert "the body is larger than 1 MB: send a smaller" in unsent.read_error()


def test_a_body_in_chunks_and_several_requests_on_a_connection(server: ServerProcess) -> None:
    mask = _post(server, PNG, Accept="image/png").body
    connection = http.client.HTTPConnection("127.0.0.1", server.port)
    for _ in range(2):
        chunks = (PNG[start : start + 700] for start in range(0, len(PNG), 700))
        connection.request("POST", "/invocations", chunks, {"Accept": "image/png"}, encode_chunked=True)
        assert connection.getresponse().read() == mask
    connection.close()


def test_answers_tell_nothing_of_the_servers_inside(server: ServerProcess) -> None:
    reply = exchange(server.port, build_request(b"no picture"))
    assert set(reply.headers) == {"content-type", "content-length", "date"}


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
    files = Path(f"/proc/{server.process.pid}/fd")
    before = len(list(files.iterdir()))
    for number in range(12):
        with connect(server.port) as one:
            one.sendall(data[: (20, 300, len(data))[number % 3]])
    assert _post(server, PNG)[0] == 200
    wait_until(lambda: len(list(files.iterdir())) <= before)
    assert "Traceback" not in server.read_log()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_finishes_what_was_begun(tmp_path: Path, number: int) -> None:
    data = build_request(PNG)
    with (
        stand_in(tmp_path, STAND_IN_SECONDS="0.4") as server,
        connect(server.port) as pinging,
        connect(server.port) as half,
        connect(server.port) as refused,
    ):
        refused.sendall(build_request(b"", Content_Length=str(LIMIT << 10)) + b"the first bytes")
        assert read_reply(refused).status == 413
        processes = list(iter_tree(server.process.pid))
        half.sendall(data[:-9])
        taken = post_all(server, [PNG] * 4)
        time.sleep(0.2)
        server.process.send_signal(number)
        time.sleep(0.3)
        server.process.send_signal(number)
        pinging.sendall(b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n")
        pinged = read_reply(pinging, "GET")
        half.sendall(data[-9:])
        with pytest.raises(ConnectionRefusedError):
            ping(server)
        assert (pinged.status, "stopping" in pinged.read_error()) == (503, True)
        assert read_reply(half).status == 200
        assert [reply.result().status for reply in taken] == [200] * 4
        assert {reply.result().headers["connection"] for reply in taken} == {"close"}
        assert server.process.wait(timeout=10) == 0
        wait_until(lambda: not any(map(is_running, processes)), 5)


def test_what_cannot_be_finished_in_time_is_told_so_before_the_platform_kills(tmp_path: Path) -> None:
    command = "import runpy, gluonseg.serve.server as s; s.DRAIN_S = 1.0; runpy.run_path({!r}, run_name='__main__')"
    with stand_in(tmp_path, "-c", command.format(STAND_IN), STAND_IN_SECONDS="5") as server:
        taken = post_all(server, [PNG] * 2)
        time.sleep(0.3)
        start = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        assert [reply.result().status for reply in taken] == [503] * 2
        assert server.process.wait(timeout=10) == 0
        assert time.monotonic() - start < 4


def test_a_killed_server_leaves_nothing_behind(tmp_path: Path) -> None:
    with stand_in(tmp_path) as server:
        processes = list(iter_tree(server.process.pid))
        server.process.kill()
        wait_until(lambda: not any(map(is_running, processes)), 5)


def test_a_log_that_nobody_reads_any_more_stops_nothing(tmp_path: Path) -> None:
    port, (reading, writing) = find_free_port(), os.pipe()
    process = subprocess.Popen([sys.executable, STAND_IN], env=describe_stand_in(port), stdout=writing, stderr=writing)
    os.close(writing)
    server = ServerProcess(process, port, tmp_path / "log")
    try:
        server.wait_until_served()
        os.close(reading)
        assert [exchange(server.port, build_request(PNG)).status for _ in range(3)] == [200] * 3
        assert server.stop() == 0
    finally:
        process.kill()
        process.wait()


def test_as_the_first_process_of_a_container(tmp_path: Path) -> None:
    unshare = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
    if subprocess.run([*unshare, "true"], check=False, capture_output=True).returncode:
        pytest.skip("no namespace of processes can be made here")
    port = find_free_port()
    with (tmp_path / "log").open("wb") as log:
        command = [*unshare, sys.executable, STAND_IN]
        process = subprocess.Popen(command, env=describe_stand_in(port), stderr=log, stdout=log)
    server = ServerProcess(process, port, tmp_path / "log")
    try:
        server.wait_until_served()
        first, *children = list(iter_tree(process.pid))[1:]
        os.kill(children[-1], signal.SIGKILL)
        wait_until(lambda: children[-1] not in list(iter_tree(first)))
        server.wait_until_served()
        os.kill(first, signal.SIGTERM)
        assert process.wait(timeout=10) == 0
    finally:
        process.kill()
        process.wait()


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


def test_ping_is_fast_while_more_is_asked_than_there_is_room_for(tmp_path: Path) -> None:
    with stand_in(tmp_path, STAND_IN_SECONDS="0.1", GLUONSEG_MAX_REQUESTS="4") as server:
        until = time.monotonic() + 2
        statuses: list[int] = []

        def flood() -> None:
            while time.monotonic() < until:
                statuses.append(exchange(server.port, build_request(PNG)).status)

        threads = [threading.Thread(target=flood) for _ in range(8)]
        for thread in threads:
            thread.start()
        pings = []
        while time.monotonic() < until:
            pings.append(ping(server))
        for thread in threads:
            thread.join()
        assert {reply.status for reply in pings} == {200}
        assert set(statuses) == {200, 503}
        # The model was never idle.
        assert statuses.count(200) > 13
        assert sorted(reply.seconds for reply in pings)[len(pings) // 2] < AT_ONCE_S


def test_a_batch_transform_at_its_limits(tmp_path: Path) -> None:
    with stand_in(tmp_path, SAGEMAKER_MAX_PAYLOAD_IN_MB="20", SAGEMAKER_MAX_CONCURRENT_TRANSFORMS="5") as server:
        allowed = json.loads(server.request("/execution-parameters").body)
        assert allowed == {"MaxConcurrentTransforms": 5, "MaxPayloadInMB": 20}
        replies = post_all(server, [PNG + bytes((20 << 20) - len(PNG))] * 5)
        assert {reply.result().status for reply in replies} == {200}


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


def test_a_process_that_keeps_ending_ends_the_server(tmp_path: Path) -> None:
    with starting(tmp_path, STAND_IN_END="1") as server:
        assert server.process.wait(timeout=30) == 1
        assert "it has ended 3 times within 60 s" in server.read_log()


def test_a_bad_variable_or_a_port_that_is_taken_ends_the_server(tmp_path: Path, server: ServerProcess) -> None:
    for code, text, variable in (
        (2, "SAGEMAKER_MODEL_SERVER_WORKERS must be a whole number from 1 to 64, got 'many'", "many"),
        (1, f"the server cannot listen on 0.0.0.0:{server.port}: Address already in use", "1"),
    ):
        environment = describe_stand_in(server.port, SAGEMAKER_MODEL_SERVER_WORKERS=variable)
        command = [sys.executable, str(Path(STAND_IN).parents[1] / "container" / "serve")]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == code
        assert text in done.stderr
        assert "Traceback" not in done.stderr
