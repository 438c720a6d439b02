"""What public scripts for the built-in algorithm do, one row of docs/moving.md each, is taken and answered here."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from gluonseg.data.channel import SPLITS, encode_palette_png
from gluonseg.hyperparameters import parse_hyperparameters
from gluonseg.models.folder.card import ModelCard, build_card
from gluonseg.predict.recordio import Float32Array
from gluonseg.sagemaker.contract import read_contract
from gluonseg.sagemaker.spool import spool_channels
from gluonseg.serve import codec, media
from gluonseg.train.data import check_job_data
from gluonseg.train.stop import Stop
from job_layout import Job
from notebook_client import build_record, parse_mask, parse_probabilities, read_record_with_mxnet
from picture import UInt8Array, draw_noise, encode_picture
from pipe_feeder import encode_record, feeding, read_pairs
from repository import ROOT

PAGE = ROOT / "docs" / "moving.md"
COUNTS = {"train": 3, "validation": 2}
ReadMask = Callable[[bytes, Path], npt.NDArray[Any]]


# --- how scripts read an answer


def _read_with_pillow(body: bytes, _: Path) -> npt.NDArray[Any]:
    return np.array(Image.open(io.BytesIO(body)))


def _read_with_opencv(body: bytes, _: Path) -> npt.NDArray[Any]:
    return np.asarray(cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_GRAYSCALE))


def _read_with_mxnet(body: bytes, file: Path) -> npt.NDArray[Any]:
    return np.asarray(np.argmax(parse_probabilities(read_record_with_mxnet(body, file)), axis=0))


def _read_first_of_batch(body: bytes, file: Path) -> npt.NDArray[Any]:
    """By the shape as it was sent, with its batch axis."""
    record = build_record()
    record.ParseFromString(read_record_with_mxnet(body, file))
    shape = list(record.features["shape"].int32_tensor.values)
    probabilities = np.reshape(np.array(list(record.features["target"].float32_tensor.values)), shape)
    return np.asarray(probabilities[0].argmax(axis=0))


def _read_without_mxnet(body: bytes, _: Path) -> npt.NDArray[Any]:
    return np.asarray(parse_mask(body))


# --- the scripts


@dataclass(frozen=True)
class Invocation:
    """A photo with these headers, None where the script sends none; ``read`` gives the mask in the answer."""

    content_type: str | None
    accept: str | None
    read: ReadMask
    photo_format: str = "JPEG"


@dataclass(frozen=True)
class Script:
    """What a script gives its training job, as the container sees it, and what it asks its endpoint.

    ``hyperparameters`` is empty where the script trains nothing; ``meaning`` has what they are read as, where that is
    not obvious. ``labels`` are those in its masks.
    """

    invocations: tuple[Invocation, ...] = ()
    hyperparameters: Mapping[str, str] = field(default_factory=dict)
    meaning: Mapping[str, object] = field(default_factory=dict)
    photo_type: str | None = None
    mask_type: str | None = None
    labels: tuple[int, ...] = (0, 1, 20, 255)
    is_grey: bool = False
    is_pipe: bool = False
    is_nested: bool = False
    has_model: bool = False
    has_train_label_map: bool = False

    def list_media_types(self) -> set[str]:
        """Those of its channels and requests, and those that it asks for."""
        types = {self.photo_type, self.mask_type}
        for invocation in self.invocations:
            types |= {invocation.content_type, invocation.accept}
        return {one for one in types if one}


VOC = {
    "backbone": "resnet-50",
    "algorithm": "fcn",
    "use_pretrained_model": "True",
    "crop_size": "240",
    "num_classes": "21",
    "epochs": "10",
    "learning_rate": "0.0001",
    "optimizer": "rmsprop",
    "lr_scheduler": "poly",
    "mini_batch_size": "16",
    "validation_mini_batch_size": "16",
    "early_stopping": "True",
    "early_stopping_patience": "2",
    "early_stopping_min_epochs": "10",
    "num_training_samples": "1464",
}
"""The hyperparameters of AWS's notebook, which other scripts have copied."""
IMAGES: Mapping[str, Any] = {"photo_type": "image/jpeg", "mask_type": "image/png"}
PIPE: Mapping[str, Any] = {"photo_type": "application/x-recordio", "is_pipe": True}
PNG_MASK = Invocation("image/jpeg", "image/png", _read_with_pillow)
PROTOBUF = Invocation("image/jpeg", "application/x-protobuf", _read_with_mxnet)

