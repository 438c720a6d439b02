"""What the commands of byoc.py do, from their options to SageMaker's answers."""

from __future__ import annotations

import argparse
import json
from typing import Any

import boto3
from cleanup import JOBS, remove_deployment, remove_transform_model, stop_job, undo_if_refused
from ecr import push_image
from storage import upload_channels
from watch import note, report_training, say, watch

from gluonseg.data.channel import NEEDED_CHANNELS
from gluonseg.errors import UserError
from gluonseg.hyperparameters import get_specs, parse_hyperparameters
from gluonseg.sagemaker.hosting import (
    Machines,
    Serverless,
    build_endpoint,
    build_endpoint_config,
    build_model,
    build_transform_job,
)
from gluonseg.sagemaker.request import (
    Body,
    Limit,
    Network,
    build_training_job,
    build_tuning_job,
    check_folder,
    check_name,
)

Options = argparse.Namespace


def _connect(options: Options, service: str = "sagemaker") -> Any:
    """boto3's client; an image in another region than this one is refused."""
    client = boto3.Session(region_name=options.region, profile_name=options.profile).client(service)
    image = getattr(options, "image", None)
    region = client.meta.region_name
    if image and ".dkr.ecr" in image and f".{region}." not in image:
        raise UserError(f"image {image} is not in the region {region}; push it there, or give --region")
    return client


def _show(**bodies: Body) -> None:
    say(json.dumps(bodies, indent=2))


def _build_network(options: Options) -> Network:
    return Network(options.network_isolation, options.subnet, options.security_group)


def build_command(options: Options, verb: str) -> str:
    """What to type for ``verb`` and the name that ``options`` have, in the same region and profile."""
    places = [f"--{key} {getattr(options, key)}" for key in ("region", "profile") if getattr(options, key)]
    return " ".join(["byoc.py", verb, options.name, *places])


def _warn_of_download(body: Body) -> None:
    pretrained = parse_hyperparameters(body["HyperParameters"]).use_pretrained_model
    brings_weights = {"pretrained", "model"} & {one["ChannelName"] for one in body["InputDataConfig"]}
    if body["EnableNetworkIsolation"] and pretrained and not brings_weights:
        note(
            "with network isolation nothing is downloaded, so the image must hold the backbone's weights "
            "(docker/build.sh --pretrained); or give --channel pretrained=s3://..., or --use_pretrained_model False"
        )


def _build_training(options: Options) -> Body:
    folder = check_folder("data", options.data)
    channels = {**{name: f"{folder}{name}/" for name in NEEDED_CHANNELS}, **dict(options.channel)}
    given = {name: getattr(options, name) for name in get_specs()}
    body = build_training_job(
        options.name,
        image=options.image,
        role=options.role,
        hyperparameters={name: value for name, value in given.items() if value is not None},
        channels=channels,
        output=options.output,
        instance_type=options.instance_type,
        volume_gb=options.volume_gb,
        input_mode=options.input_mode,
        limit=Limit(options.max_runtime, options.spot, options.max_wait),
        network=_build_network(options),
        checkpoints=options.checkpoints,
        volume_kms_key=options.volume_kms_key,
        output_kms_key=options.output_kms_key,
        environment=dict(options.env),
        tags=dict(options.tag),
    )
    _warn_of_download(body)
    return body


def run_push(options: Options) -> None:
    """Push the image and print its address."""
    client = _connect(options, "ecr")
    say(f"image: {push_image(client, options.local_image, options.repository, options.image_tag)}")


def run_upload(options: Options) -> None:
    """Copy the channels to S3."""
    say(f"copied {upload_channels(_connect(options, 's3'), options.folder, options.target)} files to {options.target}")


def run_train(options: Options) -> None:
    """Start a training job, watch it, and print its metrics."""
    body = _build_training(options)
    if options.dry_run:
        return _show(CreateTrainingJob=body)
    client, name = _connect(options), options.name
    client.create_training_job(**body)
    say(f"training job {name} started; its log: CloudWatch, /aws/sagemaker/TrainingJobs, {name}/algo-1-...")
    if options.no_wait:
        return None
    report_training(watch(client, "TrainingJob", name, options.interval))
    return None


