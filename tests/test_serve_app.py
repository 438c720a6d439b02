"""The application's routes and errors, and the settings it is given, with a small stand-in for the model."""

from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path

import numpy as np
import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from gluonseg.errors import BusyError, UserError
from gluonseg.models.folder.card import build_card
from gluonseg.predict.recordio import Float32Array
from gluonseg.serve.answer import NOT_READY
from gluonseg.serve.app import create_app
from gluonseg.serve.codec import MaskPredictor
from gluonseg.serve.media import RESPONSE_TYPES
from gluonseg.serve.settings import Settings, read_settings
from local_model import LocalModel
from notebook_client import parse_mask
from picture import UInt8Array, draw_noise, encode_picture

SETTINGS = Settings(max_payload_mb=1, max_pixels=10_000)


class FakePredictor:
    """The class of a pixel is 1 where it is bright; a picture that is all black makes it fail."""

    card = build_card("fcn", "resnet-18", 3, class_names=("pet", "background", "border"))

    def predict_mask(self, image_hwc: UInt8Array) -> UInt8Array:
        if not image_hwc.any():
            raise ZeroDivisionError("secret /opt/ml/model/place")
        return (image_hwc[..., 0] > 127).astype(np.uint8)

    def predict_confidence(self, image_hwc: UInt8Array) -> tuple[UInt8Array, UInt8Array]:
        mask_hw = self.predict_mask(image_hwc)
        return mask_hw, 255 - mask_hw

    def predict_probabilities(self, image_hwc: UInt8Array) -> Float32Array:
        one_hot = np.eye(3, dtype=np.float32)[self.predict_mask(image_hwc)]
        probabilities: Float32Array = one_hot.transpose(2, 0, 1)
        return probabilities


PICTURE = draw_noise(12, 20)
PNG = encode_picture(PICTURE)


def _client(predictor: MaskPredictor, settings: Settings = SETTINGS) -> FlaskClient:
    return create_app(settings, LocalModel(predictor, settings)).test_client()


@pytest.fixture
def client() -> FlaskClient:
    return _client(FakePredictor())


def _read_error(response: TestResponse) -> str:
    assert response.content_type == "application/json"
    assert response.data.count(b"\n") == 1
    content = json.loads(response.data)
    assert list(content) == ["error"]
    return str(content["error"])


def test_ping_and_invocations_say_503_without_a_model(monkeypatch: pytest.MonkeyPatch, client: FlaskClient) -> None:
    def refuse(_model: LocalModel) -> None:
        raise BusyError(NOT_READY)

    monkeypatch.setattr(LocalModel, "check_ready", refuse)
    for response in (client.get("/ping"), client.post("/invocations", data=PNG)):
        assert (response.status_code, response.headers["Retry-After"]) == (503, "1")
        assert "the model is not ready" in _read_error(response)


def test_ping_says_503_while_the_server_stops_and_open_connections_are_answered() -> None:
    model = LocalModel(FakePredictor(), SETTINGS)
    client = create_app(SETTINGS, model).test_client()
    response = client.get("/ping")
    assert (response.status_code, response.data) == (200, b"")
    model.is_stopping = True
    assert client.get("/ping").status_code == 503
    assert client.post("/invocations", data=PNG).status_code == 200


@pytest.mark.parametrize("accept", RESPONSE_TYPES)
def test_the_answer_has_the_type_that_was_asked_for(client: FlaskClient, accept: str) -> None:
    response = client.post("/invocations", data=PNG, headers={"Accept": accept, "Content-Type": "image/png"})
    assert (response.status_code, response.content_type) == (200, accept)


def test_without_accept_and_content_type_the_answer_is_recordio_protobuf(client: FlaskClient) -> None:
    response = client.post("/invocations", data=PNG)
    assert response.content_type == "application/x-recordio-protobuf"
    np.testing.assert_array_equal(parse_mask(response.data), PICTURE[..., 0] > 127)


def test_the_default_answer_comes_from_the_settings() -> None:
    settings = dataclasses.replace(SETTINGS, default_accept="image/png")
    assert _client(FakePredictor(), settings).post("/invocations", data=PNG).content_type == "image/png"


def test_execution_parameters_leave_the_batch_strategy_out(client: FlaskClient) -> None:
    assert client.get("/execution-parameters").json == {"MaxConcurrentTransforms": 2, "MaxPayloadInMB": 1}