SCRIPTS: Mapping[str, Script] = {
    "aws/amazon-sagemaker-examples": Script(
        (PNG_MASK, PROTOBUF), VOC, {"early_stopping": True}, is_nested=True, has_train_label_map=True
    ),
    "PacktPublishing/Learn-Amazon-SageMaker": Script(
        (PNG_MASK, Invocation("image/jpeg", "application/x-protobuf", _read_first_of_batch)),
        {key: VOC[key] for key in ("backbone", "algorithm", "use_pretrained_model", "num_classes")}
        | {"epochs": "30", "num_training_samples": "1464"},
        {"crop_size": 240, "optimizer": "sgd", "learning_rate": 0.001},
        is_nested=True,
        **IMAGES,
    ),
    "kamangir/blue-sandbox": Script(
        (Invocation("image/png", "image/png", _read_with_pillow, photo_format="PNG"),), VOC, is_nested=True
    ),
    "Carlos-AlbertoD/Semantic-Segmentation": Script(
        (PNG_MASK,),
        {**VOC, "num_classes": "4", "early_stopping_patience": "3", "num_training_samples": "5522"},
        labels=(1, 2, 3),
        is_nested=True,
        **IMAGES,
    ),
    "akshayjadhav21/Semantic-Segmentation": Script(
        (PNG_MASK,),
        {key: value for key, value in VOC.items() if "early" not in key}
        | {"num_classes": "4", "num_training_samples": "5603"},
        {"early_stopping": False},
        labels=(1, 2, 3),
        is_nested=True,
        **IMAGES,
    ),
    "aws-samples/amazon-sagemaker-satellite-imagery-segmentation": Script(
        (Invocation("image/jpeg", "image/png", _read_with_opencv), PROTOBUF),
        {
            "backbone": "resnet-50",
            "algorithm": "deeplab",
            "num_classes": "2",
            "epochs": "10",
            "learning_rate": "0.0001",
            "optimizer": "adam",
            "mini_batch_size": "16",
            "validation_mini_batch_size": "16",
            "num_training_samples": "3",
        },
        {"use_pretrained_model": True, "crop_size": 240},
        labels=(0, 1),
        is_grey=True,
        **IMAGES,
    ),
    "rodolfolotte/deep-learning": Script(
        (Invocation("application/x-image", None, _read_with_mxnet),),
        {**VOC, "algorithm": "deeplab", "optimizer": "adagrad", "epochs": "100"},
        is_nested=True,
        **IMAGES,
    ),
    "apac-ml-tfc/computer-vision-workshops": Script(
        (PNG_MASK, Invocation("image/jpeg", "application/x-protobuf", _read_without_mxnet))
    ),
    "HumanSignal/label-studio": Script(
        (),
        {
            "backbone": "resnet-50",
            "algorithm": "fcn",
            "use_pretrained_model": "True",
            "num_classes": "4",
            "epochs": "10",
            "learning_rate": "0.0001",
            "optimizer": "rmsprop",
            "lr_scheduler": "poly",
            "mini_batch_size": "2",
            "validation_mini_batch_size": "2",
        },
        {"num_training_samples": None},
        photo_type="application/x-image",
        mask_type="application/x-image",
        labels=(0, 1, 2, 3),
        is_nested=True,
    ),
    "A script that labels by itself": Script(
        (Invocation(None, None, _read_with_mxnet),),
        {**VOC, "num_classes": "4", "num_training_samples": "64"},
        labels=(0, 1, 2, 3),
        has_model=True,
        **PIPE,
    ),
    "A script on Ground Truth's output": Script(
        (),
        {
            "backbone": "resnet-50",
            "use_pretrained_model": "True",
            "algorithm": "fcn",
            "lr_scheduler": "poly",
            "num_classes": "3",
            "num_training_samples": "4",
            "epochs": "30",
            "mini_batch_size": "1",
            "validation_mini_batch_size": "1",
            "learning_rate": "0.001",
            "gamma1": "0.90",
            "gamma2": "0.90",
            "optimizer": "sgd",
            "weight_decay": "0.0001",
            "momentum": "0.9",
        },
        {"gamma1": 0.9, "optimizer": "sgd"},
        labels=(0, 1, 2),
        **PIPE,
    ),
    "AWS's guide to tuning": Script(
        (),
        {
            "num_classes": "21",
            "num_training_samples": "1464",
            "learning_rate": "0.0031622776601683795",
            "mini_batch_size": "128",
            "momentum": "0.95",
            "optimzer": "adadelta",
            "weight_decay": "1e-05",
            "_tuning_objective_metric": "validation:mIOU",
        },
        {"optimizer": "adadelta", "weight_decay": 1e-5, "mini_batch_size": 128},
    ),
}
TRAININGS = {name: script for name, script in SCRIPTS.items() if script.hyperparameters}
INVOCATIONS = {f"{name}-{one.accept}": (script, one) for name, script in SCRIPTS.items() for one in script.invocations}


