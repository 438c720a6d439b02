"""Requests beside each other, odd sizes, flat pictures: on a real network, whose answers must not differ."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gluonseg.models.artifact import BEST_FILE
from gluonseg.models.params_file import read_arrays, write_params
from local_server import ServerProcess, serving
from picture import draw_noise, encode_picture
from raw_client import Reply, build_request, exchange
from served_model import NAMES, prepare_base

AT_ONCE = 128
NETWORK_PIXELS = "65536"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like /opt/ml with a real network in it."""
    return prepare_base(tmp_path_factory.mktemp("ml"))


@pytest.fixture(scope="module")
def server(base: Path) -> Iterator[ServerProcess]:
    with serving(
        base, base / "log", GLUONSEG_MAX_REQUESTS="200", GLUONSEG_MAX_NETWORK_PIXELS=NETWORK_PIXELS
    ) as running:
        running.wait_until_served()
        yield running


def post(server: ServerProcess, body: bytes, **headers: str) -> Reply:
    return exchange(server.port, build_request(body, **headers))


def post_all(server: ServerProcess, bodies: list[bytes]) -> list[Reply]:
    with ThreadPoolExecutor(len(bodies)) as pool:
        return list(pool.map(lambda body: post(server, body), bodies))


@pytest.mark.fault(family=62, outcome="200, and bit for bit the mask of the same picture alone", inputs=AT_ONCE)
def test_the_same_picture_many_times_at_once(server: ServerProcess) -> None:
    body = encode_picture(draw_noise(60, 70))
    alone = post(server, body)
    assert alone.status == 200
    replies = post_all(server, [body] * AT_ONCE)
    assert {(reply.status, reply.body) for reply in replies} == {(200, alone.body)}


@pytest.mark.fault(family=62, outcome="only the bad one fails; the others have the masks they have alone", inputs=24)
def test_large_small_and_bad_ones_at_once(server: ServerProcess) -> None:
    good = [encode_picture(draw_noise(*size, seed=size[0])) for size in ((1, 1), (900, 1100), (17, 9), (64, 64))]
    bad = [good[1][:5000], b"no picture", b""]
    alone = [post(server, body) for body in (*good, *bad)]
    assert [reply.status for reply in alone] == [200] * 4 + [400, 415, 400]
    for _ in range(3):
        together = post_all(server, [*good, *bad])
        assert [(one.status, one.body) for one in together] == [(one.status, one.body) for one in alone]


@pytest.mark.fault(family=56, outcome="200; the mask has the size of the picture, its values are classes", inputs=16)
@pytest.mark.parametrize(
    "size",
    [
        (1, 1), (1, 33), (33, 1), (1, 4000), (4000, 1), (7, 7), (8, 8), (31, 31), (32, 32), (33, 33), (63, 65),
        (255, 257), (256, 256), (257, 255), (480, 479), (4000, 4000),
    ],
    ids=str,
)  # fmt: skip
def test_sizes(server: ServerProcess, size: tuple[int, int]) -> None:
    picture = np.resize(draw_noise(min(size[0], 100), min(size[1], 100)), (*size, 3))
    check_mask(post(server, encode_picture(picture)), size)


def check_mask(reply: Reply, size: tuple[int, int]) -> None:
    assert reply.status == 200
    mask = np.array(Image.open(io.BytesIO(reply.body)))
    assert mask.shape == size
    assert mask.dtype == np.uint8
    assert mask.max() < len(NAMES)


@pytest.mark.fault(family=56, outcome="200 for grey, palette and alpha", inputs=6)
@pytest.mark.parametrize("mode", ["L", "1", "P", "LA", "RGBA", "CMYK"])
def test_modes(server: ServerProcess, mode: str) -> None:
    picture = Image.fromarray(draw_noise(40, 50)).convert(mode)
    check_mask(post(server, encode_picture(picture, "JPEG" if mode == "CMYK" else "PNG")), (40, 50))


@pytest.mark.fault(family=63, outcome="200 with a valid mask for flat pictures", inputs=5)
@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (255, 0, 0), (0, 255, 0), (0, 0, 255)])
def test_flat_pictures(server: ServerProcess, colour: tuple[int, int, int]) -> None:
    body = encode_picture(Image.new("RGB", (70, 50), colour))
    check_mask(post(server, body), (50, 70))
    reply = post(server, body, Accept="application/json")
    assert sum(entry["share"] for entry in json.loads(reply.body)["classes"]) == pytest.approx(1, abs=1e-5)


@pytest.mark.fault(family=63, outcome="weights that overflow: no start, exit code 2 and the reason", inputs=2)
@pytest.mark.parametrize("value", [3e38, float("nan")])
def test_weights_that_overflow(base: Path, tmp_path: Path, value: float) -> None:
    shutil.copytree(base / "model", tmp_path / "model", ignore=shutil.ignore_patterns("*.onnx"))
    arrays = dict(read_arrays(tmp_path / "model" / BEST_FILE))
    name = [name for name, array in arrays.items() if array.ndim == 4][-1]
    arrays[name] = np.full_like(arrays[name], value)
    write_params(arrays, tmp_path / "model" / BEST_FILE)
    with serving(tmp_path, tmp_path / "log") as server:
        assert server.process.wait(timeout=60) == 2
        assert "the model cannot be served" in server.read_log()


@pytest.mark.fault(family=64, outcome="200 for as much at once as /execution-parameters allows", inputs=3)
@pytest.mark.parametrize("payload", ["6", "20", "100"])
def test_a_batch_transform_at_its_limits(base: Path, tmp_path: Path, payload: str) -> None:
    variables = {"SAGEMAKER_MAX_PAYLOAD_IN_MB": payload, "GLUONSEG_MAX_NETWORK_PIXELS": NETWORK_PIXELS}
    with serving(base, tmp_path / "log", **variables) as server:
        server.wait_until_served()
        reply = exchange(server.port, build_request(b"", "/execution-parameters", "GET"), "GET")
        allowed = json.loads(reply.body)
        assert allowed["MaxConcurrentTransforms"] * allowed["MaxPayloadInMB"] <= 100
        picture = encode_picture(draw_noise(60, 70))
        body = picture + bytes((allowed["MaxPayloadInMB"] << 20) - len(picture))
        replies = post_all(server, [body] * allowed["MaxConcurrentTransforms"])
        assert {(one.status, one.body) for one in replies} == {(200, post(server, picture).body)}
