"""What a training job is given: label maps, class names, hyperparameters, checkpoints."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

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
    from gluonseg.hyperparameters import parse_hyperparameters
    from gluonseg.json_object import parse_json_object
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


_SETTINGS: Mapping[str, str] = {"num_classes": "3", "seed": "0"}


def _describe_checkpoint(counts: Mapping[str, Any]) -> dict[str, Any]:
    """What the JSON of a checkpoint says, with the words of every version of it."""
    entry = {"epoch": 0, "learning_rate": 0.1, "train_loss": 1.0, "train_throughput": 9.0, "validation_throughput": 9.0}
    identity = {**_SETTINGS, "class names": "a, b, c", "devices": "1 cpu"}
    hashes = dict.fromkeys(("training data", "validation data", "start"), "0" * 64)
    return {
        "format": 3,
        "identity": {**identity, **hashes},
        "threads": None,
        "seconds": 1.5,
        "peak_mb": 100.0,
        "epochs": [{**entry, "phase": None, "confusion": None}],
        "part": {"updates": 0, "samples": 0, "loss": 0.0, "seconds": 0.0},
        "optimizer": counts,
    }


def _build_network() -> tuple[Any, Any]:
    import mxnet as mx

    network = mx.gluon.nn.Dense(3, in_units=2)
    network.initialize()
    return network, mx.gluon.Trainer(network.collect_params(), "sgd", {"learning_rate": 0.1, "momentum": 0.9})


def _build_checkpoint() -> Check:
    """The JSON inside a checkpoint whose checksum is right; the arrays beside it are good ones."""
    import numpy as np

    from gluonseg.errors import UserError
    from gluonseg.json_object import parse_json_object
    from gluonseg.train import checkpoint as module
    from gluonseg.train.checkpoint_state import collect_arrays, collect_counts

    network, trainer = _build_network()
    arrays = {name: array.asnumpy() for name, array in collect_arrays(network, trainer).items()}
    arrays["confusion"] = np.ones((1, 3, 3), np.int64)
    identity = _describe_checkpoint({})["identity"]
    writer = SimpleNamespace(last={"weight": arrays["parameter/weight"]}, resume=lambda _results: None)

    def resume(data: bytes) -> int:
        file = SimpleNamespace(path=Path("checkpoint"), epochs=1, updates=0)
        file.read = lambda: (arrays, parse_json_object(data))
        folder = SimpleNamespace(folder=Path("folder"), find_files=lambda: [file], note_good=lambda _file: None)
        checkpoint: Any = module.Checkpoint(folder, identity, network, trainer, writer)  # type: ignore[arg-type]
        return len(checkpoint.resume()[0])

    good = _describe_checkpoint(collect_counts(network, trainer))
    check(resume(json.dumps(good).encode()) == 1, "a good one is taken: else nothing is read of any other")

    def run(data: bytes) -> None:
        try:
            resume(data)
        except UserError as error:
            check(len(str(error)) < MAX_TEXT + 20 * len(data), "an error's text is short")
        check(np.isfinite(network.weight.data().asnumpy()).all(), "parameters stay numbers")

    return run


def _seed_checkpoint() -> Iterable[bytes]:
    from gluonseg.train.checkpoint_state import collect_counts

    good = _describe_checkpoint(collect_counts(*_build_network()))
    yield json.dumps(good).encode()
    for name in good:
        yield json.dumps({key: value for key, value in good.items() if key != name}).encode()
        yield json.dumps({**good, name: 1e300}).encode()
        yield json.dumps({**good, name: [{}]}).encode()
    for name in good["epochs"][0]:
        yield json.dumps({**good, "epochs": [{**good["epochs"][0], name: "x"}]}).encode()
    yield json.dumps({**good, "identity": {**good["identity"], "class names": [1]}}).encode()


LABEL_MAP = Target(_build_label_map, _seed_label_map, ("gluonseg", "json"), 1 << 12)
HYPERPARAMETERS = Target(_build_hyperparameters, _seed_hyperparameters, ("gluonseg", "json"), 1 << 12)
CHECKPOINT = Target(_build_checkpoint, _seed_checkpoint, ("gluonseg", "json"), 1 << 12)
