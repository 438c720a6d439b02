"""The server under load: full, late, left by its clients, with more of them than there is room for.

The model is a stand-in that takes the time it is told to; everything else is the server as shipped.
"""

from __future__ import annotations

import socket
import struct
import threading
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import numpy as np
import pytest

from picture import draw_noise, encode_picture
from process_tree import read_usage
from raw_client import build_request, connect, exchange, read_one, read_reply
from stand_in_server import (
    AT_ONCE_S,
    CHANGED,
    PING,
    PNG,
    draw,
    ping,
    post_all,
    stand_in,
    wait_until,
)


def read_begun(log: Path) -> list[tuple[float, int]]:
    """Beginning and sum of the picture of every prediction that the stand-in has begun."""
    lines = log.read_text(encoding="ascii").splitlines() if log.exists() else []
    return [(float(line.split()[0]), int(line.split()[1])) for line in lines]


def sum_pixels(number: int) -> int:
    return int(draw_noise(20, 30, seed=number).sum())


@pytest.mark.fault(family=61, outcome="503 with Retry-After within 100 ms, /ping stays 200", inputs=6)
def test_a_request_too_many_is_refused_at_once_whatever_its_body(tmp_path: Path) -> None:
    with stand_in(tmp_path, STAND_IN_SECONDS="1", GLUONSEG_MAX_REQUESTS="2") as server:
        taken = post_all(server, [PNG, PNG])
        time.sleep(0.3)
        # The body never comes; then one that is sent whole by a client that reads only afterwards.
        without_body = build_request(b"", Content_Length=str(10 * 2**20))
        refused = [exchange(server.port, data) for data in (without_body, build_request(bytes(19 * 2**20)))]
        refused += [exchange(server.port, build_request(PNG, Expect="100-continue")) for _ in range(3)]
        pinged = ping(server)
        assert [reply.status for reply in refused] == [503] * 5
        assert all(reply.headers["retry-after"] == "1" for reply in refused)
        assert "2 requests already" in refused[0].read_error()
        assert pinged.status == 200
        assert max(reply.seconds for reply in (*refused, pinged)) < AT_ONCE_S
        assert [reply.result().status for reply in taken] == [200, 200]
        assert exchange(server.port, build_request(PNG)).status == 200


def test_a_queue_that_would_last_beyond_the_deadline_is_full(tmp_path: Path) -> None:
    with stand_in(tmp_path, STAND_IN_SECONDS="0.8", GLUONSEG_REQUEST_DEADLINE="2") as server:
        assert exchange(server.port, build_request(PNG)).status == 200
        replies = []
        for number in range(5):
            replies += post_all(server, [draw(number)])
            time.sleep(0.02)
        statuses = [reply.result().status for reply in replies]
        assert statuses[:2] == [200, 200]
        assert statuses[-1] == 503
        assert "try again later" in replies[-1].result().read_error()
        assert replies[-1].result().seconds < AT_ONCE_S


def test_nothing_is_begun_after_its_deadline(tmp_path: Path) -> None:
    log = tmp_path / "begun"
    with stand_in(
        tmp_path, STAND_IN_SECONDS="0.7", STAND_IN_LOG=str(log), GLUONSEG_REQUEST_DEADLINE="2"
    ) as server:
        start = time.monotonic()
        replies = [reply.result() for reply in post_all(server, [draw(number) for number in range(8)])]
        statuses = sorted(reply.status for reply in replies)
        assert statuses == [200] * 3 + [503] * 5
        late = [reply for reply in replies if reply.status == 503]
        assert all("try again" in reply.read_error() and "retry-after" in reply.headers for reply in late)
        assert max(reply.seconds for reply in late) < 3.5
        begun = read_begun(log)
        assert len(begun) == 3
        assert max(moment for moment, _ in begun) < start + 2.2


@pytest.mark.fault(family=60, outcome="what a client that has left waits for is not computed", inputs=6)
def test_nothing_is_computed_for_a_client_that_has_left(tmp_path: Path) -> None:
    log = tmp_path / "begun"
    with stand_in(tmp_path, STAND_IN_SECONDS="0.6", STAND_IN_LOG=str(log), GLUONSEG_MAX_REQUESTS="8") as server:
        first = post_all(server, [draw(0)])
        time.sleep(0.2)
        leaving = [connect(server.port) for _ in range(6)]
        for number, connection in enumerate(leaving, start=1):
            connection.sendall(build_request(draw(number)))
        time.sleep(0.2)
        for connection in leaving:
            connection.close()
        time.sleep(0.1)
        # Their places are free at once.
        staying = post_all(server, [draw(number) for number in range(10, 15)])
        assert [reply.result().status for reply in (*first, *staying)] == [200] * 6
        assert sorted(pixels for _, pixels in read_begun(log)) == sorted(map(sum_pixels, [0, *range(10, 15)]))
        assert server.read_log().count(" 499 ") == 6


@pytest.mark.fault(family=60, outcome="200 for a client that has closed its sending half")
def test_a_client_that_only_stops_sending_has_its_answer(tmp_path: Path) -> None:
    with stand_in(tmp_path, STAND_IN_SECONDS="0.3") as server, connect(server.port) as connection:
        connection.sendall(build_request(PNG))
        connection.shutdown(socket.SHUT_WR)
        assert read_reply(connection).status == 200


