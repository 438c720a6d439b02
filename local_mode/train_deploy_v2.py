#!/usr/bin/env python3
"""SageMaker local mode with SDK v2: train, deploy, predict, batch transform, and clean up, on this machine.

    python local_mode/train_deploy_v2.py                                  draws a small data set and trains on it
    python local_mode/train_deploy_v2.py --data FOLDER --epochs 30 --set crop_size=240 base_size=240

FOLDER holds the channels: train, train_annotation, validation, validation_annotation, and maybe label_map.
"""

from __future__ import annotations

import contextlib
import io
import shutil
import sys
import tempfile
import time
from pathlib import Path

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
from PIL import Image
from sagemaker.amazon.common import read_records
from sagemaker.deserializers import BytesDeserializer
from sagemaker.estimator import Estimator
from sagemaker.inputs import TrainingInput
from sagemaker.predictor import Predictor
from sagemaker.serializers import IdentitySerializer
from session_v2 import ROLE, open_session

from gluonseg import METRIC_DEFINITIONS


def build_inputs(data: Path) -> dict[str, TrainingInput]:
    """One input a channel folder, from this machine instead of S3."""
    return {
        channel: TrainingInput((data / channel).as_uri(), distribution="FullyReplicated", content_type=content_type)
        for channel, content_type in CONTENT_TYPES.items()
        if (data / channel).is_dir()
    }


def train(estimator: Estimator, data: Path) -> None:
    """Run the training job; its log comes to standard output."""
    try:
        estimator.fit(build_inputs(data))
    except RuntimeError:
        sys.exit("the training failed; its last lines, above, say why")


def predict_png(predictor: Predictor, photo: bytes) -> Mask:
    """Ask for the mask: one channel, the value of a pixel is its class."""
    body = predictor.predict(photo, initial_args={"Accept": "image/png"})
    return np.asarray(Image.open(io.BytesIO(body)))


def predict_protobuf(predictor: Predictor, photo: bytes) -> Mask:
    """Ask for probabilities and take the most probable class of each pixel."""
    body = predictor.predict(photo, initial_args={"Accept": "application/x-protobuf"})
    (record,) = read_records(io.BytesIO(body))
    values = list(record.features["target"].float32_tensor.values)
    shape = np.squeeze(list(record.features["shape"].int32_tensor.values))
    probabilities = np.reshape(np.array(values), shape).squeeze(axis=0)
    mask: Mask = np.argmax(probabilities, axis=0).astype(np.uint8)
    return mask


def deploy_and_predict(estimator: Estimator, instance_type: str, photo: Path) -> dict[str, Mask]:
    """Start an endpoint, send it one photo twice, delete it."""
    # In local mode the endpoint is ready when deploy returns; wait=True would only sleep for half a minute.
    predictor = estimator.deploy(
        1, instance_type, serializer=IdentitySerializer("image/jpeg"), deserializer=BytesDeserializer(), wait=False
    )
    try:
        body = photo.read_bytes()
        return {"image/png": predict_png(predictor, body), "application/x-protobuf": predict_protobuf(predictor, body)}
    finally:
        predictor.delete_endpoint()


def transform(estimator: Estimator, instance_type: str, photos: Path, output: Path) -> None:
    """Send every photo of a folder; the answer to a.jpg is a.jpg.out."""
    # SingleRecord: with the default, local mode takes every file for text.
    transformer = estimator.transformer(
        1, instance_type, strategy="SingleRecord", accept="image/png", output_path=output.as_uri()
    )
    # The job is done when transform returns; wait=True would ask AWS for its log.
    transformer.transform(photos.as_uri(), content_type="image/jpeg", wait=False)


def main() -> None:
    """All steps."""
    arguments = parse_arguments(__doc__, Path("demo/sdk_v2"))
    output = arguments.output.resolve()
    with open_session(arguments.image, arguments.port) as session:
        say("1. The data")
        data = arguments.data.resolve() if arguments.data else draw_data(output / "data")
        photo = find_photo(data)
        estimator = Estimator(
            arguments.image,
            ROLE,
            arguments.instance_count,
            arguments.instance_type,
            output_path=(output / "model").as_uri(),
            sagemaker_session=session,
            hyperparameters=build_hyperparameters(arguments, data),
            metric_definitions=METRIC_DEFINITIONS,
        )
        say(f"2. Train: {arguments.algorithm} on {arguments.backbone}, {arguments.epochs} epochs")
        start = time.monotonic()
        with contextlib.redirect_stdout(Log(sys.stdout)) as log:
            train(estimator, data)
        trained_s = time.monotonic() - start
        say(f"3. Deploy, and predict {photo.name} with image/png and with application/x-protobuf")
        masks = deploy_and_predict(estimator, arguments.instance_type, photo)
        # After the endpoint is gone: both would listen on the same port.
        say("4. Batch transform of all validation photos")
        with tempfile.TemporaryDirectory() as photos:
            # A copy, because the SDK transforms nothing below /root, which is some people's home.
            shutil.copytree(data / "validation", photos, dirs_exist_ok=True)
            transform(estimator, arguments.instance_type, Path(photos), output / "masks")
        masks["batch transform"] = np.asarray(Image.open(output / "masks" / f"{photo.name}.out"))
        check_equal(masks)
    report(trained_s, log, estimator.model_data.removeprefix("file://"), output / "masks", photo, masks)


if __name__ == "__main__":
    main()
