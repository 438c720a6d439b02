#!/usr/bin/env python3
"""The public notebook of the built-in Semantic Segmentation algorithm, cell by cell, with another image URI.

The cells are those of a notebook that trains FCN on PASCAL VOC and deploys it, retold. What such a notebook has to
change for this image is one line, ``training_image``. Local mode changes three things around it, for any image: a
local session, ``file://`` in place of ``s3://``, and ``local`` as the instance type.

    python local_mode/builtin_notebook.py            on a few drawn photos; half an hour on 2 cores
    python local_mode/builtin_notebook.py --set epochs=1 crop_size=64 mini_batch_size=8
    python local_mode/builtin_notebook.py --data VOC --pretrained FOLDER

The notebook says use_pretrained_model='True'. That needs ImageNet weights: from --pretrained FOLDER (see
docs/pretrained.md), or in the image, or by download. Where there are none, --set use_pretrained_model=False.
"""

from __future__ import annotations

import argparse
import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import sagemaker
from example import draw_data, find_photo, parse_setting, say
from PIL import Image
from sagemaker.amazon.common import read_records
from sagemaker.deserializers import BaseDeserializer
from sagemaker.estimator import Estimator
from sagemaker.local import LocalSession
from sagemaker.predictor import Predictor
from sagemaker.serializers import IdentitySerializer
from session_v2 import ROLE, open_session

BUILT_IN_REGION = "us-west-2"
CHANNELS = ("train", "validation", "train_annotation", "validation_annotation")


class ImageDeserializer(BaseDeserializer):  # type: ignore[misc]
    """Ask for a PNG file and make an array of it."""

    ACCEPT = ("image/png",)

    def deserialize(self, stream: Any, content_type: str) -> npt.NDArray[np.uint8]:
        """Class ids, (H, W)."""
        try:
            return np.array(Image.open(stream))
        finally:
            stream.close()


class ProbabilityDeserializer(BaseDeserializer):  # type: ignore[misc]
    """Ask for RecordIO with one protobuf record, and make an array of its tensor."""

    ACCEPT = ("application/x-protobuf",)

    def deserialize(self, stream: Any, content_type: str) -> npt.NDArray[np.float64]:
        """Probabilities, (1, num_classes, H, W)."""
        try:
            (record,) = read_records(io.BytesIO(stream.read()))
        finally:
            stream.close()
        values = list(record.features["target"].float32_tensor.values)
        shape = list(record.features["shape"].int32_tensor.values)
        return np.reshape(np.array(values), np.squeeze(shape))


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image", default="gluonseg", help="the one line that changes (%(default)s)")
    parser.add_argument("--data", type=Path, help="folder with the four channels; without it, photos are drawn")
    parser.add_argument("--num_classes", type=int, help="of the data; 21 for PASCAL VOC (4 for drawn photos)")
    parser.add_argument("--pretrained", type=Path, help="folder with ImageNet weights, as the channel pretrained")
    parser.add_argument(
        "--set", nargs="*", default=[], type=parse_setting, metavar="NAME=VALUE", help="other than in the notebook"
    )
    parser.add_argument("--output", type=Path, default=Path("demo/builtin_notebook"), help="for results (%(default)s)")
    parser.add_argument("--port", type=int, default=8080, help="where the endpoint listens (%(default)s)")
    return parser.parse_args()


def build_estimator(arguments: argparse.Namespace, session: LocalSession, training_image: str) -> Estimator:
    """The cell that describes the job: machine, disk, time limit, where the model goes."""
    return Estimator(
        training_image,
        ROLE,
        instance_count=1,
        instance_type="local",
        volume_size=50,
        max_run=360000,
        output_path=(arguments.output.resolve() / "model").as_uri(),
        base_job_name="ss-notebook-demo",
        sagemaker_session=session,
    )


