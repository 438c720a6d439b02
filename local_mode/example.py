"""What the programs for SDK v2 and SDK v3 have in common: the command line, the data, the results."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import mimetypes
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TextIO

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from gluonseg import METRIC_DEFINITIONS
from gluonseg.models.registry import get_encoders, get_networks

CONTENT_TYPES = {
    "train": "image/jpeg",
    "validation": "image/jpeg",
    "train_annotation": "image/png",
    "validation_annotation": "image/png",
    "label_map": "application/json",
}
# The built-in algorithm's own hyperparameters, chosen for few small photos and no pretrained weights.
HYPERPARAMETERS: dict[str, object] = {
    "use_pretrained_model": False,
    "crop_size": 96,
    "base_size": 96,
    "mini_batch_size": 8,
    "validation_mini_batch_size": 8,
    "optimizer": "adam",
    "learning_rate": 0.001,
    "lr_scheduler": "poly",
}
Mask = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Job:
    """A training job. ``data`` is the folder of the channels, ``output`` where model.tar.gz and output.tar.gz end."""

    image: str
    hyperparameters: Mapping[str, object]
    data: Path
    output: Path
    instance_type: str = "local"
    instance_count: int = 1


class Ask(Protocol):
    """Sends a photo to an endpoint; its answer in the format of ``accept``."""

    def __call__(self, photo: Path, accept: str) -> bytes: ...


@dataclass
class Training:
    """What is known of a training when it is over."""

    log: str = ""
    seconds: float = 0.0


class Log(io.StringIO):
    """Standard output that is also remembered, because local mode has no CloudWatch to ask for metrics."""

    def __init__(self, terminal: TextIO) -> None:
        super().__init__()
        self.terminal = terminal

    def write(self, text: str) -> int:
        """Write to both; the number of characters."""
        self.terminal.write(text)
        self.terminal.flush()
        return super().write(text)


@contextlib.contextmanager
def follow_training(training: Training | None = None) -> Iterator[Training]:
    """Within the block a job is trained; its log goes to standard output as ever, and into ``training``."""
    training, start = training or Training(), time.monotonic()
    with contextlib.redirect_stdout(Log(sys.stdout)) as log:
        try:
            yield training
        finally:
            training.log, training.seconds = log.getvalue(), time.monotonic() - start


def say(text: str) -> None:
    """Announce a step."""
    sys.stdout.write(f"\n== {text}\n")
    sys.stdout.flush()


def parse_setting(text: str) -> tuple[str, str]:
    """NAME=VALUE, for argparse."""
    name, found, value = text.partition("=")
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, value


def build_parser(description: str | None, default_output: Path) -> argparse.ArgumentParser:
    """The options of all programs that train and deploy."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image", default="gluonseg", help="the image to train and serve with (%(default)s)")
    parser.add_argument("--data", type=Path, help="folder of the channels; without it, photos are drawn")
    parser.add_argument("--output", type=Path, default=default_output, help="for results (%(default)s)")
    parser.add_argument("--backbone", default="resnet-18", help=f"{', '.join(get_encoders())} (%(default)s)")
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument(
        "--set", nargs="*", default=[], type=parse_setting, metavar="NAME=VALUE", help="any other hyperparameter"
    )
    parser.add_argument("--instance_type", choices=["local", "local_gpu"], default="local")
    parser.add_argument("--port", type=int, default=8080, help="where the endpoint listens (%(default)s)")
    return parser


def parse_arguments(description: str | None, default_output: Path) -> argparse.Namespace:
    """The command line of the programs that train one algorithm."""
    parser = build_parser(description, default_output)
    parser.add_argument("--algorithm", choices=list(get_networks()), default="fcn")
    parser.add_argument("--instance_count", type=int, default=1)
    return parser.parse_args()


def draw_data(folder: Path) -> Path:
    """Draw photos and masks of discs, boxes and triangles."""
    subprocess.run([sys.executable, "-m", "gluonseg", "prepare", "synthetic", str(folder)], check=True)
    return folder


def find_photo(data: Path) -> Path:
    """The first validation photo."""
    photos = sorted((data / "validation").glob("*.jpg"))
    if not photos:
        sys.exit(f"there is no .jpg photo in {data / 'validation'}; --data names the folder that holds the channels")
    return photos[0]


def count_classes(data: Path) -> int:
    """From class_names.json, or else from the labels in the masks."""
    names = data / "label_map" / "class_names.json"
    if names.is_file():
        return len(json.loads(names.read_text(encoding="utf-8")))
    masks = sorted((data / "train_annotation").glob("*.png"))
    if not masks or (data / "label_map").is_dir():
        sys.exit(f"the number of classes is not to be seen in {data}: --set num_classes=N")
    labels = (np.asarray(Image.open(path)) for path in masks)
    return max(int(mask[mask != 255].max(initial=0)) for mask in labels) + 1


def build_hyperparameters(arguments: argparse.Namespace, data: Path, algorithm: str) -> dict[str, object]:
    """Defaults, what the data tells, and what the command line says."""
    given = dict(arguments.set)
    return {
        **HYPERPARAMETERS,
        "algorithm": algorithm,
        "backbone": arguments.backbone,
        "epochs": arguments.epochs,
        "num_classes": given.get("num_classes") or count_classes(data),
        "num_training_samples": len(list((data / "train").glob("*.*"))),
        **given,
    }


def build_job(arguments: argparse.Namespace, data: Path, output: Path) -> Job:
    """The job of the programs that train one algorithm."""
    hyperparameters = build_hyperparameters(arguments, data, arguments.algorithm)
    return Job(arguments.image, hyperparameters, data, output, arguments.instance_type, arguments.instance_count)


def find_content_type(photo: Path) -> str:
    """The Content-Type by which a photo is sent."""
    return mimetypes.guess_type(photo.name)[0] or "application/x-image"


def parse_mask(answer: bytes) -> Mask:
    """The answer to ``Accept: image/png``: one channel, the value of a pixel is its class.

    RuntimeError, with what the server says, when it is no picture: local mode passes a refusal on like an answer.
    """
    try:
        return np.asarray(Image.open(io.BytesIO(answer)))
    except UnidentifiedImageError:
        raise RuntimeError(f"the endpoint refused: {answer[:500].decode(errors='replace')}") from None


def find_metric(name: str, log: str) -> float:
    """The last value of a metric in the log, by the definition that SageMaker would use; nan where there is none."""
    regex = next(definition["Regex"] for definition in METRIC_DEFINITIONS if definition["Name"] == name)
    return float([*re.findall(regex, log), "nan"][-2:][0])


def check_equal(masks: dict[str, Mask]) -> None:
    """End the program when the answers differ."""
    first = next(iter(masks.values()))
    different = [name for name, mask in masks.items() if not np.array_equal(mask, first)]
    if different:
        sys.exit(f"the masks differ: {', '.join(different)} from {next(iter(masks))}")


def report(training: Training, model: Path, folder: Path, photo: Path, masks: dict[str, Mask]) -> None:
    """The last lines of the program."""
    height, width = masks["image/png"].shape
    last = find_metric("validation:mIOU", training.log)
    results = {
        "training": f"{training.seconds:.0f} s, mIOU of the last epoch {last:.3f}",
        "model": model,
        "masks": f"{folder}, one for each photo in {photo.parent}",
        "compared": f"{photo.name}: {' = '.join(masks)}, {width}x{height} pixels",
    }
    say("Done")
    for title, text in results.items():
        sys.stdout.write(f"{title:<9} {text}\n")
