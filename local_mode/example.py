"""The part of the programs that is the same for SDK v2 and SDK v3: command line, data, steps, results."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TextIO

import cloud
import numpy as np
import numpy.typing as npt
from job import OBJECTIVE, SdkJob, get_path, is_folder, list_channels
from PIL import Image, UnidentifiedImageError
from stop import describe_end

from gluonseg import METRIC_DEFINITIONS
from gluonseg.errors import UserError
from gluonseg.hyperparameters import parse_hyperparameters
from gluonseg.models.registry import get_encoders, get_networks
from gluonseg.predict.recordio import decode_probabilities

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
LOCAL_TYPES = ("local", "local_gpu")
Mask = npt.NDArray[np.uint8]


@dataclass
class Training:
    """The log of a training that is over, and how long it took."""

    log: str = ""
    seconds: float = 0.0


class RememberingOutput(io.StringIO):
    """Standard output that keeps its text, because local mode has no CloudWatch to ask for metrics."""

    def __init__(self, terminal: TextIO) -> None:
        super().__init__()
        self.terminal = terminal

    def write(self, text: str) -> int:
        """Write to the terminal and keep the text; the number of characters."""
        self.terminal.write(text)
        self.terminal.flush()
        return super().write(text)


@contextlib.contextmanager
def follow_training() -> Iterator[Training]:
    """Within the block a job is trained; its log goes to standard output as ever, and is kept."""
    training, start = Training(), time.monotonic()
    with contextlib.redirect_stdout(RememberingOutput(sys.stdout)) as log:
        yield training
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


def parse_address(text: str) -> str:
    """An address, or a path on this machine as one, for argparse."""
    return text if "://" in text else Path(text).resolve().as_uri()


def parse_arguments(description: str | None, default_output: Path) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image", default="gluonseg", help="the image to train and serve with (%(default)s)")
    parser.add_argument("--data", type=Path, help="folder of the channels; without it, photos are drawn")
    parser.add_argument("--output", type=Path, default=default_output, help="for results (%(default)s)")
    parser.add_argument("--algorithm", choices=list(get_networks()), default="fcn")
    parser.add_argument("--backbone", default="resnet-18", help=f"{', '.join(get_encoders())} (%(default)s)")
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument(
        "--set", nargs="*", default=[], type=parse_setting, metavar="NAME=VALUE", help="any other hyperparameter"
    )
    parser.add_argument("--port", type=int, default=8080, help="where a local endpoint listens (%(default)s)")
    parser.add_argument("--instance_type", default="local", help="local, local_gpu, or ml.... on AWS (%(default)s)")
    parser.add_argument("--instance_count", type=int, default=1)
    parser.add_argument(
        "--model", type=parse_address, metavar="ADDRESS", help="a model.tar.gz or a model folder, in place of training"
    )
    cloud.add_options(parser)
    return parser.parse_args()


def draw_data(folder: Path) -> Path:
    """Draw photos and masks of discs, boxes and triangles."""
    subprocess.run([sys.executable, "-m", "gluonseg", "prepare", "synthetic", str(folder)], check=True)
    return folder


def choose_photo(data: Path) -> Path:
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
        sys.exit(f"{data} does not tell how many classes there are: --set num_classes=N")
    labels = (np.asarray(Image.open(path)) for path in masks)
    return max(int(mask[mask != 255].max(initial=0)) for mask in labels) + 1


def build_hyperparameters(arguments: argparse.Namespace, data: Path) -> dict[str, object]:
    """Defaults, replaced by what the data tells, replaced by what the command line says."""
    given = dict(arguments.set)
    return {
        **HYPERPARAMETERS,
        "algorithm": arguments.algorithm,
        "backbone": arguments.backbone,
        "epochs": arguments.epochs,
        "num_classes": given.get("num_classes") or count_classes(data),
        "num_training_samples": len(list((data / "train").glob("*.*"))),
        **given,
    }


def parse_mask(answer: bytes) -> Mask:
    """Class ids (H, W) of an answer to ``Accept: image/png``.

    RuntimeError with the server's message when it is no picture: local mode returns a refusal like an answer.
    """
    try:
        return np.asarray(Image.open(io.BytesIO(answer)))
    except UnidentifiedImageError:
        raise RuntimeError(f"the endpoint refused: {answer[:500].decode(errors='replace')}") from None


def find_metric(name: str, log: str) -> float:
    """The last value of a metric in the log, by the definition that SageMaker would use; nan where there is none."""
    regex = next(definition["Regex"] for definition in METRIC_DEFINITIONS if definition["Name"] == name)
    return float([*re.findall(regex, log), "nan"][-2:][0])


def _check_equal(masks: Mapping[str, Mask]) -> None:
    """End the program when the answers differ."""
    first = next(iter(masks.values()))
    different = [name for name, mask in masks.items() if not np.array_equal(mask, first)]
    if different:
        sys.exit(f"the masks differ: {', '.join(different)} from {next(iter(masks))}")


def _train(sdk: Any, session: Any, job: SdkJob, arguments: argparse.Namespace) -> str:
    """Train, or search for hyperparameters; the address of the model."""
    try:
        if not arguments.tune:
            return str(sdk.train(session, job))
        ranges = cloud.build_ranges(sdk, arguments.tune)
        best = sdk.tune(session, job, ranges, arguments.max_jobs, arguments.max_parallel_jobs)
        return cloud.read_model_address(session, best)
    except RuntimeError:
        if not session.local_mode:
            raise
        sys.exit("the training failed; its last lines, above, say why")


def _predict(sdk: Any, session: Any, job: SdkJob, model: str, photo: Path) -> dict[str, Mask]:
    """The masks that the endpoint gives for one photo, by the Accept header that it was asked with."""
    with sdk.deployed_endpoint(session, job, model) as ask:
        probabilities = decode_probabilities(ask(photo, "application/x-protobuf"))
        return {
            "image/png": parse_mask(ask(photo, "image/png")),
            "application/x-protobuf": probabilities.argmax(axis=0).astype(np.uint8),
        }


def _transform(sdk: Any, session: Any, job: SdkJob, model: str, masks: Path) -> None:
    """The masks of all validation photos, each as ``<photo>.out`` in the folder ``masks``."""
    photos, job = job.channels["validation"], replace(job, name=f"{job.name}-masks", is_async=False)
    if not session.local_mode:
        output = f"{job.output}/masks"
        sdk.transform(session, job, model, photos, output)
        session.download_data(str(masks), *output.removeprefix("s3://").split("/", 1))
        return
    with tempfile.TemporaryDirectory() as copied:
        # A copy, because the SDK transforms nothing below /root, which is the home of the user root.
        shutil.copytree(get_path(photos), copied, dirs_exist_ok=True)
        sdk.transform(session, job, model, Path(copied).as_uri(), masks.as_uri())


def _run_steps(sdk: Any, session: Any, arguments: argparse.Namespace) -> None:
    output = arguments.output.resolve()
    say("1. The data")
    data = arguments.data.resolve() if arguments.data else draw_data(output / "data")
    photo = choose_photo(data)
    hyperparameters = build_hyperparameters(arguments, data)
    parse_hyperparameters(hyperparameters)
    machines = (arguments.instance_type, arguments.instance_count, arguments.instance_type)
    job = SdkJob(arguments.image, hyperparameters, list_channels(data), (output / "model").as_uri(), *machines)
    if not session.local_mode:
        job = cloud.move_to_s3(session, job, data, arguments)
    training = Training()
    if not (model := arguments.model):
        say(f"2. Train: {arguments.algorithm} on {arguments.backbone}, {arguments.epochs} epochs")
        with follow_training() as training:
            model = _train(sdk, session, job, arguments)
    say(f"3. Deploy, and predict {photo.name} with image/png and with application/x-protobuf")
    masks = _predict(sdk, session, job, model, photo)
    results = f"model     {model.removeprefix('file://')}\n"
    if session.local_mode or not is_folder(model):
        # Only now that the endpoint is gone: in local mode both listen on the same port.
        say("4. Batch transform of all validation photos")
        _transform(sdk, session, job, model, output / "masks")
        masks["batch transform"] = parse_mask((output / "masks" / f"{photo.name}.out").read_bytes())
        results += f"masks     {output / 'masks'}, one for each photo in {photo.parent}\n"
    else:
        say("4. No batch transform: SageMaker's takes a model.tar.gz and no folder")
    _check_equal(masks)
    height, width = masks["image/png"].shape
    say("Done")
    if training.log:
        last = find_metric(OBJECTIVE, training.log)
        sys.stdout.write(f"training  {training.seconds:.0f} s, mIOU of the last epoch {last:.3f}\n")
    sys.stdout.write(f"{results}compared  {photo.name}: {' = '.join(masks)}, {width}x{height} pixels\n")
    if job.keep_endpoint:
        sys.stdout.write(f"endpoint  {job.name} costs money until it is removed: {describe_end(job.name)}\n")


def run(sdk: Any, description: str | None, default_output: Path) -> None:
    """All steps, with the calls of ``sdk``, in local mode or on AWS.

    Exit code 2 for what the caller has to change, 130 for Ctrl-C.
    """
    arguments = parse_arguments(description, default_output)
    try:
        if arguments.instance_type in LOCAL_TYPES:
            for option, is_given in (("--tune", arguments.tune), ("--async", arguments.is_async)):
                if is_given:
                    raise UserError(f"{option} is for AWS, with an ml. machine as --instance_type")
            opened = sdk.open_session(arguments.image, arguments.port)
        else:
            cloud.check_options(arguments)
            opened = contextlib.nullcontext(cloud.connect(sdk.Session, arguments.image))
        with opened as session:
            _run_steps(sdk, session, arguments)
    except UserError as error:
        sys.stderr.write(f"{Path(sys.argv[0]).name}: {error}\n")
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
