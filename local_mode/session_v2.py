"""SDK v2 in local mode: a session, a training job and an endpoint in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import boto3
from example import CONTENT_TYPES, Ask, Job, find_content_type
from machine import CONFIG, check_machine, heeding_signals, open_scratch, stay_local
from sagemaker.config import load_sagemaker_config
from sagemaker.deserializers import BytesDeserializer
from sagemaker.estimator import Estimator
from sagemaker.inputs import TrainingInput
from sagemaker.local import LocalSession
from sagemaker.serializers import IdentitySerializer

from gluonseg import METRIC_DEFINITIONS

TITLE = "SDK v2"
ROLE = "arn:aws:iam::000000000000:role/local"
"""Local mode asks for a role and never uses it, so that it need not exist."""


@contextmanager
def open_session(image: str, port: int = 8080) -> Iterator[LocalSession]:
    """A session for local mode; at the end its containers and its scratch folder are gone."""
    # SDK v2 knows the plugin of this major version only.
    check_machine(image, port, compose="v2")
    stay_local()
    with open_scratch(image) as scratch:
        # It insists on a region and never uses it.
        region = boto3.Session().region_name or "us-east-1"
        config = load_sagemaker_config([str(CONFIG)])
        session = LocalSession(boto3.Session(region_name=region), sagemaker_config=config)
        session.config = {"local": {"container_root": str(scratch), "serving_port": port}}
        yield session


def build_inputs(data: Path) -> dict[str, TrainingInput]:
    """One input a channel folder, from this machine instead of S3."""
    return {
        channel: TrainingInput((data / channel).as_uri(), distribution="FullyReplicated", content_type=content_type)
        for channel, content_type in CONTENT_TYPES.items()
        if (data / channel).is_dir()
    }


def train(session: LocalSession, job: Job) -> Estimator:
    """Run a training job, whose log comes to standard output; RuntimeError when it fails."""
    estimator = Estimator(
        job.image,
        ROLE,
        job.instance_count,
        job.instance_type,
        output_path=job.output.as_uri(),
        sagemaker_session=session,
        hyperparameters=dict(job.hyperparameters),
        metric_definitions=METRIC_DEFINITIONS,
    )
    with heeding_signals():
        estimator.fit(build_inputs(job.data))
    return estimator


@contextmanager
def deployed_endpoint(_session: LocalSession, job: Job, estimator: Estimator) -> Iterator[Ask]:
    """Start an endpoint for the model, and delete it at the end."""
    # In local mode the endpoint is ready when deploy returns; wait=True would only sleep for half a minute.
    with heeding_signals():
        predictor = estimator.deploy(
            1, job.instance_type, serializer=IdentitySerializer(), deserializer=BytesDeserializer(), wait=False
        )

    def ask(photo: Path, accept: str) -> bytes:
        types = {"ContentType": find_content_type(photo), "Accept": accept}
        answer: bytes = predictor.predict(photo.read_bytes(), initial_args=types)
        return answer

    try:
        yield ask
    finally:
        predictor.delete_endpoint()
