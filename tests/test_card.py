"""The model card: written and read back, and refused in one line when it cannot be used."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from gluonseg.errors import ModelError
from gluonseg.labels import voc_colours
from gluonseg.models.folder.card import build_card, encode_card, parse_card, read_card

CARD = build_card(
    "psp",
    "resnet-18",
    3,
    class_names=("ground", "歩道", 'a "name"'),
    colours=((0, 0, 0), (255, 1, 2), (3, 4, 5)),
    aux=False,
    base_size=100,
    crop_size=64,
    photo_range=(0, 4095),
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
    (tmp_path / "model_card.json").write_text(encode_card(CARD), encoding="utf-8")
    assert read_card(tmp_path / "model_card.json") == CARD


def test_defaults() -> None:
    card = build_card("fcn", "resnet-50", 3)
    assert card.class_names == ("class_0", "class_1", "class_2")
    assert card.colours == tuple(voc_colours(3))
    assert (card.mean, card.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def test_fields_of_a_later_gluonseg_and_missing_ones_with_a_default() -> None:
    assert parse_card(_change(invented_later=[1, 2]), "card") == CARD
    assert parse_card(_drop("versions"), "card") == dataclasses.replace(CARD, versions={})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("{", "is not JSON", id="cut"),
        pytest.param("[]", "format_version None", id="list"),
        pytest.param(_change(format_version=2), "format_version 2, this gluonseg reads 1", id="later-version"),
        pytest.param(_drop("class_names"), "incomplete: .*class_names", id="no-names"),
        *(
            pytest.param(_change(**{field: value}), f"the field {field} cannot be used", id=f"{field}-{number}")
            for field, values in {
                "num_classes": (1, 255, "3"),
                "class_names": ("abc", ["a"], ["a", "b", "\x1b[31m"]),
                "colours": (None, [[0, 0, 256]] * 3),
                "prediction_size": (-1, "x"),
                "photo_range": (1, [5], [5, 5], [0, 65536], [0, 1, 2]),
                "prediction_scales": (1, [5]),
                "mean": ([1, 2], [0, 0, float("nan")]),
                "std": ([1, 1, 0],),
                "algorithm": (3,),
                "aux": ("False",),
                "output_stride": (3,),
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
