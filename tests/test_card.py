"""The model card: written and read back, and refused in one line when it cannot be used."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gluonseg.errors import ModelError
from gluonseg.labels import voc_colours
from gluonseg.models.folder.card import FORMAT_VERSION, ModelCard, build_card, encode_card, parse_card, read_card

CARD = build_card(
    "psp",
    "resnet-18",
    3,
    class_names=("ground", "歩道", 'a "name"'),
    colours=((0, 0, 0), (255, 1, 2), (3, 4, 5)),
    aux=False,
    base_size=100,
    crop_size=64,
    prediction_size=320,
    metrics={"whole_image": {"mIoU": 0.5, "class_IoU": {"ground": None}}},
    versions={"mxnet": "1.9.1"},
    hyperparameters={"epochs": "3"},
)


def _change(**fields: Any) -> str:
    return json.dumps({**json.loads(encode_card(CARD)), **fields})


def _drop(name: str) -> str:
    return json.dumps({key: value for key, value in json.loads(encode_card(CARD)).items() if key != name})


def test_round_trip(tmp_path: Path) -> None:
    assert parse_card(encode_card(CARD), "card") == CARD
    (tmp_path / "model_card.json").write_text(encode_card(CARD), encoding="utf-8")
    assert read_card(tmp_path / "model_card.json") == CARD


@given(st.integers(2, 6), st.integers(0, 1 << 20), st.data())
def test_round_trip_of_any_card(num_classes: int, size: int, data: st.DataObject) -> None:
    printable = st.text().filter(str.isprintable)
    names = data.draw(st.lists(printable, min_size=num_classes, max_size=num_classes))
    card = build_card("fcn", "resnet-50", num_classes, class_names=names, prediction_size=size)
    assert parse_card(encode_card(card), "card") == card


def test_defaults() -> None:
    card = build_card("fcn", "resnet-50", 3)
    assert card.class_names == ("class_0", "class_1", "class_2")
    assert card.colours == tuple(voc_colours(3))
    assert (card.mean, card.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    with pytest.raises(dataclasses.FrozenInstanceError):
        card.aux = False  # type: ignore[misc]


def test_the_file_is_readable_by_people() -> None:
    text = encode_card(CARD)
    assert text.endswith("}\n")
    assert json.loads(text)["format_version"] == FORMAT_VERSION
    assert len(text.splitlines()) > 20


def test_fields_of_a_later_gluonseg_are_passed_over() -> None:
    assert parse_card(_change(invented_later=[1, 2]), "card") == CARD


def test_fields_with_a_default_may_be_missing() -> None:
    assert parse_card(_drop("versions"), "card") == dataclasses.replace(CARD, versions={})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("", "is not JSON", id="empty"),
        pytest.param("{", "is not JSON", id="cut"),
        pytest.param("[" * 100_000, "is not JSON", id="deep"),
        pytest.param("[]", "format_version None", id="list"),
        pytest.param("{}", "format_version None", id="no-version"),
        pytest.param(_change(format_version=2), "format_version 2, this gluonseg reads 1", id="later-version"),
        pytest.param(_drop("algorithm"), "incomplete: .*algorithm", id="no-algorithm"),
        pytest.param(_drop("class_names"), "incomplete: .*class_names", id="no-names"),
        *(
            pytest.param(_change(**{field: value}), f"the field {field} cannot be used", id=f"{field}-{number}")
            for field, values in {
                "num_classes": (1, 255, "3", 3.0, True, None, 10**30, -3),
                "class_names": ("abc", [], ["a"], ["a", "b", 3], None, {"a": 1}, ["a", "b", "\x1b[31m"]),
                "colours": (None, [], [[0, 0]] * 3, [[0, 0, 256]] * 3, [[0, 0, -1]] * 3, [["0", 0, 0]] * 3, [0, 1, 2]),
                "prediction_size": (-1, "x", None, 1e9, 1 << 21),
                "mean": (None, [1, 2], "abc", [0, 0, "x"], [0, 0, None], [0, 0, float("nan")]),
                "std": ([1, 1, 0], [1, 1], 1, [1, 1, "x"], [1, 1, -1], [1, 1, float("inf")]),
                "algorithm": (None, 3, ["fcn"]),
                "backbone": (None, {}),
                "aux": ("False", None, 2),
                "crop_size": ("240", None, -1),
                "base_size": ("x", None, -1),
                "metrics": (None, [1], "x"),
                "data": (None, 3),
                "versions": (None, []),
                "hyperparameters": (None, "x"),
            }.items()
            for number, value in enumerate(values)
        ),
    ],
)
def test_a_card_that_cannot_be_used(text: str, message: str) -> None:
    with pytest.raises(ModelError, match=f"^model_card.json.*{message}") as caught:
        parse_card(text, "model_card.json")
    assert len(str(caught.value)) < 300


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"^model_card\.json cannot be read"):
        read_card(tmp_path / "model_card.json")
    (tmp_path / "model_card.json").write_bytes(b"\xff\xfe{}")
    with pytest.raises(ModelError, match=r"^model_card\.json cannot be read"):
        read_card(tmp_path / "model_card.json")


def test_a_card_cannot_be_built_into_nonsense() -> None:
    assert isinstance(CARD, ModelCard)
    with pytest.raises(TypeError):
        build_card("fcn", "resnet-18", 2, colour_map=())


def test_a_card_that_is_nested_or_huge() -> None:
    """Deep enough to be JSON, and too deep for what goes through it."""
    for text in (
        _change(metrics=[]).replace('"metrics": []', '"metrics": ' + "[" * 900 + "]" * 900),
        _change(mean=[1, 1, 10**400]),
    ):
        with pytest.raises(ModelError, match="card"):
            parse_card(text, "card")
