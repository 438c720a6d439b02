"""The Flask application: /ping, /invocations and /execution-parameters of SageMaker hosting.

``create_app()`` runs under any WSGI server that has threads; :mod:`gluonseg.serve.server` runs it under waitress.
"""

from __future__ import annotations

import os
import time

from flask import Flask, Response, current_app, g, request
from werkzeug.exceptions import HTTPException, MethodNotAllowed

from gluonseg.errors import BusyError, ImageError, RequestError
from gluonseg.serve.answer import INTERNAL, LOGGER, STOPPING, configure_log, encode_error, log_request
from gluonseg.serve.media import check_content_type, negotiate_accept
from gluonseg.serve.model import Model
from gluonseg.serve.settings import BATCH_BUDGET_MB, Settings, read_settings

_ADDRESSES = "use POST /invocations, GET /ping or GET /execution-parameters"


def describe_http_error(status: int, name: str, max_payload_mb: int) -> str:
    """The text of an error of HTTP, for the client."""
    texts = {
        404: "there is no such address",
        405: "this method is not for this address",
        413: f"the body is larger than {max_payload_mb} MB: send a smaller or more compressed picture",
        431: "the head of the request is larger than 64 kB: send fewer and shorter headers",
    }
    return texts.get(status, name)


def describe_error(error: Exception) -> tuple[int, str]:
    """Return the status and the text for the client; the trace of an unexpected error goes to the log only."""
    if isinstance(error, RequestError | ImageError):
        status, text = error.status, str(error)
    elif isinstance(error, HTTPException):
        status = error.code or 500
        text = describe_http_error(status, error.name.lower(), (request.max_content_length or 0) >> 20)
        if status in (404, 405):
            text = f"{text}: {current_app.config['ADDRESSES']}"
    else:
        LOGGER.exception("a request failed through a fault of the server")
        status, text = 500, INTERNAL
    g.note = text
    return status, text


def handle_error(error: Exception) -> Response:
    """Answer any error, as the application encodes them."""
    status, text = describe_error(error)
    body, headers = current_app.config["ENCODE_ERROR"](status, text, request.path)
    response = Response(body, status, headers)
    if isinstance(error, MethodNotAllowed):
        response.allow.update(error.valid_methods or ())
    return response


def _start_request() -> None:
    g.begun, g.note = time.monotonic(), ""


def _finish_request(response: Response) -> Response:
    sizes = request.content_length or 0, response.content_length or 0
    log_request(request.method, request.path, response.status_code, *sizes, g.begun, g.note)
    return response


def build_flask(name: str, settings: Settings, addresses: str, static_folder: str | None = None) -> Flask:
    """A Flask application of the package ``name``: limits, errors and the log, without any route.

    ``addresses`` tells who asked for a wrong one what there is. ``ENCODE_ERROR`` in its ``config`` encodes errors from
    status, text and path, also those that waitress finds; it gives one line of JSON unless it is replaced.
    """
    app = Flask(name, static_folder=static_folder)
    app.config["ADDRESSES"] = addresses
    app.config["ENCODE_ERROR"] = encode_error
    app.config["MAX_CONTENT_LENGTH"] = settings.max_payload_mb << 20
    app.register_error_handler(Exception, handle_error)
    app.before_request(_start_request)
    app.after_request(_finish_request)
    return app


def create_app(settings: Settings | None = None, model: Model | None = None) -> Flask:
    """Build the application.

    Without ``settings`` they are read from the environment; without ``model`` it is loaded in the background.
    """
    configure_log()
    settings = settings or read_settings(os.environ)
    model = model or Model(settings)
    app = build_flask("gluonseg", settings, _ADDRESSES)

    @app.get("/ping")
    def ping() -> Response:
        model.check_ready()
        if model.is_stopping:
            raise BusyError(STOPPING)
        return Response(status=200)

    @app.post("/invocations")
    def invoke() -> Response:
        model.check_ready()
        check_content_type(request.headers.get("Content-Type"))
        g.note = media_type = negotiate_accept(request.headers.get("Accept"), settings.default_accept)
        return Response(model.predict(request.get_data, media_type), content_type=media_type)

    @app.get("/execution-parameters")
    def describe_execution() -> dict[str, int]:
        # BatchStrategy is left out: SageMaker spells it MULTI_RECORD, the SDK's local mode MultiRecord, and each
        # refuses the other spelling. Both have a default.
        return {
            "MaxConcurrentTransforms": settings.max_concurrent_transforms,
            "MaxPayloadInMB": min(settings.max_payload_mb, BATCH_BUDGET_MB),
        }

    return app
