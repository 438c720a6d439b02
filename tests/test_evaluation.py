"""Predicting a data set photo by photo, with a predictor whose answers are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gluonseg.data.dataset import Dataset
from gluonseg.data.pairs import match_pairs
from gluonseg.errors import DataError
from gluonseg.labels import UInt8Array, default_label_map
from gluonseg.predict.evaluation import evaluate_dataset, iter_predictions

MASKS = {"a": [[0, 1, 1]], "b": [[2, 2], [1, 255]], "c": [[255]]}
"""Labels of each photo; its red channel, which is what is predicted, has 1 everywhere."""


class _RedPredictor:
    def __init__(self) -> None:
        self.calls = 0

    def predict_mask(self, image_hwc: UInt8Array) -> UInt8Array:
        self.calls += 1
        return image_hwc[:, :, 0]


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    for name, labels in MASKS.items():
        mask = np.array(labels, dtype=np.uint8)
        Image.fromarray(np.ones((*mask.shape, 3), dtype=np.uint8)).save(tmp_path / "images" / f"{name}.png")
        Image.fromarray(mask).save(tmp_path / "masks" / f"{name}.png")
    return Dataset(match_pairs(tmp_path / "images", tmp_path / "masks").pairs, default_label_map(), cache_bytes=0)


def test_each_photo_is_predicted_when_it_is_asked_for(dataset: Dataset) -> None:
    predictor = _RedPredictor()
    for number, found in enumerate(iter_predictions(predictor, dataset, 3), 1):
        assert predictor.calls == number
        assert found.class_ids.tolist() == MASKS[found.pair.name]
        assert (found.mask == 1).all()
        assert found.confusion.matrix[:, 1].tolist() == [[1, 2, 0], [0, 1, 2], [0, 0, 0]][number - 1]
        assert found.seconds > 0


def test_the_evaluation_is_the_sum_of_all_photos(dataset: Dataset) -> None:
    told: list[tuple[int, int]] = []
    confusion = evaluate_dataset(_RedPredictor(), dataset, 3, lambda *progress: told.append(progress))
    assert confusion.matrix.tolist() == [[0, 1, 0], [0, 3, 0], [0, 2, 0]]
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_a_label_that_is_no_class_is_refused_before_the_prediction(dataset: Dataset) -> None:
    predictor = _RedPredictor()
    with pytest.raises(DataError, match=r"b\.png has 2 pixels whose label is no class of the model \(2 classes\)"):
        evaluate_dataset(predictor, dataset, 2)
    assert predictor.calls == 1
