"""Where a request ends: lengths that do not fit, chunks, and requests hidden in the body of another."""

from __future__ import annotations

import select
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from faults.served import MASK, PAYLOAD_MB, PNG, Served
from gluonseg.serve.request import MAX_CHUNKS
from picture import draw_noise, encode_picture
from process_tree import read_usage
from raw_client import build_request, connect, exchange, is_closed, read_one, read_reply
from stand_in_server import CHANGED, stand_in

START = b"POST /invocations HTTP/1.1\r\nHost: x\r\nAccept: image/png\r\n"
CHUNKED = START + b"Transfer-Encoding: chunked\r\n\r\n"
END = b"0\r\n\r\n"
LIMIT = PAYLOAD_MB << 20
SOON_S = 2.0


def cut(body: bytes, size: int) -> bytes:
    """A body in chunks of ``size`` bytes, without its end."""
    parts = (body[start : start + size] for start in range(0, len(body), size))
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts)


@pytest.mark.fault(family=49, outcome="400 or 415", inputs=4)
@pytest.mark.parametrize(
    ("rest", "status"),
    [(b"Content-Length: 0\r\n\r\n", 400), (b"\r\n", 400), (b"Content-Length: 1\r\n\r\n\xff", 415)],
    ids=["length 0", "no length", "one byte"],
)
def test_a_body_of_next_to_nothing(served: Served, rest: bytes, status: int) -> None:
    for data in (START + rest, CHUNKED + END):
        reply = served.ask(data)
        assert reply.status == (status if data.startswith(START + rest) else 400)
        assert reply.read_error()
    served.check_next()