# --- the page


def _read_rows() -> dict[str, str]:
    """The table of scripts: the name that each row begins with -> the row."""
    section = PAGE.read_text("utf-8").split("\n## Public scripts\n")[1].split("\n## ")[0]
    return {found[1]: found[0] for found in re.finditer(r"^\| \[?([^],|]+[^],| ]).*$", section, flags=re.M)}


def test_the_page_has_a_row_for_each_script() -> None:
    assert list(_read_rows())[1:] == list(SCRIPTS)  # the first is the heading


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_row_says_what_its_script_does(name: str) -> None:
    row, script = _read_rows()[name], SCRIPTS[name]
    named = dict(re.findall(r"`(\w+)=([^`]+)`", row))
    assert named.items() <= script.hyperparameters.items()
    assert set(re.findall(r"`((?:application|image)/[\w-]+)`", row)) == script.list_media_types()
    assert ("Pipe" in row) == script.is_pipe


# --- its job


@pytest.mark.parametrize("script", TRAININGS.values(), ids=TRAININGS)
def test_hyperparameters_mean_what_they_did(script: Script) -> None:
    parsed = parse_hyperparameters(script.hyperparameters)
    assert {name: getattr(parsed, name) for name in script.meaning} == script.meaning
    assert str(parsed.num_classes) == script.hyperparameters["num_classes"]


def _draw_data(folder: Path, script: Script) -> None:
    """Photos of noise, and masks that have all the script's labels."""
    for split, count in COUNTS.items():
        for channel in (split, f"{split}_annotation"):
            (folder / channel).mkdir(parents=True)
        for number in range(count):
            photo = draw_noise(20, 24, seed=number)
            (folder / split / f"{number}.jpg").write_bytes(
                encode_picture(photo[..., 0] if script.is_grey else photo, "JPEG")
            )
            mask = np.array(script.labels, np.uint8)[photo[..., 0] % len(script.labels)]
            (folder / f"{split}_annotation" / f"{number}.png").write_bytes(encode_palette_png(mask))


def _add_type(config: Mapping[str, object], content_type: str | None) -> dict[str, object]:
    return {**config, "ContentType": content_type} if content_type else dict(config)


