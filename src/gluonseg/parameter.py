"""One hyperparameter: its specification, and parsing its value from SageMaker's strings.

Accepted spellings: surrounding blanks; JSON quotes that SDKs add (``"\\"fcn\\""``); ``True``, ``true``,
``1``, ``yes`` and their opposites; ``16``, ``16.0`` and ``1e1`` for whole numbers; ``10, 20`` and
``[10, 20]`` for lists; ``None`` and ``null`` for "not given".
"""

from __future__ import annotations

import dataclasses
import json
import math
import operator
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any

from gluonseg.errors import HyperparameterError
from gluonseg.text import find_nearest, shorten

_FLAGS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


@dataclasses.dataclass(frozen=True)
class Spec:
    """Type, default and range of one hyperparameter.

    ``low`` and ``high`` are within the range, ``above`` and ``below`` are not. ``choices`` are the valid words, or a
    function that lists them when they are needed. A list (``tuple``) has items of the type ``item``; ``words`` may
    stand in its place. ``tunable`` is the range that SageMaker's tuning suggests; ``beyond`` marks what the built-in
    algorithm does not have.
    """

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

    def _iter_bounds(self) -> Iterator[tuple[str, Callable[[float, float], bool], float]]:
        bounds = (
            ("greater than", operator.gt, self.above),
            ("at least", operator.ge, self.low),
            ("less than", operator.lt, self.below),
            ("at most", operator.le, self.high),
        )
        return ((words, holds, bound) for words, holds, bound in bounds if bound is not None)

    def contains(self, number: float) -> bool:
        """Whether ``number`` lies in the range."""
        return all(holds(number, bound) for _, holds, bound in self._iter_bounds())

    def list_choices(self) -> tuple[str, ...]:
        """The values of a hyperparameter that has choices."""
        return tuple(self.choices() if callable(self.choices) else self.choices)

    def describe_range(self) -> str:
        """``greater than 16``, ``at least 0 and at most 1``, ``one of a, b``: what is valid, in words."""
        if self.choices:
            return f"one of {', '.join(self.list_choices())}"
        return " and ".join(f"{words} {bound:.10g}" for words, _, bound in self._iter_bounds()) or "any"

    def describe_value(self) -> str:
        """What a value must be: its type and its range, in words."""
        if self.kind is bool:
            return "True or False"
        if self.kind is not tuple:
            noun = {int: "a whole number, ", float: "a number, "}.get(self.kind, "")
            return noun + self.describe_range()
        if self.item is str:
            return "names with commas between them"
        words = "".join(f' or "{word}"' for word in self.words)
        return f"numbers with commas between them, each {self.describe_range()}{words}"


def spec(kind: type, default: Any, **options: Any) -> Any:
    """A dataclass field that carries its :class:`Spec`; a required one has no default."""
    one = Spec(kind=kind, default=default, **options)
    return dataclasses.field(default=dataclasses.MISSING if one.required else default, metadata={"spec": one})


def format_value(value: Any) -> str:
    """A parsed value as SageMaker passes it: ``True``, ``0.001``, ``10, 20``."""
    return ", ".join(format_value(item) for item in value) if isinstance(value, tuple) else str(value)


def _unquote(value: Any) -> Any:
    """Strip blanks and the JSON quotes that framework estimators put around strings."""
    if not isinstance(value, str):
        return value
    text = value.strip()
    if len(text) >= 2 and text[0] == text[-1] == '"':
        with suppress(ValueError):
            inner = json.loads(text)
            return inner.strip() if isinstance(inner, str) else inner
    return text


# Each parser returns None when the value is not valid.


def _parse_number(value: Any, one: Spec, kind: type) -> Any:
    try:
        text = str(value)
        number = float(text)
    except ValueError:
        return None
    # float() also takes 1_000 and the digits of every alphabet.
    is_plain = text.isascii() and "_" not in text and math.isfinite(number)
    is_valid = is_plain and one.contains(number) and (kind is float or number.is_integer())
    return kind(number) if is_valid else None


def _parse_word(value: Any, one: Spec) -> str | None:
    return str(value) if not one.choices or value in one.list_choices() else None


def _parse_list(value: Any, one: Spec) -> Any:
    if value in one.words:
        return value
    if isinstance(value, str) and value.startswith("["):
        with suppress(ValueError, RecursionError):
            value = json.loads(value)
    if not isinstance(value, list | tuple):
        text = str(value).strip("[] ")
        value = text.split(",") if text else []
    items = [_unquote(item) for item in value]
    if one.item is str:
        is_valid = all(isinstance(item, str) and item and item.isprintable() for item in items)
    else:
        items = [_parse_number(item, one, one.item) for item in items]
        is_valid = None not in items
    return tuple(items) if is_valid else None


_PARSERS: dict[type, Callable[[Any, Spec], Any]] = {
    bool: lambda value, one: _FLAGS.get(str(value).lower()),
    int: lambda value, one: _parse_number(value, one, int),
    float: lambda value, one: _parse_number(value, one, float),
    str: _parse_word,
    tuple: _parse_list,
}


def parse_value(name: str, value: Any, one: Spec) -> Any:
    """Parse one value by its specification; None means "not given".

    Raises:
        HyperparameterError: with name, value and what is valid.
    """
    value = _unquote(value)
    if value is None or value in ("None", "null"):
        if one.required:
            raise HyperparameterError(f"{name} is required")
        return None
    if value == "" and one.kind is not tuple:
        raise HyperparameterError(f"{name} is empty; leave it out or give a value: {one.describe_range()}")
    parsed = _PARSERS[one.kind](value, one)
    if parsed is None:
        nearest = find_nearest(str(value).lower(), one.list_choices())
        hint = f" (did you mean {nearest}?)" if nearest else ""
        # ascii() keeps line ends and control characters out of the log.
        shown = shorten(ascii(value))
        raise HyperparameterError(f"{name} must be {one.describe_value()}; got {shown}{hint}")
    return parsed
