"""What a training job is given: label maps, class names, hyperparameters."""

from __future__ import annotations

import json
from collections.abc import Iterable

from .target import MAX_TEXT, Check, Target, check, check_error


def _build_label_map() -> Check:
    """A label map, and the list of class names that lies beside it."""
    from gluonseg.data.label_channel import parse_class_names
    from gluonseg.errors import DataError
    from gluonseg.labels import MAX_CLASSES, parse_label_map

    def run(data: bytes) -> None:
        try:
            found = parse_label_map(data, "label map")
            check(found.table.shape == (256,) and found.table.dtype == "uint8", "a label map has 256 entries")
            check(bool(found.description), "a label map says what it is")
        except DataError as error:
            check_error(error)
        try:
            names = parse_class_names(data, "class names")
            check(0 < len(names) <= MAX_CLASSES == 254, "there are 1 to 254 classes")
            check(len(set(names)) == len(names) and all(map(str.isprintable, names)), "names differ and are printable")
        except DataError as error:
            check_error(error)

    return run


def _seed_label_map() -> Iterable[bytes]:
    yield from (b'{"scale": 3}', b'{"map": {"0": 5, "1": 0, "255": 7}}', b'{"map": {"0": "5"}}', b'["a", "b"]')
    yield from (b'{"scale": "3", "scale": 4}', b'{"map": {"0": 1.0, "1": 1e400}}', b"\xef\xbb\xbf{}", b"NaN", b"[[[[[[")
    yield b'{"map": {"' + "١".encode() + b'": 1}}'
    yield '{"scale": 3}'.encode("utf-16")


def _build_hyperparameters() -> Check:
    """The file of hyperparameters; what is taken can be written as strings and read again."""
    from gluonseg.errors import HyperparameterError
    from gluonseg.files import parse_json_object
    from gluonseg.hyperparameters import parse_hyperparameters
    from gluonseg.sagemaker.log import shorten_values

    def run(data: bytes) -> None:
        try:
            raw = parse_json_object(data)
        except ValueError as error:
            check(len(str(error)) < MAX_TEXT, "an error's text is short")
            return
        check(all(len(text) < 210 for text in shorten_values(raw).values()), "a value in the log is short")
        try:
            found = parse_hyperparameters(raw)
        except HyperparameterError as error:
            check(len(str(error)) < MAX_TEXT + 400 * len(raw), "each problem's text is short")
            return
        check(parse_hyperparameters(found.to_strings()) == found, "what is written is read again")

    return run


def _seed_hyperparameters() -> Iterable[bytes]:
    from gluonseg.hyperparameters import get_specs
    from gluonseg.parameter import format_value

    defaults = {name: format_value(one.default) for name, one in get_specs().items() if one.default not in (None, ())}
    yield json.dumps({**defaults, "num_classes": "3"}).encode()
    for name, one in get_specs().items():
        for value in (one.list_choices()[0] if one.choices else "2", "1e1", "True", "1, 2", '"x"', "", "nan", "-1"):
            yield json.dumps({"num_classes": "3", name: value}).encode()
    yield b'{"num_classes": 3, "class_names": "a, b, c", "class_weights": [1, 2, 3], "lr_scheduler_step": "1,2"}'
    yield b'{"num_classes": "\\ud800", "epochs": {"a": [null, true, 1e999]}}'


LABEL_MAP = Target(_build_label_map, _seed_label_map, ("gluonseg", "json"), 1 << 12)
HYPERPARAMETERS = Target(_build_hyperparameters, _seed_hyperparameters, ("gluonseg", "json"), 1 << 12)
