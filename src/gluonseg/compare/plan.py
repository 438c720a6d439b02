"""What a comparison runs: the options as given, and what its folder remembers of them."""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from gluonseg.data.check.doctor import CheckReport
from gluonseg.errors import DataError, HyperparameterError, UserError
from gluonseg.files import hash_file, parse_json_object, write_text
from gluonseg.hyperparameters import Hyperparameters, describe_unknown, get_specs, parse_hyperparameters
from gluonseg.labels import voc_colours
from gluonseg.parameter import format_value, parse_value
from gluonseg.report.record import COMPARISON_FILE, RUNS_FOLDER, RunRecord
from gluonseg.text import find_nearest
from gluonseg.train.data import check_job_data, read_maps

VARIED = {"algorithms": "algorithm", "backbones": "backbone", "seeds": "seed"}
"""The options that take several values, and the hyperparameter of each."""
_HASHED_CHANNELS = ("validation", "validation_annotation", "label_map", "model", "pretrained")
_VERSION = 1


class Run(NamedTuple):
    """One training of a comparison."""

    algorithm: str
    backbone: str
    seed: int

    @property
    def name(self) -> str:
        """Name of the run's folder."""
        return self.build_record("").name

    @property
    def title(self) -> str:
        return f"{self.algorithm} {self.backbone} seed {self.seed}"

    def build_record(self, status: str, **values: Any) -> RunRecord:
        """The record of this run."""
        return RunRecord(self.algorithm, self.backbone, self.seed, status, **values)


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Runs on the channels in ``data``, written to ``folder``.

    ``given`` are the hyperparameters that all runs share, as they were given; ``hyperparameters`` those of the
    first run, parsed. ``channels`` are the folders in ``data``.
    """

    data: Path
    channels: Mapping[str, Path]
    folder: Path
    runs: tuple[Run, ...]
    given: Mapping[str, str]
    hyperparameters: Hyperparameters

    def find_run_folder(self, run: Run | RunRecord) -> Path:
        return self.folder / RUNS_FOLDER / run.name

    @property
    def settings(self) -> dict[str, str]:
        """All hyperparameters that the runs share, as strings."""
        return {name: text for name, text in self.hyperparameters.to_strings().items() if name not in VARIED.values()}


def describe_unknown_options(names: Iterable[str]) -> list[str]:
    """Say of each of ``names`` that it is no option of a comparison, and which one was probably meant."""
    described = {name: _describe_varied(name) for name in names}
    others = [name for name, text in described.items() if text is None]
    return [*filter(None, described.values()), *describe_unknown(others)]


def _describe_varied(name: str) -> str | None:
    """What is to be said of ``--name`` when an option that is a comparison's own was meant."""
    for option, hyperparameter in VARIED.items():
        if name == hyperparameter:
            return f"--{name} is --{option} here, with commas between the values"
        if find_nearest(name, [*VARIED, *get_specs()]) == option:
            return f"--{name} is not an option; did you mean --{option}?"
    return None


def parse_values(option: str, text: str) -> tuple[Any, ...]:
    """Parse the comma list of ``--algorithms``, ``--backbones`` or ``--seeds``.

    Raises:
        HyperparameterError: names the option, the value and what is valid; also for a value that is there twice.
    """
    name = VARIED[option]
    values: list[Any] = []
    for item in text.split(","):
        try:
            value = parse_value(name, item, get_specs()[name])
        except HyperparameterError as error:
            raise HyperparameterError(f"--{option}: {error}") from None
        if value is None:
            raise HyperparameterError(f"--{option}: {item.strip()} is no value; leave the option out for the default")
        if value in values:
            raise HyperparameterError(f"--{option} has {value} twice; each once is enough")
        values.append(value)
    return tuple(values)


def build_comparison(
    data: Path, channels: Mapping[str, Path], folder: Path, lists: Mapping[str, str], given: Mapping[str, str]
) -> Comparison:
    """Settle a comparison from its options.

    Args:
        data: the folder of the channels.
        lists: the texts of ``algorithms``, ``backbones`` and ``seeds``.
        given: the other hyperparameters, as strings.

    Raises:
        UserError: of the kind that fits. Nothing has been written then.
    """
    values = [parse_values(option, lists[option]) for option in VARIED]
    # Seeds outermost: after a third of the time of three seeds there is one number for every model.
    runs = tuple(Run(algorithm, backbone, seed) for seed, backbone, algorithm in itertools.product(*reversed(values)))
    # Of every pair of network and backbone: one that does not exist is known before any training.
    parsed = [
        parse_hyperparameters({**given, "algorithm": algorithm, "backbone": backbone, "seed": str(runs[0].seed)})
        for algorithm, backbone in itertools.product(*values[:2])
    ]
    data, folder = data.resolve(), folder.resolve()
    if folder == data or data in folder.parents:
        # Each folder beside the channels is taken for a channel by the next command.
        raise DataError(f"--out {folder} is inside the folder of the channels, {data}; choose another folder")
    return Comparison(data, channels, folder, runs, given, parsed[0])


def check_data(comparison: Comparison, progress: Callable[[int, int], None] | None = None) -> CheckReport:
    """Read and check all data, as each run will; DataError when a training would refuse it."""
    hp = comparison.hyperparameters
    report = check_job_data(hp, comparison.channels, read_maps(hp, comparison.channels), progress)
    report.raise_for_errors()
    return report


