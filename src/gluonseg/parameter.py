"""One hyperparameter: its specification, and parsing its value from SageMaker's strings.

Accepted spellings: surrounding blanks; JSON quotes that SDKs add (``"\\"fcn\\""``); ``True``, ``true``,
``1``, ``yes`` and their opposites; ``16``, ``16.0`` and ``1e1`` for whole numbers; ``10, 20`` and
``[10, 20]`` for lists; ``None`` and ``null`` for "not given".
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Iterable
from typing import Any

from gluonseg.errors import HyperparameterError
from gluonseg.text import find_nearest

_TRUE = ("true", "1", "yes")
_FALSE = ("false", "0", "no")
_MAX_SHOWN = 80


def _format_bound(bound: float) -> str:
    return str(int(bound)) if float(bound).is_integer() else f"{bound:g}"


@dataclasses.dataclass(frozen=True)
class Spec:
    """Type, default and range of one hyperparameter; ``above`` and ``below`` exclude the bound itself."""

    kind: type
    default: Any
    help: str
    low: float | None = None
    high: float | None = None
    above: float | None = None
    below: float | None = None
    choices: tuple[str, ...] | Callable[[], Iterable[str]] = ()
    words: tuple[str, ...] = ()
    item: type = str
    required: bool = False
    tunable: str = ""
    beyond: bool = False

    def describe_range(self) -> str:
        """``greater than 16``, ``0 to 1``, ``one of a, b``: what is valid, in words."""
        if self.choices:
            return f"one of {', '.join(self.list_choices())}"
        parts = []
        if self.above is not None:
            parts.append(f"greater than {_format_bound(self.above)}")
        if self.low is not None:
            parts.append(f"at least {_format_bound(self.low)}")
        if self.below is not None:
            parts.append(f"less than {_format_bound(self.below)}")
        if self.high is not None:
            parts.append(f"at most {_format_bound(self.high)}")
        return " and ".join(parts) or "any"

    def list_choices(self) -> tuple[str, ...]:
        """The values of a hyperparameter that has choices; those of a function are asked for when they are needed."""
        return tuple(self.choices() if callable(self.choices) else self.choices)

    def contains(self, number: float) -> bool:
        """Whether ``number`` lies in the range."""
        return (
            (self.low is None or number >= self.low)
            and (self.high is None or number <= self.high)
            and (self.above is None or number > self.above)
            and (self.below is None or number < self.below)
        )


def spec(kind: type, default: Any, **options: Any) -> Any:
    """A dataclass field that carries its :class:`Spec`; required ones have no usable default."""
    one = Spec(kind=kind, default=default, **options)
    metadata = {"spec": one}
    if one.required:
        return dataclasses.field(metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def get_spec(field: dataclasses.Field[Any]) -> Spec:
    """The specification that :func:`spec` put on a field."""
    found: Spec = field.metadata["spec"]
    return found


def format_value(value: Any) -> str:
    """A parsed value as SageMaker passes it: ``True``, ``0.001``, ``10, 20``."""
    return ", ".join(format_value(item) for item in value) if isinstance(value, tuple) else str(value)


def _shorten(value: Any) -> str:
    # repr() keeps line ends and control characters out of logs and of the failure file.
    text = ascii(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."


def _unquote(value: Any) -> Any:
    """Strip blanks and the JSON quotes that framework estimators put around strings."""
    if not isinstance(value, str):
        return value
    text = value.strip()
    if len(text) >= 2 and text[0] == text[-1] == '"':
        try:
            inner = json.loads(text)
        except ValueError:
            return text
        return inner.strip() if isinstance(inner, str) else inner
    return text


def _parse_bool(value: Any) -> bool | None:
    if isinstance(value, bool):
        return value
    word = str(value).lower()
    return True if word in _TRUE else False if word in _FALSE else None


def _parse_float(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    if isinstance(value, str) and (not value.isascii() or "_" in value):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _parse_int(value: Any) -> int | None:
    number = _parse_float(value)
    return int(number) if number is not None and number.is_integer() else None


_NUMBERS = {int: (_parse_int, "a whole number"), float: (_parse_float, "a number")}


def _parse_number(name: str, value: Any, one: Spec, kind: type) -> Any:
    parse, noun = _NUMBERS[kind]
    number = parse(value)
    if number is None or not one.contains(number):
        raise HyperparameterError(f"{name} must be {noun}, {one.describe_range()}; got {_shorten(value)}")
    return number


def _parse_choice(name: str, value: Any, one: Spec) -> str:
    text = str(value)
    if one.choices and text not in one.list_choices():
        nearest = find_nearest(text.lower(), one.list_choices())
        hint = f" (did you mean {nearest}?)" if nearest else ""
        raise HyperparameterError(f"{name} must be {one.describe_range()}; got {_shorten(value)}{hint}")
    return text


def _split_list(value: Any) -> list[Any]:
    if isinstance(value, (list, tuple)):
        return [_unquote(item) for item in value]
    if isinstance(value, str) and value.startswith("["):
        try:
            return [_unquote(item) for item in json.loads(value)]
        except ValueError:
            pass
    text = str(value).strip("[]")
    return [_unquote(part) for part in text.split(",")] if text.strip() else []


def _parse_list(name: str, value: Any, one: Spec) -> Any:
    if isinstance(value, str) and value in one.words:
        return value
    items = _split_list(value)
    if one.item is str:
        if not all(isinstance(item, str) and item and item.isprintable() for item in items):
            raise HyperparameterError(f"{name} must be names with commas between them; got {_shorten(value)}")
        return tuple(items)
    words = "".join(f' or "{word}"' for word in one.words)
    try:
        return tuple(_parse_number(name, item, one, one.item) for item in items)
    except HyperparameterError:
        noun = _NUMBERS[one.item][1].split()[-1]
        valid = f"{noun}s with commas between them, each {one.describe_range()}{words}"
        raise HyperparameterError(f"{name} must be {valid}; got {_shorten(value)}") from None


def parse_value(name: str, value: Any, one: Spec) -> Any:
    """Parse one value by its specification; None means "not given".

    Raises:
        HyperparameterError: with name, value and what is valid.
    """
    value = _unquote(value)
    if value is None or (isinstance(value, str) and value in ("None", "null")):
        if one.required:
            raise HyperparameterError(f"{name} is required")
        return None
    if value == "" and one.kind is not tuple:
        raise HyperparameterError(f"{name} is empty; leave it out or give a value: {one.describe_range()}")
    if one.kind is bool:
        flag = _parse_bool(value)
        if flag is None:
            raise HyperparameterError(f"{name} must be True or False; got {_shorten(value)}")
        return flag
    if one.kind in _NUMBERS:
        return _parse_number(name, value, one, one.kind)
    return _parse_choice(name, value, one) if one.kind is str else _parse_list(name, value, one)
