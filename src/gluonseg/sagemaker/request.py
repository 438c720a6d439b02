"""Bodies of SageMaker's requests for training and tuning with this image, and the checks behind them.

Pure functions: they check and return dictionaries, and call nothing. Each body is what the operation of boto3's
``sagemaker`` client takes: ``client.create_training_job(**build_training_job(...))``. Those for hosting are in
:mod:`gluonseg.sagemaker.hosting`.
https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_Operations_Amazon_SageMaker_Service.html
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from gluonseg.data.channel import NEEDED_CHANNELS, OPTIONAL_CHANNELS
from gluonseg.errors import UserError, find_nearest, join_names
from gluonseg.hyperparameters import get_specs, parse_hyperparameters
from gluonseg.parameter import Spec, format_value
from gluonseg.sagemaker.metric_definitions import METRIC_DEFINITIONS

Body = dict[str, Any]

OBJECTIVE = "validation:mIOU"
CHECKPOINT_PATH = "/opt/ml/checkpoints"
MODEL_TYPE = "application/x-sagemaker-model"

_NAME = re.compile(r"[a-zA-Z0-9](-*[a-zA-Z0-9])*")
_ROLE = re.compile(r"arn:aws[a-z-]*:iam::\d{12}:role/[\w+=,.@/-]+", re.ASCII)
_IMAGE = re.compile(
    r"\d{12}\.dkr\.ecr(-fips)?\.[a-z0-9-]+\.amazonaws\.com(\.cn)?/[a-z0-9._/-]+([:@][\w.:-]+)?", re.ASCII
)
_S3 = re.compile(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/.*)?")
_VARIABLE = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
# Families whose processor is ARM, or whose GPU is of a generation that MXNet 1.9.1 has no machine code for.
_ARM = re.compile(r"ml\.[a-z]+\d+g[den]*\.|ml\.p6e-")
_OTHER_GPU = re.compile(r"ml\.(p2|p5|p5en?|p6[a-z0-9-]*|g7e?)\.")
_FILES = (".tar.gz", ".params", ".safetensors", ".json")
_TYPES = {
    "label_map": "application/json",
    "model": MODEL_TYPE,
    **dict.fromkeys(("train", "validation", "test"), "image/jpeg"),
    **{f"{name}_annotation": "image/png" for name in ("train", "validation", "test")},
}
_MAX_VALUE = 2500


@dataclass(frozen=True)
class Network:
    """Where the container may reach: ``isolated`` means nowhere; a VPC has subnets and security groups."""

    isolated: bool = False
    subnets: Sequence[str] = ()
    security_groups: Sequence[str] = ()

    def build(self) -> Body:
        """The fields that training jobs and models have for it."""
        body: Body = {"EnableNetworkIsolation": self.isolated}
        if bool(self.subnets) != bool(self.security_groups):
            raise UserError("a VPC needs both subnets and security_groups; give both, or neither")
        if self.subnets:
            body["VpcConfig"] = {"Subnets": list(self.subnets), "SecurityGroupIds": list(self.security_groups)}
        return body


@dataclass(frozen=True)
class Limit:
    """How long a job may run, in seconds; ``spot`` takes spare machines and waits at most ``max_wait_s`` in all."""

    max_runtime_s: int = 24 * 3600
    spot: bool = False
    max_wait_s: int | None = None

    def build(self) -> Body:
        """The fields of a training job for it."""
        if self.max_runtime_s < 1:
            raise UserError(f"max_runtime_s is {self.max_runtime_s}; give at least 1 second")
        stop: Body = {"MaxRuntimeInSeconds": self.max_runtime_s}
        if not self.spot:
            if self.max_wait_s is not None:
                raise UserError("max_wait_s is for spot training; set spot too, or leave it out")
        elif self.max_wait_s is None or self.max_wait_s < self.max_runtime_s:
            raise UserError(
                f"max_wait_s is {self.max_wait_s}; spot training needs it, and at least max_runtime_s "
                f"({self.max_runtime_s}): it counts waiting and running together"
            )
        else:
            stop["MaxWaitTimeInSeconds"] = self.max_wait_s
        return {"StoppingCondition": stop, "EnableManagedSpotTraining": self.spot}


def check_name(field: str, name: str, limit: int = 63) -> str:
    """Return ``name`` if SageMaker takes it for a job, a model or an endpoint."""
    if not _NAME.fullmatch(name) or len(name) > limit:
        raise UserError(
            f"{field} {name!r}: a name has letters, digits and single or several hyphens inside, "
            f"no other character, and at most {limit} of them"
        )
    return name


def check_role(role: str) -> str:
    """Return ``role`` if it is the ARN of an IAM role."""
    if not _ROLE.fullmatch(role):
        raise UserError(f"role {role!r} is not the ARN of an IAM role, such as arn:aws:iam::111122223333:role/NAME")
    return role


def check_image(image: str) -> str:
    """Return ``image`` if it is an image in Amazon ECR, the only registry that both training and hosting read."""
    if not _IMAGE.fullmatch(image):
        raise UserError(
            f"image {image!r} is not an address in Amazon ECR, such as "
            "111122223333.dkr.ecr.us-east-1.amazonaws.com/gluonseg:latest; push the image first and give what that says"
        )
    return image


def check_uri(field: str, uri: str) -> str:
    """Return ``uri`` if it is an S3 address."""
    if not _S3.fullmatch(uri):
        raise UserError(f"{field} {uri!r} is not an address in S3, such as s3://BUCKET/FOLDER/")
    return uri


def check_folder(field: str, uri: str) -> str:
    """``uri`` with a slash at its end: without one, ``.../train`` brings ``.../train_annotation/`` along."""
    return check_uri(field, uri).rstrip("/") + "/"


def check_instance_type(instance_type: str) -> str:
    """Return ``instance_type`` if this image can use such a machine."""
    if not instance_type.startswith("ml."):
        raise UserError(f"instance_type {instance_type!r} must begin with ml., such as ml.g4dn.xlarge")
    if _ARM.match(instance_type):
        raise UserError(
            f"instance_type {instance_type}: its processor is ARM, the image is x86_64; take ml.m5 or ml.c5"
        )
    if _OTHER_GPU.match(instance_type):
        raise UserError(
            f"instance_type {instance_type}: MXNet 1.9.1 has no code for its GPU; take ml.g4dn, ml.g5, ml.g6 or ml.p3"
        )
    return instance_type


def build_tags(tags: Mapping[str, str] | None) -> Body:
    """The field Tags, or none."""
    return {"Tags": [{"Key": key, "Value": value} for key, value in tags.items()]} if tags else {}


def build_environment(environment: Mapping[str, str] | None) -> Body:
    """The field Environment, or none; every name is checked."""
    for name in environment or ():
        if not _VARIABLE.fullmatch(name):
            raise UserError(f"environment: {name!r} is not a variable's name; take letters, digits and _")
    return {"Environment": dict(environment)} if environment else {}


def keep_given(**fields: Any) -> Body:
    """Those of ``fields`` that are not None."""
    return {name: value for name, value in fields.items() if value is not None}


def build_channels(uris: Mapping[str, str], input_mode: str = "File") -> list[Body]:
    """InputDataConfig for channel name -> S3 folder (for model and pretrained also a file)."""
    missing = [name for name in NEEDED_CHANNELS if name not in uris]
    if missing:
        raise UserError(f"channels: {join_names(missing)} missing; training needs {join_names(NEEDED_CHANNELS)}")
    if input_mode not in ("File", "FastFile"):
        raise UserError(f"input_mode {input_mode!r} is not supported; use File or FastFile")
    return [_build_channel(name, uri, input_mode) for name, uri in uris.items()]


def _build_channel(name: str, uri: str, input_mode: str) -> Body:
    known = (*NEEDED_CHANNELS, *OPTIONAL_CHANNELS)
    if name not in known:
        nearest = find_nearest(name, known)
        hint = f"did you mean {nearest}?" if nearest else f"channels are {join_names(known, limit=20)}"
        raise UserError(f"channel {name!r} is unknown; {hint}")
    check = check_uri if uri.endswith(_FILES) else check_folder
    source = {"S3DataType": "S3Prefix", "S3Uri": check(f"channel {name}", uri)}
    return {
        "ChannelName": name,
        "DataSource": {"S3DataSource": {**source, "S3DataDistributionType": "FullyReplicated"}},
        **keep_given(ContentType=_TYPES.get(name)),
        "InputMode": "File" if name == "model" else input_mode,
    }


def build_hyperparameters(values: Mapping[str, Any]) -> dict[str, str]:
    """``values`` as strings, after the checks that the container makes too."""
    parse_hyperparameters(values)
    texts = {name: value if isinstance(value, str) else format_value(value) for name, value in values.items()}
    for name, text in texts.items():
        if len(text) > _MAX_VALUE:
            hint = "; put class_names.json into the label_map channel instead" if name == "class_names" else ""
            raise UserError(f"hyperparameter {name} has {len(text)} characters, SageMaker takes {_MAX_VALUE}{hint}")
    return texts


def build_training_job(
    name: str,
    *,
    image: str,
    role: str,
    hyperparameters: Mapping[str, Any],
    channels: Mapping[str, str],
    output: str,
    instance_type: str,
    volume_gb: int = 30,
    input_mode: str = "File",
    limit: Limit | None = None,
    network: Network | None = None,
    checkpoints: str | None = None,
    volume_kms_key: str | None = None,
    output_kms_key: str | None = None,
    environment: Mapping[str, str] | None = None,
    tags: Mapping[str, str] | None = None,
) -> Body:
    """CreateTrainingJob: one machine, the metric definitions of this image, everything checked.

    Raises:
        UserError: names the field, its value and what to give instead.
    """
    if volume_gb < 1:
        raise UserError(f"volume_gb is {volume_gb}; give at least 1, enough for the data and the model")
    body: Body = {
        "TrainingJobName": check_name("name", name),
        "RoleArn": check_role(role),
        "AlgorithmSpecification": {
            "TrainingImage": check_image(image),
            "TrainingInputMode": input_mode,
            "MetricDefinitions": [dict(one) for one in METRIC_DEFINITIONS],
        },
        "HyperParameters": build_hyperparameters(hyperparameters),
        "InputDataConfig": build_channels(channels, input_mode),
        "OutputDataConfig": {"S3OutputPath": check_folder("output", output), **keep_given(KmsKeyId=output_kms_key)},
        "ResourceConfig": {
            "InstanceType": check_instance_type(instance_type),
            "InstanceCount": 1,
            "VolumeSizeInGB": volume_gb,
            **keep_given(VolumeKmsKeyId=volume_kms_key),
        },
        **(limit or Limit()).build(),
        **(network or Network()).build(),
    }
    if checkpoints is not None:
        uri = check_folder("checkpoints", checkpoints)
        body["CheckpointConfig"] = {"S3Uri": uri, "LocalPath": CHECKPOINT_PATH}
    return {**body, **build_environment(environment), **build_tags(tags)}


def _build_range(name: str, one: Spec) -> tuple[str, Body]:
    """The kind of range and its description, from the table of hyperparameters."""
    low, found, high = one.tunable.partition(" to ")
    if not found:
        return "Categorical", {"Name": name, "Values": one.tunable.split(", ")}
    # The decimal point is what every reader of the range understands: 0.0001, not 1e-4.
    bounds = {"MinValue": f"{Decimal(low):f}", "MaxValue": f"{Decimal(high):f}"}
    return "Integer" if one.kind is int else "Continuous", {"Name": name, **bounds, "ScalingType": "Auto"}


def build_ranges(tune: Sequence[str]) -> Body:
    """ParameterRanges of the hyperparameters in ``tune``: the ranges of the built-in algorithm."""
    tunable = {name: one for name, one in get_specs().items() if one.tunable}
    body: Body = {}
    for name in tune:
        if name not in tunable:
            raise UserError(f"tune {name!r}: it cannot be tuned; choose from {join_names(tunable)}")
        kind, described = _build_range(name, tunable[name])
        body.setdefault(f"{kind}ParameterRanges", []).append(described)
    if not body:
        raise UserError(f"tune is empty; choose from {join_names(tunable)}")
    return body


def build_tuning_job(
    training_job: Body, *, tune: Sequence[str], max_jobs: int, max_parallel_jobs: int = 1, strategy: str = "Bayesian"
) -> Body:
    """CreateHyperParameterTuningJob: ``training_job`` again and again for the greatest validation:mIOU."""
    if not 1 <= max_parallel_jobs <= max_jobs:
        raise UserError(f"max_parallel_jobs is {max_parallel_jobs}; give 1 to max_jobs ({max_jobs})")
    moved = ("TrainingJobName", "HyperParameters", "Tags")
    definition = {key: value for key, value in training_job.items() if key not in moved}
    fixed = {name: value for name, value in training_job["HyperParameters"].items() if name not in tune}
    return {
        "HyperParameterTuningJobName": check_name("name", training_job["TrainingJobName"], 32),
        "HyperParameterTuningJobConfig": {
            "Strategy": strategy,
            "HyperParameterTuningJobObjective": {"Type": "Maximize", "MetricName": OBJECTIVE},
            "ResourceLimits": {"MaxNumberOfTrainingJobs": max_jobs, "MaxParallelTrainingJobs": max_parallel_jobs},
            "ParameterRanges": build_ranges(tune),
        },
        "TrainingJobDefinition": {**definition, "StaticHyperParameters": fixed},
        **keep_given(Tags=training_job.get("Tags")),
    }
