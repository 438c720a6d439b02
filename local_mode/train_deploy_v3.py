#!/usr/bin/env python3
"""SageMaker with SDK v3: train, deploy, predict, batch transform, and clean up, in local mode or on AWS.

    python local_mode/train_deploy_v3.py                                  draws a small data set and trains on it
    python local_mode/train_deploy_v3.py --data FOLDER --epochs 30 --set crop_size=240 base_size=240
    python local_mode/train_deploy_v3.py --instance_type ml.g4dn.xlarge --image ... --role ... --bucket ...

FOLDER holds the channels: train, train_annotation, validation, validation_annotation, and maybe label_map.
All calls of the SDK are here. docs/byoc.md describes a run on AWS.
"""

from __future__ import annotations

import logging
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
from example import run
from job import ASYNC_INVOCATIONS, OBJECTIVE, Ask, SdkJob, build_ask, describe_model, get_path
from machine import check_machine, heeding_signals, open_scratch, stay_local
from sagemaker.core.helper.session_helper import Session
from sagemaker.core.local import LocalSession
from sagemaker.core.parameter import CategoricalParameter, ContinuousParameter, IntegerParameter
from sagemaker.core.transformer import Transformer
from sagemaker.train import ModelTrainer, configs
from sagemaker.train.model_trainer import Mode
from sagemaker.train.tuner import HyperparameterTuner
from stop import announce, remove_endpoint

from gluonseg import METRIC_DEFINITIONS

__all__ = ["CategoricalParameter", "ContinuousParameter", "IntegerParameter", "Session"]
TITLE = "SDK v3"


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


def _choose_place(session: Session, job: SdkJob) -> dict[str, Any]:
    """The arguments of a trainer that say where it trains and where its results go."""
    if session.local_mode:
        root = tempfile.mkdtemp(dir=session.config["local"]["container_root"])
        return {"training_mode": Mode.LOCAL_CONTAINER, "local_container_root": root}
    return {
        "sagemaker_session": session,
        "role": job.role,
        "base_job_name": job.name,
        "output_data_config": configs.OutputDataConfig(s3_output_path=job.output),
        "checkpoint_config": configs.CheckpointConfig(s3_uri=job.checkpoints) if job.checkpoints else None,
    }


def _build_trainer(session: Session, job: SdkJob) -> ModelTrainer:
    """The training job; without source_code, the image itself trains."""
    trainer = ModelTrainer(
        training_image=job.image,
        compute=configs.Compute(
            instance_type=job.instance_type,
            instance_count=job.instance_count,
            enable_managed_spot_training=bool(job.checkpoints),
        ),
        hyperparameters=dict(job.hyperparameters),
        stopping_condition=configs.StoppingCondition(
            max_runtime_in_seconds=job.max_run, max_wait_time_in_seconds=job.max_wait
        ),
        **_choose_place(session, job),
    )
    # In local mode SDK v3 takes the definitions and does not use them.
    return trainer.with_metric_definitions(
        [configs.MetricDefinition(name=one["Name"], regex=one["Regex"]) for one in METRIC_DEFINITIONS]
    )


def _build_inputs(session: Session, job: SdkJob) -> list[configs.InputData]:
    sources = {name: str(get_path(at)) if session.local_mode else at for name, at in job.channels.items()}
    return [configs.InputData(channel_name=name, data_source=source) for name, source in sources.items()]


def train(session: Session, job: SdkJob) -> str:
    """Run a training job, whose log is shown; the address of its model. RuntimeError when it fails in local mode."""
    trainer, inputs = _build_trainer(session, job), _build_inputs(session, job)
    if not session.local_mode:
        # The log of the job comes by Python's logging, which SDK v3 leaves to the program.
        logging.basicConfig(format="%(message)s", level=logging.INFO, stream=sys.stdout)
        trainer.train(inputs, wait=False, logs=False)
        # SDK v3 has put the time behind the name.
        started = trainer._latest_training_job
        announce(session, "training job", started.training_job_name)
        started.wait(logs=True)
        return str(started.model_artifacts.s3_model_artifacts)
    with heeding_signals():
        trainer.train(inputs)
    # train() returns nothing: this is where it leaves the model, and what else the job has written.
    output = get_path(job.output)
    output.mkdir(parents=True, exist_ok=True)
    for path in Path(trainer.local_container_root, "compressed_artifacts").iterdir():
        shutil.copy(path, output)
    return f"{job.output}/model.tar.gz"


