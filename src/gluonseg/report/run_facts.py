"""The facts of the page's section "What was run": hyperparameters off their defaults, versions, hardware."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from gluonseg.hyperparameters import get_specs
from gluonseg.parameter import format_value
from gluonseg.report.comparison import Comparison
from gluonseg.report.record import RunRecord

COMPARED = ("algorithm", "backbone", "seed")
"""Hyperparameters in which the runs of a comparison are meant to differ."""
_TITLES = {"memory_gb": "memory, GB", "load": "load before"}


@dataclasses.dataclass(frozen=True)
class Setting:
    """One hyperparameter that is not at its default."""

    name: str
    value: str
    default: str


def _find_defaults() -> dict[str, str]:
    defaults = {}
    for name, one in get_specs().items():
        has_none = one.required or one.default in (None, ())
        defaults[name] = "" if has_none else format_value(one.default)
    return defaults


def _join_values(name: str, given: Mapping[str, Any], records: Sequence[RunRecord]) -> str:
    """The value of all runs, or each run's own."""
    by_run = {record.name: str(record.hyperparameters[name]) for record in records if name in record.hyperparameters}
    values = set(by_run.values())
    if len(values) > 1:
        return "; ".join(f"{run}: {value}" for run, value in by_run.items())
    return values.pop() if values else str(given.get(name, ""))


def find_settings(comparison: Comparison, left_out: Sequence[str] = COMPARED) -> list[Setting]:
    """Hyperparameters that are not at their default, by name, without those that are ``left_out``."""
    given = comparison.settings.get("hyperparameters") or {}
    defaults = _find_defaults()
    names = {name for record in comparison.records for name in record.hyperparameters} | set(given)
    found = []
    for name in sorted(names - {*left_out}):
        value, default = _join_values(name, given, comparison.records), defaults.get(name, "")
        if not _is_same(value, default):
            found.append(Setting(name, value, default))
    return found


def _is_same(value: str, default: str) -> bool:
    """Whether two texts are one value: "1" is "1.0", "true" is "True"."""
    try:
        return float(value) == float(default)
    except ValueError:
        return value.strip().lower() == default.strip().lower()


def find_versions(comparison: Comparison) -> dict[str, str]:
    """Versions by name; several where the runs differ."""
    found: dict[str, list[str]] = {}
    for record in comparison.records:
        for name, version in record.versions.items():
            if str(version) not in found.setdefault(name, []):
                found[name].append(str(version))
    return {name: ", ".join(versions) for name, versions in found.items()}


def find_hardware(comparison: Comparison) -> dict[str, str]:
    """The machine that the runs were made on, each fact by its title."""
    hardware = comparison.settings.get("hardware") or {}
    return {_TITLES.get(key, key.replace("_", " ")): str(value) for key, value in hardware.items()}


def describe_load(comparison: Comparison) -> str:
    """A warning that times are too long, when the machine was busy before the runs began; else empty."""
    hardware = comparison.settings.get("hardware") or {}
    load, cores = hardware.get("load"), hardware.get("cores")
    if not isinstance(load, (int, float)) or not isinstance(cores, int) or load <= cores:
        return ""
    return (
        f"The machine was busy when this began: a load of {load:.1f} on {cores} cores. "
        "Times and latencies are longer than on an idle one."
    )
