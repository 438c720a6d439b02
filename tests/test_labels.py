"""Label maps, the ignore label and colours."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gluonseg.errors import DataError
from gluonseg.labels import (
    IGNORE,
    MAX_CLASSES,
    UNKNOWN,
    LabelMap,
    default_label_map,
    mapped_label_map,
    parse_label_map,
    scale_label_map,
    voc_colours,
)

labels = st.integers(0, 255)


def _parse(content: object, ignore_label: int = IGNORE) -> LabelMap:
    return parse_label_map(json.dumps(content).encode(), "train_label_map.json", ignore_label)


@given(scale=st.integers(1, 255), label=labels, ignore_label=labels)
def test_scale_divides_all_but_ignored_labels(scale: int, label: int, ignore_label: int) -> None:
    expected = IGNORE if label in (IGNORE, ignore_label) else label // scale
    assert scale_label_map(scale, ignore_label).table[label] == expected


@given(pairs=st.dictionaries(st.integers(0, MAX_CLASSES - 1), labels, min_size=1), ignore_label=labels)
def test_map_names_every_label_or_leaves_it_unknown(pairs: dict[int, int], ignore_label: int) -> None:
    if len(set(pairs.values())) < len(pairs):
        with pytest.raises(DataError, match="one label can belong to one class only"):
            mapped_label_map(pairs, ignore_label)
        return
    table = mapped_label_map(pairs, ignore_label).table
    class_of = {label: class_id for class_id, label in pairs.items()}
    for label in range(256):
        ignored = IGNORE if label in (IGNORE, ignore_label) else UNKNOWN
        assert table[label] == class_of.get(label, ignored)


def test_default_map_keeps_labels_and_ignores_two() -> None:
    mask = np.array([[0, 3, 7], [254, 255, 9]], dtype=np.uint8)
    mapped = default_label_map(ignore_label=7).apply(mask)
    assert mapped.tolist() == [[0, 3, IGNORE], [UNKNOWN, IGNORE, 9]]
    assert mapped.dtype == np.uint8
    assert mask.tolist() == [[0, 3, 7], [254, 255, 9]], "the mask itself is left alone"


@pytest.mark.parametrize("scale", [3, "3", " 3 ", 3.0])
def test_scale_as_number_or_string(scale: object) -> None:
    assert _parse({"scale": scale}).table[[0, 2, 3, 11, 255]].tolist() == [0, 0, 1, 3, IGNORE]


def test_the_example_of_the_documentation() -> None:
    parsed = _parse({"map": {"0": 5, "1": 0, "2": 2}})
    assert parsed.apply(np.array([0, 5, 2], dtype=np.uint8)).tolist() == [1, 0, 2]
    assert parsed.description == {"map": {"0": 5, "1": 0, "2": 2}}


def test_255_can_be_a_class_and_a_label_can_be_ignored_when_the_map_says_so() -> None:
    assert _parse({"map": {"0": 0, "1": 255}}).table[[0, 255, 4]].tolist() == [0, 1, UNKNOWN]
    assert _parse({"map": {"0": 0, "255": "4"}}).table[[0, 4, 255]].tolist() == [0, IGNORE, IGNORE]


def test_a_class_joins_several_labels_and_several_are_ignored() -> None:
    parsed = _parse({"map": {"0": [0, "7"], "1": 3, "2": [], "255": [4, 5, 6]}})
    assert parsed.table[[0, 7, 3, 4, 5, 6, 255, 8]].tolist() == [0, 0, 1, IGNORE, IGNORE, IGNORE, IGNORE, UNKNOWN]
    assert parsed.description == {"map": {"0": [0, 7], "1": 3, "2": [], "255": [4, 5, 6]}}
    assert _parse({"map": {"0": [5], "1": [9, 255]}}, ignore_label=9).table[[5, 9, 255]].tolist() == [0, 1, 1]


def test_byte_order_mark_is_read() -> None:
    assert parse_label_map(b'\xef\xbb\xbf{"scale": 2}', "x").table[4] == 2


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"not json", "is not a JSON object"),
        (b'{"map": {"255": 1, "255": 2}}', r"the key '255' appears twice; .* several labels of a class in a list"),
        (b'{"map": {"0": 1}, "scale": 3}', "is not understood"),
        (b'{"map": {"1": 1, "01": 2}}', "a class id appears twice; give all its labels in a list"),
        (b'{"map": [0, 1]}', "is not understood"),
        (b'{"scale": 256}', "scale must be 1 to 255, got 256"),
        (b'{"scale": 2.5}', "scale must be a whole number, got 2.5"),
        (b'{"scale": true}', "scale must be a whole number, got True"),
        (b'{"map": {"cat": 1}}', "a class id must be a whole number, got 'cat'"),
        (b'{"map": {"1": "cat"}}', "the label of class 1 must be a whole number, got 'cat'"),
        (b'{"map": {"254": 1}}', "is outside the range"),
        (b'{"map": {"1": 256}}', "is outside the range"),
        (b'{"map": {"0": 5, "1": 5}}', "label 5 is given to class 0 and to class 1"),
        (b'{"map": {"0": [5, 2], "1": [3, 5]}}', "label 5 is given to class 0 and to class 1"),
        (b'{"map": {"0": [256]}}', '"0": 256 is outside the range'),
        (b'{"map": {"0": [[1]]}}', r"a label of class 0 must be a whole number, got \[1\]"),
        (b'{"map": {"0": {"1": 2}}}', "the label of class 0 must be a whole number"),
    ],
)
def test_unusable_label_maps(text: bytes, words: str) -> None:
    with pytest.raises(DataError, match=words):
        parse_label_map(text, "train_label_map.json")


def test_voc_colours() -> None:
    colours = voc_colours(256)
    # Published first and last entries of the PASCAL VOC colour map.
    assert colours[:4] == [(0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0)]
    assert colours[255] == (224, 224, 192)
    assert len(set(colours)) == 256
