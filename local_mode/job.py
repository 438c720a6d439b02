"""A training job, its endpoint and its batch transform, described for both SDKs alike."""

from __future__ import annotations

import mimetypes
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlparse
from urllib.request import url2pathname

from gluonseg.data.channel import NEEDED_CHANNELS

OBJECTIVE = "validation:mIOU"
Ask = Callable[[Path, str], bytes]
"""Sends a photo to an endpoint; its answer in the format of the second argument, as Accept has it."""
CHANNELS = (*NEEDED_CHANNELS, "label_map", "pretrained", "model")


@dataclass(frozen=True)
class SdkJob:
    """A training job, and an endpoint or a batch transform for its model.

    ``channels`` and ``output`` are addresses: ``file://`` in local mode, ``s3://`` on AWS. ``max_run`` is in seconds.
    Local mode asks for a role and never uses it.
    """

    image: str
    hyperparameters: Mapping[str, object]
    channels: Mapping[str, str]
    output: str
    instance_type: str = "local"
    instance_count: int = 1
    endpoint_type: str = "local"
    name: str = "gluonseg"
    role: str = "arn:aws:iam::000000000000:role/local"
    max_run: int = 24 * 3600
    checkpoints: str | None = None
    keep_endpoint: bool = False

    @property
    def max_wait(self) -> int | None:
        """Most seconds of waiting for a spot machine and running on it; None for a job that takes no spot machine."""
        return 2 * self.max_run if self.checkpoints else None


def list_channels(data: Path) -> dict[str, str]:
    """The addresses of the channels in a folder on this machine."""
    return {name: (data / name).as_uri() for name in CHANNELS if (data / name).is_dir()}


def get_path(address: str) -> Path:
    """The place on this machine that a ``file://`` address names."""
    return Path(url2pathname(urlparse(address).path))


def ask_endpoint(session: Any, name: str, photo: Path, accept: str) -> bytes:
    """What the endpoint answers to a photo; the call is the same for both SDKs, in local mode and on AWS."""
    content_type = mimetypes.guess_type(photo.name)[0] or "application/x-image"
    answer = session.sagemaker_runtime_client.invoke_endpoint(
        EndpointName=name, Body=photo.read_bytes(), ContentType=content_type, Accept=accept
    )
    return bytes(answer["Body"].read())