def run_tune(options: Options) -> None:
    """Start a tuning job, watch it, and print the best training job."""
    jobs = {"max_jobs": options.max_jobs, "max_parallel_jobs": options.max_parallel_jobs}
    body = build_tuning_job(_build_training(options), tune=options.tune, **jobs)
    if options.dry_run:
        return _show(CreateHyperParameterTuningJob=body)
    client, name = _connect(options), options.name
    client.create_hyper_parameter_tuning_job(**body)
    say(f"tuning job {name} started")
    if options.no_wait:
        return None
    best = watch(client, "HyperParameterTuningJob", name, options.interval)
    say(json.dumps(best.get("BestTrainingJob", {}), indent=2, default=str))
    return None


def _build_model(options: Options) -> Body:
    return build_model(
        options.name,
        image=options.image,
        role=options.role,
        model_data=options.model_data,
        environment=dict(options.env),
        network=_build_network(options),
        tags=dict(options.tag),
    )


def _choose_machines(options: Options) -> Machines | Serverless:
    if not options.serverless:
        if options.instance_type is None:
            raise UserError("give --instance_type, such as ml.m5.xlarge, or --serverless")
        return Machines(options.instance_type, options.instance_count)
    if options.network_isolation or options.subnet:
        raise UserError(
            "a serverless endpoint has neither network isolation nor a VPC; leave them out, or --serverless"
        )
    return Serverless(options.memory_mb, options.max_concurrency)


def run_deploy(options: Options) -> None:
    """Make a model, an endpoint configuration and an endpoint of one name (or nothing), and wait until it answers."""
    name, tags = options.name, dict(options.tag)
    config = build_endpoint_config(
        name,
        model=name,
        machines=_choose_machines(options),
        async_output=options.async_output,
        kms_key=options.volume_kms_key,
        tags=tags,
    )
    model, endpoint = _build_model(options), build_endpoint(name, config=name, tags=tags)
    if options.dry_run:
        return _show(CreateModel=model, CreateEndpointConfig=config, CreateEndpoint=endpoint)
    client = _connect(options)
    client.create_model(**model)
    with undo_if_refused(client, "Model", name):
        client.create_endpoint_config(**config)
        with undo_if_refused(client, "EndpointConfig", name):
            client.create_endpoint(**endpoint)
    say(f"endpoint {name}; when it is no longer needed: {build_command(options, 'delete')}")
    if not options.no_wait:
        watch(client, "Endpoint", name, options.interval)
    return None


def run_transform(options: Options) -> None:
    """Make a mask of every photo in an S3 folder; the model that this needs is removed afterwards."""
    name = options.name
    job = build_transform_job(
        name,
        model=name,
        photos=options.photos,
        output=options.output,
        instance_type=options.instance_type,
        instance_count=options.instance_count,
        accept=options.accept,
        volume_kms_key=options.volume_kms_key,
        tags=dict(options.tag),
    )
    model = _build_model(options)
    if options.dry_run:
        return _show(CreateModel=model, CreateTransformJob=job)
    client = _connect(options)
    client.create_model(**model)
    try:
        client.create_transform_job(**job)
        say(f"transform job {name} started")
        status = watch(client, "TransformJob", name, options.interval)["TransformJobStatus"]
    finally:
        remove_transform_model(client, name, build_command(options, "delete"))
    if status == "Completed":
        say(f"masks: {job['TransformOutput']['S3OutputPath']}")
    return None


def run_invoke(options: Options) -> None:
    """Ask an endpoint about one photo."""
    answer = _connect(options, "sagemaker-runtime").invoke_endpoint(
        EndpointName=check_name("endpoint", options.endpoint),
        ContentType="image/jpeg",
        Accept=options.accept,
        Body=options.photo.read_bytes(),
    )
    options.output.write_bytes(answer["Body"].read())
    say(f"wrote {options.output}")


def run_delete(options: Options) -> None:
    """Remove an endpoint, its configuration and its models, or what is there of them."""
    remove_deployment(_connect(options), check_name("endpoint", options.endpoint))


def run_stop(options: Options) -> None:
    """Stop a training, tuning or transform job."""
    name = check_name("job", options.job)
    stop_job(_connect(options), name, [options.kind] if options.kind else JOBS)
