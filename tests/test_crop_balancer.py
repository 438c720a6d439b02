"""Crops that show rare classes more often: where they are moved to, how often, and that the rest stays as it was."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from gluonseg.data.dataset import Dataset
from gluonseg.data.loader import Loader
from gluonseg.data.pairs import match_pairs
from gluonseg.data.transforms import CropBalancer, TrainingPolicy
from gluonseg.labels import IGNORE, default_label_map
from picture import UInt8Array, draw_noise

SIZE, CROP = 96, 16


def _draw_mask(top: int, left: int) -> UInt8Array:
    """Class 0, with 3x3 pixels of class 1."""
    mask = np.zeros((SIZE, SIZE), np.uint8)
    mask[top : top + 3, left : left + 3] = 1
    return mask


@settings(max_examples=200)
@given(
    top=st.integers(0, SIZE - 3),
    left=st.integers(0, SIZE - 3),
    seed=st.integers(0, 10_000),
    rotation=st.sampled_from([0.0, 180.0]),
    base_size=st.sampled_from([20, 90, 200]),
)
def test_a_moved_crop_shows_the_class_however_it_is_turned(
    top: int, left: int, seed: int, rotation: float, base_size: int
) -> None:
    mask, rng = _draw_mask(top, left), np.random.default_rng(seed)
    plain = TrainingPolicy(base_size, CROP, 1.0, 2.0, rotation=rotation, vertical_flip=True).draw(rng, SIZE, SIZE)
    moved = CropBalancer(np.array([0.0, 1.0])).move(rng, plain, mask)
    assert 0 <= moved.top <= max(moved.height - CROP, 0)
    assert 0 <= moved.left <= max(moved.width - CROP, 0)
    is_moved = (moved.top, moved.left) != (plain.top, plain.left)
    is_inside = min(top, left) > 24 and max(top, left) < SIZE - 27  # no edge keeps the crop from going all the way
    if is_moved and base_size > 20 and (is_inside or not rotation):
        assert (moved.apply_label(mask) == 1).any()


def test_half_of_the_crops_are_moved_and_rare_classes_drawn_more_often() -> None:
    mask = np.repeat(np.arange(3, dtype=np.uint8), [60, 30, 6])[:, np.newaxis].repeat(SIZE, axis=1)
    balancer = CropBalancer.from_histogram(np.array([6000, 3000, 600, 0]))
    rng = np.random.default_rng(0)
    plain = TrainingPolicy(SIZE, 1, 1.0, 1.0).draw(rng, SIZE, SIZE)
    shown = [int(balancer.move(rng, plain, mask).apply_label(mask)[0, 0]) for _ in range(4000)]
    own = int(plain.apply_label(mask)[0, 0])
    counts = np.bincount(shown, minlength=3) / len(shown)
    expected = 0.5 * np.array([1, 2, 10]) / 13 + 0.5 * (np.arange(3) == own)
    np.testing.assert_allclose(counts, expected, atol=0.03)


@pytest.mark.parametrize("value", [IGNORE, 3])
def test_a_mask_without_a_class_of_weight_leaves_the_crop(value: int) -> None:
    mask, rng = np.full((SIZE, SIZE), value, np.uint8), np.random.default_rng(1)
    plain = TrainingPolicy(SIZE, CROP).draw(rng, SIZE, SIZE)
    assert all(CropBalancer(np.ones(3)).move(rng, plain, mask) is plain for _ in range(8))


def _open(folder: Path) -> Dataset:
    for name in ("images", "labels"):
        (folder / name).mkdir()
    for number in range(5):
        Image.fromarray(draw_noise(SIZE, SIZE, number)).save(folder / "images" / f"{number}.png")
        Image.fromarray(_draw_mask(15 * number, 90 - 15 * number)).save(folder / "labels" / f"{number}.png")
    return Dataset(match_pairs(folder / "images", folder / "labels").pairs, default_label_map())


def test_batches_are_the_same_for_any_number_of_workers_and_from_the_middle_on(tmp_path: Path) -> None:
    dataset, balancer = _open(tmp_path), CropBalancer.from_histogram(np.array([40_000, 45]))
    draw = TrainingPolicy(120, CROP, rotation=30, vertical_flip=True).draw
    loaders = [
        Loader(dataset, draw, batch_size=2, shuffle=True, seed=3, workers=workers, balancer=balancer)
        for workers in (1, 4)
    ]
    runs = [[batch for epoch in range(3) for batch in loader.iter_batches(epoch)] for loader in loaders]
    resumed = list(loaders[1].iter_batches(2, done=1))
    for batches, others in ((runs[0], runs[1]), (runs[0][-len(resumed) :], resumed)):
        for batch, other in zip(batches, others, strict=True):
            assert (batch.images == other.images).all()
            assert (batch.class_ids == other.class_ids).all()
    plain = Loader(dataset, draw, batch_size=2, shuffle=True, seed=3)
    rare, rare_plain = (
        sum(
            (batch.class_ids == 1).any(axis=(1, 2)).sum() for epoch in range(20) for batch in loader.iter_batches(epoch)
        )
        for loader in (loaders[0], plain)
    )
    assert rare > 3 * rare_plain
