"""Matching images with masks by name."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gluonseg.data.pairs import Matching, list_folder, match_pairs


def _fill(folder: Path, *names: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).touch()
    return folder


def _match(tmp_path: Path, images: list[str], masks: list[str]) -> Matching:
    return match_pairs(_fill(tmp_path / "train", *images), _fill(tmp_path / "train_annotation", *masks))


def test_every_name_ends_in_one_place(tmp_path: Path) -> None:
    matching = _match(tmp_path, ["b.jpg", "a.JPEG", "c.webp", "x.jpg"], ["c.tiff", "a.png", "b.PNG", "z.png", "y.png"])
    assert [(p.name, p.image.name, p.label.name) for p in matching.pairs] == [
        ("a", "a.JPEG", "a.png"),
        ("b", "b.jpg", "b.PNG"),
        ("c", "c.webp", "c.tiff"),
    ]
    assert matching == Matching(matching.pairs, images_without_mask=("x",), masks_without_image=("y", "z"))


@pytest.mark.parametrize(
    ("images", "masks"),
    [(["a.jpg", "a.JPG"], ["a.png"]), (["a.jpg", "a.png"], ["a.png"]), (["a.jpg"], ["a.png", "a.gif"])],
)
def test_two_files_of_one_name_match_nothing(tmp_path: Path, images: list[str], masks: list[str]) -> None:
    matching = _match(tmp_path, [*images, "b.jpg"], [*masks, "b.png"])
    assert matching.ambiguous == ("a",)
    assert [pair.name for pair in matching.pairs] == ["b"]


@pytest.mark.parametrize("stem", ["-rf", "a\nb", "a.b.c", " ", "\u732b"])
def test_odd_names_match(tmp_path: Path, stem: str) -> None:
    assert [pair.name for pair in _match(tmp_path, [f"{stem}.jpg"], [f"{stem}.png"]).pairs] == [stem]


def test_what_is_no_image_is_skipped_and_named(tmp_path: Path) -> None:
    train = _fill(tmp_path / "train", "a.jpg", "notes.txt", ".DS_Store", "._a.jpg", "Thumbs.db")
    _fill(train / "train_annotation", "a.png")
    (train / "folder.jpg").mkdir()
    matching = match_pairs(train, _fill(tmp_path / "train_annotation", "a.png", "a.jpg"))
    assert [pair.name for pair in matching.pairs] == ["a"]
    assert sorted(path.name for path in matching.skipped) == ["a.jpg", "folder.jpg", "notes.txt", "train_annotation"]


def test_a_jpeg_is_taken_by_its_content(tmp_path: Path) -> None:
    train = _fill(tmp_path / "train", "e.jpg", "d.png", "odd.jfif")
    for name in ("a.jfif", "b", "c.photo", "d.jpe", "e.jpg.bak"):
        (train / name).write_bytes(b"\xff\xd8\xff\xe0")
    matching = match_pairs(train, _fill(tmp_path / "train_annotation", *(f"{name}.png" for name in "abcde")))
    assert [pair.image.name for pair in matching.pairs] == ["a.jfif", "b", "c.photo", "d.png", "e.jpg"]
    assert [path.name for path in matching.skipped] == ["d.jpe", "e.jpg.bak", "odd.jfif"]


def test_links_are_followed_pipes_and_broken_links_are_skipped(tmp_path: Path) -> None:
    train = _fill(tmp_path / "train", "a.jpg")
    (train / "link.jpg").symlink_to(_fill(tmp_path / "elsewhere", "photo.jpg") / "photo.jpg")
    os.mkfifo(train / "pipe.jpg")
    (train / "loop.jpg").symlink_to("loop.jpg")
    (train / "gone.jpg").symlink_to("/nowhere/at/all.jpg")
    listing = list_folder(train, (".jpg",))
    assert [path.name for path in listing.wanted] == ["a.jpg", "link.jpg"]
    assert [path.name for path in listing.other] == ["gone.jpg", "loop.jpg", "pipe.jpg"]
