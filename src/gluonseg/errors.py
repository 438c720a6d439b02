"""Every error that is raised on purpose, with its HTTP status and its exit code.

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
    """The bytes are not an image, or an image of a format that is not read here."""

    status = 415


class ModelError(UserError):
    """A model folder, archive or parameter file cannot be used."""


class StorageError(UserError):
    """A file cannot be written, because of the disk; the text names file, bytes and reason."""


class TrainingDivergedError(UserError):
    """The loss is not a finite number any more; the text names the step."""


class RequestError(UserError):
    """A request to the server cannot be answered; the text goes to the client."""


class BadRequestError(RequestError):
    """The request itself is wrong, for example its body is empty."""


class NotAcceptableError(RequestError):
    """The server produces none of the types in Accept."""

    status = 406


class PayloadTooLargeError(RequestError):
    """The body, or the answer to it, would be larger than the limit."""

    status = 413


class UnsupportedMediaTypeError(RequestError):
    """The Content-Type is not one of an image."""

    status = 415


class FatalPictureError(RequestError):
    """The picture ends the process that computes it."""

    status = 500


class TooManyRequestsError(RequestError):
    """One client asks too often; it can ask again in the next minute."""

    status = 429


class BusyError(RequestError):
    """The server has as many requests as it takes; the caller can ask again."""

    status = 503


def describe_failure(error: BaseException) -> tuple[str, int]:
    """Return the text of the failure file (at most 1024 characters, printable lines) and the exit code."""
    if isinstance(error, UserError):
        text, code = f"ClientError: {error}", error.exit_code
    else:
        text, code = f"AlgorithmError: {type(error).__name__}: {error}", 1
    text = escape_lines(text)
    return text if len(text) <= FAILURE_LIMIT else f"{text[: FAILURE_LIMIT - 3]}...", code
