"""SDK v3 in local mode: a session, a training job and an endpoint in it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import boto3
from example import CONTENT_TYPES, Ask, Job, find_content_type
from machine import check_machine, heeding_signals, open_scratch, stay_local
from sagemaker.core.local import LocalSession
from sagemaker.train import ModelTrainer
from sagemaker.train.configs import Compute, InputData, MetricDefinition
from sagemaker.train.model_trainer import Mode

from gluonseg import METRIC_DEFINITIONS

TITLE = "SDK v3"
NAME = "gluonseg"
"""Of the model, the endpoint and its configuration, which all live in this process."""


@contextmanager
def open_session(image: str, port: int = 8080) -> Iterator[LocalSession]:
    """A session for local mode; at the end its containers and its scratch folder are gone."""
    check_machine(image, port)
    stay_local()
    with open_scratch(image) as scratch:
        # It insists on a region and never uses it.
        session = LocalSession(boto3.Session(region_name="us-east-1"))
        session.config = {"local": {"container_root": str(scratch), "serving_port": port}}
        yield session


def build_inputs(data: Path) -> list[InputData]:
    """One input a channel folder, from this machine instead of S3."""
    return [
        InputData(channel_name=channel, data_source=str(data / channel), content_type=content_type)
        for channel, content_type in CONTENT_TYPES.items()
        if (data / channel).is_dir()
    ]


def build_trainer(job: Job, root: Path) -> ModelTrainer:
    """The training job; without source_code, the image itself trains."""
    trainer = ModelTrainer(
        training_mode=Mode.LOCAL_CONTAINER,
        training_image=job.image,
        compute=Compute(instance_type=job.instance_type, instance_count=job.instance_count),
        hyperparameters=dict(job.hyperparameters),
        input_data_config=build_inputs(job.data),
        local_container_root=str(root),
    )
    # A real job's metrics; in local mode SDK v3 takes the definitions and does not use them.
    return trainer.with_metric_definitions(
        [MetricDefinition(name=one["Name"], regex=one["Regex"]) for one in METRIC_DEFINITIONS]
    )


def train(session: LocalSession, job: Job) -> Path:
    """Run a training job, whose log comes to standard output; its model.tar.gz. RuntimeError when it fails."""
    root = Path(tempfile.mkdtemp(dir=session.config["local"]["container_root"]))
    with heeding_signals():
        build_trainer(job, root).train()
    job.output.mkdir(parents=True, exist_ok=True)
    # train() returns nothing: this is where it leaves the model, and what else the job has written.
    for path in (root / "compressed_artifacts").iterdir():
        shutil.copy(path, job.output)
    return job.output / "model.tar.gz"


@contextmanager
def registered_model(session: LocalSession, job: Job, model: Path) -> Iterator[None]:
    """Make the model known, to endpoints and transform jobs, under ``NAME``."""
    container = {"Image": job.image, "ModelDataUrl": model.as_uri(), "Environment": {}}
    session.sagemaker_client.create_model(ModelName=NAME, PrimaryContainer=container)
    try:
        yield
    finally:
        session.sagemaker_client.delete_model(ModelName=NAME)


@contextmanager
def deployed_endpoint(session: LocalSession, job: Job, model: Path) -> Iterator[Ask]:
    """Start an endpoint for the model, and delete it at the end.

    LocalSession's client answers the calls of boto3's. ModelBuilder in LOCAL_CONTAINER mode cannot do this: it asks AWS
    for a role, pulls the image from a registry, and puts every answer into JSON, which cannot hold a PNG file.
    """
    client = session.sagemaker_client
    variant = {"VariantName": "AllTraffic", "ModelName": NAME}
    machine = {"InstanceType": job.instance_type, "InitialInstanceCount": 1}

    def ask(photo: Path, accept: str) -> bytes:
        answer = session.sagemaker_runtime_client.invoke_endpoint(
            EndpointName=NAME, Body=photo.read_bytes(), ContentType=find_content_type(photo), Accept=accept
        )
        body: bytes = answer["Body"].read()
        return body

    with registered_model(session, job, model):
        client.create_endpoint_config(EndpointConfigName=NAME, ProductionVariants=[{**variant, **machine}])
        try:
            client.create_endpoint(EndpointName=NAME, EndpointConfigName=NAME)
            yield ask
        finally:
            client.delete_endpoint(EndpointName=NAME)
            client.delete_endpoint_config(EndpointConfigName=NAME)
