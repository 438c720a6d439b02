"""Media types: which requests are taken, and which answer a request asks for.

Content-Type is only a first filter: the built-in algorithm took pictures under a generic type or none at
all, so the bytes decide. Accept is negotiated with weights; the answer carries the type that was asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from werkzeug.http import parse_accept_header, parse_options_header

from gluonseg.errors import NotAcceptableError, UnsupportedMediaTypeError

PNG = "image/png"
OVERLAY = "image/x-overlay+png"
RECORDIO = "application/x-recordio-protobuf"
PROTOBUF = "application/x-protobuf"
JSON = "application/json"
JSON_LINES = "application/jsonlines"
NPY = "application/x-npy"

RESPONSE_TYPES = (RECORDIO, PROTOBUF, PNG, OVERLAY, JSON, JSON_LINES, NPY)
"""Every type of answer. In this order the first one wins where a client likes several equally."""

_GENERIC_TYPES = (
    "",
    "application/octet-stream",
    "binary/octet-stream",
    "application/x-image",
    # What curl says when nobody tells it otherwise.
    "application/x-www-form-urlencoded",
)


def check_content_type(header: str | None) -> None:
    """Refuse a request whose Content-Type says that the body is no picture.

    Raises:
        UnsupportedMediaTypeError: the type is neither absent, generic, nor one of an image.
    """
    media_type = parse_options_header(header)[0].strip().lower()
    if media_type in _GENERIC_TYPES or media_type.startswith("image/"):
        return
    raise UnsupportedMediaTypeError(
        "this Content-Type is not one of a picture: send the bytes of one JPEG or PNG "
        "file as the body, with Content-Type image/jpeg or image/png"
    )


def _iter_ranges(header: str) -> Iterator[tuple[str, float]]:
    """Yield (media range without parameters, weight), as sorted by werkzeug."""
    for value, weight in parse_accept_header(header):
        yield parse_options_header(value)[0].strip().lower(), weight


def _compute_preference(media_type: str, ranges: Sequence[tuple[str, float]]) -> tuple[float, int, int]:
    """Return (weight, specificity, place in the header) of a type; the larger tuple is liked better.

    RFC 9110 section 12.5.1: the most specific range that covers a type gives its weight.
    """
    patterns = (media_type, media_type.split("/")[0] + "/*", "*/*")
    for specificity, pattern in zip((2, 1, 0), patterns, strict=True):
        for place, (media_range, weight) in enumerate(ranges):
            if media_range == pattern:
                return weight, specificity, -place
    return 0.0, 0, 0


def negotiate_accept(header: str | None, default: str) -> str:
    """Return the type of answer that ``header`` asks for; ``default`` when it is absent or takes anything.

    Raises:
        NotAcceptableError: no type that the server offers is wanted.
    """
    ranges = list(_iter_ranges(header or ""))
    if not ranges:
        return default
    # max() keeps the first of equals, which makes the default win under */*.
    candidates = (default, *RESPONSE_TYPES)
    best = max(candidates, key=lambda media_type: _compute_preference(media_type, ranges))
    if _compute_preference(best, ranges)[0] > 0:
        return best
    raise NotAcceptableError(
        f"what Accept asks for cannot be produced: ask for one of {', '.join(RESPONSE_TYPES)}"
    )
