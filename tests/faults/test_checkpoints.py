"""The folder of the checkpoints: damage is found wherever it is; the furthest one counts, whatever the clock says."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from gluonseg.train.checkpoint_file import CheckpointFile, open_checkpoints


def _list(folder: Path) -> list[CheckpointFile]:
    with open_checkpoints(folder) as checkpoints:
        assert checkpoints
        return checkpoints.find_files()


def test_damage_in_any_place(tmp_path: Path) -> None:
    with open_checkpoints(tmp_path) as checkpoints:
        assert checkpoints
        path = checkpoints.write(1, 0, {"array": np.arange(100, dtype="float32")})
    (file,) = _list(tmp_path)
    content = path.read_bytes()
    assert file.is_whole()
    for place in (0, 1, len(content) // 2, len(content) - 1):
        flipped = bytearray(content)
        flipped[place] ^= 1
        for damaged in (content[:place], bytes(flipped)):
            path.write_bytes(damaged)
            assert not file.is_whole(), place
    path.write_bytes(content + b"\0")
    assert not file.is_whole()


def test_the_furthest_is_chosen_by_number_and_not_by_time(tmp_path: Path) -> None:
    places = [(9, 9), (9, 10), (10, 0), (1_000_000, 0)]
    for age, (epochs, updates) in enumerate(places):
        with open_checkpoints(tmp_path) as checkpoints:
            assert checkpoints
            path = checkpoints.write(epochs, updates, {"a": np.arange(3)})
        path = path.rename(tmp_path / f"kept.{path.name}")  # so that it is not removed for the next one
        os.utime(path, (1000 - age, 1000 - age))
    for path in tmp_path.glob("kept.*"):
        path.rename(tmp_path / path.name.removeprefix("kept."))
    assert [(file.epochs, file.updates) for file in _list(tmp_path)] == places[::-1]
