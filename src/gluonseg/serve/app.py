"""The Flask application: /ping, /invocations and /execution-parameters of SageMaker hosting."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType

from flask import Flask, Response, g, request
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge

from gluonseg.errors import (
    BadRequestError,
    BusyError,
    ImageError,
    RequestError,
    UserError,
)
from gluonseg.serve.codec import MaskPredictor, check_response_size, decode_request, encode_answer
from gluonseg.serve.media import check_content_type, negotiate_accept
from gluonseg.serve.settings import BATCH_BUDGET_MB, MEBIBYTE, Settings

LOGGER = logging.getLogger("gluonseg.serve")
LINE_LIMIT = 199
"""Characters of a log line; most of what is in it comes from the client."""

_REQUEST_ERRORS = (RequestError, ImageError)
_LOADING = "the model is still being loaded: try again in a few seconds"
_INTERNAL = "internal error: the server's log has the details; other requests are not affected"
_STATUS_TEXTS: Mapping[int, str] = MappingProxyType(
    {
        400: "the request is broken or ended early: send the whole body and the right Content-Length",
        404: "there is no such address: use POST /invocations, GET /ping or GET /execution-parameters",
        405: "this method is not for this address: use POST /invocations, GET /ping or GET /execution-parameters",
    }
)

_DISCARD_BYTES = 256 * MEBIBYTE
_DISCARD_S = 10.0
_DISCARD_IDLE_S = 2.0


def _build_error(status: int, text: str) -> Response:
    line = json.dumps({"error": text}) + "\n"
    g.note = text
    return Response(line, status, content_type="application/json")


def _discard_body() -> Callable[[], None]:
    """Build a function that throws away what is left of the body, once the answer has been sent.

    A connection closed with unread bytes is reset, and a client that is still sending would see that
    instead of the answer. Bounded in bytes and time: an endless body does end the connection.
    """
    stream, connection = request.environ["wsgi.input"], request.environ.get("gunicorn.socket")

    def discard() -> None:
        deadline = time.monotonic() + _DISCARD_S
        discarded = 0
        try:
            if connection is not None:
                connection.settimeout(_DISCARD_IDLE_S)
            while discarded < _DISCARD_BYTES and time.monotonic() < deadline:
                block = stream.read(64 * 1024)
                if not block:
                    return
                discarded += len(block)
        except (OSError, ValueError):
            return

    return discard


def _log_request(response: Response) -> None:
    """One line a request, ASCII whatever the client sent. A good /ping comes every few seconds and is left out."""
    if request.path == "/ping" and response.status_code == 200:
        return
    words = (
        ascii(request.method)[1:-1][:8],
        ascii(request.path)[1:-1][:40],
        str(response.status_code),
        f"in={request.content_length or 0}"[:20],
        f"out={response.content_length or 0}",
        f"{1000 * (time.monotonic() - g.start):.0f}ms",
        ascii(g.note)[1:-1],
    )
    LOGGER.info("%s", " ".join(words)[:LINE_LIMIT].rstrip())


def _read_body() -> bytes:
    try:
        body = request.get_data(cache=False)
        # Without a Content-Length werkzeug cuts the body at the limit and does not say so.
        is_cut = len(body) == request.max_content_length and request.environ["wsgi.input"].read(1)
    except HTTPException:
        raise
    except Exception:
        # Whatever fails here fails through what the client sent (broken chunks, say), in gunicorn's own classes.
        raise BadRequestError(_STATUS_TEXTS[400]) from None
    if is_cut:
        raise RequestEntityTooLarge
    return body


def _handle_user_error(error: UserError) -> Response:
    response = _build_error(error.status, str(error))
    if isinstance(error, BusyError):
        response.headers["Retry-After"] = "1"
    return response


def _handle_http_error(error: HTTPException) -> Response:
    status = error.code or 500
    response = _build_error(status, _STATUS_TEXTS.get(status, error.name.lower()))
    allowed = dict(error.get_headers()).get("Allow")
    if allowed:
        response.headers["Allow"] = allowed
    return response


def _handle_bug(_error: Exception) -> Response:
    LOGGER.exception("a request failed through a fault of the server")
    return _build_error(500, _INTERNAL)


def _add_error_handlers(app: Flask, settings: Settings) -> None:
    def handle_too_large(_error: HTTPException) -> Response:
        return _build_error(
            413, f"the body is larger than {settings.max_payload_mb} MB: send a smaller or more compressed picture"
        )

    for kind in _REQUEST_ERRORS:
        app.register_error_handler(kind, _handle_user_error)
    app.register_error_handler(HTTPException, _handle_http_error)
    app.register_error_handler(413, handle_too_large)
    app.register_error_handler(Exception, _handle_bug)


def _add_request_hooks(app: Flask) -> None:
    @app.before_request
    def start_request() -> None:
        g.start, g.note = time.monotonic(), ""

    @app.after_request
    def finish_request(response: Response) -> Response:
        if response.status_code >= 400:
            response.call_on_close(_discard_body())
        _log_request(response)
        return response


def create_app(find_predictor: Callable[[], MaskPredictor | None], settings: Settings) -> Flask:
    """Build the application.

    ``find_predictor`` returns None until the model is loaded and has made its first prediction; until then
    /ping and /invocations answer 503.
    """
    app = Flask("gluonseg", static_folder=None)
    slots = threading.BoundedSemaphore(settings.max_requests)
    app.config["MAX_CONTENT_LENGTH"] = settings.max_payload_mb * MEBIBYTE
    _add_request_hooks(app)
    _add_error_handlers(app, settings)

    @app.get("/ping")
    def ping() -> Response:
        return Response(status=200) if find_predictor() else _build_error(503, _LOADING)

    @app.post("/invocations")
    def invoke() -> Response:
        predictor = find_predictor()
        if predictor is None:
            return _build_error(503, _LOADING)
        if not slots.acquire(blocking=False):
            raise BusyError(f"the server has {settings.max_requests} requests already: try again in a second")
        try:
            return answer(predictor)
        finally:
            slots.release()

    def answer(predictor: MaskPredictor) -> Response:
        check_content_type(request.headers.get("Content-Type"))
        g.note = media_type = negotiate_accept(request.headers.get("Accept"), settings.default_accept)
        image = decode_request(_read_body(), settings.max_pixels)
        check_response_size(media_type, image, predictor.card.num_classes, settings.max_response_mb)
        return Response(encode_answer(media_type, predictor, image), content_type=media_type)

    @app.get("/execution-parameters")
    def describe_execution() -> dict[str, int]:
        # No BatchStrategy: the platform knows it as MULTI_RECORD, the SDK's local mode as MultiRecord, and
        # each refuses the other's spelling. Both have a default when it is left out.
        return {
            "MaxConcurrentTransforms": settings.max_concurrent_transforms,
            "MaxPayloadInMB": min(settings.max_payload_mb, BATCH_BUDGET_MB),
        }

    return app
