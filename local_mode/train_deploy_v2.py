#!/usr/bin/env python3
"""SageMaker with SDK v2: train, deploy, predict, batch transform, and clean up, in local mode or on AWS.

    python local_mode/train_deploy_v2.py                                  draws a small data set and trains on it
    python local_mode/train_deploy_v2.py --data FOLDER --epochs 30 --set crop_size=240 base_size=240
    python local_mode/train_deploy_v2.py --instance_type ml.g4dn.xlarge --image ... --role ... --bucket ...

FOLDER holds the channels: train, train_annotation, validation, validation_annotation, and maybe label_map.
All calls of the SDK are here. docs/byoc.md describes a run on AWS.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
from example import run
from job import ASYNC_INVOCATIONS, OBJECTIVE, Ask, SdkJob, build_ask, describe_model
from machine import CONFIG, check_machine, heeding_signals, open_scratch, stay_local
from sagemaker import Session
from sagemaker.async_inference import AsyncInferenceConfig
from sagemaker.config import load_sagemaker_config
from sagemaker.estimator import Estimator
from sagemaker.inputs import TrainingInput
from sagemaker.local import LocalSession
from sagemaker.model import Model
from sagemaker.tuner import CategoricalParameter, ContinuousParameter, HyperparameterTuner, IntegerParameter
from stop import announce, remove_endpoint

from gluonseg import METRIC_DEFINITIONS

__all__ = ["CategoricalParameter", "ContinuousParameter", "IntegerParameter", "Session"]
TITLE = "SDK v2"


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


def _build_estimator(session: Session, job: SdkJob) -> Estimator:
    return Estimator(
        job.image,
        job.role,
        job.instance_count,
        job.instance_type,
        output_path=job.output,
        sagemaker_session=session,
        hyperparameters=dict(job.hyperparameters),
        metric_definitions=METRIC_DEFINITIONS,
        max_run=job.max_run,
        use_spot_instances=job.checkpoints is not None,
        max_wait=job.max_wait,
        checkpoint_s3_uri=job.checkpoints,
    )


def _build_inputs(job: SdkJob) -> dict[str, TrainingInput]:
    return {channel: TrainingInput(address) for channel, address in job.channels.items()}


def train(session: Session, job: SdkJob) -> str:
    """Run a training job, whose log comes to standard output; the address of its model. RuntimeError when it fails."""
    estimator = _build_estimator(session, job)
    announce(session, "training job", job.name)
    with heeding_signals():
        estimator.fit(_build_inputs(job), job_name=job.name)
    return str(estimator.model_data)


def tune(session: Session, job: SdkJob, ranges: Mapping[str, Any], max_jobs: int, max_parallel_jobs: int) -> str:
    """Search for the hyperparameters with the greatest validation:mIOU; the best training job."""
    limits = {"max_jobs": max_jobs, "max_parallel_jobs": max_parallel_jobs}
    tuner = HyperparameterTuner(_build_estimator(session, job), OBJECTIVE, dict(ranges), METRIC_DEFINITIONS, **limits)
    announce(session, "tuning job", job.name)
    tuner.fit(_build_inputs(job), job_name=job.name)
    return str(tuner.best_training_job())


def _build_model(session: Session, job: SdkJob, model: str) -> Model:
    found = describe_model(session, model)
    return Model(job.image, found, job.role, env=job.environment, name=job.name, sagemaker_session=session)


def _build_async_config(job: SdkJob) -> AsyncInferenceConfig | None:
    if not job.is_async:
        return None
    return AsyncInferenceConfig(f"{job.output}/answers", ASYNC_INVOCATIONS, failure_path=f"{job.output}/refusals")


@contextmanager
def deployed_endpoint(session: Session, job: SdkJob, model: str) -> Iterator[Ask]:
    """Start an endpoint for the model at that address, and remove it at the end, also when it did not start."""
    announce(session, "endpoint", job.name)
    try:
        # In local mode the endpoint is ready when deploy returns; wait=True would only sleep for half a minute.
        with heeding_signals():
            _build_model(session, job, model).deploy(
                1,
                job.endpoint_type,
                endpoint_name=job.name,
                async_inference_config=_build_async_config(job),
                wait=not session.local_mode,
            )
        yield build_ask(session, job)
    finally:
        if not job.keep_endpoint:
            remove_endpoint(session.sagemaker_client, job.name)


def transform(session: Session, job: SdkJob, model: str, photos: str, output: str) -> None:
    """Send every photo below an address; the answer to a.jpg is a.jpg.out."""
    # SingleRecord: with the default, local mode takes every file for text.
    transformer = _build_model(session, job, model).transformer(
        1, job.endpoint_type, strategy="SingleRecord", accept="image/png", output_path=output
    )
    announce(session, "transform job", job.name)
    # In local mode the job is done when transform returns, and wait=True would ask AWS for its log.
    is_remote = not session.local_mode
    transformer.transform(photos, content_type="image/jpeg", job_name=job.name, wait=is_remote, logs=is_remote)
    transformer.delete_model()


if __name__ == "__main__":
    run(sys.modules[__name__], __doc__, Path("demo/sdk_v2"))
