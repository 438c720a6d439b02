#!/usr/bin/env python3
"""The public notebook of the built-in Semantic Segmentation algorithm, cell by cell, with another image URI.

The cells are written after those of a notebook that trains FCN on PASCAL VOC and deploys it. For this image such a
notebook changes one line, ``training_image``. Local mode changes four things, for any image: a local session,
``file://`` in place of ``s3://``, ``local`` as the instance type, and ``wait=False``, without which ``deploy`` sleeps
for half a minute after the endpoint is ready.

    python local_mode/builtin_notebook.py            on a few drawn photos; half an hour on 2 cores
    python local_mode/builtin_notebook.py --set epochs=1 crop_size=64 mini_batch_size=8
    python local_mode/builtin_notebook.py --data VOC --set num_classes=21

The notebook says use_pretrained_model='True'. That needs ImageNet weights: from a folder ``pretrained`` beside the
channels (see docs/pretrained.md), or in the image, or by download. Where there are none, --set
use_pretrained_model=False.
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
from example import choose_photo, count_classes, draw_data, parse_setting, say
from PIL import Image
from sagemaker.amazon.common import read_records
from sagemaker.deserializers import BaseDeserializer
from sagemaker.estimator import Estimator
from sagemaker.inputs import TrainingInput
from sagemaker.predictor import Predictor
from sagemaker.serializers import IdentitySerializer
from train_deploy_v2 import open_session

BUILT_IN_REGION = "us-west-2"
ROLE = "arn:aws:iam::000000000000:role/local"
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
    parser.add_argument(
        "--set", nargs="*", default=[], type=parse_setting, metavar="NAME=VALUE", help="other than in the notebook"
    )
    parser.add_argument("--output", type=Path, default=Path("demo/builtin_notebook"), help="for results (%(default)s)")
    parser.add_argument("--port", type=int, default=8080, help="where the endpoint listens (%(default)s)")
    return parser.parse_args()


def train(estimator: Estimator, data: Path, settings: dict[str, str]) -> None:
    """The cells that set hyperparameters, name the channels, and train."""
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
        num_classes=settings.get("num_classes") or count_classes(data),
        num_training_samples=len(list((data / "train").glob("*.jpg"))),
    )
    for name, value in settings.items():
        say(f"Other than in the notebook: {name}={value} (there: {estimator.hyperparameters().get(name)})")
        estimator.set_hyperparameters(**{name: value})
    channels = {
        name: TrainingInput(
            (data / name).as_uri(),
            distribution="FullyReplicated",
            content_type="image/png" if name.endswith("annotation") else "image/jpeg",
            s3_data_type="S3Prefix",
        )
        for name in CHANNELS
    }
    if (data / "pretrained").is_dir():
        say("Other than in the notebook: a channel with pretrained weights")
        channels["pretrained"] = TrainingInput((data / "pretrained").as_uri())
    say("Train")
    estimator.fit(channels, logs=True)


def ask_endpoint(predictor: Predictor, photo: Path) -> None:
    """The cells that send a photo of at most 800x600 as JPEG, and look at the two kinds of answer."""
    picture, buffer = Image.open(photo), io.BytesIO()
    picture.thumbnail((800, 600))
    picture.save(buffer, "JPEG")

    say("A mask: Accept image/png")
    predictor.serializer = IdentitySerializer("image/jpeg")
    predictor.deserializer = ImageDeserializer()
    mask = predictor.predict(buffer.getvalue())
    sys.stdout.write(f"shape {mask.shape}, classes {np.unique(mask).tolist()}\n")

    say("Probabilities: Accept application/x-protobuf")
    predictor.deserializer = ProbabilityDeserializer()
    probabilities = predictor.predict(buffer.getvalue())
    most_probable = np.argmax(np.squeeze(probabilities, axis=0), axis=0)
    sys.stdout.write(f"shape {probabilities.shape}\n")
    if not np.array_equal(most_probable, mask):
        sys.exit("the most probable class is not everywhere that of the mask")


def main() -> None:
    """All cells, from top to bottom."""
    arguments = parse_arguments()
    with open_session(arguments.image, arguments.port) as session:
        built_in = sagemaker.image_uris.retrieve("semantic-segmentation", BUILT_IN_REGION)
        training_image = arguments.image
        say(f"The one change: training_image is {training_image!r}, was {built_in!r}")
        data = arguments.data or draw_data(arguments.output / "data")
        data = data.resolve()
        photo = choose_photo(data)
        estimator = Estimator(
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
        train(estimator, data, dict(arguments.set))
        say("Deploy")
        predictor = estimator.deploy(initial_instance_count=1, instance_type="local", wait=False)
        try:
            ask_endpoint(predictor, photo)
        finally:
            predictor.delete_endpoint()
    say("Run to the end")


if __name__ == "__main__":
    main()
