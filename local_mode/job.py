"""A training job, its endpoint and its batch transform, described for both SDKs alike, and how to ask the endpoint."""

from __future__ import annotations

import mimetypes
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlparse
from urllib.request import url2pathname

from gluonseg.data.channel import NEEDED_CHANNELS

OBJECTIVE = "validation:mIOU"
Ask = Callable[[Path, str], bytes]
"""Sends a photo to an endpoint; its answer in the format of the second argument, as Accept has it."""
CHANNELS = (*NEEDED_CHANNELS, "label_map", "pretrained", "model")
ASYNC_LIMIT_S = 3600
"""The most that SageMaker waits for an answer in asynchronous inference."""
ASYNC_INVOCATIONS = 2
"""Requests that the container has at a time: one is computed, one waits. SageMaker's own queue holds the others."""
_POLL_S = 5


@dataclass(frozen=True)
class SdkJob:
    """A training job, and an endpoint or a batch transform for its model.

    ``channels`` and ``output`` are addresses: ``file://`` in local mode, ``s3://`` on AWS. ``max_run`` is in seconds.
    Local mode asks for a role and never uses it, and has no endpoints that are asked by way of S3 (``is_async``).
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
    is_async: bool = False

    @property
    def max_wait(self) -> int | None:
        """Most seconds of waiting for a spot machine and running on it; None for a job that takes no spot machine."""
        return 2 * self.max_run if self.checkpoints else None

    @property
    def environment(self) -> dict[str, str]:
        """The variables of the endpoint: asynchronous inference has larger photos and more time."""
        if not self.is_async:
            return {}
        return {"SAGEMAKER_MAX_PAYLOAD_IN_MB": "1000", "GLUONSEG_REQUEST_DEADLINE": str(ASYNC_LIMIT_S)}


def list_channels(data: Path) -> dict[str, str]:
    """The addresses of the channels in a folder on this machine."""
    return {name: (data / name).as_uri() for name in CHANNELS if (data / name).is_dir()}


def get_path(address: str) -> Path:
    """The place on this machine that a ``file://`` address names."""
    return Path(url2pathname(urlparse(address).path))


def is_folder(model: str) -> bool:
    """Whether a model's address is that of a folder with its files, and not of a model.tar.gz."""
    return not model.endswith(".tar.gz")


def describe_model(session: Any, model: str) -> str | dict[str, Any]:
    """CreateModel's ``ModelDataUrl``, or for a folder in S3 its ``ModelDataSource``; local mode has only the first."""
    if session.local_mode or not is_folder(model):
        return model
    address = f"{model.rstrip('/')}/"
    return {"S3DataSource": {"S3Uri": address, "S3DataType": "S3Prefix", "CompressionType": "None"}}


def build_ask(session: Any, job: SdkJob) -> Ask:
    """What asks the endpoint of a job; the calls are the same for both SDKs, in local mode and on AWS."""
    return partial(_ask_by_s3 if job.is_async else _ask_endpoint, session, job)


def _build_request(job: SdkJob, photo: Path, accept: str) -> dict[str, str]:
    content_type = mimetypes.guess_type(photo.name)[0] or "application/x-image"
    return {"EndpointName": job.name, "ContentType": content_type, "Accept": accept}


def _ask_endpoint(session: Any, job: SdkJob, photo: Path, accept: str) -> bytes:
    request = _build_request(job, photo, accept)
    answer = session.sagemaker_runtime_client.invoke_endpoint(Body=photo.read_bytes(), **request)
    return bytes(answer["Body"].read())


def _ask_by_s3(session: Any, job: SdkJob, photo: Path, accept: str) -> bytes:
    """Lay the photo into S3, and wait until its answer is there. RuntimeError when there is a refusal, or nothing."""
    bucket, folder = job.output.removeprefix("s3://").split("/", 1)
    asked = session.sagemaker_runtime_client.invoke_endpoint_async(
        InputLocation=session.upload_data(str(photo), bucket, f"{folder}/photos"),
        InvocationTimeoutSeconds=ASYNC_LIMIT_S,
        **_build_request(job, photo, accept),
    )
    s3 = session.boto_session.client("s3")
    for _ in range(ASYNC_LIMIT_S // _POLL_S):
        if (answer := _find_object(s3, asked["OutputLocation"])) is not None:
            return answer
        if (refusal := _find_object(s3, asked["FailureLocation"])) is not None:
            raise RuntimeError(f"the endpoint refused: {refusal[:500].decode(errors='replace')}")
        time.sleep(_POLL_S)
    raise RuntimeError(f"there is no answer at {asked['OutputLocation']} after {ASYNC_LIMIT_S} s")


def _find_object(s3: Any, address: str) -> bytes | None:
    """What is at an address in S3, None when nothing is there."""
    bucket, key = address.removeprefix("s3://").split("/", 1)
    try:
        return bytes(s3.get_object(Bucket=bucket, Key=key)["Body"].read())
    except s3.exceptions.NoSuchKey:
        return None