def _lay_out(base: Path, script: Script) -> Job:
    """What SageMaker mounts for the script's job, but for the pipes, whose records are in ``base/data``."""
    job, data = Job(base), base / ("data" if script.is_pipe else "input/data")
    job.config("").parent.mkdir(parents=True)
    job.write_config("hyperparameters", script.hyperparameters)
    job.write_config("resourceconfig", {"current_host": "algo-1", "hosts": ["algo-1"]})
    _draw_data(data, script)
    common: dict[str, object] = {"S3DistributionType": "FullyReplicated", "RecordWrapperType": "None"}
    file_mode = {**common, "TrainingInputMode": "File"}
    pipe_mode = {**common, "TrainingInputMode": "Pipe", "RecordWrapperType": "RecordIO"}
    inputs: dict[str, dict[str, object]] = {}
    for split in SPLITS:
        inputs[split] = _add_type(pipe_mode if script.is_pipe else file_mode, script.photo_type)
        if not script.is_pipe:
            inputs[f"{split}_annotation"] = _add_type(file_mode, script.mask_type)
        if script.is_nested:
            (data / split / f"{split}_annotation").mkdir()
            (data / split / f"{split}_annotation" / "0.png").write_bytes(b"the neighbour's")
    if script.has_train_label_map:
        inputs["label_map"] = file_mode
        job.channel("label_map").mkdir()
        (job.channel("label_map") / "train_label_map.json").write_text(json.dumps({"scale": 1}))
    if script.has_model:
        inputs["model"] = _add_type(file_mode, "application/x-sagemaker-model")
        job.channel("model").mkdir(parents=True)
    job.write_config("inputdataconfig", inputs)
    return job


@pytest.mark.parametrize("script", TRAININGS.values(), ids=TRAININGS)
def test_its_photos_and_masks_are_found(script: Script, tmp_path: Path) -> None:
    job = _lay_out(tmp_path / "ml", script)
    contract = read_contract(job.base)
    hp = parse_hyperparameters(contract.hyperparameters)
    with ExitStack() as pipes:
        for split, path in contract.pipes.items():
            stream = b"".join(encode_record(part) for pair in read_pairs(job.base / "data", split) for part in pair)
            path.parent.mkdir(parents=True, exist_ok=True)
            pipes.enter_context(feeding(path.with_name(f"{split}_0"), stream))
        channels = {**contract.channels, **spool_channels(contract.pipes, tmp_path, Stop())}
    report = check_job_data(hp, channels)
    report.raise_for_errors()
    assert {split: len(pairs) for split, pairs in report.pairs.items()} == COUNTS


# --- its endpoint


@dataclass(frozen=True)
class FakePredictor:
    """The class of a pixel is its red value modulo the number of classes."""

    card: ModelCard

    def predict_mask(self, image_hwc: UInt8Array) -> UInt8Array:
        mask: UInt8Array = image_hwc[..., 0] % np.uint8(self.card.num_classes)
        return mask

    def predict_probabilities(self, image_hwc: UInt8Array) -> Float32Array:
        one_hot = np.eye(self.card.num_classes, dtype=np.float32)[self.predict_mask(image_hwc)]
        return one_hot.transpose(2, 0, 1)


@pytest.mark.parametrize(("script", "invocation"), INVOCATIONS.values(), ids=INVOCATIONS)
def test_its_way_to_read_an_answer_gives_the_mask(script: Script, invocation: Invocation, tmp_path: Path) -> None:
    photo = draw_noise(20, 24)
    body = encode_picture(photo[..., 0] if script.is_grey else photo, invocation.photo_format)
    predictor: Any = FakePredictor(build_card("fcn", "resnet-50", int(script.hyperparameters.get("num_classes", 21))))
    media.check_content_type(invocation.content_type)
    image = codec.decode_request(body, max_pixels=1000)
    media_type = media.negotiate_accept(invocation.accept, media.RECORDIO)
    answer = codec.compute_answer(media_type, predictor, image, 1)
    np.testing.assert_array_equal(invocation.read(answer, tmp_path / "answer"), predictor.predict_mask(image))