def _hash_channels(channels: Mapping[str, Path]) -> str:
    """sha256 (hex) over names and bytes of what the fingerprint of the training data leaves out."""
    digest = hashlib.sha256()
    for name in _HASHED_CHANNELS:
        folder = channels.get(name, Path())
        paths = sorted(folder.rglob("*")) if name in channels else []
        for path in (path for path in paths if path.is_file() and not path.name.startswith(".")):
            digest.update(f"{name} {path.relative_to(folder)!s} ".encode(errors="surrogateescape"))
            digest.update(bytes.fromhex(hash_file(path)))
    return digest.hexdigest()


def _describe_data(channels: Mapping[str, Path], check: CheckReport) -> dict[str, Any]:
    """What the data is recognised by, and what a report says of it."""
    return {
        "fingerprint": check.fingerprints["train"],
        "validation_fingerprint": _hash_channels(channels),
        "num_training_samples": check.num_train,
        "num_validation_samples": check.num_validation,
        "pixels": {split: [int(count) for count in counts] for split, counts in check.histogram.items()},
        "ignored_pixels": {split: int(count) for split, count in check.ignored.items()},
        "sizes": {split: [list(size) for size in sizes] for split, sizes in check.sizes.items()},
    }


def read_comparison(folder: Path) -> dict[str, Any] | None:
    """What ``comparison.json`` in ``folder`` holds; None without one, UserError for one that cannot be used.

    Keys: ``format_version``, ``created``, ``channels`` (name -> folder), ``hyperparameters`` (strings, those that all
    runs share), ``runs`` (a list of [algorithm, backbone, seed]), ``algorithms``, ``backbones``, ``seeds`` (those of
    the runs), ``data`` (fingerprints, counts, pixels by class, sizes), ``class_names``, ``colours``, ``hardware``.
    """
    path = folder / COMPARISON_FILE
    if not path.is_file():
        return None
    try:
        content = parse_json_object(path.read_bytes())
        if content["format_version"] != _VERSION:
            raise ValueError(f"it is of version {content['format_version']}, this program reads {_VERSION}")
        content["runs"] = [Run(*run) for run in content["runs"]]
        if not all(isinstance(content[key], dict) for key in ("channels", "hyperparameters", "data")):
            raise ValueError("it lacks an object")
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path} is damaged ({error}); choose another --out") from None
    return content


def check_folder(comparison: Comparison) -> None:
    """Raise UserError when the folder holds something else, or a comparison with other settings."""
    folder = comparison.folder
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--out {folder} is a file; name a new or empty folder")
    remembered = read_comparison(folder)
    if remembered is not None:
        _check_settings(comparison, remembered["hyperparameters"])
    elif folder.is_dir() and any(folder.iterdir()):
        raise UserError(f"--out {folder} is not empty and holds no comparison; name a new or empty folder")


def _check_settings(comparison: Comparison, remembered: Mapping[str, Any]) -> None:
    """Compare as parsed: 1e-2 is 0.01, and what an earlier version did not have is as by default."""
    try:
        earlier = parse_hyperparameters(dict(remembered))
    except HyperparameterError as error:
        path = comparison.folder / COMPARISON_FILE
        raise UserError(f"{path} has settings that cannot be used ({error}); choose another --out") from None
    differences = []
    for field in dataclasses.fields(Hyperparameters):
        old, new = getattr(earlier, field.name), getattr(comparison.hyperparameters, field.name)
        if field.name not in VARIED.values() and old != new:
            differences.append(f"{field.name} was {_show(old)}, now it is {_show(new)}")
    if differences:
        raise UserError(
            f"the comparison in {comparison.folder} has other settings: {'; '.join(differences)}. "
            "Give the same ones to go on, or choose another --out"
        )


def _show(value: Any) -> str:
    return "not set" if value in (None, ()) else format_value(value)


def _check_same_data(comparison: Comparison, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    titles = {"fingerprint": "training", "validation_fingerprint": "validation"}
    changed = [title for key, title in titles.items() if old.get(key) != new[key]]
    if changed:
        raise DataError(
            f"the {' and '.join(changed)} data in {comparison.data} is not that of the comparison in "
            f"{comparison.folder}; choose another --out, or bring the data back"
        )


def write_comparison(comparison: Comparison, check: CheckReport, hardware: Mapping[str, Any]) -> None:
    """Write ``comparison.json``; runs that are there already stay, before the new ones.

    Raises:
        UserError: the folder holds something else, other settings or other data.
    """
    check_folder(comparison)
    data = _describe_data(comparison.channels, check)
    remembered = read_comparison(comparison.folder) or {}
    if remembered:
        _check_same_data(comparison, remembered["data"], data)
    runs = list(dict.fromkeys([*remembered.get("runs", ()), *comparison.runs]))
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    content = {
        "format_version": _VERSION,
        "created": remembered.get("created", now),
        "channels": {name: str(path.resolve()) for name, path in comparison.channels.items()},
        "hyperparameters": comparison.settings,
        "algorithms": list(dict.fromkeys(run.algorithm for run in runs)),
        "backbones": list(dict.fromkeys(run.backbone for run in runs)),
        "seeds": list(dict.fromkeys(run.seed for run in runs)),
        "runs": [list(run) for run in runs],
        "data": data,
        "class_names": list(check.class_names),
        "colours": [list(colour) for colour in voc_colours(len(check.class_names))],
        "hardware": dict(hardware),
    }
    write_text(comparison.folder / COMPARISON_FILE, json.dumps(content, indent=1) + "\n")
