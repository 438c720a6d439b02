"""Addresses, methods, headers, and what is no HTTP at all."""

from __future__ import annotations

import gzip
import io
import pickle
import ssl
from pathlib import Path

import numpy as np
import pytest

from faults.served import MASK, PNG, Served
from gluonseg.serve.media import RECORDIO
from raw_client import build_request, connect, exchange, is_closed, read_reply

SOON_S = 2.0


class Canary:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.path,)


def encode_objects(canary: Path) -> bytes:
    """A numpy file with an array of objects, which is a pickle."""
    buffer = io.BytesIO()
    np.save(buffer, np.array([Canary(canary)], dtype=object), allow_pickle=True)
    return buffer.getvalue()


@pytest.mark.fault(family=51, outcome="a picture is taken under any type of a picture or none, else 415", inputs=12)
@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        (None, 200),
        ("", 200),
        ("image/png; charset=nonsense", 200),
        ("image/jpeg", 200),
        ("image/svg+xml", 200),
        ("application/octet-stream", 200),
        ("text/csv", 415),
        ("application/x-npy", 415),
        ("application/json", 415),
        ("multipart/form-data; boundary=x", 415),
        (";;;===,,,", 200),
        ("x" * 9000, 415),
    ],
)
def test_content_types(served: Served, content_type: str | None, status: int) -> None:
    headers = {} if content_type is None else {"Content_Type": content_type}
    assert served.ask(build_request(PNG, **headers)).status == status
    served.check_next()


