"""The label doctor on labels and classes: what is left to learn, what has no class, and which map mends it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from gluonseg.data.check.diagnosis import diagnose_labels
from gluonseg.data.check.doctor import CheckReport, format_report
from gluonseg.data.prepare.cityscapes import CLASSES as CITYSCAPES
from gluonseg.labels import parse_label_map
from small_data import HEIGHT, WIDTH, SmallData

Change = Callable[[SmallData], object]
FILES = "(train_label_map.json and validation_label_map.json in the label_map channel)"
BOTH = f'give the label map {{"map": {{"0": 0, "1": 255}}}} {FILES}'
BLACK_AND_WHITE = {1: 255, 2: 255}


@pytest.fixture
def data(tmp_path: Path) -> SmallData:
    return SmallData(tmp_path)


def _only_error(report: CheckReport, kind: str) -> str:
    (error,) = report.errors
    assert error.kind == kind
    return str(error)


def _only_warning(report: CheckReport, kind: str) -> str:
    assert not report.errors
    (warning,) = report.warnings
    assert warning.kind == kind
    return str(warning)


@pytest.mark.parametrize(
    ("table", "options", "words"),
    [
        (BLACK_AND_WHITE, {"num_classes": 2}, f"If white is the second class, {BOTH}"),
        (BLACK_AND_WHITE, {"num_classes": 3}, f"{BOTH} and set num_classes to 2"),
        (BLACK_AND_WHITE, {"num_classes": 21}, f"{BOTH} and set num_classes to 2"),
        (BLACK_AND_WHITE, {"num_classes": None}, BOTH),
        ({2: 1, 255: 1}, {"num_classes": 2, "ignore_label": 1}, "labels 0, 1 (not scored: 1): class 0 alone is left"),
        ({2: 255, 1: 9, 0: 9}, {"ignore_label": 9}, "labels 9, 255 (not scored: 9, 255): no class is left"),
        ({2: 0, 1: 0, 255: 0}, {}, "train_annotation has the label 0: class 0 alone is left. Look at a mask"),
        ({0: 255, 1: 255, 2: 255}, {}, "has the label 255 (not scored: 255): no class is left. Look at a mask"),
    ],
)  # fmt: skip
def test_two_classes_must_be_left(data: SmallData, table: dict[int, int], options: dict[str, int], words: str) -> None:
    data.map_masks(table)
    assert words in _only_error(data.check(**options), "nothing_left")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"scale": 3}, "has the labels 0, 1, 2, 255 (not scored: 255): class 0 alone is left. If each label"),
        ({"map": {"1": [0, 1, 2]}}, 'give the label map {"map": {"0": 0, "1": 1, "2": 2}}'),
        ({"map": {"0": 0, "255": [1, 2]}}, "(not scored: 1, 2, 255): class 0 alone is left"),
    ],
)  # fmt: skip
def test_what_a_label_map_leaves_counts(data: SmallData, content: object, words: str) -> None:
    for split in ("train", "validation"):
        data.label_map(split, content)
    assert words in _only_error(data.check(), "nothing_left")


def test_each_split_is_judged_by_itself(data: SmallData) -> None:
    data.map_masks(BLACK_AND_WHITE, ["validation"])
    text = _only_error(data.check(), "nothing_left")
    assert "validation_annotation has the labels 0, 255" in text
    assert "train_annotation" not in text
    assert text.endswith('{"map": {"0": 0, "1": 255}} (validation_label_map.json in the label_map channel)')


def test_validation_of_one_class_alone_can_be_meant(data: SmallData) -> None:
    data.map_masks({1: 0, 2: 0, 255: 0}, ["validation"])
    text = _only_warning(data.check(), "only_in_train")
    assert text.startswith("2 classes occur in train only; validation:mIOU counts them as 0: 1; 2. Move some")


def test_the_map_of_the_other_split_is_offered_where_it_fits(data: SmallData) -> None:
    data.map_masks(BLACK_AND_WHITE)
    data.label_map("train", {"map": {"0": 0, "1": 255}})
    words = "validation_label_map.json is missing: copy train_label_map.json to it, which reads these labels"
    assert words in _only_error(data.check(2), "nothing_left")
    data.label_map("train", {"map": {"0": 7, "1": 8}})
    assert "copy" not in str(data.check(2).errors)


@pytest.mark.parametrize(
    ("table", "classes", "words"),
    [
        ({2: 1}, 21, "only 2 of num_classes=21 classes occur in the masks (class 0, 1); .* set num_classes to 2"),
        ({2: 1}, 4, "only 2 of num_classes=4 .* counts the other 2 as 0"),
        ({2: 17}, 21, 'class 0, 1, 17.* give the label map {"map": {"0": 0, "1": 1, "2": 17}} .* set num_classes to 3'),
    ],
)
def test_far_fewer_labels_than_classes(data: SmallData, table: dict[int, int], classes: int, words: str) -> None:
    data.map_masks(table)
    report = data.check(classes)
    text = _only_warning(report, "few_classes")
    assert re.search(re.sub(r"([(){}\[\]])", r"\\\1", words), text), text
    assert format_report(report).splitlines()[-1].startswith("the data can be used, but only ")


def test_named_classes_are_not_advised_away(data: SmallData) -> None:
    data.path("label_map").mkdir()
    data.path("label_map/class_names.json").write_text('["a", "b", "c", "d", "e", "f"]')
    assert "set num_classes" not in _only_warning(data.check(6), "few_classes")


def _dominate(data: SmallData) -> None:
    for index in range(3):
        mask = np.ones((HEIGHT, WIDTH), np.uint8)
        mask[0, :2] = (0, 2) if index == 0 else (1, 1)
        data.mask("train", f"t{index}.png", mask)


def _scale_with_rest(data: SmallData) -> None:
    data.map_masks({0: 0, 1: 5, 2: 6})
    for split in ("train", "validation"):
        data.label_map(split, {"scale": 5})


def _blacken_one(data: SmallData) -> None:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[2:4] = 255
    data.mask("train", "t1.png", mask)


def _ignore_most(data: SmallData) -> None:
    mask = np.full((HEIGHT, WIDTH), 255, np.uint8)
    mask[0] = np.arange(WIDTH) % 3
    for name in ("v0.png", "v1.png"):
        data.mask("validation", name, mask)


WARNINGS: list[tuple[Change, int, str, str]] = [
    (lambda data: data.map_masks({1: 0}), 3, "never_seen", "1 classes occur in no mask.*: 1"),
    (lambda data: data.map_masks({2: 0}, ["train"]), 3, "only_in_validation", "validation only.*: 2. Move some"),
    (_dominate, 3, "dominant_class", "class 1 covers 98.6 % of the training pixels"),
    (_scale_with_rest, 2, "joined", "the scale of a label map joins labels: 5, 6 become class 1"),
    (_blacken_one, 3, "black_and_white", "1 masks hold the labels 0 and 255 only, .*: train_annotation/t1.png"),
    (_ignore_most, 3, "mostly_ignored", "most pixels are ignored: 83.3 % of the pixels of validation_annotation"),
]


@pytest.mark.parametrize(("change", "classes", "kind", "words"), WARNINGS)
def test_warnings(data: SmallData, change: Change, classes: int, kind: str, words: str) -> None:
    change(data)
    text = _only_warning(data.check(classes), kind)
    assert re.search(words, text), text


MISTAKES: list[tuple[list[int], int | None, str, str]] = [
    ([1, 2, 3], 3, "off_by_one", '{"map": {"0": 1, "1": 2, "2": 3}}'),
    ([1, 2, 3, 255], 3, "off_by_one", '{"map": {"0": 1, "1": 2, "2": 3}}'),
    ([1, 2, 3], 4, "off_by_one", "and set num_classes to 3"),
    ([0, 3, 6], 3, "scaled", '{"scale": 3}'),
    ([0, 6, 9], 4, "scaled", '{"scale": 3}'),
    ([0, 127, 255], 2, "scaled", '{"scale": 127}'),
    ([0, 127, 255], 3, "scaled", '{"map": {"0": 0, "1": 127, "2": 255}}'),
    ([0, 100, 200], None, "scaled", '{"scale": 100}'),
    ([0, 4, 9], 3, "gaps", '{"map": {"0": 0, "1": 4, "2": 9}}'),
    ([0, 1, 2, 3], 3, "too_few_classes", "Set num_classes to 4, or, if 0 is no class, give the label map"),
    ([0, 1, 2, 4], 3, "too_few_classes", '"2": 2, "255": [4]}'),
    ([0, 1, 100, 200, 201], 3, "too_few_classes", "Set num_classes to 5 and give the label map"),
    (list(range(34)), 19, "too_few_classes", "or make the channels by gluonseg prepare cityscapes"),
    (list(range(20)), 19, "too_few_classes", "Set num_classes to 20, or, if 0 is no class, give the label map"),
    (list(range(60)), 41, "too_few_classes", 'or list the labels that are no classes under "255" in a label map'),
    (list(range(0, 256, 5)), 3, "smeared", "nearest-neighbour resizing"),
]


@pytest.mark.parametrize(("labels", "classes", "kind", "fix"), MISTAKES)
def test_likely_mistakes(labels: list[int], classes: int | None, kind: str, fix: str) -> None:
    finding = diagnose_labels(labels, classes)
    assert finding is not None
    assert finding.kind == kind
    assert fix in finding.fix


def test_the_map_of_cityscapes_is_that_of_its_preparation() -> None:
    finding = diagnose_labels(range(34), 19)
    assert finding is not None
    content, _ = json.JSONDecoder().raw_decode(finding.fix[finding.fix.index("{") :])
    table = parse_label_map(json.dumps(content).encode(), "map").table
    assert [int(np.flatnonzero(table == class_id)[0]) for class_id in range(19)] == list(CITYSCAPES.values())
    assert (table[[*range(7), 29, 30, 255]] == 255).all()


@pytest.mark.parametrize(
    ("labels", "classes"),
    [([0, 1, 2, 255], 3), ([0, 2], 3), ([0, 1], None), ([2], 3), ([], 2), ([0], 2), ([0, 255], 2)],
)
def test_no_mistake(labels: list[int], classes: int | None) -> None:
    assert diagnose_labels(labels, classes) is None


def test_labels_outside_a_label_map(data: SmallData) -> None:
    data.map_masks({0: 7})
    for split in ("train", "validation"):
        data.label_map(split, {"map": {"0": 0, "1": 1, "255": 9}})
    text = _only_error(data.check(2), "out_of_range")
    assert "label 2, 7; 155 pixels in all; valid are those of the label map" in text
    assert 'put "255": [9, 2, 7] into the label map (train_label_map.json and validation_label_map.json)' in text
    assert 'as "0": [0, 2]' in text


def test_the_other_map_is_mended_before_it_is_copied(data: SmallData) -> None:
    data.label_map("train", {"map": {"0": 0, "1": 1}})
    _train, validation = data.check(2).errors
    assert 'put "255": [2] into the label map (train_label_map.json)' in validation.fix
    assert validation.fix.endswith("validation_label_map.json is missing: copy train_label_map.json to it then")


def test_a_label_map_past_num_classes(data: SmallData) -> None:
    data.label_map("train", {"map": {"0": 0, "1": 1, "2": 2, "6": 9}})
    text = _only_error(data.check(), "label_map_range")
    assert "train_label_map.json gives the class 6. Set num_classes to 7, or give the classes the ids 0 to 2" in text


def test_a_scale_past_num_classes(data: SmallData) -> None:
    data.map_masks({1: 50, 2: 100})
    for split in ("train", "validation"):
        data.label_map(split, {"scale": 10})
    assert "Set num_classes to 11, or correct the scale" in _only_error(data.check(), "out_of_range")
