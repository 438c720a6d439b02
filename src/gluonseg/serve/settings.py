"""The settings of the server: environment variables, read and checked once at the start."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gluonseg.data.decode import DEFAULT_MAX_PIXELS, LARGEST_MAX_PIXELS
from gluonseg.errors import UserError
from gluonseg.models.folder.manifest import FLOAT32, ONNX_FILES
from gluonseg.predict.tile import MAX_NETWORK_PIXELS
from gluonseg.serve.media import RECORDIO, RESPONSE_TYPES
from gluonseg.text import shorten

_LARGEST_PAYLOAD_MB = 1000
LARGEST_RESPONSE_MB = 511
"""The length of a RecordIO record has 29 bits."""
BATCH_BUDGET_MB = 100
"""SageMaker's rule for a batch transform: concurrent requests x payload is at most 100 MB."""
MAX_CONNECTIONS = 1000


@dataclass(frozen=True)
class Settings:
    """The server's settings; the defaults are those of an empty environment."""

    model_path: Path = Path("/opt/ml/model")
    host: str = "0.0.0.0"
    port: int = 8080
    workers: int = 1
    """Processes with the model, each with a copy of the weights. One already computes on all cores."""
    max_requests: int = 24
    """Requests that are computed or wait, for each process with the model."""
    deadline_s: int = 55
    """A request that has waited for so long is not begun any more; SageMaker's client waits for 60 s."""
    timeout_s: int = 60
    """A process that is still busy with a request so long after its deadline is replaced."""
    default_accept: str = RECORDIO
    max_payload_mb: int = 20
    max_pixels: int = DEFAULT_MAX_PIXELS
    max_response_mb: int = LARGEST_RESPONSE_MB
    max_concurrent_transforms: int = 2
    precision: str = FLOAT32
    max_network_pixels: int = MAX_NETWORK_PIXELS

    @property
    def max_places(self) -> int:
        """Requests that are computed or wait, over all processes; each takes a thread and a connection."""
        return min(self.max_requests * self.workers, MAX_CONNECTIONS)


# Variable, field, least and greatest value.
_NUMBERS = (
    ("SAGEMAKER_BIND_TO_PORT", "port", 1, 65535),
    ("SAGEMAKER_MODEL_SERVER_WORKERS", "workers", 1, 64),
    ("GLUONSEG_MAX_REQUESTS", "max_requests", 1, 1000),
    ("GLUONSEG_REQUEST_DEADLINE", "deadline_s", 1, 3600),
    ("SAGEMAKER_MODEL_SERVER_TIMEOUT", "timeout_s", 1, 3600),
    ("SAGEMAKER_MODEL_SERVER_TIMEOUT_SECONDS", "timeout_s", 1, 3600),
    ("SAGEMAKER_MAX_PAYLOAD_IN_MB", "max_payload_mb", 0, _LARGEST_PAYLOAD_MB),
    ("SAGEMAKER_MAX_CONCURRENT_TRANSFORMS", "max_concurrent_transforms", 1, 1000),
    ("GLUONSEG_MAX_PIXELS", "max_pixels", 1, LARGEST_MAX_PIXELS),
    ("GLUONSEG_MAX_NETWORK_PIXELS", "max_network_pixels", 4096, LARGEST_MAX_PIXELS),
    ("GLUONSEG_MAX_RESPONSE_IN_MB", "max_response_mb", 1, LARGEST_RESPONSE_MB),
)
_CHOICES = (
    ("SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT", "default_accept", RESPONSE_TYPES),
    ("GLUONSEG_PRECISION", "precision", tuple(ONNX_FILES)),
)


def read_settings(environ: Mapping[str, str]) -> Settings:
    """Read the server's settings from environment variables; docs/serving.md lists them.

    Raises:
        UserError: names every variable that cannot be used, its value and the valid range.
    """
    texts = {variable: text.strip() for variable, text in environ.items() if text.strip()}
    found: dict[str, Any] = {"model_path": Path(texts.get("SAGEMAKER_BASE_DIR", "/opt/ml")) / "model"}
    problems = []
    for variable, field, low, high in _NUMBERS:
        text = texts.get(variable, "")
        if text.isascii() and text.isdecimal() and len(text) < 20 and low <= int(text) <= high:
            found[field] = int(text)
        elif text:
            problems.append(f"{variable} must be a whole number from {low} to {high}, got {shorten(text)!r}")
    for variable, field, choices in _CHOICES:
        text = texts.get(variable, "").lower()
        if text in choices:
            found[field] = text
        elif text:
            problems.append(f"{variable} must be one of {', '.join(choices)}, got {shorten(text)!r}")
    if problems:
        raise UserError("the server cannot start: " + "; ".join(problems))
    settings = Settings(**found)
    # A batch transform says 0 for "no limit"; a body is held in memory, so there is one.
    settings = replace(settings, max_payload_mb=settings.max_payload_mb or _LARGEST_PAYLOAD_MB)
    if "max_concurrent_transforms" in found:
        return settings
    transforms = max(1, min(settings.max_concurrent_transforms, BATCH_BUDGET_MB // settings.max_payload_mb))
    return replace(settings, max_concurrent_transforms=transforms)
