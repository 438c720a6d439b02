"""Bodies of SageMaker's requests for a model, its endpoint and a batch transform.

Pure, like :mod:`gluonseg.sagemaker.request`: ``client.create_model(**build_model(...))``, then
``build_endpoint_config`` and ``build_endpoint``, or ``build_transform_job``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gluonseg.errors import UserError
from gluonseg.sagemaker.request import (
    Body,
    Network,
    build_environment,
    build_tags,
    check_folder,
    check_image,
    check_instance_type,
    check_name,
    check_role,
    check_uri,
    keep_given,
)

VARIANT = "AllTraffic"
MASK_TYPE = "image/png"


@dataclass(frozen=True)
class Machines:
    """Machines that run as long as the endpoint exists."""

    instance_type: str
    count: int = 1

    def build(self) -> Body:
        """The fields of a production variant for it."""
        if self.count < 1:
            raise UserError(f"instance_count is {self.count}; give at least 1")
        return {"InstanceType": check_instance_type(self.instance_type), "InitialInstanceCount": self.count}


@dataclass(frozen=True)
class Serverless:
    """No machine while nobody asks; on CPU only, bodies up to 4 MB."""

    memory_mb: int = 4096
    max_concurrency: int = 2

    def build(self) -> Body:
        """The fields of a production variant for it."""
        if self.memory_mb not in range(1024, 6145, 1024):
            raise UserError(
                f"memory_mb is {self.memory_mb}; a serverless endpoint has 1024, 2048, 3072, 4096, 5120 or 6144"
            )
        if not 1 <= self.max_concurrency <= 200:
            raise UserError(f"max_concurrency is {self.max_concurrency}; give 1 to 200")
        return {"ServerlessConfig": {"MemorySizeInMB": self.memory_mb, "MaxConcurrency": self.max_concurrency}}


def build_model(
    name: str,
    *,
    image: str,
    role: str,
    model_data: str,
    environment: Mapping[str, str] | None = None,
    network: Network | None = None,
    tags: Mapping[str, str] | None = None,
) -> Body:
    """CreateModel: the image and the model.tar.gz that training left in S3."""
    if not check_uri("model_data", model_data).endswith(".tar.gz"):
        raise UserError(f"model_data {model_data!r} is no archive; give the s3://.../model.tar.gz of a training job")
    container = {"Image": check_image(image), "ModelDataUrl": model_data, **build_environment(environment)}
    return {
        "ModelName": check_name("name", name),
        "ExecutionRoleArn": check_role(role),
        "PrimaryContainer": container,
        **(network or Network()).build(),
        **build_tags(tags),
    }


def build_endpoint_config(
    name: str,
    *,
    model: str,
    machines: Machines | Serverless,
    async_output: str | None = None,
    kms_key: str | None = None,
    tags: Mapping[str, str] | None = None,
) -> Body:
    """CreateEndpointConfig: one variant; with ``async_output`` (S3 folder) requests and answers go through S3."""
    if async_output is not None and isinstance(machines, Serverless):
        raise UserError(
            "async_output: a serverless endpoint has no asynchronous inference; give machines, or leave it out"
        )
    variant = {"VariantName": VARIANT, "ModelName": check_name("model", model), **machines.build()}
    body: Body = {"EndpointConfigName": check_name("name", name), "ProductionVariants": [variant]}
    if async_output is not None:
        folder = check_folder("async_output", async_output)
        output = {"S3OutputPath": folder, "S3FailurePath": f"{folder}failed/"}
        body["AsyncInferenceConfig"] = {"OutputConfig": output}
    return {**body, **keep_given(KmsKeyId=kms_key), **build_tags(tags)}


def build_endpoint(name: str, *, config: str, tags: Mapping[str, str] | None = None) -> Body:
    """CreateEndpoint."""
    names = {"EndpointName": check_name("name", name), "EndpointConfigName": check_name("config", config)}
    return {**names, **build_tags(tags)}


def build_transform_job(
    name: str,
    *,
    model: str,
    photos: str,
    output: str,
    instance_type: str,
    instance_count: int = 1,
    accept: str = MASK_TYPE,
    max_payload_mb: int | None = None,
    volume_kms_key: str | None = None,
    tags: Mapping[str, str] | None = None,
) -> Body:
    """CreateTransformJob: every file below ``photos`` becomes ``<file>.out`` below ``output``.

    ``max_payload_mb`` is the largest photo; None leaves it to what the container says.
    """
    machines = Machines(instance_type, instance_count).build()
    source = {"S3DataType": "S3Prefix", "S3Uri": check_folder("photos", photos)}
    return {
        "TransformJobName": check_name("name", name),
        "ModelName": check_name("model", model),
        "TransformInput": {
            "DataSource": {"S3DataSource": source},
            "ContentType": "image/jpeg",
            "CompressionType": "None",
            "SplitType": "None",
        },
        "TransformOutput": {"S3OutputPath": check_folder("output", output), "Accept": accept, "AssembleWith": "None"},
        "TransformResources": {
            "InstanceType": machines["InstanceType"],
            "InstanceCount": machines["InitialInstanceCount"],
            **keep_given(VolumeKmsKeyId=volume_kms_key),
        },
        **keep_given(MaxPayloadInMB=max_payload_mb),
        **build_tags(tags),
    }