@pytest.mark.parametrize(
    ("body", "headers", "status", "text"),
    [
        (PNG[:200], {}, 400, "damaged"),
        (PNG, {"Content-Type": "text/csv"}, 415, "this Content-Type is not one of a picture: send"),
        (PNG, {"Accept": "image/jpeg"}, 406, "image/png"),
        (encode_picture(np.zeros((101, 100, 3), np.uint8)), {}, 413, "10000"),
        (bytes(2**20 + 1), {}, 413, "the body is larger than 1 MB: send"),
    ],
    ids=["damaged", "csv", "accept", "pixels", "bytes"],
)
def test_wrong_requests_say_what_to_send_and_the_next_one_works(
    client: FlaskClient, body: bytes, headers: dict[str, str], status: int, text: str
) -> None:
    response = client.post("/invocations", data=body, headers=headers)
    assert response.status_code == status
    assert text in _read_error(response)
    assert client.post("/invocations", data=PNG).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/invocations", 405), ("POST", "/ping", 405), ("GET", "/", 404), ("POST", "/models?url=s3://x", 404)],
)
def test_wrong_addresses_and_methods(client: FlaskClient, method: str, path: str, status: int) -> None:
    response = client.open(path, method=method)
    assert response.status_code == status
    assert "/invocations" in _read_error(response)
    assert ("Allow" in response.headers) == (status == 405)


def test_a_bug_is_a_500_that_tells_nothing_and_the_log_has_the_trace(
    client: FlaskClient, caplog: pytest.LogCaptureFixture
) -> None:
    response = client.post("/invocations", data=encode_picture(np.zeros((4, 4, 3), np.uint8)))
    assert response.status_code == 500
    assert "secret" not in response.text
    assert "Error" not in response.text
    assert "secret /opt/ml/model/place" in caplog.text
    assert client.post("/invocations", data=PNG).status_code == 200


def test_one_short_line_of_ascii_a_request(client: FlaskClient, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    client.post("/invocations", data=PNG, headers={"Accept": "image/png"})
    client.open("/%0Aforged%20line\u2028" + "x" * 3000, method="POST", headers={"Content-Type": "a" * 3000})
    client.post("/invocations", data=b"x", headers={"Content-Type": "t\u00e9xt/" + "a" * 3000})
    client.get("/ping")
    lines = [record.getMessage() for record in caplog.records if record.name == "gluonseg.serve"]
    assert len(lines) == 3
    assert all(len(line) <= 180 and line.isascii() and line.isprintable() for line in lines)
    assert lines[0].startswith(f"POST /invocations 200 in={len(PNG)} out=")
    assert lines[0].endswith("ms image/png")


def test_settings_are_read() -> None:
    assert read_settings({}) == Settings()
    settings = read_settings(
        {
            "SAGEMAKER_BASE_DIR": "/srv/ml",
            "SAGEMAKER_BIND_TO_PORT": " 9000 ",
            "SAGEMAKER_MODEL_SERVER_WORKERS": "2",
            "SAGEMAKER_MODEL_SERVER_TIMEOUT": "30",
            "SAGEMAKER_MODEL_SERVER_TIMEOUT_SECONDS": "90",
            "GLUONSEG_MAX_REQUESTS": "5",
            "GLUONSEG_REQUEST_DEADLINE": "300",
            "SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT": "image/png",
            "SAGEMAKER_MAX_PAYLOAD_IN_MB": "100",
            "GLUONSEG_MAX_PIXELS": "1000000",
            "GLUONSEG_MAX_RESPONSE_IN_MB": "50",
        }
    )
    assert settings == Settings(
        model_path=Path("/srv/ml/model"),
        port=9000,
        workers=2,
        timeout_s=90,
        max_requests=5,
        deadline_s=300,
        default_accept="image/png",
        max_payload_mb=100,
        max_pixels=1_000_000,
        max_response_mb=50,
        max_concurrent_transforms=1,
    )


@pytest.mark.parametrize(("payload", "limit"), [("0", 1000), ("1000", 1000), ("6", 6)])
def test_a_payload_of_zero_means_the_most_that_is_taken(payload: str, limit: int) -> None:
    settings = read_settings({"SAGEMAKER_MAX_PAYLOAD_IN_MB": payload})
    assert settings.max_payload_mb == limit
    reply = _client(FakePredictor(), settings).get("/execution-parameters").json
    assert reply is not None
    assert reply["MaxPayloadInMB"] * reply["MaxConcurrentTransforms"] <= 100


@pytest.mark.parametrize(
    ("variable", "value", "valid"),
    [
        ("SAGEMAKER_BIND_TO_PORT", "0", "1 to 65535"),
        ("SAGEMAKER_MODEL_SERVER_WORKERS", "1.5", "1 to 64"),
        ("SAGEMAKER_MAX_PAYLOAD_IN_MB", "9" * 5000, "0 to 1000"),
        ("SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT", "image/jpeg", "image/png"),
        ("GLUONSEG_PRECISION", "int4", "float32, int8"),
    ],
)
def test_a_bad_variable_is_named_with_its_value_and_range(variable: str, value: str, valid: str) -> None:
    with pytest.raises(UserError) as caught:
        read_settings({variable: value, "GLUONSEG_MAX_PIXELS": "x"})
    text = str(caught.value)
    assert variable in text
    assert value[:80] in text
    assert valid in text
    assert "GLUONSEG_MAX_PIXELS" in text  # all problems are told at once
    assert len(text) < 1000
