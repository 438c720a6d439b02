#!/usr/bin/env python3
"""SageMaker local mode with SDK v3: train, deploy, predict, batch transform, and clean up, on this machine.

    python local_mode/train_deploy_v3.py                                  draws a small data set and trains on it
    python local_mode/train_deploy_v3.py --data FOLDER --epochs 30 --set crop_size=240 base_size=240

FOLDER holds the channels: train, train_annotation, validation, validation_annotation, and maybe label_map.
Neither an AWS account nor credentials nor a region are needed, and nothing is sent to anybody.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import boto3
import numpy as np
from example import (
    CONTENT_TYPES,
    Log,
    Mask,
    build_hyperparameters,
    check_equal,
    draw_data,
    find_photo,
    parse_arguments,
    report,
    say,
)
from machine import check_machine, open_scratch, stay_local
from PIL import Image
from probability import read_probabilities
from sagemaker.core.local import LocalSession
from sagemaker.core.transformer import Transformer
from sagemaker.train import ModelTrainer
from sagemaker.train.configs import Compute, InputData, MetricDefinition
from sagemaker.train.model_trainer import Mode

from gluonseg import METRIC_DEFINITIONS

NAME = "gluonseg"


def build_inputs(data: Path) -> list[InputData]:
    """One input a channel folder, from this machine instead of S3."""
    return [
        InputData(channel_name=channel, data_source=str(data / channel), content_type=content_type)
        for channel, content_type in CONTENT_TYPES.items()
        if (data / channel).is_dir()
    ]


def build_trainer(arguments: argparse.Namespace, data: Path, root: Path) -> ModelTrainer:
    """The training job; without source_code, the image itself trains."""
    trainer = ModelTrainer(
        training_mode=Mode.LOCAL_CONTAINER,
        training_image=arguments.image,
        compute=Compute(instance_type=arguments.instance_type, instance_count=arguments.instance_count),
        hyperparameters=build_hyperparameters(arguments, data),
        input_data_config=build_inputs(data),
        local_container_root=str(root),
    )
    # A real job's metrics; in local mode SDK v3 takes the definitions and does not use them.
    return trainer.with_metric_definitions(
        [MetricDefinition(name=one["Name"], regex=one["Regex"]) for one in METRIC_DEFINITIONS]
    )


def train(trainer: ModelTrainer) -> Path:
    """Run the training job, whose log comes to standard output, and return its model.tar.gz."""
    try:
        trainer.train()
    except RuntimeError:
        sys.exit("the training failed; its last lines, above, say why")
    # train() returns nothing: this is where it leaves the model.
    return Path(trainer.local_container_root) / "compressed_artifacts" / "model.tar.gz"


def build_session(scratch: Path, port: int) -> LocalSession:
    """A session whose models, endpoints and transform jobs live on this machine."""
    # It insists on a region and never uses it.
    session = LocalSession(boto3.Session(region_name="us-east-1"))
    session.config = {"local": {"container_root": str(scratch), "serving_port": port}}
    return session


@contextlib.contextmanager
def deployed_endpoint(session: LocalSession, instance_type: str) -> Iterator[None]:
    """Start an endpoint for the model, and delete it at the end.

    LocalSession's client answers the calls of boto3's. ModelBuilder in LOCAL_CONTAINER mode cannot do this: it asks AWS
    for a role, pulls the image from a registry, and puts every answer into JSON, which cannot hold a PNG file.
    """
    client = session.sagemaker_client
    variant = {"VariantName": "AllTraffic", "ModelName": NAME, "InstanceType": instance_type, "InitialInstanceCount": 1}
    client.create_endpoint_config(EndpointConfigName=NAME, ProductionVariants=[variant])
    try:
        client.create_endpoint(EndpointName=NAME, EndpointConfigName=NAME)
        yield
    finally:
        client.delete_endpoint(EndpointName=NAME)
        client.delete_endpoint_config(EndpointConfigName=NAME)


def invoke(session: LocalSession, photo: Path, accept: str) -> bytes:
    """The endpoint's answer to a photo."""
    answer = session.sagemaker_runtime_client.invoke_endpoint(
        EndpointName=NAME, Body=photo.read_bytes(), ContentType="image/jpeg", Accept=accept
    )
    body: bytes = answer["Body"].read()
    # Local mode passes an error of the server on as if it were an answer.
    if answer["ResponseMetadata"]["HTTPStatusCode"] != 200:
        sys.exit(f"the endpoint refused {photo}: {body.decode(errors='replace')}")
    return body


def predict(session: LocalSession, photo: Path) -> dict[str, Mask]:
    """One photo twice: for the mask, and for probabilities, of which the largest makes the class of a pixel."""
    mask = Image.open(io.BytesIO(invoke(session, photo, "image/png")))
    probabilities = read_probabilities(invoke(session, photo, "application/x-protobuf"))
    return {"image/png": np.asarray(mask), "application/x-protobuf": probabilities[0].argmax(axis=0).astype(np.uint8)}


def transform(session: LocalSession, instance_type: str, photos: Path, output: Path) -> None:
    """Send every photo of a folder; the answer to a.jpg is a.jpg.out."""
    transformer = Transformer(
        NAME, 1, instance_type, accept="image/png", output_path=output.as_uri(), sagemaker_session=session
    )
    # With a name of its own: to make one up, SDK v3 would ask AWS for the model.
    transformer.transform(photos.as_uri(), content_type="image/jpeg", job_name=NAME)


def main() -> None:
    """All steps."""
    arguments = parse_arguments(__doc__, Path("demo/sdk_v3"))
    check_machine(arguments.image, arguments.port)
    stay_local()
    output = arguments.output.resolve()
    masks_folder = output / "masks"
    say("1. The data")
    data = arguments.data.resolve() if arguments.data else draw_data(output / "data")
    photo = find_photo(data)
    with open_scratch(arguments.image) as scratch:
        say(f"2. Train: {arguments.algorithm} on {arguments.backbone}, {arguments.epochs} epochs")
        start = time.monotonic()
        with contextlib.redirect_stdout(Log(sys.stdout)) as log:
            model = train(build_trainer(arguments, data, scratch / "train"))
        trained_s = time.monotonic() - start

        say(f"3. Deploy, and predict {photo.name} with image/png and with application/x-protobuf")
        session = build_session(scratch, arguments.port)
        container = {"Image": arguments.image, "ModelDataUrl": model.as_uri(), "Environment": {}}
        session.sagemaker_client.create_model(ModelName=NAME, PrimaryContainer=container)
        with deployed_endpoint(session, arguments.instance_type):
            masks = predict(session, photo)

        # After the endpoint is gone: both would listen on the same port.
        say("4. Batch transform of all validation photos")
        # A copy, because the SDK transforms nothing below /root, which is some people's home.
        photos = shutil.copytree(data / "validation", scratch / "photos")
        transform(session, arguments.instance_type, photos, masks_folder)
        session.sagemaker_client.delete_model(ModelName=NAME)
        masks["batch transform"] = np.asarray(Image.open(masks_folder / f"{photo.name}.out"))
        check_equal(masks)
        kept = shutil.copy(model, output / model.name)
    report(trained_s, log, kept, masks_folder, photo, masks)


if __name__ == "__main__":
    main()
