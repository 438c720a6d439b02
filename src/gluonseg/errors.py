"""Every error the product raises on purpose, with its HTTP status and its exit code.

A :class:`UserError` is one the caller can fix: its text says what was wrong, where, and what to do.
SageMaker's built-in algorithms end with ``ClientError: ...`` and exit code 2 for those, and with
``AlgorithmError: ...`` and exit code 1 for everything else; :func:`describe_failure` gives both.
"""

from __future__ import annotations

from gluonseg.text import escape_lines

FAILURE_LIMIT = 1024
"""SageMaker shows the first 1024 characters of the failure file as FailureReason."""


class UserError(Exception):
    """Something the caller can fix. ``status`` is the HTTP status when it happens in a request."""

    status = 400
    exit_code = 2


class HyperparameterError(UserError):
    """One or more hyperparameters cannot be used; the text lists all of them."""


class DataError(UserError):
    """A channel, an image, a mask or a label map cannot be used."""


class ImageError(DataError):
    """The bytes are not an image that can be read; the text says why."""


class ImageTooLargeError(ImageError):
    """The image has more pixels than the stated limit."""

    status = 413


class UnsupportedImageError(ImageError):
    """The bytes are no picture, or one of a format that is not read here."""

    status = 415


class ModelError(UserError):
    """A model folder, archive or parameter file cannot be used."""


class StorageError(UserError):
    """A file cannot be written, because of the disk; the text names file, bytes and reason."""


class TrainingDivergedError(UserError):
    """The loss is no longer a finite number; the text names the step."""


class RequestError(UserError):
    """A request to the server that cannot be answered; its text goes to the client."""


class BadRequestError(RequestError):
    """The request itself is wrong (an empty body, for one)."""


class NotAcceptableError(RequestError):
    """None of the response types in Accept can be produced."""

    status = 406


class PayloadTooLargeError(RequestError):
    """The body is larger than the server takes."""

    status = 413


class BusyError(RequestError):
    """The server has as many requests as it takes; the caller can ask again."""

    status = 503


class FatalPictureError(RequestError):
    """The picture ends the process that computes it."""

    status = 500


class UnsupportedMediaTypeError(RequestError):
    """The Content-Type is not one of an image."""

    status = 415


def _cut(text: str) -> str:
    return text if len(text) <= FAILURE_LIMIT else f"{text[: FAILURE_LIMIT - 3]}..."


def describe_failure(error: BaseException) -> tuple[str, int]:
    """Return the text of the failure file (at most 1024 characters, printable lines) and the exit code."""
    if isinstance(error, UserError):
        return _cut(escape_lines(f"ClientError: {error}")), error.exit_code
    return _cut(escape_lines(f"AlgorithmError: {type(error).__name__}: {error}")), 1
