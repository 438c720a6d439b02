"""The plan of a comparison: its runs and settings, from the command's options, and as its folder stores them."""

from __future__ import annotations

import dataclasses
import datetime
import itertools
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from gluonseg.data.check.doctor import CheckReport
from gluonseg.data.palettes import choose_palette
from gluonseg.errors import DataError, HyperparameterError, UserError
from gluonseg.files import parse_json_object, write_text
from gluonseg.hyperparameters import Hyperparameters, describe_unknown, get_specs, parse_hyperparameters
from gluonseg.parameter import parse_value
from gluonseg.report.hardware import describe_hardware
from gluonseg.report.record import COMPARISON_FILE, RUNS_FOLDER, RunRecord
from gluonseg.text import find_nearest

VARIED = {"algorithms": "algorithm", "backbones": "backbone", "seeds": "seed"}
"""The options that take several values, and the hyperparameter of each."""
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
class ComparisonPlan:
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
    options = {hyperparameter: option for option, hyperparameter in VARIED.items()}
    texts, others = [], []
    for name in names:
        if name in options:
            texts.append(f"--{name} is --{options[name]} here, with commas between the values")
        elif (nearest := find_nearest(name, [*VARIED, *get_specs()])) in VARIED:
            texts.append(f"--{name} is not an option; did you mean --{nearest}?")
        else:
            others.append(name)
    return [*texts, *describe_unknown(others)]


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
        if value in values:
            raise HyperparameterError(f"--{option} has {value} twice; each once is enough")
        values.append(value)
    return tuple(values)


def build_comparison(
    data: Path, channels: Mapping[str, Path], folder: Path, lists: Mapping[str, str], given: Mapping[str, str]
) -> ComparisonPlan:
    """Settle a comparison from its options; nothing is written.

    Args:
        data: the folder of the channels.
        channels: the folders in ``data``, by name.
        folder: where the comparison goes.
        lists: the texts of ``algorithms``, ``backbones`` and ``seeds``.
        given: the other hyperparameters, as strings.

    Raises:
        UserError: a value is wrong, a network does not take a backbone, or the folder is inside ``data``.
    """
    values = [parse_values(option, lists[option]) for option in VARIED]
    # Seeds outermost: after a third of the time of three seeds there is one number for every model.
    runs = tuple(Run(algorithm, backbone, seed) for seed, backbone, algorithm in itertools.product(*reversed(values)))
    # Each pair of network and backbone is parsed: one that does not exist is refused before any training.
    parsed = [
        parse_hyperparameters({**given, "algorithm": algorithm, "backbone": backbone, "seed": str(runs[0].seed)})
        for algorithm, backbone in itertools.product(*values[:2])
    ]
    data, folder = data.resolve(), folder.resolve()
    if folder == data or data in folder.parents:
        # The next command would take the new folder for a channel.
        raise DataError(f"--out {folder} is inside the folder of the channels, {data}; choose another folder")
    return ComparisonPlan(data, channels, folder, runs, given, parsed[0])


def _describe_data(check: CheckReport) -> dict[str, Any]:
    """What the data is recognised by, and what a report says of it: counts, pixels by class, sizes."""
    return {
        "fingerprint": check.fingerprints["train"],
        "validation_fingerprint": check.fingerprints["validation"],
        "num_training_samples": check.num_train,
        "num_validation_samples": check.num_validation,
        "pixels": {split: [int(count) for count in counts] for split, counts in check.histogram.items()},
        "ignored_pixels": {split: int(count) for split, count in check.ignored.items()},
        "sizes": {split: [list(size) for size in sizes] for split, sizes in check.sizes.items()},
    }


def find_stored_comparison(folder: Path) -> dict[str, Any] | None:
    """The content of ``comparison.json`` in ``folder``; None without one.

    Keys: ``format_version``, ``created``, ``channels`` (name -> folder), ``hyperparameters`` (strings, those that all
    runs share), ``runs`` (a list of :class:`Run`), ``algorithms``, ``backbones``, ``seeds`` (those of the runs),
    ``data`` (fingerprints, counts, pixels by class, sizes), ``class_names``, ``colours``, ``hardware``.

    Raises:
        UserError: the file is damaged, or of another version.
    """
    path = folder / COMPARISON_FILE
    if not path.is_file():
        return None
    try:
        content = parse_json_object(path.read_bytes())
        if content["format_version"] != _VERSION:
            raise ValueError(f"it is of version {content['format_version']}, this program reads {_VERSION}")
        return {**content, "runs": [Run(*run) for run in content["runs"]]}
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path} is damaged ({error}); choose another --out") from None


def check_folder(plan: ComparisonPlan) -> None:
    """Raise UserError when the folder holds something else, or a comparison with other settings."""
    folder = plan.folder
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--out {folder} is a file; name a new or empty folder")
    stored = find_stored_comparison(folder)
    if stored is None:
        if folder.is_dir() and any(folder.iterdir()):
            raise UserError(f"--out {folder} is not empty and holds no comparison; name a new or empty folder")
        return
    # Parsed first: a hyperparameter that an earlier version did not have has its default.
    old, new = parse_hyperparameters(stored["hyperparameters"]).to_strings(), plan.settings
    changes = [
        f"{name} was {old.get(name, 'not set')}, now it is {new.get(name, 'not set')}"
        for name in {**old, **new}
        if name not in VARIED.values() and old.get(name) != new.get(name)
    ]
    if changes:
        raise UserError(
            f"the comparison in {folder} has other settings: {'; '.join(changes)}. "
            "Give the same ones to go on, or choose another --out"
        )


def write_comparison(plan: ComparisonPlan, check: CheckReport) -> None:
    """Write ``comparison.json``; runs that are there already stay, before the new ones.

    Raises:
        UserError: the folder holds something else, other settings or other data.
    """
    check_folder(plan)
    data, stored = _describe_data(check), find_stored_comparison(plan.folder) or {}
    if stored and stored.get("data") != data:
        raise DataError(
            f"the data in {plan.data} is not that of the comparison in {plan.folder}; "
            "choose another --out, or bring the data back"
        )
    runs = list(dict.fromkeys([*stored.get("runs", ()), *plan.runs]))
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    content = {
        "format_version": _VERSION,
        "created": stored.get("created", now),
        "channels": {name: str(path.resolve()) for name, path in plan.channels.items()},
        "hyperparameters": plan.settings,
        "algorithms": list(dict.fromkeys(run.algorithm for run in runs)),
        "backbones": list(dict.fromkeys(run.backbone for run in runs)),
        "seeds": list(dict.fromkeys(run.seed for run in runs)),
        "runs": [list(run) for run in runs],
        "data": data,
        "class_names": list(check.class_names),
        "colours": choose_palette(plan.settings.get("palette", "voc"), len(check.class_names)),
        "hardware": describe_hardware(),
    }
    write_text(plan.folder / COMPARISON_FILE, json.dumps(content, indent=1) + "\n")