def tune(session: Session, job: SdkJob, ranges: Mapping[str, Any], max_jobs: int, max_parallel_jobs: int) -> str:
    """Search for the hyperparameters with the greatest validation:mIOU; the best training job."""
    limits = {"max_jobs": max_jobs, "max_parallel_jobs": max_parallel_jobs}
    tuner = HyperparameterTuner(_build_trainer(session, job), OBJECTIVE, dict(ranges), METRIC_DEFINITIONS, **limits)
    announce(session, "tuning job", job.name)
    tuner.tune(_build_inputs(session, job), job_name=job.name)
    return str(tuner.best_training_job())


def _create_model(session: Session, job: SdkJob, model: str) -> None:
    found = describe_model(session, model)
    field = "ModelDataUrl" if isinstance(found, str) else "ModelDataSource"
    container = {"Image": job.image, field: found, "Environment": job.environment}
    session.sagemaker_client.create_model(ModelName=job.name, PrimaryContainer=container, ExecutionRoleArn=job.role)


def _describe_endpoint(job: SdkJob) -> dict[str, Any]:
    """The arguments of create_endpoint_config."""
    variant = {"VariantName": "AllTraffic", "ModelName": job.name}
    machine = {"InstanceType": job.endpoint_type, "InitialInstanceCount": 1}
    endpoint = {"EndpointConfigName": job.name, "ProductionVariants": [{**variant, **machine}]}
    if not job.is_async:
        return endpoint
    client = {"MaxConcurrentInvocationsPerInstance": ASYNC_INVOCATIONS}
    output = {"S3OutputPath": f"{job.output}/answers", "S3FailurePath": f"{job.output}/refusals"}
    return endpoint | {"AsyncInferenceConfig": {"ClientConfig": client, "OutputConfig": output}}


@contextmanager
def deployed_endpoint(session: Session, job: SdkJob, model: str) -> Iterator[Ask]:
    """Start an endpoint for the model at that address, and remove it at the end, also when it did not start.

    The calls are those of boto3's client, which LocalSession's answers, too. ModelBuilder cannot do this in local mode:
    it asks AWS for a role, pulls the image from a registry, and puts every answer into JSON, which cannot hold a PNG.
    """
    client = session.sagemaker_client
    announce(session, "endpoint", job.name)
    try:
        _create_model(session, job, model)
        client.create_endpoint_config(**_describe_endpoint(job))
        client.create_endpoint(EndpointName=job.name, EndpointConfigName=job.name)
        if not session.local_mode:
            session.wait_for_endpoint(job.name)
        yield build_ask(session, job)
    finally:
        if not job.keep_endpoint:
            remove_endpoint(client, job.name)


def transform(session: Session, job: SdkJob, model: str, photos: str, output: str) -> None:
    """Send every photo below an address; the answer to a.jpg is a.jpg.out."""
    _create_model(session, job, model)
    transformer = Transformer(
        job.name, 1, job.endpoint_type, accept="image/png", output_path=output, sagemaker_session=session
    )
    announce(session, "transform job", job.name)
    # With a name of its own: to make one up, SDK v3 would ask AWS for the model.
    transformer.transform(photos, content_type="image/jpeg", job_name=job.name)
    session.sagemaker_client.delete_model(ModelName=job.name)


if __name__ == "__main__":
    run(sys.modules[__name__], __doc__, Path("demo/sdk_v3"))
