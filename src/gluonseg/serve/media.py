"""Media types: which requests are taken, and which answer a request asks for.

Content-Type only refuses what is clearly no picture: the built-in algorithm takes pictures under a generic type or none
at all. Accept is negotiated with weights; the answer's Content-Type is the type that was asked for.
"""

from __future__ import annotations

from werkzeug.datastructures import MIMEAccept
from werkzeug.http import parse_accept_header, parse_options_header

from gluonseg.errors import NotAcceptableError, UnsupportedMediaTypeError

PNG = "image/png"
OVERLAY = "image/x-overlay+png"
CONFIDENCE = "image/x-confidence+png"
RECORDIO = "application/x-recordio-protobuf"
PROTOBUF = "application/x-protobuf"
JSON = "application/json"
JSON_LINES = "application/jsonlines"
NPY = "application/x-npy"

RESPONSE_TYPES = (RECORDIO, PROTOBUF, PNG, OVERLAY, JSON, JSON_LINES, NPY, CONFIDENCE)
"""Every type of answer. Where a client likes several equally, the first one here wins."""

_GENERIC_TYPES = (
    "",
    "application/octet-stream",
    "binary/octet-stream",
    "application/x-image",
    "application/x-www-form-urlencoded",  # curl's default
)


def check_content_type(header: str | None) -> None:
    """Raise UnsupportedMediaTypeError when the Content-Type says that the body is no picture."""
    media_type = parse_options_header(header)[0].strip().lower()
    if media_type in _GENERIC_TYPES or media_type.startswith("image/"):
        return
    raise UnsupportedMediaTypeError(
        "this Content-Type is not one of a picture: send the bytes of one JPEG or PNG "
        "file as the body, with Content-Type image/jpeg or image/png"
    )


def negotiate_accept(header: str | None, default: str) -> str:
    """Return the type of answer that ``header`` asks for; ``default`` when it is absent or accepts any type.

    Raises:
        NotAcceptableError: no type that the server offers is wanted.
    """
    # Parameters are dropped: "application/json; charset=utf-8" asks for JSON.
    accept = MIMEAccept([(value.partition(";")[0], weight) for value, weight in parse_accept_header(header)])
    best = accept.best_match((default, *RESPONSE_TYPES)) if accept else default
    if best is None:
        raise NotAcceptableError(f"what Accept asks for cannot be produced: ask for one of {', '.join(RESPONSE_TYPES)}")
    return best