@pytest.mark.fault(family=51, outcome="415; nothing is parsed, unpacked or executed", inputs=5)
def test_bodies_that_are_something_else(served: Served, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    parts = b"".join(b"--x\r\nContent-Disposition: form-data; name=a\r\n\r\n\r\n" for _ in range(20_000)) + b"--x--\r\n"
    before = served.forget_peak_mb()
    bodies = {
        "image/svg+xml": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="http://127.0.0.1:9/x"/></svg>',
        "application/x-npy": encode_objects(canary),
        "application/octet-stream": pickle.dumps(Canary(canary)),
        "multipart/form-data; boundary=x": parts,
    }
    for content_type, body in bodies.items():
        assert served.ask(build_request(body, Content_Type=content_type)).status == 415
    bomb = gzip.compress(bytes(200 * 2**20))
    assert served.ask(build_request(bomb, Content_Type="image/png", Content_Encoding="gzip")).status == 415
    assert not canary.exists()
    assert served.read_peak_mb() - before < 64
    served.check_next()


@pytest.mark.fault(family=51, outcome="431", inputs=4)
@pytest.mark.parametrize(
    "data",
    [
        build_request(PNG, X="x" * 64_000),
        build_request(PNG, X="x" * 2_000_000),
        build_request(PNG, **{f"X{number}": "y" for number in range(200)}),
        b"GET /ping HTTP/1.1\r\n" + b"X: " + b"y" * 100_000,
    ],
    ids=["64 kB", "2 MB", "200 headers", "no end"],
)
def test_large_heads(served: Served, data: bytes) -> None:
    reply = served.ask(data)
    assert (reply.status, "send fewer and shorter" in reply.read_error()) == (431, True)
    assert reply.seconds < SOON_S
    served.check_next()


@pytest.mark.fault(family=51, outcome="a hundred headers are taken")
def test_a_hundred_headers(served: Served) -> None:
    few = build_request(PNG)
    missing = 100 - few.partition(b"\r\n\r\n")[0].count(b"\r\n")
    assert served.ask(build_request(PNG, **{f"X{number}": "y" for number in range(missing)})).status == 200
    assert served.ask(build_request(PNG, **{f"X{number}": "y" for number in range(missing + 1)})).status == 431


@pytest.mark.fault(family=52, outcome="the default, what was asked for, or 406", inputs=11)
@pytest.mark.parametrize(
    ("accept", "found"),
    [
        ("", RECORDIO),
        ("*/*", RECORDIO),
        ("image/*", "image/png"),
        ("image/png;q=0.1, application/json;q=0.9", "application/json"),
        ("image/png;q=nan, */*;q=0.1", RECORDIO),
        (", ".join(["text/html"] * 900 + ["image/png"]), "image/png"),
        ("image/jpeg", None),
        ("image/png;q=0", None),
        ("*/*;q=0", None),
        ("\xe4\xff" * 3000, None),
        ("image/png\t;\tq=1", "image/png"),
    ],
)
def test_accept(served: Served, accept: str, found: str | None) -> None:
    reply = served.ask(build_request(PNG, Accept=accept))
    assert reply.status == (200 if found else 406)
    if found:
        assert reply.headers["content-type"] == found
    served.check_next()


@pytest.mark.fault(family=58, outcome="404, 405 or 400, in JSON; /ping with a question mark is /ping", inputs=34)
@pytest.mark.parametrize(
    ("method", "target", "status"),
    [
        ("GET", "/ping?x=1", 200),
        ("HEAD", "/ping", 200),
        ("GET", "http://elsewhere/ping", 200),
        ("GET", "//ping", 404),
        ("GET", "/ping/", 404),
        ("GET", "/PING", 404),
        ("GET", "/", 404),
        ("POST", "/invocations/", 404),
        ("GET", "/../../etc/passwd", 404),
        ("GET", "/%2e%2e/%2e%2e/etc/passwd", 404),
        ("GET", "/static/../../etc/passwd", 404),
        ("GET", "/invocations%00", 404),
        ("GET", "/%ff%fe", 404),
        ("GET", "/%", 404),
        ("GET", "/models", 404),
        ("POST", "/models?url=http://127.0.0.1:9/x.mar", 404),
        ("POST", "/predictions/model", 404),
        ("GET", "/metrics", 404),
        ("GET", "/" + "a" * 3000, 404),
        ("GET", "/" + "a" * 10_000, 431),
        ("GET", "/" + "a" * 100_000, 431),
        ("GET", "/invocations", 405),
        ("POST", "/ping", 405),
        ("PUT", "/invocations", 405),
        ("DELETE", "/invocations", 405),
        ("TRACE", "/invocations", 405),
        ("WEIRD", "/invocations", 405),
        ("POST", "/execution-parameters", 405),
        ("CONNECT", "127.0.0.1:9", 404),
        ("OPTIONS", "*", 404),
        ("get", "/ping", 400),
        ("G\x00T", "/ping", 400),
        ("GET", "/p\xefng", 400),
        ("GET", "ping", 400),
    ],
)
def test_addresses_and_methods(served: Served, method: str, target: str, status: int) -> None:
    reply = served.ask(build_request(b"", target, method), method)
    assert reply.status == status
    assert reply.seconds < SOON_S
    if status != 200:
        assert reply.read_error()
    served.check_next()


@pytest.mark.fault(family=58, outcome="400 at once, and the connection is closed", inputs=8)
@pytest.mark.parametrize(
    "data",
    [
        b"GET /ping\r\n\r\n",
        b"GET /ping HTTP/2.0\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /ping HTTP/9.9.9\r\n\r\n",
        b"GET  /ping HTTP/1.1\r\n\r\n",
        b"GET /ping HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"\x00\x00\x00\x00",
    ],
    ids=["HTTP/0.9", "HTTP/2.0", "preface", "version", "two blanks", "two hosts", "TLS", "zeros"],
)
def test_what_is_not_http_1(served: Served, data: bytes) -> None:
    with connect(served.port) as connection:
        connection.sendall(data)
        reply = read_reply(connection)
        assert (reply.status, bool(reply.read_error())) == (400, True)
        assert reply.seconds < SOON_S
        assert is_closed(connection)
    served.check_next()


@pytest.mark.fault(family=58, outcome="a client that speaks TLS is let go at once")
def test_tls_on_the_port(served: Served) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with connect(served.port) as connection, pytest.raises(ssl.SSLError):
        context.wrap_socket(connection)
    served.check_next()


@pytest.mark.fault(family=59, outcome="ignored, not echoed; 400 for control characters", inputs=9)
@pytest.mark.parametrize(
    ("name", "text", "status"),
    [
        ("X_Amzn_SageMaker_Custom_Attributes", "a" * 1024, 200),
        ("X_Amzn_SageMaker_Custom_Attributes", "b" * 4096, 200),
        ("X_Amzn_SageMaker_Custom_Attributes", "\xfc\xe9\xff", 200),
        ("X_Amzn_SageMaker_Custom_Attributes", "a\rSet-Cookie: x=1", 400),
        ("X_Amzn_SageMaker_Custom_Attributes", "a\x1b[31m", 400),
        ("X_Amzn_SageMaker_Target_Model", "../../etc/passwd", 200),
        ("X_Amzn_SageMaker_Target_Model", "s3://bucket/model.tar.gz", 200),
        ("X_Forwarded_For", "127.0.0.1, $(touch /tmp/x)", 200),
        ("Host", "${jndi:ldap://127.0.0.1:9/a}", 200),
    ],
)
def test_headers_of_the_platform(served: Served, name: str, text: str, status: int) -> None:
    reply = served.ask(build_request(PNG, **{name: text}))
    assert reply.status == status
    assert text not in str(reply.headers) + reply.body.decode("latin-1")
    if status == 200:
        assert reply.body == MASK
    served.check_next()


@pytest.mark.fault(family=59, outcome="a line break in a header starts a header of its own, which is not echoed")
def test_a_line_break_in_a_header(served: Served) -> None:
    data = build_request(PNG, X_Amzn_SageMaker_Custom_Attributes="a\r\nX-Injected: yes")
    assert "x-injected" not in served.ask(data).headers
    served.check_next()


def test_the_log_has_one_short_line_a_request_and_no_forged_one(served: Served) -> None:
    before = len(served.server.read_log().splitlines())
    forged = "/x%0a2026-01-01 00:00:00,000 INFO POST /invocations 200".replace(" ", "%20")
    for target in (forged, "/%1b[2J", "/" + "%e2%80%a8" * 100, "/" + "a" * 3000):
        assert exchange(served.port, build_request(b"", target)).status == 404
    lines = served.server.read_log().splitlines()[before:]
    assert len(lines) == 4
    assert all(line.isascii() and line.isprintable() and len(line) < 200 for line in lines)
    assert all(" INFO POST " in line and " 404 in=0 " in line for line in lines)
