"""One hyperparameter's value: every spelling that SageMaker's clients send, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gluonseg.errors import HyperparameterError
from gluonseg.parameter import Spec, format_value, parse_value

WHOLE = Spec(int, 5, "help", low=1, high=1000)
RATE = Spec(float, 0.5, "help", above=0, below=1)
FLAG = Spec(bool, False, "help")
WORD = Spec(str, "fcn", "help", choices=("fcn", "psp", "deeplab"))
TEXT = Spec(str, "auto", "help")
STEPS = Spec(tuple, (), "help", item=int, low=1)
WEIGHTS = Spec(tuple, (), "help", item=float, above=0, words=("balanced",))
NAMES = Spec(tuple, (), "help")


SPELLINGS: list[tuple[Spec, object, tuple[Any, ...]]] = [
    (WHOLE, 16, ("16", " 16 ", "16.0", "1.6e1", '"16"', '" 16 "', 16, 16.0, "+16", "016")),
    (RATE, 0.25, ("0.25", " .25", "25e-2", "2.5E-1", '"0.25"', 0.25)),
    (FLAG, True, (True, "True", "true", "TRUE", "1", 1, "yes", " Yes ", '"true"')),
    (FLAG, False, (False, "False", "false", "0", 0, "no", '"no"')),
    (WORD, "fcn", ("fcn", " fcn ", '"fcn"', '" fcn "')),
    (STEPS, (10, 20), ("10, 20", "[10, 20]", '"[10, 20]"', '["10", "20"]', "[10.0, 2e1]", [10, 20], ("10", 20))),
    (NAMES, ("pet", "ground"), ("pet, ground", '["pet", "ground"]', ["pet", "ground"], "[pet, ground]")),
    (NAMES, ("traffic light", "Straße", "歩道"), ("traffic light, Straße, 歩道",)),
    (NAMES, (), ("", " ", "[]", '""', [], "[ ]")),
    (WEIGHTS, "balanced", ("balanced", '"balanced"', " balanced ")),
]


@pytest.mark.parametrize(("one", "expected", "value"), [(*row[:2], value) for row in SPELLINGS for value in row[2]])
def test_spellings(one: Spec, expected: object, value: Any) -> None:
    found = parse_value("field", value, one)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize("one", [WHOLE, TEXT, STEPS])
@pytest.mark.parametrize("value", [None, "None", "null", " None ", '"None"', '"null"'])
def test_not_given(one: Spec, value: Any) -> None:
    assert parse_value("anything", value, one) is None


REFUSED: list[tuple[Spec, tuple[Any, ...]]] = [
    (WHOLE, ("1.5", "sixteen", "0x10", "1_6", "१६", "nan", "inf", True, [16], "16,", {"a": 1})),
    (RATE, ("nan", "-inf", "1e999", "0,1", True, "half", "0.1f", [0.1], 10**400)),
    (FLAG, ("2", "on", "tru", 0.5, [])),
    (WORD, ("FCN", "pspnet", 1, [])),
    (STEPS, ("10, x", "10,,20", "10, 0", "1.5", "10 20", [[10]])),
    (WEIGHTS, ("1, 0", "1, -1", "Balanced", "balanced, 1", "nan")),
    (NAMES, ("a,,b", "a, \x07", ["a", 1], "a\nb, c", [None])),
]


@pytest.mark.parametrize(("one", "value"), [(one, value) for one, values in REFUSED for value in values])
def test_refused(one: Spec, value: Any) -> None:
    with pytest.raises(HyperparameterError, match=r"^field must be .*got ") as caught:
        parse_value("field", value, one)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("one", [WHOLE, RATE, FLAG, WORD, TEXT])
@pytest.mark.parametrize("value", ["", "  ", '""'])
def test_empty_is_refused_with_what_is_valid(one: Spec, value: str) -> None:
    with pytest.raises(HyperparameterError, match=r"^field is empty; leave it out or give a value"):
        parse_value("field", value, one)


@pytest.mark.parametrize(
    ("one", "inside", "outside"),
    [
        (Spec(int, 1, "", low=2, high=254), ("2", "254"), ("1", "255")),
        (Spec(int, 1, "", above=16), ("17",), ("16", "-17")),
        (Spec(float, 1, "", above=0, high=1), ("1e-30", "1"), ("0", "1.0000001")),
        (Spec(float, 1, "", low=0, below=1), ("0", "-0.0", "0.9999"), ("1", "-1e-9")),
    ],
)
def test_edges_of_a_range(one: Spec, inside: tuple[str, ...], outside: tuple[str, ...]) -> None:
    for value in inside:
        assert parse_value("field", value, one) == float(value)
    for value in outside:
        with pytest.raises(HyperparameterError, match=one.describe_range()):
            parse_value("field", value, one)


def test_a_message_names_value_range_and_the_nearest_choice() -> None:
    with pytest.raises(HyperparameterError) as caught:
        parse_value("algorithm", "deep_lab", WORD)
    assert str(caught.value) == (
        "algorithm must be one of fcn, psp, deeplab; got 'deep_lab' (did you mean deeplab?)"
    )  # fmt: skip
    with pytest.raises(HyperparameterError) as caught:
        parse_value("n", "0", WHOLE)
    assert str(caught.value) == "n must be a whole number, at least 1 and at most 1000; got '0'"


def test_a_long_or_unprintable_value_is_shown_short_and_safe() -> None:
    with pytest.raises(HyperparameterError) as caught:
        parse_value("algorithm", "\x1b[31m" + "x" * 10_000, WORD)
    assert len(str(caught.value)) < 200
    assert "\x1b" not in str(caught.value)


@given(st.floats(0, 1, exclude_min=True, exclude_max=True))
def test_every_number_survives_a_round_trip(number: float) -> None:
    assert parse_value("rate", format_value(number), RATE) == number


@given(st.lists(st.integers(1, 10**9)).map(tuple))
def test_every_list_survives_a_round_trip(numbers: tuple[int, ...]) -> None:
    assert parse_value("steps", format_value(numbers), STEPS) == numbers


@given(st.one_of(st.text(), st.integers(), st.floats(), st.booleans(), st.none(), st.lists(st.text())))
@pytest.mark.parametrize("one", [WHOLE, RATE, FLAG, WORD, STEPS, WEIGHTS, NAMES])
def test_any_value_is_parsed_or_refused_in_one_line(one: Spec, value: Any) -> None:
    try:
        parse_value("field", value, one)
    except HyperparameterError as error:
        assert str(error).isprintable()  # noqa: PT017