@pytest.mark.fault(family=60, outcome="nothing is kept for clients that leave, by FIN or by reset", inputs=24)
def test_clients_that_leave_at_any_moment(tmp_path: Path) -> None:
    large = encode_picture(np.full((700, 700, 3), 9, np.uint8))
    data = build_request(large, Accept="application/x-recordio-protobuf")
    head = data.index(b"\r\n\r\n")
    with stand_in(tmp_path, STAND_IN_SECONDS="0.05") as server:
        assert exchange(server.port, data).status == 200
        before = read_usage(server.process.pid).descriptors
        for number in range(24):
            with connect(server.port) as one:
                one.sendall(data[: (head - 5, head + 200, len(data), len(data))[number % 4]])
                if number % 4 == 3:
                    one.recv(1000)
                if number % 8 < 4:
                    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        reply = exchange(server.port, data)
        assert (reply.status, len(reply.body) > 5_000_000) == (200, True)
        wait_until(lambda: read_usage(server.process.pid).descriptors <= before)
        assert "Traceback" not in server.read_log()


@pytest.mark.fault(family=60, outcome="500 idle clients and 3000 that connect and leave change nothing", inputs=3500)
def test_idle_clients_and_a_flood_of_connections(tmp_path: Path) -> None:
    with stand_in(tmp_path) as server, ExitStack() as stack:
        for _ in range(500):
            idle = stack.enter_context(connect(server.port))
            idle.sendall(PING)
            assert read_one(idle) == (200, b"")

        def flood() -> None:
            for _ in range(1000):
                with suppress(OSError), connect(server.port):
                    pass

        threads = [threading.Thread(target=flood) for _ in range(3)]
        for thread in threads:
            thread.start()
        replies = [exchange(server.port, build_request(PNG)) for _ in range(20)]
        for thread in threads:
            thread.join()
        assert {reply.status for reply in replies} == {200}
        assert ping(server).seconds < AT_ONCE_S
        idle.sendall(build_request(PNG))
        assert read_one(idle)[0] == 200


@pytest.mark.fault(family=60, outcome="beyond the limit the most silent are let go, good ones are served", inputs=40)
def test_more_clients_than_there_is_room_for(tmp_path: Path) -> None:
    with stand_in(tmp_path, "-c", CHANGED.format("max_connections=20")) as server:
        crowd = [connect(server.port) for _ in range(40)]
        for number, connection in enumerate(crowd):
            if number % 2:
                connection.sendall(b"POST /invocations HTTP/1.1\r\nX: ")
        assert [exchange(server.port, build_request(draw(number))).status for number in range(5)] == [200] * 5
        assert ping(server).status == 200
        for connection in crowd:
            connection.close()


@pytest.mark.fault(family=44, outcome="with 64 descriptors it serves fewer clients at a time", inputs=46)
def test_few_descriptors(tmp_path: Path) -> None:
    command = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64)); " + CHANGED.format("")
    large = build_request(encode_picture(np.full((500, 500, 3), 9, np.uint8)), Accept="application/x-recordio-protobuf")
    with stand_in(tmp_path, "-c", command) as server, ExitStack() as stack:
        for number in range(40):
            one = stack.enter_context(connect(server.port))
            one.sendall(large if number % 2 else b"POST ")
        assert [exchange(server.port, build_request(draw(number))).status for number in range(6)] == [200] * 6
        assert ping(server).status == 200


def test_bodies_that_stop_arriving_give_way_to_those_that_do_not(tmp_path: Path) -> None:
    with stand_in(tmp_path, "-c", CHANGED.format("max_buffer_mb=8")) as server:
        stalled = [connect(server.port) for _ in range(5)]
        for connection in stalled:
            connection.sendall(build_request(b"", Content_Length=str(3 * 2**20)) + bytes(2 * 2**20))
            time.sleep(0.1)
        first = read_reply(stalled[0])
        assert (first.status, "slowest" in first.read_error()) == (503, True)
        # What is no picture is refused for that, once it has come whole.
        assert exchange(server.port, build_request(bytes(3 * 2**20))).status == 415
        assert exchange(server.port, build_request(PNG)).status == 200
        for connection in stalled:
            connection.close()


@pytest.mark.fault(family=60, outcome="answers that are not read are given up in favour of others", inputs=6)
def test_answers_that_are_not_read_give_way(tmp_path: Path) -> None:
    large = encode_picture(np.zeros((1000, 1000, 3), np.uint8) + 9)
    with stand_in(tmp_path, "-c", CHANGED.format("max_buffer_mb=40")) as server:
        data = build_request(large, Accept="application/x-recordio-protobuf")
        readers = [connect(server.port) for _ in range(6)]
        for connection in readers:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.sendall(data)
            time.sleep(0.2)
        reply = exchange(server.port, data)
        assert (reply.status, len(reply.body) > 12_000_000) == (200, True)
        assert exchange(server.port, build_request(PNG)).status == 200
        for connection in readers:
            connection.close()


def test_ping_is_fast_under_a_flood_of_refused_requests(tmp_path: Path) -> None:
    with stand_in(tmp_path, STAND_IN_SECONDS="0.1", GLUONSEG_MAX_REQUESTS="4") as server:
        until = time.monotonic() + 3
        statuses: list[int] = []

        def flood() -> None:
            while time.monotonic() < until:
                statuses.append(exchange(server.port, build_request(PNG)).status)

        threads = [threading.Thread(target=flood) for _ in range(8)]
        for thread in threads:
            thread.start()
        durations = []
        while time.monotonic() < until:
            reply = ping(server)
            assert reply.status == 200
            durations.append(reply.seconds)
        for thread in threads:
            thread.join()
        assert set(statuses) == {200, 503}
        # The network was never idle.
        assert statuses.count(200) > 20
        assert sorted(durations)[int(0.99 * len(durations))] < AT_ONCE_S
