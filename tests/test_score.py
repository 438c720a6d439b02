"""Scoring a trained model, against numbers counted here from the files that it writes and reads."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mxnet as mx
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from gluonseg.data.decode import read_image
from gluonseg.errors import UserError
from gluonseg.models.folder.card import encode_card, read_card
from gluonseg.models.folder.manifest import MANIFEST_FILE
from gluonseg.predict.boundary import compute_boundary_f, compute_mean_boundary_f
from gluonseg.predict.predictor import Predictor, load_predictor
from gluonseg.predict.score import Score
from gluonseg.predict.scoring import score_model

Channels = Mapping[str, Path]
Array = npt.NDArray[Any]
CLASSES = 4


def read_pixels(path: Path) -> Array:
    with Image.open(path) as picture:
        return np.asarray(picture)


def read_pairs(channels: Channels, masks: Path) -> dict[str, tuple[Array, Array]]:
    """Name -> (true labels, predicted class ids) from the files."""
    truths = sorted(channels["validation_annotation"].glob("*.png"))
    assert truths
    return {path.stem: (read_pixels(path), read_pixels(masks / path.name)) for path in truths}


def count_cells(truth: Array, predicted: Array) -> Array:
    rows = [[int(((truth == a) & (predicted == b)).sum()) for b in range(CLASSES)] for a in range(CLASSES)]
    return np.array(rows)


def compute_iou_mean(cells: Array) -> float:
    unions = cells.sum(axis=0) + cells.sum(axis=1) - cells.diagonal()
    return float(np.mean((cells.diagonal() / np.maximum(unions, 1))[unions > 0]))


def copy_channels(channels: Channels, folder: Path) -> dict[str, Path]:
    return {name: Path(shutil.copytree(path, folder / name)) for name, path in channels.items()}


def write_labels(path: Path, labels: Array) -> None:
    Image.fromarray(labels.astype(np.uint8)).save(path)


@pytest.fixture(scope="module")
def model(trained_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with another classifier, which finds every class somewhere (two epochs find one)."""
    folder = Path(shutil.copytree(trained_model, tmp_path_factory.mktemp("varied") / "model"))
    params = mx.nd.load(str(folder / "model_best.params"))
    last = max(name for name in params if name.startswith("head.block.") and name.endswith(".bias"))
    weight = last.replace(".bias", ".weight")
    params[weight] = mx.nd.array(np.random.default_rng(3).normal(0, 1, params[weight].shape))
    params[last] = mx.nd.zeros(CLASSES)
    mx.nd.save(str(folder / "model_best.params"), params)
    (folder / MANIFEST_FILE).unlink()
    return folder


@pytest.fixture(scope="module")
def masks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scored") / "masks"


@pytest.fixture(scope="module")
def scored(model: Path, drawn_channels: Channels, masks: Path) -> Score:
    return score_model(model, drawn_channels, masks)


def test_confusion_and_photos_are_those_of_the_written_masks(
    scored: Score, drawn_channels: Channels, masks: Path
) -> None:
    cells = {name: count_cells(*pair) for name, pair in read_pairs(drawn_channels, masks).items()}
    total = np.sum(list(cells.values()), axis=0)
    assert (total.sum(axis=0) > 0).sum() >= 3
    assert scored.confusion == total.tolist()
    assert [photo.name for photo in scored.photos] == list(cells)
    for photo in scored.photos:
        found = cells[photo.name]
        assert photo.miou == pytest.approx(compute_iou_mean(found), rel=1e-12)
        assert photo.pixel_accuracy == pytest.approx(np.trace(found) / found.sum(), rel=1e-12)


def test_miou_is_the_whole_image_one_of_the_training(trained_model: Path, drawn_channels: Channels) -> None:
    card, score = read_card(trained_model / "model_card.json"), score_model(trained_model, drawn_channels)
    assert compute_iou_mean(np.array(score.confusion)) == pytest.approx(card.metrics["whole_image"]["mIoU"], rel=1e-12)
    assert tuple(score.class_names) == card.class_names


def test_boundary_f_is_that_of_all_photos(scored: Score, drawn_channels: Channels, masks: Path) -> None:
    photos = [compute_boundary_f(*pair, CLASSES) for pair in read_pairs(drawn_channels, masks).values()]
    assert scored.boundary_f == compute_mean_boundary_f(photos)


