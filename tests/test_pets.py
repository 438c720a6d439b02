"""Preparing the Oxford-IIIT Pet dataset: drawn copies of its layout, its archives, and the real photos."""

from __future__ import annotations

import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from file_tree import add_member, read_files
from gluonseg.data.decode import read_image, read_label
from gluonseg.data.prepare import pets_archive
from gluonseg.data.prepare.core import Report, format_report, split_by_seed
from gluonseg.data.prepare.pets import prepare_oxford_pets
from gluonseg.data.prepare.pets_archive import download_oxford_pets
from gluonseg.data.prepare.synthetic import draw_oxford_layout
from gluonseg.errors import DataError
from gluonseg.labels import IGNORE, voc_colours
from real_photo import find_pet_photos


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return draw_oxford_layout(tmp_path / "source", count=12, size=32)


def _names(report: Report, channel: str) -> list[str]:
    return sorted(path.stem for path in report.channel(channel).iterdir())


def _pack(source: Path, out: Path) -> Path:
    out.mkdir()
    for name in ("images", "annotations"):
        with tarfile.open(out / f"{name}.tar.gz", "w:gz") as archive:
            archive.add(source / name, arcname=name)
    return out


def _one_mask(report: Report, stem: str) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    (path,) = report.out.glob(f"*_annotation/{stem}.png")
    return read_label(path)


def test_channels_hold_matching_pairs(source: Path, tmp_path: Path) -> None:
    report = prepare_oxford_pets(source, tmp_path / "out")
    assert (report.num_train, report.num_validation) == (9, 3)
    assert _names(report, "train") == _names(report, "train_annotation")
    assert _names(report, "validation") == _names(report, "validation_annotation")
    assert len({*_names(report, "train"), *_names(report, "validation")}) == 12
    with Image.open(next(report.channel("train_annotation").iterdir())) as mask:
        assert mask.mode == "P"
        assert mask.getpalette() == [value for colour in voc_colours(256) for value in colour]


@pytest.mark.parametrize(
    ("classes", "names", "table"),
    [
        ("trimap", ["pet", "background", "border"], {1: 0, 2: 1, 3: 2}),
        ("pet", ["background", "pet"], {1: 1, 2: 0, 3: IGNORE}),
        ("species", ["background", "cat", "dog"], {1: 2, 2: 0, 3: IGNORE}),
        ("breed", ["background", "disc", "box", "triangle"], {1: 3, 2: 0, 3: IGNORE}),
    ],
)
def test_classes(source: Path, tmp_path: Path, classes: str, names: list[str], table: dict[int, int]) -> None:
    report = prepare_oxford_pets(source, tmp_path / "out", classes=classes)
    trimap = read_label(source / "annotations/trimaps/triangle_1.png")
    expected = np.vectorize(table.__getitem__)(trimap)
    assert np.array_equal(_one_mask(report, "triangle_1"), expected)
    assert list(report.class_names) == names
    assert json.loads((report.channel("label_map") / "class_names.json").read_text()) == names


def test_breeds_of_a_part_are_numbered_without_gaps(source: Path, tmp_path: Path) -> None:
    for file in (source / "annotations").glob("*.txt"):
        file.write_text(file.read_text().replace("triangle_1 3 ", "triangle_1 30 "))
    lines = (source / "annotations/list.txt").read_text().splitlines()
    kept = [line for line in lines if line.startswith("disc") or line == "triangle_1 30 2 2"]
    (source / "annotations/list.txt").write_text("\n".join(kept))
    report = prepare_oxford_pets(source, tmp_path / "out", classes="breed")
    assert report.class_names == ("background", "disc", "triangle")
    assert set(np.unique(_one_mask(report, "triangle_1"))) <= {0, 2, IGNORE}


def test_random_split_depends_on_names_and_seed_only() -> None:
    breeds = {f"breed{n % 4}_{n}": n % 4 + 1 for n in range(80)}
    first = split_by_seed(breeds, 7, 0.25)
    assert first == split_by_seed(dict(reversed(breeds.items())), 7, 0.25)
    assert first != split_by_seed(breeds, 8, 0.25)
    for breed in range(1, 5):
        assert sum(first[name] == "validation" for name, its in breeds.items() if its == breed) == 5


def test_official_split_follows_the_lists(source: Path, tmp_path: Path) -> None:
    report = prepare_oxford_pets(source, tmp_path / "out", split="official")
    for channel, file in (("train", "trainval.txt"), ("validation", "test.txt")):
        listed = sorted(line.split()[0] for line in (source / "annotations" / file).read_text().splitlines())
        assert _names(report, channel) == listed


def test_photos_are_converted_only_when_they_are_not_jpeg(source: Path, tmp_path: Path) -> None:
    photo = source / "images/box_1.jpg"
    pixels = read_image(photo)
    rgba = np.dstack([pixels, np.full(pixels.shape[:2], 40, np.uint8)])
    Image.fromarray(rgba).save(photo, "PNG")
    report = prepare_oxford_pets(source, tmp_path / "out")
    assert report.converted == ("box_1",)
    for path in [*report.channel("train").iterdir(), *report.channel("validation").iterdir()]:
        is_copy = path.read_bytes() == (source / "images" / path.name).read_bytes()
        assert is_copy == (path.stem != "box_1")
    (converted,) = report.out.glob("*/box_1.jpg")
    with Image.open(converted) as picture:
        assert (picture.format, picture.mode) == ("JPEG", "RGB")
    assert np.abs(read_image(converted).astype(int) - pixels).mean() < 6


