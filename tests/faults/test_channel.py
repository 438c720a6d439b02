"""Faults of a channel that are more than its files' content: changes while it is read, very little data."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import mxnet as mx
import numpy as np
import pytest

from conftest import RunJob
from gluonseg.data.dataset import Dataset
from gluonseg.data.decode import decode_label
from gluonseg.data.pairs import match_pairs
from gluonseg.errors import DataError, ImageError
from gluonseg.labels import default_label_map
from picture import encode_picture
from small_data import HEIGHT, WIDTH, SmallData


def test_files_that_change_between_the_check_and_an_epoch(tmp_path: Path) -> None:
    """Removed, replaced by a file of 1 TB, and by a picture of another size."""
    data = SmallData(tmp_path)
    pairs = match_pairs(data.path("train"), data.path("train_annotation")).pairs
    dataset, photo = Dataset(pairs, default_label_map(), cache_bytes=0), data.path("train/t0.jpg")
    photo.unlink()
    with pytest.raises(ImageError, match=r"train/t0\.jpg cannot be read: No such file"):
        dataset.read(0)
    photo.touch()
    os.truncate(photo, 1 << 40)
    with pytest.raises(ImageError, match=r"train/t0\.jpg cannot be read: it has 1099511627776 bytes, the limit is"):
        dataset.read(0)
    data.mask("train", "t2.png", np.zeros((HEIGHT, WIDTH + 3), np.uint8))
    with pytest.raises(DataError, match=r"t2\.png is 11x6 \(width x height\), .*t2\.jpg is 8x6"):
        dataset.read(2)


def test_another_label_map_for_validation(run_tiny: RunJob, tmp_path: Path, drawn_channels: Mapping[str, Path]) -> None:
    channels = {name: tmp_path / name for name in ("label_map", "validation_annotation")}
    for folder in channels.values():
        folder.mkdir()
    for path in drawn_channels["validation_annotation"].iterdir():
        labels = decode_label(path.read_bytes())
        tens = np.where(labels == 255, labels, labels * 10).astype(np.uint8)
        (channels["validation_annotation"] / path.name).write_bytes(encode_picture(tens))
    (channels["label_map"] / "train_label_map.json").write_text('{"scale": 1}')
    (channels["label_map"] / "validation_label_map.json").write_text('{"scale": 10}')
    found = run_tiny({"epochs": "1"}, extra_channels=channels)
    same = run_tiny({"epochs": "1"}, tmp_path / "same")
    assert (found.results[0].confusion.matrix == same.results[0].confusion.matrix).all()


@pytest.mark.parametrize("algorithm", ["psp", "deeplab"])
def test_one_photo_in_a_batch_that_is_larger(
    run_tiny: RunJob, drawn_channels: Mapping[str, Path], tmp_path: Path, algorithm: str
) -> None:
    """The pooled branches of PSPNet and DeepLabV3 see one value a channel, whose variance over the batch is zero."""
    names = ("train", "train_annotation", "validation", "validation_annotation")
    channels = {name: tmp_path / "one" / name for name in names}
    for name, folder in channels.items():
        folder.mkdir(parents=True)
        shutil.copy(min(drawn_channels[name].iterdir()), folder)
    settings = {"epochs": "1", "mini_batch_size": "16", "validation_mini_batch_size": "16", "algorithm": algorithm}
    run_tiny(settings, extra_channels=channels)
    parameters = mx.nd.load(str(tmp_path / "model" / "model_algo-1"))
    assert all(np.isfinite(value.asnumpy()).all() for value in parameters.values())
