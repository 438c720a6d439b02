"""``container/serve`` as a process over a real model folder, as Docker would start it."""

from __future__ import annotations

import http.client
import io
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from local_server import Answer, ServerProcess, serving
from notebook_client import parse_mask, parse_probabilities, read_record
from picture import draw_noise, encode_picture
from served_model import NAMES, write_model

IMPATIENT = (
    "import os, dataclasses; from gluonseg.serve import server, settings; "
    "raise SystemExit(server.run_server(dataclasses.replace(settings.read_settings(os.environ), idle_timeout_s=1)))"
)
PICTURE = draw_noise(90, 70)
PNG = encode_picture(PICTURE)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like /opt/ml with an untrained FCN in it."""
    folder = tmp_path_factory.mktemp("ml")
    write_model(folder / "model")
    return folder


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


@pytest.mark.fault(family=61, outcome="/ping says 503 until the model is loaded")
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

    status, content_type, body = _post(server, PNG, Accept="application/x-protobuf")
    assert (status, content_type) == (200, "application/x-protobuf")
    np.testing.assert_array_equal(parse_mask(body), mask)

    answer = json.loads(_post(server, PNG, Accept="application/json")[2])
    class_ids, lengths = np.array(answer["mask"]["runs"]).T
    np.testing.assert_array_equal(np.repeat(class_ids, lengths).reshape(90, 70), mask)
    assert [entry["name"] for entry in answer["classes"]] == list(NAMES)

    np.testing.assert_array_equal(np.load(io.BytesIO(_post(server, PNG, Accept="application/x-npy")[2])), mask)
    assert _read_png(_post(server, PNG, Accept="image/x-overlay+png")[2]).shape == (90, 70, 3)


@pytest.mark.fault(family=56, outcome="200; the mask has the size of the picture", inputs=3)
@pytest.mark.parametrize("size", [(1, 1), (33, 200), (241, 7)])
def test_any_size_of_a_jpeg(server: ServerProcess, size: tuple[int, int]) -> None:
    body = encode_picture(np.resize(PICTURE, (*size, 3)), "JPEG")
    assert _read_png(_post(server, body, Content_Type="image/jpeg", Accept="image/png")[2]).shape == size


@pytest.mark.parametrize(
    ("body", "headers", "expected"),
    [
        (b"", {}, 400),
        (PNG[:3000], {}, 400),
        (b"no picture", {}, 415),
        (PNG, {"Content_Type": "application/json"}, 415),
        (PNG, {"Accept": "image/jpeg"}, 406),
        (bytes(30 * 2**20), {}, 413),
    ],
    ids=["empty", "damaged", "no-picture", "content-type", "accept", "too-large"],
)
def test_a_wrong_request_gets_one_line_of_json_and_the_next_one_works(
    server: ServerProcess, body: bytes, headers: dict[str, str], expected: int
) -> None:
    status, content_type, answer = _post(server, body, **headers)
    assert (status, content_type) == (expected, "application/json")
    assert list(json.loads(answer)) == ["error"]
    assert answer.count(b"\n") == 1
    assert _post(server, PNG)[0] == 200


def _exchange(server: ServerProcess, data: bytes) -> tuple[int, float]:
    """Send raw bytes; return the status and the seconds until it came."""
    start = time.monotonic()
    with socket.create_connection(("127.0.0.1", server.port), timeout=15) as connection:
        connection.sendall(data)
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        assert list(json.loads(answer.read())) == ["error"]
        return answer.status, time.monotonic() - start


@pytest.mark.fault(family=49, outcome="400 or 413 at once", inputs=6)
@pytest.mark.parametrize(
    ("rest", "expected"),
    [
        (b"Content-Length: 99999999999\r\n\r\nabc", 413),
        (b"Content-Length: -5\r\n\r\nabc", 400),
        (b"Content-Length: 5, 6\r\n\r\nabc", 400),
        (b"Transfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n", 400),
        (b"Transfer-Encoding: chunked\r\n\r\n100001\r\n" + bytes(2**20 + 1) + b"\r\n0\r\n\r\n", 413),
        (b"A broken header\r\n\r\n", 400),
    ],
    ids=["length-too-large", "length-negative", "length-twice", "bad-chunk", "chunks-too-large", "header"],
)
def test_broken_http_is_answered_at_once(server: ServerProcess, rest: bytes, expected: int) -> None:
    status, seconds = _exchange(server, b"POST /invocations HTTP/1.1\r\nHost: localhost\r\n" + rest)
    assert status == expected
    assert seconds < 5
    assert _post(server, PNG)[0] == 200


def test_ping_answers_fast_while_pictures_are_computed(server: ServerProcess) -> None:
    large = encode_picture(np.resize(PICTURE, (600, 500, 3)), "JPEG")
    statuses: list[int] = []
    threads = [threading.Thread(target=lambda: statuses.append(_post(server, large)[0])) for _ in range(2)]
    for thread in threads:
        thread.start()
    durations = []
    while any(thread.is_alive() for thread in threads):
        start = time.monotonic()
        assert server.request("/ping")[0] == 200
        durations.append(time.monotonic() - start)
        time.sleep(0.02)
    assert statuses == [200, 200]
    assert len(durations) > 1
    # SageMaker gives /ping two seconds.
    assert max(durations) < 2


@pytest.mark.fault(family=60, outcome="a client that stalls is answered 400 and let go")
def test_a_stalled_client_is_let_go_and_sigterm_finishes_what_was_begun(base: Path) -> None:
    with serving(base, base / "impatient.log", "-c", IMPATIENT) as server:
        server.wait_until_served()
        status, seconds = _exchange(server, b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nabc")
        assert status == 400
        assert 0.5 < seconds < 10

        large = encode_picture(np.resize(PICTURE, (600, 500, 3)))
        answers: list[int] = []
        thread = threading.Thread(target=lambda: answers.append(_post(server, large, Accept="image/png")[0]))
        thread.start()
        time.sleep(0.2)
        assert server.stop() == 0
        thread.join()
        assert answers == [200]


@pytest.mark.fault(family=48, outcome="without a model: exit code 2 and one clear line")
def test_without_a_model_the_process_ends_with_a_clear_line(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    with serving(tmp_path, tmp_path / "serve.log") as server:
        assert server.process.wait(timeout=120) == 2
    text = server.read_log()
    assert text.count("ClientError: no model_best.params") == 1
    assert text.count("Booting worker") == 1
    assert "Traceback" not in text


def test_a_bad_variable_ends_the_process_before_it_listens(tmp_path: Path) -> None:
    with serving(tmp_path, tmp_path / "serve.log", SAGEMAKER_MODEL_SERVER_WORKERS="many") as server:
        assert server.process.wait(timeout=60) == 2
    text = server.read_log()
    assert "ClientError" in text
    assert "SAGEMAKER_MODEL_SERVER_WORKERS must be a whole number from 1 to 64, got 'many'" in text
    assert "Traceback" not in text
    assert "Listening" not in text