def set_hyperparameters(estimator: Estimator, num_classes: int, num_training_samples: int) -> None:
    """The notebook's hyperparameters; only the last two follow the data."""
    estimator.set_hyperparameters(
        backbone="resnet-50",
        algorithm="fcn",
        use_pretrained_model="True",
        crop_size=240,
        epochs=10,
        learning_rate=0.0001,
        optimizer="rmsprop",
        lr_scheduler="poly",
        mini_batch_size=16,
        validation_mini_batch_size=16,
        early_stopping=True,
        early_stopping_patience=2,
        early_stopping_min_epochs=10,
        num_classes=num_classes,
        num_training_samples=num_training_samples,
    )


def apply_settings(estimator: Estimator, settings: list[tuple[str, str]]) -> None:
    """Change what the command line names, and say so."""
    for name, value in settings:
        say(f"Other than in the notebook: {name}={value} (there: {estimator.hyperparameters().get(name)})")
        estimator.set_hyperparameters(**{name: value})


def build_channels(data: Path, pretrained: Path | None) -> dict[str, sagemaker.inputs.TrainingInput]:
    """The cell that names the channels and what is in them."""
    channels = {
        name: sagemaker.inputs.TrainingInput(
            (data / name).as_uri(),
            distribution="FullyReplicated",
            content_type="image/png" if name.endswith("annotation") else "image/jpeg",
            s3_data_type="S3Prefix",
        )
        for name in CHANNELS
    }
    if pretrained:
        say("Other than in the notebook: a channel with pretrained weights")
        channels["pretrained"] = sagemaker.inputs.TrainingInput(pretrained.resolve().as_uri())
    return channels


def shrink_photo(data: Path) -> bytes:
    """The cell that makes a test photo of at most 800x600, as JPEG."""
    photo = Image.open(min((data / "validation").glob("*.jpg")))
    photo.thumbnail((800, 600))
    buffer = io.BytesIO()
    photo.save(buffer, "JPEG")
    return buffer.getvalue()


def ask_endpoint(predictor: Predictor, photo: bytes) -> None:
    """The cells that look at the two kinds of answer."""
    say("A mask: Accept image/png")
    predictor.serializer = IdentitySerializer("image/jpeg")
    predictor.deserializer = ImageDeserializer()
    mask = predictor.predict(photo)
    sys.stdout.write(f"shape {mask.shape}, classes {np.unique(mask).tolist()}\n")

    say("Probabilities: Accept application/x-protobuf")
    predictor.deserializer = ProbabilityDeserializer()
    probabilities = predictor.predict(photo)
    most_probable = np.argmax(np.squeeze(probabilities, axis=0), axis=0)
    sys.stdout.write(f"shape {probabilities.shape}; the most probable class is the mask's everywhere: ")
    sys.stdout.write(f"{np.array_equal(most_probable, mask)}\n")
    if not np.array_equal(most_probable, mask):
        sys.exit("the two answers differ")


def main() -> None:
    """All cells, from top to bottom."""
    arguments = parse_arguments()
    with open_session(arguments.image, arguments.port) as session:
        built_in = sagemaker.image_uris.retrieve("semantic-segmentation", BUILT_IN_REGION)
        training_image = arguments.image
        say(f"The one change: training_image is {training_image!r}, was {built_in!r}")

        data, num_classes = arguments.data, arguments.num_classes or 21
        if data is None:
            data, num_classes = draw_data(arguments.output / "data"), 4
        data = data.resolve()
        find_photo(data)
        num_training_samples = len(list((data / "train").glob("*.jpg")))

        estimator = build_estimator(arguments, session, training_image)
        set_hyperparameters(estimator, num_classes, num_training_samples)
        apply_settings(estimator, arguments.set)
        say("Train")
        estimator.fit(build_channels(data, arguments.pretrained), logs=True)

        say("Deploy")
        predictor = estimator.deploy(initial_instance_count=1, instance_type="local")
        try:
            ask_endpoint(predictor, shrink_photo(data))
        finally:
            predictor.delete_endpoint()
    say("Run to the end")


if __name__ == "__main__":
    main()
