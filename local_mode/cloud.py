"""What a run on AWS needs besides the SDK: its options, checks before anything is sent, and the data in S3."""

from __future__ import annotations

import argparse
import dataclasses
import os
import re
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from job import SdkJob
from machine import CONFIG, CONFIG_VARIABLE

from gluonseg.errors import UserError
from gluonseg.hyperparameters import get_specs
from gluonseg.text import join_names

# Families whose processor is ARM, or whose GPU is of a generation that MXNet 1.9.1 has no machine code for.
_ARM = re.compile(r"ml\.[a-z]+\d+g[den]*\.|ml\.p6e-")
_OTHER_GPU = re.compile(r"ml\.(p2|p5|p5en?|p6[a-z0-9-]*|g7e?)\.")
_NAME = re.compile(r"(?=.{1,18}$)[a-zA-Z0-9](-*[a-zA-Z0-9])*")
"""At most 18 characters: with the time behind it a name has 32, the most that a tuning job may have."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of a run on AWS."""
    group = parser.add_argument_group("on AWS", "with an --instance_type such as ml.g4dn.xlarge; see docs/byoc.md")
    group.add_argument("--role", metavar="ARN", help="the role that SageMaker takes on")
    group.add_argument("--bucket", help="for data and results")
    group.add_argument("--name", default="gluonseg", help="beginning of the names on AWS (%(default)s)")
    group.add_argument("--s3_data", metavar="S3", help="where --data is in S3 already; it is not copied then")
    group.add_argument(
        "--max_run", type=int, default=SdkJob.max_run, metavar="SECONDS", help="longest time of a training (a day)"
    )
    group.add_argument("--spot", action="store_true", help="train on spare machines, going on from checkpoints")
    group.add_argument("--tune", nargs="+", default=[], metavar="NAME", help="search for these hyperparameters")
    group.add_argument("--max_jobs", type=int, default=4, help="trainings of a search (%(default)s)")
    group.add_argument("--max_parallel_jobs", type=int, default=1, help="at a time (%(default)s)")
    group.add_argument("--endpoint_type", default="ml.m5.xlarge", help="machine of the endpoint (%(default)s)")
    group.add_argument(
        "--async", dest="is_async", action="store_true", help="an endpoint with a queue, asked by way of S3"
    )
    group.add_argument("--keep_endpoint", action="store_true", help="it costs money until it is removed")


def check_instance_type(instance_type: str) -> None:
    """UserError for a machine that this image cannot use."""
    if not instance_type.startswith("ml."):
        raise UserError(f"{instance_type} is no machine of SageMaker: they begin with ml., such as ml.g4dn.xlarge")
    if _ARM.match(instance_type):
        raise UserError(f"{instance_type}: its processor is ARM, the image is x86_64; take ml.m5 or ml.c5")
    if _OTHER_GPU.match(instance_type):
        raise UserError(f"{instance_type}: MXNet 1.9.1 has no code for its GPU; take ml.g4dn, ml.g5, ml.g6 or ml.p3")


def check_options(options: argparse.Namespace) -> None:
    """UserError for what AWS would refuse, or show only after minutes on a machine that costs money."""
    check_instance_type(options.instance_type)
    check_instance_type(options.endpoint_type)
    if options.model and not options.model.startswith("s3://"):
        raise UserError(
            f"model {options.model}: on AWS a model must be in S3; copy it there and give its s3:// address"
        )
    if not options.role or not options.bucket:
        raise UserError("on AWS give --role and --bucket, see docs/byoc.md")
    if ".dkr.ecr" not in options.image:
        raise UserError(f"image {options.image} is not in Amazon ECR; local_mode/push.py prints the address to give")
    if not _NAME.fullmatch(options.name):
        raise UserError(f"name {options.name!r}: take at most 18 letters and digits, with hyphens between them")
    if not 1 <= options.max_parallel_jobs <= options.max_jobs:
        raise UserError(f"max_parallel_jobs is {options.max_parallel_jobs}; give 1 to max_jobs ({options.max_jobs})")
    if options.tune and options.spot:
        raise UserError("leave out --spot: the trainings of a search would take each other's checkpoints")
    tunable = [name for name, spec in get_specs().items() if spec.tunable]
    if unknown := [name for name in options.tune if name not in tunable]:
        raise UserError(f"tune {unknown[0]!r}: it cannot be tuned; choose from {join_names(tunable)}")


def connect(session_class: Any, image: str) -> Any:
    """The SDK's session, in the region and with the credentials that boto3 finds."""
    os.environ.setdefault(CONFIG_VARIABLE, str(CONFIG))
    # Without this SDK v3 refuses a role that lacks the rights of a job in a VPC.
    os.environ.setdefault("SAGEMAKER_VALIDATE_ROLE", "false")
    session = session_class()
    if f".{session.boto_region_name}." not in image:
        raise UserError(f"image {image} is not in the region {session.boto_region_name}: AWS_DEFAULT_REGION chooses it")
    return session


def move_to_s3(session: Any, job: SdkJob, data: Path, options: argparse.Namespace) -> SdkJob:
    """Upload the data unless it is in S3 already; ``job`` with its data and results in S3, its name and limits."""
    name = f"{options.name}-{datetime.now(timezone.utc):%y%m%d-%H%M%S}"
    folder = options.s3_data or f"s3://{options.bucket}/{name}/data"
    if not options.s3_data:
        for channel in job.channels:
            session.upload_data(str(data / channel), options.bucket, f"{name}/data/{channel}")
    return dataclasses.replace(
        job,
        # Without the slash at the end .../train would bring .../train_annotation along.
        channels={channel: f"{folder.rstrip('/')}/{channel}/" for channel in job.channels},
        output=f"s3://{options.bucket}/{name}",
        endpoint_type=options.endpoint_type,
        name=name,
        role=options.role,
        max_run=options.max_run,
        checkpoints=f"s3://{options.bucket}/{name}/checkpoints" if options.spot else None,
        keep_endpoint=options.keep_endpoint,
        is_async=options.is_async,
    )


def build_ranges(sdk: Any, names: list[str]) -> dict[str, Any]:
    """The range of each hyperparameter, that of the built-in algorithm, with the classes of ``sdk``."""
    ranges = {}
    for name in names:
        spec = get_specs()[name]
        low, found, high = spec.tunable.partition(" to ")
        if not found:
            ranges[name] = sdk.CategoricalParameter(spec.tunable.split(", "))
        elif spec.kind is int:
            ranges[name] = sdk.IntegerParameter(int(low), int(high))
        else:
            ranges[name] = sdk.ContinuousParameter(float(low), float(high))
    return ranges


def read_model_address(session: Any, training_job: str) -> str:
    """Ask AWS for the address of the model that a finished training job has left."""
    found = session.sagemaker_client.describe_training_job(TrainingJobName=training_job)
    return str(found["ModelArtifacts"]["S3ModelArtifacts"])
