"""The label doctor: one case a family of faults, each with the words a person needs."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gluonseg.data.check.doctor import format_report
from gluonseg.data.check.findings import Finding
from gluonseg.data.label_channel import LabelMaps, read_label_maps
from gluonseg.errors import FAILURE_LIMIT, DataError, describe_failure
from gluonseg.labels import default_label_map, scale_label_map
from small_data import HEIGHT, WIDTH, SmallData


@pytest.fixture
def data(tmp_path: Path) -> SmallData:
    return SmallData(tmp_path)


def _only(findings: Sequence[Finding], kind: str) -> str:
    (text,) = [str(finding) for finding in findings if finding.kind == kind]
    return text


def _kinds(findings: Sequence[Finding]) -> list[str]:
    return [finding.kind for finding in findings]


def test_good_data(data: SmallData) -> None:
    calls: list[tuple[int, int]] = []
    report = data.check(progress=lambda done, total: calls.append((done, total)))
    assert not report.errors
    assert not report.warnings
    report.raise_for_errors()
    assert calls == [(n, 5) for n in range(1, 6)]
    assert (report.num_train, report.num_validation) == (3, 2)
    assert report.histogram["train"].tolist() == [45, 48, 48]
    assert report.histogram["validation"].tolist() == [30, 32, 32]
    assert report.ignored == {"train": 3, "validation": 2}
    assert report.sizes == {"train": ((HEIGHT, WIDTH),) * 3, "validation": ((HEIGHT, WIDTH),) * 2}


def _remove(*parts: str) -> Callable[[SmallData], object]:
    def change(data: SmallData) -> None:
        path = data.path(*parts)
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    return change


def _write(content: bytes, *parts: str) -> Callable[[SmallData], object]:
    return lambda data: data.path(*parts).write_bytes(content)


def _empty_but_hidden(data: SmallData) -> None:
    for path in data.path("train").iterdir():
        path.unlink()
    for name in (".DS_Store", "._t0.jpg", "Thumbs.db"):
        data.path("train", name).touch()


def _jpeg_masks(data: SmallData) -> None:
    for path in list(data.path("train_annotation").iterdir()):
        Image.open(path).save(path.with_suffix(".jpg"))
        path.unlink()


def _rename_channel(data: SmallData) -> None:
    data.path("validation_annotation").rename(data.path("validation_annotations"))


def _copy(source: str, target: str) -> Callable[[SmallData], object]:
    return lambda data: shutil.copy(data.path(source), data.path(target))


def _turn(data: SmallData, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data.image("train", "t0.jpg", np.zeros((HEIGHT, WIDTH, 3), np.uint8), exif=exif)


def _turn_with_mask(data: SmallData) -> None:
    _turn(data, 6)
    data.mask("train", "t0.png", np.zeros((WIDTH, HEIGHT), np.uint8))


def _one_bad_pixel(data: SmallData) -> None:
    mask = np.array(Image.open(data.path("validation_annotation/v1.png")))
    mask[2, 3] = 7
    data.mask("validation", "v1.png", mask)


def _blank(label: int, *names: str) -> Callable[[SmallData], object]:
    def change(data: SmallData) -> None:
        for name in names:
            data.mask("train", name, np.full((HEIGHT, WIDTH), label, np.uint8))

    return change


ERRORS: list[tuple[Callable[[SmallData], object], str, str]] = [
    (_remove("train"), "missing_channel", "the channel train is missing"),
    (_empty_but_hidden, "empty_channel", "the channel train holds no images"),
    (
        _jpeg_masks,
        "empty_channel",
        r"train_annotation holds no masks, but 3 files named .jpg \(t2.jpg\). Masks must be PNG files",
    ),
    (_remove("train_annotation/t1.png"), "image_without_mask", "1 images of train have no mask .*: t1"),
    (_remove("validation/v0.jpg"), "mask_without_image", "1 masks of validation_annotation .*: v0"),
    (_copy("train/t1.jpg", "train/t1.JPG"), "ambiguous", "1 names stand for two files in train .*: t1. Keep one file"),
    (
        lambda data: data.mask("train", "t0.png", np.zeros((HEIGHT, WIDTH + 1), np.uint8)),
        "size_mismatch",
        r"1 masks differ in size from their image: train/t0.jpg is 8x6, .* is 9x6. Make each mask again",
    ),
    (
        _turn_with_mask,
        "size_mismatch",
        r"is 8x6, .* is 6x8 \(the sides are swapped\): the image has EXIF orientation 6, which is not applied; save",
    ),
    (_write(b"", "train/t0.jpg"), "unreadable", r"train/t0.jpg is empty \(0 bytes\)"),
    (_write(b"text", "train_annotation/t0.png"), "unreadable", "train_annotation/t0.png is not a picture in"),
    (
        _one_bad_pixel,
        "out_of_range",
        r"1 masks hold labels out of range \(label 7; 1 pixels in all; valid are 0 to 2 and 255\): "
        r"validation_annotation/v1.png has label 7 on 1 pixels",
    ),
    (
        _rename_channel,
        "missing_channel",
        "the channel validation_annotation is missing. Is the channel validation_annotations meant",
    ),
]


@pytest.mark.parametrize(("change", "kind", "words"), ERRORS)
def test_errors(data: SmallData, change: Callable[[SmallData], object], kind: str, words: str) -> None:
    change(data)
    report = data.check()
    assert _kinds(report.errors) == [kind]
    with pytest.raises(DataError, match=words):
        report.raise_for_errors()
    assert str(report.errors[0]) in format_report(report)


@pytest.mark.parametrize(("image", "mask"), [("T0", "t0"), ("caf\u00e9", "cafe\u0301"), ("t0 ", "t0")])
def test_names_that_only_look_alike_are_pointed_out(data: SmallData, image: str, mask: str) -> None:
    data.path("train/t0.jpg").rename(data.path(f"train/{image}.jpg"))
    data.path("train_annotation/t0.png").rename(data.path(f"train_annotation/{mask}.png"))
    report = data.check()
    assert _kinds(report.errors) == ["image_without_mask", "mask_without_image"]
    assert f"Names must be equal, {image!r} and {mask!r} are not" in str(report.errors[0])


def _nest(data: SmallData) -> None:
    shutil.copytree(data.path("train_annotation"), data.path("train/train_annotation"))


WARNINGS: list[tuple[Callable[[SmallData], object], str, str]] = [
    (_nest, "nested_channel", "train/train_annotation. Its files are not read.* without a slash at its end"),
    (_write(b"", "train/a.lst"), "skipped", "1 entries are not images and are skipped: train/a.lst"),
    (_blank(255, "t1.png"), "ignored_mask", "1 masks are ignored .*: train_annotation/t1.png"),
    (_copy("train/t2.jpg", "validation/v1.jpg"), "duplicate", "byte for byte: train/t2.jpg and validation/v1.jpg"),
    (lambda data: _turn(data, 3), "orientation", "1 images have an EXIF orientation: train/t0.jpg. It"),
]


@pytest.mark.parametrize(("change", "kind", "words"), WARNINGS)
def test_warnings(data: SmallData, change: Callable[[SmallData], object], kind: str, words: str) -> None:
    change(data)
    report = data.check()
    assert not report.errors
    assert _kinds(report.warnings) == [kind]
    text = _only(report.warnings, kind)
    assert text in format_report(report)
    assert re.search(words, text), text


def test_small_images_are_a_warning_only_when_the_crop_is_known(data: SmallData) -> None:
    assert not data.check(crop_size=HEIGHT).warnings
    assert "3 training images have a side shorter than crop_size=7" in _only(data.check(crop_size=7).warnings, "small")


def test_different_label_maps_are_worth_a_warning(data: SmallData) -> None:
    data.map_masks({0: 0, 1: 5, 2: 10}, ["train"])
    maps = LabelMaps(scale_label_map(5), default_label_map(), missing=("validation_label_map.json",))
    report = data.check(label_maps=maps)
    assert not report.errors
    assert "validation_label_map.json is missing" in _only(report.warnings, "different_label_maps")
    assert report.histogram["train"].tolist() == [45, 48, 48]


def test_class_names_must_fit(data: SmallData) -> None:
    maps = LabelMaps(default_label_map(), default_label_map(), class_names=["sky", "road"])
    report = data.check(label_maps=maps)
    text = _only(report.errors, "class_names")
    assert "class_names.json names 2 classes, num_classes is 3. The masks have more: give 3 names" in text
    named = data.check(label_maps=maps._replace(class_names=["sky", "road", "tree"]))
    assert not named.errors
    assert "2 tree" in format_report(named)


@pytest.mark.parametrize(("table", "expected"), [({}, 3), ({2: 1}, 2), ({2: 6}, 7)])
def test_num_classes_is_suggested(data: SmallData, table: dict[int, int], expected: int) -> None:
    data.map_masks(table)
    report = data.check(None)
    assert not report.errors
    assert (report.num_classes, report.is_suggested) == (expected, True)
    assert f"it would be {expected}" in format_report(report)


def test_another_ignore_label(data: SmallData) -> None:
    data.map_masks({255: 99})
    assert "out_of_range" in _kinds(data.check().errors)
    report = data.check(ignore_label=99)
    assert not report.errors
    assert report.ignored == {"train": 3, "validation": 2}


def test_one_split_can_be_checked_alone(data: SmallData) -> None:
    for channel in ("train", "train_annotation"):
        shutil.rmtree(data.path(channel))
    report = data.check(splits=("validation",))
    assert not report.errors
    assert not report.warnings
    assert (report.num_train, report.num_validation) == (0, 2)


def test_the_failure_text_begins_with_every_error(data: SmallData) -> None:
    rng = np.random.default_rng(5)
    for index in range(40):
        data.image("train", f"long_name_of_an_orphan_{index}.jpg", rng.integers(0, 9, (6, 8, 3), dtype=np.uint8))
        data.mask("validation", f"long_name_of_another_{index}.png", np.zeros((6, 8), np.uint8))
    _one_bad_pixel(data)
    data.path("train/t0.jpg").write_bytes(b"")
    report = data.check()
    with pytest.raises(DataError) as caught:
        report.raise_for_errors()
    failure, code = describe_failure(caught.value)
    assert (len(failure), code) == (FAILURE_LIMIT, 2)
    for words in ("40 images of train have no mask", "40 masks of", "t0.jpg is empty", "label 7 on 1 pixels"):
        assert words in failure
    assert "and 30 more" in str(caught.value)


def test_file_names_cannot_break_lines_or_the_terminal(data: SmallData) -> None:
    name = "a\n\x1b[31m" + os.fsdecode(b"\xff")
    shutil.copy(data.path("train/t0.jpg"), data.path("train", f"{name}.jpg"))
    text = _only(data.check().errors, "image_without_mask")
    assert text.isprintable()
    assert r"a\n\x1b[31m\udcff" in text


def test_fingerprint_follows_names_and_bytes_of_the_training_data(data: SmallData) -> None:
    first = data.check().fingerprints["train"]
    data.mask("validation", "v0.png", np.zeros((HEIGHT, WIDTH), np.uint8))
    assert data.check().fingerprints["train"] == first
    for extension, channel in ((".jpg", "train"), (".png", "train_annotation")):
        data.path(channel, f"t0{extension}").rename(data.path(channel, f"x0{extension}"))
    renamed = data.check().fingerprints["train"]
    data.mask("train", "t1.png", np.zeros((HEIGHT, WIDTH), np.uint8))
    assert len({first, renamed, data.check().fingerprints["train"]}) == 3


def _label_folder(tmp_path: Path, files: dict[str, bytes]) -> Path:
    folder = tmp_path / "label_map"
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def test_label_channel(tmp_path: Path) -> None:
    folder = _label_folder(
        tmp_path,
        {
            "train_label_map.json": b'{"scale": "3"}',
            "class_names.json": '["caf\u00e9", "road"]'.encode(),
            "labelmap.json": b"{}",
            "._train_label_map.json": b"x",
        },
    )
    maps = read_label_maps(folder)
    assert maps.train.description == {"scale": 3}
    assert maps.validation.description == {"scale": 1}
    assert maps.class_names == ["caf\u00e9", "road"]
    assert maps.missing == ("validation_label_map.json",)
    assert maps.unused == ("labelmap.json",)


def test_no_label_channel(tmp_path: Path) -> None:
    for folder in (None, tmp_path / "label_map"):
        maps = read_label_maps(folder, ignore_label=9)
        assert maps.missing == ("train_label_map.json", "validation_label_map.json")
        assert maps.class_names is None
        assert maps.train.table[[0, 9, 255]].tolist() == [0, 255, 255]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("train_label_map.json", b"{", r"label_map.train_label_map.json is not a JSON object"),
        ("class_names.json", b"\xff", "class_names.json is not JSON"),
        ("class_names.json", b'{"0": "a"}', "expected a list of 1 to 254 names"),
        ("class_names.json", b'["a", "a "]', "'a' is empty, there twice, or not printable text"),
    ],
)
def test_unusable_label_channels(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    with pytest.raises(DataError, match=words):
        read_label_maps(_label_folder(tmp_path, {name: content}))