def test_cost_is_of_the_median_photo_as_the_network_gets_it(
    scored: Score, drawn_channels: Channels, model: Path, tmp_path: Path
) -> None:
    sizes = [read_pixels(path).shape for path in drawn_channels["validation_annotation"].glob("*.png")]
    assert tuple(scored.gmacs_size) == sorted(sizes, key=lambda size: size[0] * size[1])[len(sizes) // 2]
    halved = change_card(model, tmp_path, prediction_size=20)
    half = score_model(halved, drawn_channels)
    assert max(half.gmacs_size) == 20
    assert half.parameters == scored.parameters
    assert 0.15 < half.gmacs / scored.gmacs < 0.4


def test_views_of_the_card_are_scored_and_counted(
    scored: Score, drawn_channels: Channels, model: Path, tmp_path: Path
) -> None:
    both = score_model(change_card(model, tmp_path, prediction_flip=True), drawn_channels)
    assert both.gmacs == pytest.approx(2 * scored.gmacs, rel=1e-12)
    predictor = load_predictor(model, flip=True)
    cells = np.zeros((CLASSES, CLASSES), int)
    for path in sorted(drawn_channels["validation_annotation"].glob("*.png")):
        (picture,) = drawn_channels["validation"].glob(f"{path.stem}.*")
        cells += count_cells(read_pixels(path), predictor.predict_mask(read_image(picture)))
    assert both.confusion == cells.tolist() != scored.confusion


def change_card(model: Path, folder: Path, **changes: Any) -> Path:
    copied = Path(shutil.copytree(model, folder / "changed"))
    card = dataclasses.replace(read_card(copied / "model_card.json"), **changes)
    (copied / "model_card.json").write_text(encode_card(card))
    return copied


def test_times_are_of_each_prediction_after_the_warm_up(
    model: Path, drawn_channels: Channels, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, seconds = 0.0, [90.0, 50.0, 1.0, 5.0, 2.0]
    predict = Predictor.predict_mask

    def predict_slowly(self: Predictor, image: Any) -> Any:
        nonlocal now
        now += seconds.pop(0)
        return predict(self, image)

    monkeypatch.setattr(Predictor, "predict_mask", predict_slowly)
    monkeypatch.setattr("gluonseg.predict.evaluation.time.perf_counter", lambda: now)
    score = score_model(model, drawn_channels)
    assert (score.latency_ms, score.images_per_second, seconds) == (2000, 3 / 8, [])


def test_label_map_and_ignore_label_are_those_of_the_training(
    scored: Score, model: Path, drawn_channels: Channels, tmp_path: Path
) -> None:
    channels = copy_channels(drawn_channels, tmp_path / "data")
    for path in channels["validation_annotation"].glob("*.png"):
        labels = read_pixels(path).astype(int)
        write_labels(path, np.where(labels == 255, 255, labels * 10 + 5))  # 5, 15, 25, 35
    entries = {str(class_id): class_id * 10 + 5 for class_id in range(1, CLASSES)}
    (channels["label_map"] / "validation_label_map.json").write_text(json.dumps({"map": entries}))
    found = score_model(change_card(model, tmp_path, hyperparameters={"ignore_label": "5"}), channels)
    assert found.confusion == [[0] * CLASSES, *scored.confusion[1:]]


def test_a_photo_without_a_scored_pixel_has_no_score_of_its_own(
    scored: Score, model: Path, drawn_channels: Channels, tmp_path: Path
) -> None:
    channels = copy_channels(drawn_channels, tmp_path / "data")
    first = sorted(channels["validation_annotation"].glob("*.png"))[0]
    write_labels(first, np.full_like(read_pixels(first), 255))
    assert score_model(model, channels).photos == scored.photos[1:]


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ("validation_annotation", "the channel validation_annotation is missing"),
        ("masks", "no picture in .* has a mask of its name"),
        ("size", "is 7x5 .*, .* is "),
    ],
)
def test_what_the_user_can_fix(
    broken: str, message: str, model: Path, drawn_channels: Channels, tmp_path: Path
) -> None:
    channels = copy_channels(drawn_channels, tmp_path / "data")
    paths = sorted(channels["validation_annotation"].glob("*.png"))
    if broken == "validation_annotation":
        shutil.rmtree(channels[broken])
    elif broken == "masks":
        for path in paths:
            path.unlink()
    else:
        write_labels(paths[0], np.zeros((5, 7)))
    with pytest.raises(UserError, match=message):
        score_model(model, channels)
