"""Other projects' scores, beside the same written plainly from their description with Pillow, OpenCV and numpy."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from gluonseg.cli import main
from gluonseg.data.dataset import Dataset
from gluonseg.data.pairs import match_pairs
from gluonseg.labels import UInt8Array, default_label_map
from gluonseg.metrics import Confusion
from gluonseg.predict.engine import Engine
from gluonseg.predict.predictor import Predictor, load_predictor
from gluonseg.predict.protocol import (
    CsailPredictor,
    compute_csail_sizes,
    compute_frequency_weighted_iou,
    compute_overall_score,
    evaluate_csail,
    evaluate_keras,
    format_row,
)

CLASSES = 4
Array = npt.NDArray[Any]


@pytest.fixture(scope="module")
def predictor(trained_model: Path) -> Predictor:
    return load_predictor(trained_model, search_gpu=False)


@pytest.fixture
def dataset(drawn_channels: Mapping[str, Path]) -> Dataset:
    pairs = match_pairs(drawn_channels["validation"], drawn_channels["validation_annotation"]).pairs
    return Dataset(pairs, default_label_map(), cache_bytes=0)


def _run_network(predictor: Predictor, picture: Image.Image) -> Array:
    """Logits (h, w, C), as OpenCV has channels."""
    return np.asarray(predictor.engine.compute_logits(np.asarray(picture)[None])[0].transpose(1, 2, 0))


def _resize_aligned(logits: Array, height: int, width: int) -> Array:
    """Bilinear, with the centres of the corner pixels on one another."""
    x, y = (np.linspace(0, places - 1, side) for places, side in zip(logits.shape[1::-1], (width, height), strict=True))
    map_x, map_y = (one.astype(np.float32) for one in np.meshgrid(x, y))
    planes = [np.ascontiguousarray(logits[:, :, class_id]) for class_id in range(CLASSES)]
    return np.dstack([cv2.remap(plane, map_x, map_y, cv2.INTER_LINEAR) for plane in planes])


def _predict_as_csail(predictor: Predictor, photo: Image.Image, short_sides: tuple[int, ...]) -> Array:
    total = np.zeros((photo.height, photo.width, CLASSES))
    for short_side in short_sides:
        scale = min(short_side / min(photo.size), 1000 / max(photo.size))
        width, height = (8 * math.ceil(int(side * scale) / 8) for side in photo.size)
        logits = _run_network(predictor, photo.resize((width, height), Image.Resampling.BILINEAR))
        if predictor.card.align_corners:
            logits = _resize_aligned(logits, photo.height, photo.width)
        else:
            logits = cv2.resize(logits, photo.size, interpolation=cv2.INTER_LINEAR)
        exponents = np.exp(logits.astype(np.float64))
        total += exponents / exponents.sum(axis=2, keepdims=True)
    return np.asarray(total.argmax(axis=2))


def _read_pairs(channels: Mapping[str, Path]) -> list[tuple[Image.Image, Array]]:
    pairs = []
    for path in sorted(channels["validation"].iterdir()):
        mask = np.asarray(Image.open(channels["validation_annotation"] / f"{path.stem}.png"))
        pairs.append((Image.open(path).convert("RGB"), mask))
    return pairs


def _score(pairs: list[tuple[Array, Array]]) -> tuple[Array, float, Array]:
    """IoU of each class, pixel accuracy, and the share of each class in the masks."""
    truth, predicted = (np.concatenate([pair[side].ravel() for pair in pairs]) for side in (0, 1))
    truth, predicted = truth[truth != 255], predicted[truth != 255]
    iou = []
    for class_id in range(CLASSES):
        is_true, is_predicted = truth == class_id, predicted == class_id
        iou.append((is_true & is_predicted).sum() / ((is_true | is_predicted).sum() + 1e-10))
    shares = np.bincount(truth, minlength=CLASSES) / len(truth)
    return np.array(iou), float((truth == predicted).mean()), shares


@pytest.mark.parametrize(
    ("align_corners", "short_sides"), [(False, (300, 375)), (True, (300,))], ids=["multi", "single"]
)
def test_csail(
    predictor: Predictor,
    dataset: Dataset,
    drawn_channels: Mapping[str, Path],
    align_corners: bool,
    short_sides: tuple[int, ...],
) -> None:
    other = Predictor(predictor.engine, dataclasses.replace(predictor.card, align_corners=align_corners))
    found = evaluate_csail(other, dataset, short_sides)
    pairs = [(mask, _predict_as_csail(other, photo, short_sides)) for photo, mask in _read_pairs(drawn_channels)]
    iou, accuracy, _ = _score(pairs)
    assert list(found["class_IoU"].values()) == pytest.approx(iou, abs=1e-3)
    assert found["mean_IoU"] == pytest.approx(iou.mean(), abs=1e-3)
    assert found["pixel_accuracy"] == pytest.approx(accuracy, abs=1e-3)
    assert found["overall_score"] == (found["mean_IoU"] + found["pixel_accuracy"]) / 2
    assert found["multi_scale"] == (len(short_sides) > 1)
    assert found["frames_per_second"] > 0


def test_keras(predictor: Predictor, dataset: Dataset, drawn_channels: Mapping[str, Path]) -> None:
    found = evaluate_keras(predictor, dataset)
    pairs = []
    for photo, mask in _read_pairs(drawn_channels):
        predicted = _run_network(predictor, photo).argmax(axis=2)
        pairs.append((cv2.resize(mask, predicted.shape[::-1], interpolation=cv2.INTER_NEAREST), predicted))
    iou, accuracy, shares = _score(pairs)
    assert list(found["class_wise_IU"].values()) == pytest.approx(iou, abs=1e-9)
    assert found["mean_IU"] == pytest.approx(iou.mean(), abs=1e-9)
    assert found["frequency_weighted_IU"] == pytest.approx((iou * shares).sum(), abs=1e-9)
    assert found["pixel_accuracy"] == pytest.approx(accuracy, abs=1e-9)


@pytest.mark.parametrize(
    ("size", "multiple", "expected"),
    [
        ((512, 683), 8, [(304, 400), (376, 504), (456, 600), (528, 704), (600, 800)]),
        ((512, 683), 32, [(320, 416), (384, 512), (480, 608), (544, 704), (608, 800)]),
        ((400, 100), 8, [(1000, 256)] * 5),
        ((1, 3000), 8, [(8, 1000)] * 5),
    ],
    ids=["dilated", "upernet", "long", "thin"],
)
def test_csail_sizes(size: tuple[int, int], multiple: int, expected: list[tuple[int, int]]) -> None:
    assert compute_csail_sizes(*size, multiple=multiple) == expected


class _BlankEngine:
    """All logits are 0; ``sizes`` are the (height, width) that were asked for."""

    def __init__(self, engine: Engine) -> None:
        self.name, self.compute_cost = engine.name, engine.compute_cost
        self.sizes: list[tuple[int, ...]] = []

    def compute_logits(self, images_nhwc: UInt8Array) -> npt.NDArray[np.float32]:
        self.sizes.append(images_nhwc.shape[1:3])
        return np.zeros((1, CLASSES, *(-(-side // 8) for side in self.sizes[-1])), dtype=np.float32)


@pytest.mark.parametrize(("algorithm", "size"), [("ppm", (304, 400)), ("upernet", (320, 416)), ("hrnet", (320, 416))])
def test_csail_rounds_as_the_network_needs_it(predictor: Predictor, algorithm: str, size: tuple[int, int]) -> None:
    engine = _BlankEngine(predictor.engine)
    csail = CsailPredictor(Predictor(engine, dataclasses.replace(predictor.card, algorithm=algorithm)), (300,))
    assert not csail.predict_mask(np.zeros((512, 683, 3), dtype=np.uint8)).any()
    assert engine.sizes == [size]


def test_overall_score_counts_absent_classes_as_zero() -> None:
    # CSAIL's development kit gives 0.1000, 100 % and 0.55 where 15 of 150 classes occur and all pixels are right.
    confusion = Confusion(np.diag([7] * 15 + [0] * 135))
    assert confusion.compute_builtin_miou() == pytest.approx(0.1)
    assert confusion.compute_pixel_accuracy() == pytest.approx(1)
    assert compute_overall_score(confusion) == pytest.approx(0.55)


def test_frequency_weighted_iou() -> None:
    assert compute_frequency_weighted_iou(Confusion(np.array([[6, 2, 0], [0, 2, 0], [0, 0, 0]]))) == pytest.approx(
        0.8 * 6 / 8 + 0.2 * 2 / 4
    )
    assert compute_frequency_weighted_iou(Confusion.empty(3)) == 0


def test_csail_row() -> None:
    found = {
        **{"protocol": "csail", "architecture": "mobilenet-v2 + C1", "multi_scale": True},
        **{"mean_IoU": 0.33843, "pixel_accuracy": 0.76801, "overall_score": 0.55322, "frames_per_second": 10.34},
    }
    header, rule, row = format_row(found).splitlines()
    titles = "Architecture | MultiScale Testing | Mean IoU | Pixel Accuracy(%) | Overall Score | Inference Speed(fps)"
    assert header == f"| {titles} |"
    assert rule.count("---") == 6
    assert row == "| mobilenet-v2 + C1 | Yes | 33.84 | 76.80 | 55.32 | 10.3 |"


def test_command(trained_model: Path, drawn_channels: Mapping[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    folders = [str(drawn_channels[name]) for name in ("validation", "validation_annotation")]
    command = ["evaluate", *folders, "--model", str(trained_model), "--protocol"]
    assert main([*command, "csail", "--single_scale"]) == 0
    assert capsys.readouterr().out.splitlines()[2].startswith("| resnet-18 + FCN_deepsup | No | ")
    assert main([*command, "csail", "--single_scale", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["protocol"], found["images"], found["multi_scale"]) == ("csail", 3, False)
    assert main([*command, "keras"]) == 0
    output = capsys.readouterr().out
    assert output.startswith("| Architecture | mean_IU | frequency_weighted_IU | pixel accuracy |\n")
    assert main([*command, "keras", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert f"| resnet-18 + FCN | {found['mean_IU']:.4f} | {found['frequency_weighted_IU']:.4f} |" in output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--protocol", "keras", "--single_scale"], "--single_scale belongs to --protocol csail, not to keras"),
        (["--protocol", "csail", "--scales", "1"], "--scales does not go with --protocol csail, which has its own"),
        (["--protocol", "keras", "--flip"], "--flip does not go with --protocol keras"),
    ],
    ids=["single_scale", "scales", "flip"],
)
def test_options_that_do_not_go_together(options: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "photos", "masks", "--model", "model", *options]) == 2
    assert message in capsys.readouterr().err