def test_unusable_files_are_left_out_and_named(source: Path, tmp_path: Path) -> None:
    images, trimaps = source / "images", source / "annotations/trimaps"
    (images / "disc_1.jpg").write_bytes((images / "disc_1.jpg").read_bytes()[:200])
    (images / "disc_2.jpg").unlink()
    (trimaps / "disc_3.png").write_bytes(b"")
    Image.new("L", (5, 5), 1).save(trimaps / "box_1.png")
    Image.fromarray(np.full_like(read_label(trimaps / "box_2.png"), 9)).save(trimaps / "box_2.png")
    shutil.copy(images / "box_3.jpg", images / "stranger_1.jpg")
    (images / "._box_3.jpg").write_bytes(b"x")
    (trimaps / "._box_3.png").write_bytes(b"x")
    report = prepare_oxford_pets(source, tmp_path / "out")
    words = {
        "disc_1": "its photo is damaged: ",
        "disc_2": "its photo cannot be read: No such file or directory",
        "disc_3": "its trimap is empty",
        "box_1": "its mask is smaller than the photo",
        "box_2": "its trimap holds the label 9",
        "stranger_1": "the photo is in no list",
    }
    assert report.skipped.keys() == words.keys()
    assert [name for name, reason in report.skipped.items() if not reason.startswith(words[name])] == []
    assert report.num_train + report.num_validation == 7
    assert "the photo is in no list: stranger_1" in format_report(report)


def test_archives_give_what_the_folder_gives(source: Path, tmp_path: Path) -> None:
    packed = _pack(source, tmp_path / "packed")
    prepare_oxford_pets(source, tmp_path / "a")
    prepare_oxford_pets(packed, tmp_path / "b")
    assert read_files(tmp_path / "a") == read_files(tmp_path / "b")
    assert not list(tmp_path.glob(".*"))


def test_archive_members_cannot_leave_the_folder(source: Path, tmp_path: Path) -> None:
    packed = _pack(source, tmp_path / "packed")
    with tarfile.open(packed / "images.tar.gz", "w:gz") as archive:
        archive.add(source / "images", arcname="images")
        add_member(archive, "images/../../escaped.jpg", b"x")
    with pytest.raises(DataError, match=r"images.tar.gz is damaged .*escaped.jpg"):
        prepare_oxford_pets(packed, tmp_path / "out")
    assert not list(tmp_path.rglob("escaped.jpg"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("share", [0.5, 0.999])
def test_cut_off_archives_are_refused(source: Path, tmp_path: Path, share: float) -> None:
    packed = _pack(source, tmp_path / "packed")
    data = (packed / "images.tar.gz").read_bytes()
    (packed / "images.tar.gz").write_bytes(data[: int(len(data) * share)])
    with pytest.raises(DataError, match=r"images.tar.gz is damaged .* download it again"):
        prepare_oxford_pets(packed, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".*"))


def test_only_its_own_folder_is_replaced(source: Path, tmp_path: Path) -> None:
    prepare_oxford_pets(source, tmp_path / "out", seed=1)
    prepare_oxford_pets(source, tmp_path / "out", seed=2)
    prepare_oxford_pets(source, tmp_path / "fresh", seed=2)
    assert read_files(tmp_path / "out") == read_files(tmp_path / "fresh")
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("ten years")
    with pytest.raises(DataError, match="not empty and was not written by this command"):
        prepare_oxford_pets(source, foreign)
    assert read_files(foreign) == {"thesis.txt": b"ten years"}


def test_an_earlier_result_survives_a_failure(source: Path, tmp_path: Path) -> None:
    prepare_oxford_pets(source, tmp_path / "out")
    before = read_files(tmp_path / "out")
    shutil.rmtree(source / "images")
    (source / "images").mkdir()
    with pytest.raises(DataError, match="no usable pair is left for train and validation"):
        prepare_oxford_pets(source, tmp_path / "out")
    assert read_files(tmp_path / "out") == before
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"classes": "trimaps"}, "classes must be one of trimap, pet, species, breed; got 'trimaps'"),
        ({"split": "paper"}, "split must be one of random, official; got 'paper'"),
        ({"validation_share": 1.0}, "validation_share must be between 0 and 1"),
    ],
)
def test_wrong_choices(source: Path, tmp_path: Path, change: dict[str, object], words: str) -> None:
    with pytest.raises(DataError, match=words):
        prepare_oxford_pets(source, tmp_path / "out", **change)  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def test_wrong_sources(source: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"neither the folders .* nor the archives"):
        prepare_oxford_pets(tmp_path / "nowhere", tmp_path / "out")
    with pytest.raises(DataError, match="holds the source"):
        prepare_oxford_pets(source, tmp_path)
    names = source / "annotations/list.txt"
    for text in ("box_1 2\n", "box_1 2 7 1\n"):
        names.write_text(text)
        with pytest.raises(DataError, match=r"list.txt line 1: expected 'NAME BREED SPECIES .* species 1 or 2, got"):
            prepare_oxford_pets(source, tmp_path / "out")
    names.unlink()
    with pytest.raises(DataError, match=r"list.txt is missing"):
        prepare_oxford_pets(source, tmp_path / "out")


def test_download_without_a_network_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pets_archive, "ADDRESS", "http://127.0.0.1:9/")
    with pytest.raises(DataError, match=r"cannot be downloaded .* give that folder as SOURCE") as caught:
        download_oxford_pets(tmp_path / "downloads")
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "downloads").iterdir())


def test_real_photos(tmp_path: Path) -> None:
    report = prepare_oxford_pets(find_pet_photos(), tmp_path / "out")
    assert (report.num_train, report.num_validation) == (340, 114)
    assert report.converted == ("Abyssinian_5",)
    assert report.skipped == dict.fromkeys(["Abyssinian_34", "Abyssinian_82"], "the photo is in no list")
    shutil.rmtree(report.out)
