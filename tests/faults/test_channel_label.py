"""Labels that are wrong, classes that are missing, data sets that are very small, and channels under a wrong name."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import mxnet as mx
import numpy as np
import pytest

from conftest import RunJob
from gluonseg.data import decode
from gluonseg.data.dataset import Dataset
from gluonseg.data.pairs import match_pairs
from gluonseg.errors import DataError, ImageError
from gluonseg.labels import default_label_map
from gluonseg.regular_file import read_regular
from small_data import HEIGHT, WIDTH, SmallData


@pytest.fixture
def data(tmp_path: Path) -> SmallData:
    return SmallData(tmp_path)


OUT_OF_RANGE = (3, 4, 127, 128, 253, 254)


@pytest.mark.fault(family=10, outcome="refused: file, label and number of pixels", inputs=2 * len(OUT_OF_RANGE))
@pytest.mark.parametrize("label", OUT_OF_RANGE)
@pytest.mark.parametrize("split", ["train", "validation"])
def test_one_pixel_out_of_range_in_one_file(data: SmallData, split: str, label: int) -> None:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[-1, -1] = label
    data.mask(split, f"{split[0]}1.png", mask)
    (error,) = data.check().errors
    assert error.kind == "out_of_range"
    assert f"{split}_annotation/{split[0]}1.png has label {label} on 1 pixels" in str(error)


@pytest.mark.fault(family=11, outcome="a warning for some masks, refused for all of a split", inputs=2)
@pytest.mark.parametrize("split", ["train", "validation"])
def test_masks_without_a_scored_pixel(data: SmallData, split: str) -> None:
    paths = sorted(data.path(f"{split}_annotation").iterdir())
    for path in paths[1:]:
        data.mask(split, path.name, np.full((HEIGHT, WIDTH), 255, np.uint8))
    assert data.check().errors == ()
    assert "ignored_mask" in [finding.kind for finding in data.check().warnings]
    data.mask(split, paths[0].name, np.full((HEIGHT, WIDTH), 255, np.uint8))
    assert [finding.kind for finding in data.check().errors] == ["all_ignored"]


SMALLEST = {"epochs": "1", "mini_batch_size": "16", "validation_mini_batch_size": "16"}


def _keep_one(channels: Mapping[str, Path], folder: Path) -> dict[str, Path]:
    """The same channels with one photo each."""
    for split in ("train", "validation"):
        name = min(channels[split].iterdir()).stem
        for channel in (split, f"{split}_annotation"):
            (folder / channel).mkdir(parents=True)
            (path,) = channels[channel].glob(f"{name}.*")
            shutil.copy(path, folder / channel)
    return {name: folder / name for name in ("train", "train_annotation", "validation", "validation_annotation")}


@pytest.mark.fault(family=14, outcome="accepted: the batch shrinks to the data, parameters stay finite", inputs=2)
@pytest.mark.parametrize("algorithm", ["psp", "deeplab"])
def test_one_photo_in_a_batch_that_is_larger(
    run_tiny: RunJob, drawn_channels: Mapping[str, Path], tmp_path: Path, algorithm: str
) -> None:
    """The pooled branches of PSPNet and DeepLabV3 see one value a channel, whose variance over the batch is zero."""
    channels = _keep_one(drawn_channels, tmp_path / "one")
    run_tiny({**SMALLEST, "algorithm": algorithm}, extra_channels=channels)
    parameters = mx.nd.load(str(tmp_path / "model" / "model_algo-1"))
    assert all(np.isfinite(value.asnumpy()).all() for value in parameters.values())


@pytest.fixture
def dataset(data: SmallData) -> Dataset:
    pairs = match_pairs(data.path("train"), data.path("train_annotation")).pairs
    return Dataset(pairs, default_label_map(), cache_bytes=0)


@pytest.mark.fault(family=17, outcome="refused: the path and the reason", inputs=3)
def test_files_that_change_while_they_are_used(dataset: Dataset, data: SmallData) -> None:
    """Removed, cut off, replaced by a picture of another size: after the check, before an epoch reads it again."""
    for index in range(3):
        dataset.read(index)
    data.path("train/t0.jpg").unlink()
    with pytest.raises(ImageError, match=r"train/t0\.jpg cannot be read: No such file"):
        dataset.read(0)
    data.path("train_annotation/t1.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(ImageError, match=r"train_annotation/t1\.png is damaged"):
        dataset.read(1)
    data.mask("train", "t2.png", np.zeros((HEIGHT, WIDTH + 3), np.uint8))
    with pytest.raises(DataError, match=r"t2\.png is 11x6 \(width x height\), .*t2\.jpg is 8x6"):
        dataset.read(2)


@pytest.mark.fault(family=17, outcome="refused: the path and what the disk says, at the first read that fails")
def test_a_disk_that_fails_on_the_100th_read(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:

    real, count = read_regular, 0

    def read(path: Path, max_bytes: int) -> bytes:
        nonlocal count
        count += 1
        if count == 100:
            raise OSError(errno.EIO, "Input/output error", str(path))
        return real(path, max_bytes)

    monkeypatch.setattr(decode, "read_regular", read)
    for number in range(49):
        dataset.read(number % len(dataset))
    with pytest.raises(ImageError, match=r"train_annotation/t1\.png cannot be read: Input/output error"):
        dataset.read(49 % len(dataset))


@pytest.mark.fault(family=16, outcome="refused: a pipe that takes the place of a picture does not stop the reader")
def test_a_pipe_in_the_place_of_a_picture(dataset: Dataset, data: SmallData) -> None:

    data.path("train/t0.jpg").unlink()
    os.mkfifo(data.path("train/t0.jpg"))
    with pytest.raises(ImageError, match=r"train/t0\.jpg cannot be read: it is not a regular file"):
        dataset.read(0)


@pytest.mark.fault(family=12, outcome="refused: a file of 1 TB is not read")
def test_a_file_that_is_larger_than_any_picture(dataset: Dataset, data: SmallData) -> None:

    os.truncate(data.path("train/t0.jpg"), 1 << 40)
    with pytest.raises(ImageError, match=r"train/t0\.jpg cannot be read: it has 1099511627776 bytes, the limit is"):
        dataset.read(0)


MISNAMED = {
    "train_annotations": "train_annotation",
    "train-annotation": "train_annotation",
    "validation_anotation": "validation_annotation",
    "Train": "train",
    "validations": "validation",
}


@pytest.mark.fault(family=18, outcome="refused: the channel that was meant is told", inputs=len(MISNAMED))
@pytest.mark.parametrize(("given", "meant"), MISNAMED.items())
def test_a_channel_of_a_similar_name(data: SmallData, given: str, meant: str) -> None:
    data.path(meant).rename(data.path(given))
    error = data.check().errors[0]
    assert error.kind == "missing_channel"
    assert f"the channel {meant} is missing. Is the channel {given} meant?" in str(error)


@pytest.mark.fault(family=18, outcome="refused: no log line can be forged by the name of a channel")
def test_the_name_of_a_channel_is_told_on_one_line(data: SmallData) -> None:
    data.path("train_annotation").rename(data.path("train_annotation\n\x1b[31m"))
    error = data.check().errors[0]
    assert str(error).isprintable()
    assert r"train_annotation\n\x1b[31m meant" in str(error)
