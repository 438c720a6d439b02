"""What the server is told by its environment, checked once at the start."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from gluonseg.data.decode import DEFAULT_MAX_PIXELS, LARGEST_MAX_PIXELS
from gluonseg.errors import UserError
from gluonseg.memory import find_memory_limit
from gluonseg.models.onnx_file import FLOAT32, ONNX_FILES
from gluonseg.predict.tile import MAX_NETWORK_PIXELS
from gluonseg.serve.media import RECORDIO, RESPONSE_TYPES

MEBIBYTE = 1 << 20
_LARGEST_PAYLOAD_MB = 1000
BATCH_BUDGET_MB = 100
"""SageMaker's rule for a batch transform: concurrent requests x payload is at most 100 MB."""


@dataclass(frozen=True)
class Settings:
    """The server's settings; the defaults are those of an empty environment."""

    model_path: Path = Path("/opt/ml/model")
    host: str = "0.0.0.0"
    port: int = 8080
    workers: int = 1
    """Processes, each with a copy of the weights. One already computes on all cores."""
    threads: int = 3
    """Requests that a worker has at a time: one is decoded and one encoded while the network is busy with a third."""
    max_requests: int = 24
    """Requests that are answered or wait for it, for each worker."""
    deadline_s: int = 55
    """A request is not begun any more when this has passed since its first byte; SageMaker's client waits for 60 s."""
    timeout_s: int = 60
    """A worker that gives no sign of life for this long is replaced, and one that is this long past a deadline."""
    default_accept: str = RECORDIO
    max_payload_mb: int = 20
    max_pixels: int = DEFAULT_MAX_PIXELS
    max_response_mb: int = 1024
    max_concurrent_transforms: int = 2
    precision: str = FLOAT32
    max_network_pixels: int = MAX_NETWORK_PIXELS
    idle_timeout_s: int = 20
    """A connection that neither sends nor takes a byte for this long is closed. A head has to be there by then."""
    max_connections: int = 1000
    """Clients at a time; for one more, the one that has been silent for longest is let go."""
    max_buffer_mb: int = 2048
    """Bodies and answers that are held for clients: twice the largest of one, or a quarter of the memory if that is
    less, but no less than one body. Beyond it, the client that is silent for longest is let go."""


class _Reader:
    """Reads variables of the environment and keeps what is wrong with them, so that all of it is told at once."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self.problems: list[str] = []

    def read_number(self, variable: str, low: int, high: int, default: int) -> int:
        text = self._environ.get(variable, "").strip()
        if not text:
            return default
        if text.isascii() and text.isdigit() and len(text) < 20 and low <= int(text) <= high:
            return int(text)
        self.problems.append(f"{variable} must be a whole number from {low} to {high}, got {text[:80]!r}")
        return default

    def read_choice(self, variable: str, choices: tuple[str, ...], default: str) -> str:
        text = self._environ.get(variable, "").strip().lower() or default
        if text not in choices:
            self.problems.append(f"{variable} must be one of {', '.join(choices)}, got {text[:80]!r}")
        return text


def read_settings(environ: Mapping[str, str]) -> Settings:
    """Read the server's settings from environment variables; docs/serving.md lists them.

    Raises:
        UserError: names every variable that cannot be used, its value and the valid range.
    """
    reader = _Reader(environ)
    number = reader.read_number
    timeout_s = number("SAGEMAKER_MODEL_SERVER_TIMEOUT", 1, 3600, Settings.timeout_s)
    # A batch transform says 0 for "no limit"; a body is held in memory, so it has one here.
    payload_mb = number("SAGEMAKER_MAX_PAYLOAD_IN_MB", 0, _LARGEST_PAYLOAD_MB, Settings.max_payload_mb)
    payload_mb = payload_mb or _LARGEST_PAYLOAD_MB
    transforms = max(1, min(Settings.max_concurrent_transforms, BATCH_BUDGET_MB // payload_mb))
    settings = Settings(
        model_path=Path(environ.get("SAGEMAKER_BASE_DIR") or "/opt/ml") / "model",
        port=number("SAGEMAKER_BIND_TO_PORT", 1, 65535, Settings.port),
        workers=number("SAGEMAKER_MODEL_SERVER_WORKERS", 1, 64, Settings.workers),
        max_requests=number("GLUONSEG_MAX_REQUESTS", 1, 1000, Settings.max_requests),
        deadline_s=number("GLUONSEG_REQUEST_DEADLINE", 1, 3600, Settings.deadline_s),
        timeout_s=number("SAGEMAKER_MODEL_SERVER_TIMEOUT_SECONDS", 1, 3600, timeout_s),
        default_accept=reader.read_choice("SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT", RESPONSE_TYPES, RECORDIO),
        max_payload_mb=payload_mb,
        max_pixels=number("GLUONSEG_MAX_PIXELS", 1, LARGEST_MAX_PIXELS, Settings.max_pixels),
        precision=reader.read_choice("GLUONSEG_PRECISION", tuple(ONNX_FILES), FLOAT32),
        max_network_pixels=number("GLUONSEG_MAX_NETWORK_PIXELS", 4096, LARGEST_MAX_PIXELS, MAX_NETWORK_PIXELS),
        max_response_mb=number("GLUONSEG_MAX_RESPONSE_IN_MB", 1, 2047, Settings.max_response_mb),
        max_concurrent_transforms=number("SAGEMAKER_MAX_CONCURRENT_TRANSFORMS", 1, 1000, transforms),
    )
    # One client's answer must leave room for the others', and all of them room for the model.
    largest_mb = max(settings.max_payload_mb, settings.max_response_mb)
    memory, buffer_mb = find_memory_limit(), max(512, 2 * largest_mb)
    if memory:
        buffer_mb = min(buffer_mb, max(settings.max_payload_mb, memory // (4 * MEBIBYTE)))
    settings = replace(settings, max_buffer_mb=buffer_mb)
    if reader.problems:
        raise UserError("the server cannot start: " + "; ".join(reader.problems))
    return settings
