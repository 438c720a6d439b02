"""The drawn dataset: the layout of the real one, the same pictures for the same seed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from file_tree import read_files
from gluonseg.data.check.doctor import check_channels
from gluonseg.data.decode import read_image, read_label
from gluonseg.data.label_channel import read_label_maps
from gluonseg.data.prepare.synthetic import draw_oxford_layout, prepare_synthetic
from gluonseg.errors import DataError


def test_same_seed_same_bytes(tmp_path: Path) -> None:
    contents = [
        read_files(draw_oxford_layout(tmp_path / name, count=9, size=40, seed=seed))
        for name, seed in (("a", 3), ("b", 3), ("c", 4))
    ]
    assert contents[0] == contents[1]
    assert contents[0] != contents[2]


def test_photos_vary_in_size_and_lie_under_their_trimaps(tmp_path: Path) -> None:
    source = draw_oxford_layout(tmp_path / "source", count=24, size=48)
    sizes = set()
    for path in sorted((source / "images").iterdir()):
        image = read_image(path)
        trimap = read_label(source / "annotations/trimaps" / f"{path.stem}.png")
        assert trimap.shape == image.shape[:2]
        assert set(np.unique(trimap)) == {1, 2, 3}
        sizes.add(trimap.shape)
        # A shape is drawn in one colour, the ground is grey: they must be told apart by more than noise.
        spread = image.max(axis=2).astype(int) - image.min(axis=2)
        assert np.median(spread[trimap == 1]) > 1.5 * np.median(spread[trimap == 2])
    assert len(sizes) > 12


def test_the_label_doctor_has_nothing_to_say(tmp_path: Path) -> None:
    prepared = prepare_synthetic(tmp_path / "out", count=48, size=48)
    assert prepared.class_names == ("background", "disc", "box", "triangle")
    channels = {path.name: path for path in prepared.out.iterdir() if path.is_dir()}
    maps = read_label_maps(prepared.channel("label_map"))
    report = check_channels(channels, num_classes=4, label_maps=maps, workers=1)
    assert not report.errors
    assert not report.warnings
    assert (report.num_train, report.num_validation) == (prepared.num_train, prepared.num_validation) == (36, 12)
    assert all((report.histogram[split] > 0).all() for split in ("train", "validation"))


@pytest.mark.parametrize("wrong", [{"count": 5}, {"size": 4096}, {"seed": -1}])
def test_wrong_arguments(tmp_path: Path, wrong: dict[str, int]) -> None:
    with pytest.raises(DataError, match="count must be 6 to 9999, size 24 to 2048, and seed 0 or more; got"):
        draw_oxford_layout(tmp_path / "out", **wrong)
    assert not (tmp_path / "out").exists()