@pytest.mark.fault(family=49, outcome="400 or 413 at once, and the connection is closed")
@pytest.mark.parametrize(
    ("data", "status"),
    [
        pytest.param(START + b"Content-Length: -5\r\n\r\nabcde", 400, id="negative"),
        pytest.param(START + b"Content-Length: +5\r\n\r\nabcde", 400, id="plus"),
        pytest.param(START + b"Content-Length: 9223372036854775808\r\n\r\nabc", 413, id="2^63"),
        pytest.param(START + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\nabc", 400, id="5000 digits"),
        pytest.param(START + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nabcde", 400, id="twice"),
        pytest.param(START + b"Content-Length: 5, 5\r\n\r\nabcde", 400, id="list"),
        pytest.param(START + b"Content-Length: 0x5\r\n\r\nabcde", 400, id="hexadecimal"),
        pytest.param(START + b"Content-Length: 5 5\r\n\r\nabcde", 400, id="two words"),
        pytest.param(START + b"Content-Length: \xb2\r\n\r\nab", 400, id="a digit of Unicode"),
        pytest.param(START + b"Content-Length : 5\r\n\r\nabcde", 400, id="blank before the colon"),
        pytest.param(START + b"X: a\r\n Content-Length: 5\r\n\r\nabcde", 400, id="folded line"),
        pytest.param(START + b"Transfer-Encoding: identity\r\n\r\nabc", 400, id="identity"),
        pytest.param(START + b"Transfer-Encoding: xchunked\r\n\r\n" + END, 400, id="xchunked"),
        pytest.param(START + b"Transfer-Encoding: chunked, chunked\r\n\r\n" + END, 400, id="chunked twice"),
        pytest.param(START + b"Transfer-Encoding: chunked, gzip\r\n\r\n" + END, 400, id="chunked not last"),
        pytest.param(CHUNKED.replace(b"/1.1", b"/1.0") + END, 400, id="chunked in HTTP/1.0"),
        pytest.param(CHUNKED + b"zz\r\nabc\r\n" + END, 400, id="chunk size no number"),
        pytest.param(CHUNKED + b"-1\r\nabc\r\n" + END, 400, id="chunk size negative"),
        pytest.param(CHUNKED + b"0x3\r\nabc\r\n" + END, 400, id="chunk size with 0x"),
        pytest.param(CHUNKED + b" 3\r\nabc\r\n" + END, 400, id="chunk size after a blank"),
        pytest.param(CHUNKED + b"\r\nabc\r\n" + END, 400, id="chunk size missing"),
        pytest.param(CHUNKED + b"3\nabc\n0\n\n", 400, id="bare line feeds"),
        pytest.param(CHUNKED + b"f" * 17 + b"\r\nabc\r\n", 400, id="chunk size of 17 digits"),
        pytest.param(CHUNKED + b"7fffffffffffffff\r\nabc\r\n", 413, id="chunk of 2^63 - 1"),
        pytest.param(CHUNKED + b"3\r\nabcd\r\n" + END, 400, id="chunk longer than it says"),
        pytest.param(CHUNKED + b"3;" + b"x" * 300 + b"\r\nabc\r\n", 400, id="endless chunk extension"),
        pytest.param(CHUNKED + b"3;a=\x00\r\nabc\r\n", 400, id="NUL in a chunk extension"),
        pytest.param(CHUNKED + cut(bytes(LIMIT + 1), 65536), 413, id="chunks beyond the limit"),
        pytest.param(CHUNKED + b"0\r\n" + b"X: y\r\n" * 3000, 400, id="endless trailer"),
        pytest.param(CHUNKED + b"0\r\n" + b"x" * 9000, 400, id="endless line of a trailer"),
    ],
)
def test_a_body_without_a_clear_end(served: Served, data: bytes, status: int) -> None:
    with connect(served.port) as connection:
        connection.sendall(data)
        reply = read_reply(connection)
        assert reply.status == status
        assert reply.read_error()
        assert reply.seconds < SOON_S
        assert is_closed(connection)
    served.check_next()


@pytest.mark.fault(family=49, outcome="what is hidden in a body is never run", inputs=4)
@pytest.mark.parametrize(
    "front",
    [
        START + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n" + END,
        START + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n" + END,
        START + b"Transfer-Encoding:\x0bchunked\r\nContent-Length: 5\r\n\r\n" + END,
        START + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: cow\r\n\r\n" + END,
    ],
    ids=["length first", "chunked first", "vertical tab", "two codings"],
)
def test_a_second_request_in_the_body_of_a_dubious_one(served: Served, front: bytes) -> None:
    before = served.count_predictions()
    with connect(served.port) as connection:
        connection.sendall(front + build_request(PNG))
        assert read_reply(connection).status == 400
        assert is_closed(connection)
    assert served.count_predictions() == before
    served.check_next()


def test_requests_one_after_the_other_on_one_connection(served: Served) -> None:
    one = CHUNKED + cut(PNG, 700) + b"0;name=\"value\"\r\nTrailer: x\r\n\r\n"
    with connect(served.port) as connection:
        connection.sendall(one + build_request(PNG) + b"\r\n" + build_request(b"", "/ping", "GET") + one)
        replies = [read_one(connection) for _ in range(4)]
    assert [status for status, _ in replies] == [200] * 4
    assert [body for _, body in replies] == [MASK, MASK, b"", MASK]


@pytest.mark.fault(family=49, outcome="65,536 chunks are taken, one more is 400; memory does not grow", inputs=9)
def test_chunks_of_a_byte(served: Served) -> None:
    picture = encode_picture(draw_noise(140, 150))
    body = picture + bytes(MAX_CHUNKS - len(picture)) if len(picture) < MAX_CHUNKS else picture[:MAX_CHUNKS]
    most = CHUNKED + cut(body, 1)
    assert served.ask(most + END).status == 200
    before = read_usage(served.server.process.pid).memory
    for _ in range(8):
        reply = served.ask(most + b"1\r\nx\r\n" + END)
        assert (reply.status, "65536 chunks" in reply.read_error()) == (400, True)
    assert read_usage(served.server.process.pid).memory - before < 20 * 2**20
    served.check_next()


@pytest.mark.fault(family=50, outcome="up to the limit 200, beyond it 413 before the body is read", inputs=6)
@pytest.mark.parametrize(("size", "status"), [(LIMIT - 1, 200), (LIMIT, 200), (LIMIT + 1, 413), (100 << 20, 413)])
def test_bodies_around_the_limit(served: Served, size: int, status: int) -> None:
    reply = served.ask(build_request(PNG + bytes(size - len(PNG))))
    assert reply.status == status
    if status == 413:
        assert "1 MB" in reply.read_error()
        # Not a byte of the body is sent.
        assert served.ask(build_request(b"", Content_Length=str(size))).seconds < SOON_S
    served.check_next()


@pytest.mark.fault(family=50, outcome="too long a body is 413, not 100 Continue", inputs=3)
def test_expect_100_continue(served: Served) -> None:
    with connect(served.port) as connection:
        connection.sendall(build_request(b"", Content_Length=str(LIMIT + 1), Expect="100-continue"))
        assert connection.recv(12) == b"HTTP/1.1 413"
    with connect(served.port) as connection:
        connection.sendall(build_request(b"", Content_Length=str(len(PNG)), Expect="100-continue"))
        assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(PNG)
        assert read_reply(connection).status == 200
    assert served.ask(build_request(PNG, Expect="200-ok")).status == 400
    served.check_next()


@pytest.mark.fault(family=49, outcome="400 when the client stops before the end", inputs=4)
@pytest.mark.parametrize(
    "data",
    [START, START + b"Content-Length: 100\r\n\r\nabc", CHUNKED + b"64\r\nabc", CHUNKED + b"3\r\nabc\r\n"],
    ids=["head", "length", "chunk", "terminator"],
)
def test_a_request_that_is_cut_short(served: Served, data: bytes) -> None:
    with connect(served.port) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        reply = read_reply(connection)
        assert (reply.status, "ended early" in reply.read_error()) == (400, True)
    served.check_next()


@pytest.mark.fault(family=49, outcome="400 when nothing more comes", inputs=4)
def test_a_request_that_stalls(tmp_path: Path) -> None:
    starts = (START[:9], START, START + b"Content-Length: 100\r\n\r\nabc", CHUNKED + b"64\r\nabc")
    with stand_in(tmp_path, "-c", CHANGED.format("idle_timeout_s=1")) as server:
        begun = time.monotonic()
        with ThreadPoolExecutor(len(starts)) as pool:
            replies = list(pool.map(lambda data: exchange(server.port, data), starts))
        assert 0.5 < time.monotonic() - begun < 4
    assert [reply.status for reply in replies] == [400] * 4
    assert ["has not come whole in time" in reply.read_error() for reply in replies] == [True, True, False, False]
    assert ["nothing has come for 1 seconds" in reply.read_error() for reply in replies] == [False, False, True, True]


@pytest.mark.fault(family=49, outcome="503 for a body that has not come whole by its deadline")
def test_a_body_that_comes_too_slowly(tmp_path: Path) -> None:
    with stand_in(tmp_path, "-c", CHANGED.format("deadline_s=1")) as server, connect(server.port) as connection:
        connection.sendall(START + b"Content-Length: 1000\r\n\r\n")
        for _ in range(100):
            if select.select([connection], [], [], 0.1)[0]:
                break
            connection.sendall(b"x")
        reply = read_reply(connection)
        assert (reply.status, reply.headers["retry-after"]) == (503, "1")
        assert "the request has not come whole in time: send it faster" in reply.read_error()
