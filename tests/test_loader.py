"""Batches: the same for any number of workers, rolling over epochs, each sample once a pass."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from gluonseg.data.dataset import Dataset
from gluonseg.data.decode import read_image
from gluonseg.data.loader import Batch, Loader, count_batches
from gluonseg.data.pairs import Pair, match_pairs
from gluonseg.data.transforms import TrainingPolicy, Transform, build_validation_transform
from gluonseg.errors import ImageError
from gluonseg.labels import default_label_map

COUNT = 7
SIZE = 12


def _draw_centre(_rng: np.random.Generator, height: int, width: int) -> Transform:
    return build_validation_transform(height, width, SIZE)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Pair, ...]:
    """Seven pairs; the mask of pair i holds i throughout, its picture 10 * i."""
    images, labels = (tmp_path_factory.mktemp(name) for name in ("images", "labels"))
    for index in range(COUNT):
        Image.fromarray(np.full((SIZE, SIZE + index, 3), 10 * index, np.uint8)).save(images / f"{index}.png")
        Image.fromarray(np.full((SIZE, SIZE + index), index, np.uint8)).save(labels / f"{index}.png")
    return match_pairs(images, labels).pairs


def _open(pairs: tuple[Pair, ...], cache_bytes: int = 1 << 20) -> Dataset:
    return Dataset(pairs, default_label_map(), cache_bytes=cache_bytes)


def _identify(batch: Batch) -> list[int]:
    """Which samples a batch of centre crops holds."""
    assert (batch.images[:, 0, 0, 0] == 10 * batch.class_ids[:, 0, 0]).all()
    return [int(class_ids[0, 0]) for class_ids in batch.class_ids]


def test_the_same_batches_for_any_number_of_workers(pairs: tuple[Pair, ...]) -> None:
    draw = TrainingPolicy(16, SIZE, colour_jitter=0.3, rotation=30, vertical_flip=True).draw
    runs = []
    for workers, cache in ((1, 0), (2, 1 << 20), (5, 2000)):
        loader = Loader(_open(pairs, cache), draw, batch_size=3, shuffle=True, seed=4, workers=workers)
        runs.append([batch for epoch in range(3) for batch in loader.iter_batches(epoch)])
    assert len(runs[0]) == 3 * COUNT // 3
    for run in runs[1:]:
        for batch, other in zip(runs[0], run, strict=True):
            assert (batch.images == other.images).all()
            assert (batch.class_ids == other.class_ids).all()


def test_an_epoch_can_be_taken_up_in_its_middle(pairs: tuple[Pair, ...]) -> None:
    loader = Loader(_open(pairs), _draw_centre, batch_size=3, shuffle=True, seed=1)
    in_order = [[_identify(batch) for batch in loader.iter_batches(epoch)] for epoch in range(4)]
    assert [_identify(batch) for batch in loader.iter_batches(3, done=1)] == in_order[3][1:]


def test_seeds_and_passes_differ(pairs: tuple[Pair, ...]) -> None:
    orders = []
    for seed, epoch in ((0, 0), (0, 1), (1, 0)):
        loader = Loader(_open(pairs), _draw_centre, batch_size=COUNT, shuffle=True, seed=seed)
        orders += [tuple(_identify(batch)) for batch in loader.iter_batches(epoch)]
    assert len(set(orders)) == 3
    augmented = Loader(_open(pairs), TrainingPolicy(16, SIZE).draw, batch_size=COUNT, shuffle=False)
    first, second = (next(iter(augmented.iter_batches(epoch))) for epoch in (0, 1))
    assert (first.images != second.images).any()


@pytest.mark.parametrize("batch_size", [1, 3, 7])
@pytest.mark.parametrize("shuffle", [True, False])
def test_every_sample_once_a_pass(pairs: tuple[Pair, ...], batch_size: int, shuffle: bool) -> None:
    loader = Loader(_open(pairs), _draw_centre, batch_size=batch_size, shuffle=shuffle)
    stream = [
        index for epoch in range(batch_size) for batch in loader.iter_batches(epoch) for index in _identify(batch)
    ]
    assert len(stream) == batch_size * COUNT
    passes = [stream[start : start + COUNT] for start in range(0, len(stream), COUNT)]
    assert all(sorted(turn) == list(range(COUNT)) for turn in passes)
    assert shuffle or all(turn == list(range(COUNT)) for turn in passes)


def test_validation_counts_of_a_public_job() -> None:
    """1868 photos in batches of 16: what a job of the built-in counted in its ten epochs."""
    counted = [16 * count_batches(epoch, 1868, 16) for epoch in range(10)]
    assert counted == [1856, 1872, 1872, 1872, 1856, 1872, 1872, 1872, 1856, 1872]


def test_a_batch_larger_than_the_data_set_is_lowered(pairs: tuple[Pair, ...]) -> None:
    loader = Loader(_open(pairs), _draw_centre, batch_size=100, shuffle=False)
    assert loader.batch_size == COUNT
    for epoch in range(2):
        batches = list(loader.iter_batches(epoch))
        assert [_identify(batch) for batch in batches] == [list(range(COUNT))]
        assert batches[0].images.shape == (COUNT, SIZE, SIZE, 3)
        assert batches[0].images.dtype == batches[0].class_ids.dtype == np.uint8
        assert loader.count_batches(epoch) == 1


def test_an_error_of_a_worker_reaches_the_consumer(pairs: tuple[Pair, ...], tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"not a picture")
    damaged = (*pairs[:5], Pair("broken", broken, pairs[5].label), *pairs[6:])
    loader = Loader(_open(damaged), _draw_centre, batch_size=1, shuffle=False)
    batches = loader.iter_batches(0)
    assert [_identify(next(batches)) for _ in range(5)] == [[0], [1], [2], [3], [4]]
    with pytest.raises(ImageError, match=r"broken\.png"):
        next(batches)
    assert _count_threads() == 0


def _count_threads() -> int:
    return sum(thread.name.startswith("loader") for thread in threading.enumerate())


def test_an_abandoned_epoch_leaves_no_thread_and_no_more_than_two_batches_of_work(pairs: tuple[Pair, ...]) -> None:
    drawn = []

    def draw(_rng: np.random.Generator, height: int, width: int) -> Transform:
        drawn.append(width)
        return build_validation_transform(height, width, SIZE)

    batches = Loader(_open(pairs), draw, batch_size=1, shuffle=False).iter_batches(0)
    next(batches)
    assert _count_threads() > 0
    batches.close()  # type: ignore[attr-defined]
    assert _count_threads() == 0
    assert 1 <= len(drawn) <= 3


def test_the_cache_keeps_to_its_budget(pairs: tuple[Pair, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[Path] = []

    def note(path: Path, **options: Any) -> npt.NDArray[np.uint8]:
        reads.append(path)
        return read_image(path, **options)

    monkeypatch.setattr("gluonseg.data.dataset.read_image", note)
    image, class_ids = _open(pairs).read(0)
    reads.clear()
    dataset = _open(pairs, cache_bytes=image.nbytes + class_ids.nbytes)
    for _ in range(3):
        dataset.read(0)
        dataset.read(1)
    assert [path.stem for path in reads] == ["0", "1", "1", "1"]
    assert len(dataset) == COUNT
