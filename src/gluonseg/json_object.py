"""JSON as it is meant: no key twice, no NaN."""

from __future__ import annotations

import json
from typing import Any

from gluonseg.printable import shorten

_MAX_SHOWN = 80


def _refuse_number(text: str) -> float:
    raise ValueError(f"{text} is not a JSON number")


def _refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content: dict[str, Any] = {}
    for name, value in pairs:
        if name in content:
            raise ValueError(f"the key {shorten(ascii(name), _MAX_SHOWN)} appears twice")
        content[name] = value
    return content


def parse_json_object(data: bytes) -> dict[str, Any]:
    """Parse UTF-8 JSON (with or without a byte-order mark) that holds an object.

    Raises ValueError with what is wrong, also for a key that appears twice, NaN, and endless nesting.
    """
    try:
        content = json.loads(
            data.decode("utf-8-sig"), parse_constant=_refuse_number, object_pairs_hook=_refuse_duplicates
        )
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(content, dict):
        raise ValueError(f"it holds a {type(content).__name__}, not an object")
    return content
