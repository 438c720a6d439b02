"""The web application's routes, without a browser and with a stand-in for each model."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from flask.testing import FlaskClient
from PIL import Image

from gluonseg.app import web
from gluonseg.app.models import OfferedModel, OfferedModels, Source, find_sources
from gluonseg.app.web import create_app
from gluonseg.errors import BusyError, UserError
from gluonseg.models.folder.card import CARD_FILE, encode_card
from gluonseg.models.folder.manifest import BEST_FILE
from gluonseg.report.record import COMPARISON_FILE, FAILED, FINISHED, RUNS_FOLDER, RunRecord, write_record
from gluonseg.serve.settings import Settings
from local_model import LocalModel
from picture import UInt8Array, draw_noise, encode_picture
from stand_in import NAMES, StandIn, compute_mask

SETTINGS = Settings(max_payload_mb=1, max_pixels=10_000)
PICTURE = draw_noise(12, 20)
PNG = encode_picture(PICTURE)
PREDICT = "/api/models/first/prediction"


def _write_model(folder: Path) -> Path:
    """A folder that is taken for a model; nothing loads it."""
    folder.mkdir(parents=True)
    (folder / BEST_FILE).write_bytes(b"")
    (folder / CARD_FILE).write_text(encode_card(StandIn.card))
    return folder


def _offer(tmp_path: Path, *names: str) -> OfferedModels:
    model = LocalModel(StandIn(), SETTINGS)
    photo = tmp_path / "one.png"
    photo.write_bytes(PNG)
    return OfferedModels(OfferedModel(Source(name, tmp_path, [photo]), model) for name in names)


@pytest.fixture
def client(tmp_path: Path) -> FlaskClient:
    return create_app(_offer(tmp_path, "first", "second"), SETTINGS).test_client()


def _open_rgb(data: bytes) -> UInt8Array:
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert pixels is not None
    rgb: UInt8Array = pixels[..., ::-1].astype(np.uint8)
    return rgb


def test_the_api_lists_models_with_their_classes_and_examples(client: FlaskClient) -> None:
    content = client.get("/api/models").get_json()
    first = content["models"][0]
    assert [one["name"] for one in content["models"]] == ["first", "second"]
    assert first["classes"] == [
        {"id": 0, "name": NAMES[0], "colour": "#e23e36"},
        {"id": 1, "name": NAMES[1], "colour": None},
        {"id": 2, "name": NAMES[2], "colour": "#28a054"},
    ]
    example = client.get(first["examples"][0])
    assert (example.data, example.content_type) == (PNG, "image/png")
    with Image.open(io.BytesIO(client.get(f"{first['examples'][0]}/thumbnail").data)) as thumbnail:
        assert thumbnail.size == (20, 12)
    assert client.get("/examples/1").status_code == 404
    assert content["limits"] == {"max_mb": 1, "max_megapixels": 0.01}


def test_a_thumbnail_shows_the_photo_as_the_network_sees_it_upright(client: FlaskClient, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    deep = Image.fromarray(np.full((12, 20), 0x8000, np.uint16))
    (tmp_path / "one.png").write_bytes(encode_picture(deep, exif=exif))
    with Image.open(io.BytesIO(client.get("/examples/0/thumbnail").data)) as thumbnail:
        assert (thumbnail.size, thumbnail.getpixel((0, 0))) == ((12, 20), (128, 128, 128))


def test_class_and_confidence_come_in_one_picture(client: FlaskClient) -> None:
    response = client.post(PREDICT, data=PNG, headers={"Accept": "image/x-confidence+png"})
    assert response.headers["X-Orientation"] == "1"
    mask = compute_mask(PICTURE)
    np.testing.assert_array_equal(_open_rgb(response.data), np.dstack((mask, 255 - mask, 0 * mask)))


def test_the_orientation_is_told_and_not_applied(client: FlaskClient) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    Image.fromarray(PICTURE).save(file, "JPEG", exif=exif)
    response = client.post(PREDICT, data=file.getvalue())
    assert response.headers["X-Orientation"] == "6"
    assert _open_rgb(response.data).shape[:2] == PICTURE.shape[:2]


def _send_form(client: FlaskClient, **fields: Any) -> tuple[int, str]:
    response = client.post("/", data=fields, content_type="multipart/form-data", buffered=True)
    return response.status_code, response.get_data(as_text=True)


def test_without_a_script_a_form_gives_the_overlay_and_the_shares(client: FlaskClient) -> None:
    status, page = _send_form(client, photo=(io.BytesIO(PNG), "cat.png"), model="second")
    assert status == 200
    assert "data:image/png;base64," in page
    share = compute_mask(PICTURE).mean()
    assert f"{100 * share:.1f}" in page


@pytest.mark.parametrize(
    ("fields", "status", "text"),
    [
        ({"model": "first"}, 400, "no photo was chosen"),
        ({"model": "first", "photo": (io.BytesIO(b"text"), "x.txt")}, 415, "no jpeg or png picture"),
        ({"model": "third", "photo": (io.BytesIO(PNG), "x.png")}, 404, "no such"),
    ],
)
def test_a_form_that_cannot_be_answered_gives_a_page_that_says_why(
    client: FlaskClient, fields: dict[str, Any], status: int, text: str
) -> None:
    found, page = _send_form(client, **fields)
    assert (found, text in page.casefold()) == (status, True)
    assert "<form" in page


def test_people_get_a_page_for_an_error_and_programs_json(client: FlaskClient) -> None:
    page = client.get("/nowhere")
    assert (page.status_code, page.mimetype) == (404, "text/html")
    assert "There is no such page" in page.get_data(as_text=True)
    assert client.delete("/").headers["Allow"]
    answer = client.get("/api/nowhere")
    assert answer.get_json() == {"error": "there is no such address: see /api/openapi.json"}


def test_nothing_outside_is_asked_and_nothing_is_stored(client: FlaskClient) -> None:
    files = [f"/static/{path.name}" for path in Path(web.__file__).with_name("static").iterdir()]
    assert len(files) > 5
    for path in ("/", "/models/first", "/nowhere", *files):
        response = client.get(path, buffered=True)
        assert response.status_code == (404 if path == "/nowhere" else 200)
        policy = response.headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
        assert "unsafe" not in policy
        assert "Set-Cookie" not in response.headers
        text = response.get_data(as_text=True)
        assert not re.search(r"https?://(?!www\.w3\.org)", text)
        if response.mimetype == "text/html":
            assert not re.search(r"<style|style=|<script(?![^>]*src=)|\son\w+=", text)


def test_the_page_of_a_model_shows_its_card(client: FlaskClient, tmp_path: Path) -> None:
    (tmp_path / "curves.png").write_bytes(PNG)
    page = client.get("/models/first").get_data(as_text=True)
    assert all(name in page for name in NAMES)
    assert "FCN on resnet-18" in page
    assert client.get("/models/first/curves.png").data == PNG
    assert client.get("/models/third").status_code == 404


def test_one_address_may_send_only_so_many_photos_in_a_minute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client = create_app(_offer(tmp_path, "first"), SETTINGS, per_minute=2).test_client()
    now = 600.0
    monkeypatch.setattr("gluonseg.app.limits.time.monotonic", lambda: now)
    statuses = [client.post(PREDICT, data=PNG).status_code for _ in range(3)]
    assert statuses == [200, 200, 429]
    refused = client.post(PREDICT, data=PNG)
    assert refused.headers["Retry-After"] == "20"
    assert client.post(PREDICT, data=PNG, environ_base={"REMOTE_ADDR": "10.0.0.9"}).status_code == 200
    now += 60
    assert client.post(PREDICT, data=PNG).status_code == 200


def test_ping_says_503_while_a_model_is_missing(
    tmp_path: Path, client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert client.get("/ping").status_code == 200

    def refuse(_model: LocalModel) -> None:
        raise BusyError("not ready")

    monkeypatch.setattr(LocalModel, "check_ready", refuse)
    assert client.get("/ping").status_code == 503


# What is offered.


def test_models_are_found_in_folders_runs_and_comparisons(tmp_path: Path) -> None:
    folder = _write_model(tmp_path / "pets")
    job = _write_model(tmp_path / "job" / "model").parent
    comparison = tmp_path / "comparison"
    for algorithm, status in (("fcn", FINISHED), ("psp", FAILED), ("unet", FINISHED)):
        record = RunRecord(algorithm, "resnet-18", 1, status)
        run = comparison / RUNS_FOLDER / record.name
        _write_model(run / "model")
        write_record(run, record)
    (comparison / COMPARISON_FILE).write_text("{}")
    archive = tmp_path / "best.tar.gz"
    archive.write_bytes(b"")
    names = [one.name for one in find_sources([folder, job, comparison, archive])]
    assert names == ["pets", "job", "fcn_resnet-18_seed1", "unet_resnet-18_seed1", "best"]


def test_examples_are_those_given_or_the_models_own(tmp_path: Path) -> None:
    folder, given = _write_model(tmp_path / "pets"), tmp_path / "photos"
    for path in (folder / "examples", given):
        path.mkdir()
        (path / f"{path.name}.JPG").write_bytes(PNG)
        (path / "notes.txt").write_text("")
    assert [path.name for path in find_sources([folder])[0].examples] == ["examples.JPG"]
    assert [path.name for path in find_sources([folder], given)[0].examples] == ["photos.JPG"]


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (lambda at: [at / "nowhere"], "does not exist"),
        (lambda at: [_write_model(at / "a" / "x"), _write_model(at / "b" / "x")], "two models are called x"),
        (lambda at: [at], "holds no comparison, no run and no model"),
    ],
)
def test_paths_that_cannot_be_offered(tmp_path: Path, build: Callable[[Path], list[Path]], text: str) -> None:
    with pytest.raises(UserError, match=text):
        find_sources(build(tmp_path))
