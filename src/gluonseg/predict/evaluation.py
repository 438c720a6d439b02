"""Photos with masks, predicted one after another at their own size, and their pixels counted."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np

from gluonseg.data.dataset import Dataset
from gluonseg.data.label_channel import read_label_maps
from gluonseg.data.pairs import Pair, match_pairs
from gluonseg.errors import DataError
from gluonseg.hyperparameters import read_integer
from gluonseg.labels import IGNORE, UInt8Array
from gluonseg.metrics import Confusion, compute_confusion
from gluonseg.models.folder.card import ModelCard

Progress = Callable[[int, int], None]
"""Called with the number of photos that are done, and of all."""


class SupportsPredictMask(Protocol):
    """Anything that turns an RGB picture (H, W, 3) uint8 into class ids (H, W) uint8."""

    def predict_mask(self, image_hwc: UInt8Array) -> UInt8Array: ...


@dataclass(frozen=True)
class Prediction:
    """A predicted photo: the ``class_ids`` of its mask file and the predicted ones, ``mask``; both (H, W) uint8.

    ``confusion`` counts the photo's scored pixels; ``seconds`` are of ``predict_mask`` alone.
    """

    pair: Pair
    class_ids: UInt8Array
    mask: UInt8Array
    confusion: Confusion
    seconds: float


def open_dataset(channels: Mapping[str, Path], split: str, card: ModelCard) -> Dataset:
    """The photos of the channel ``split`` (train or validation) that have masks; no picture is kept in memory.

    ``ignore_label``, ``max_pixels`` and ``photo_range`` are those of the training that wrote ``card``. Raises DataError
    when the channel, that of its masks, or every pair is missing.
    """
    names = split, f"{split}_annotation"
    for name in names:
        if name not in channels or not channels[name].is_dir():
            raise DataError(f"the channel {name} is missing; the model is scored on photos with masks")
    pairs = match_pairs(*(channels[name] for name in names)).pairs
    if not pairs:
        raise DataError(f"no picture in {channels[names[0]]} has a mask of its name in {channels[names[1]]}")
    ignore_label, max_pixels = (read_integer(card.hyperparameters, name) for name in ("ignore_label", "max_pixels"))
    maps = read_label_maps(channels.get("label_map"), ignore_label)
    label_map = maps.train if split == "train" else maps.validation
    return Dataset(pairs, label_map, max_pixels=max_pixels, photo_range=card.photo_range, cache_bytes=0)


def iter_predictions(
    predictor: SupportsPredictMask,
    dataset: Dataset,
    num_classes: int,
    part: range | None = None,
    *,
    at_output_size: bool = False,
) -> Iterator[Prediction]:
    """Predict every photo once, in order and at its own size, each when it is asked for; with ``part`` only those.

    With ``at_output_size`` the class ids of the mask file are resized to the prediction, by the nearest pixel.
    Raises DataError when a mask has another size than its photo, or a label that is no class of the model: its pixels
    would be left out of the score without a word.
    """
    for index in range(len(dataset)) if part is None else part:
        pair = dataset.pairs[index]
        image, class_ids = dataset.read(index)
        unknown = np.count_nonzero((class_ids >= num_classes) & (class_ids != IGNORE))
        if unknown:
            raise DataError(
                f"{pair.label} has {unknown} pixels whose label is no class of the model "
                f"({num_classes} classes); give the label map that it was trained with"
            )
        start = time.perf_counter()
        mask = predictor.predict_mask(image)
        seconds = time.perf_counter() - start
        if at_output_size:
            size = mask.shape[1], mask.shape[0]
            class_ids = np.asarray(cv2.resize(class_ids, size, interpolation=cv2.INTER_NEAREST), dtype=np.uint8)
        yield Prediction(pair, class_ids, mask, compute_confusion(class_ids, mask, num_classes), seconds)


def evaluate_dataset(
    predictor: SupportsPredictMask,
    dataset: Dataset,
    num_classes: int,
    progress: Progress | None = None,
    *,
    at_output_size: bool = False,
) -> Confusion:
    """Count the scored pixels of all photos; ``at_output_size`` and errors as :func:`iter_predictions`."""
    confusion = Confusion.empty(num_classes)
    predictions = iter_predictions(predictor, dataset, num_classes, at_output_size=at_output_size)
    for done, prediction in enumerate(predictions, 1):
        confusion += prediction.confusion
        if progress:
            progress(done, len(dataset))
    return confusion
