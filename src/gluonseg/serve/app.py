"""The Flask application: /ping, /invocations and /execution-parameters of SageMaker hosting.

It runs in a backend process, behind the frontend, which has limited the size of the body and the number of
requests, and answers /ping itself, so that it is fast whatever is being computed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from types import MappingProxyType

from flask import Flask, Response, abort, g, request
from werkzeug.exceptions import HTTPException

from gluonseg.errors import ImageError, RequestError, UserError
from gluonseg.serve.answer import ARRIVAL, INTERNAL, LOGGER, build_error, log_request
from gluonseg.serve.codec import MaskPredictor, check_response_size, decode_request, encode_answer
from gluonseg.serve.media import check_content_type, negotiate_accept
from gluonseg.serve.settings import BATCH_BUDGET_MB, Settings

_REQUEST_ERRORS = (RequestError, ImageError)
_STATUS_TEXTS: Mapping[int, str] = MappingProxyType(
    {
        404: "there is no such address: use POST /invocations, GET /ping or GET /execution-parameters",
        405: "this method is not for this address: use POST /invocations, GET /ping or GET /execution-parameters",
    }
)


def _build_error(status: int, text: str) -> Response:
    g.note = text
    answer = build_error(status, text)
    return Response(answer.body, answer.status, answer.headers)


def _handle_user_error(error: UserError) -> Response:
    return _build_error(error.status, str(error))


def _handle_http_error(error: HTTPException) -> Response:
    status = error.code or 500
    response = _build_error(status, _STATUS_TEXTS.get(status, error.name.lower()))
    allowed = dict(error.get_headers()).get("Allow")
    if allowed:
        response.headers["Allow"] = allowed
    return response


def _handle_bug(_error: Exception) -> Response:
    LOGGER.exception("a request failed through a fault of the server")
    return _build_error(500, INTERNAL)


def _add_hooks(app: Flask) -> None:
    for kind in _REQUEST_ERRORS:
        app.register_error_handler(kind, _handle_user_error)
    app.register_error_handler(HTTPException, _handle_http_error)
    app.register_error_handler(Exception, _handle_bug)

    @app.before_request
    def start_request() -> None:
        g.start, g.note = request.environ.get(ARRIVAL) or time.monotonic(), ""
        if request.environ["PATH_INFO"].startswith("//"):  # which werkzeug takes for one
            abort(404)

    @app.after_request
    def finish_request(response: Response) -> Response:
        sizes = request.content_length or 0, response.content_length or 0
        log_request(request.method, request.path, response.status_code, *sizes, g.start, g.note)
        return response


def create_app(get_predictor: Callable[[], MaskPredictor], settings: Settings) -> Flask:
    """Build the application. It gets requests only once there is a model, which ``get_predictor`` returns."""
    app = Flask("gluonseg", static_folder=None)
    _add_hooks(app)

    @app.get("/ping")
    def ping() -> Response:
        return Response(status=200)

    @app.post("/invocations")
    def invoke() -> Response:
        predictor = get_predictor()
        check_content_type(request.headers.get("Content-Type"))
        g.note = media_type = negotiate_accept(request.headers.get("Accept"), settings.default_accept)
        image = decode_request(request.get_data(cache=False), settings.max_pixels)
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
