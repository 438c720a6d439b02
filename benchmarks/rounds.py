"""Interleaved rounds, and what can be said of the ratio of two series."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Protocol


class Measurable(Protocol):
    """What can be measured round after round, such as a :class:`benchmarks.variant.Variant`."""

    name: str

    def run(self) -> Mapping[str, float]: ...


Series = Mapping[str, Sequence[Mapping[str, float]]]
ROUNDS = 7
"""Counted rounds; one more comes first and is dropped. Of fewer than about six no 95 % interval can be given."""
_RESAMPLES = 2000


def run_rounds(variants: Sequence[Measurable]) -> Series:
    """A B C, A B C, ...: measurements of each variant by its name, without those of the first round."""
    found: dict[str, list[Mapping[str, float]]] = {variant.name: [] for variant in variants}
    for number in range(ROUNDS + 1):
        for variant in variants:
            measurement = variant.run()
            if number:
                found[variant.name].append(measurement)
    return found


@dataclass(frozen=True)
class Ratio:
    """Median of the per-round ratios, with the 95 % interval of a bootstrap over rounds."""

    value: float
    low: float
    high: float


def compute_ratio(numerators: Sequence[float], denominators: Sequence[float]) -> Ratio:
    """Ratio of two series of one length, round by round: what slows a machine down slows both of a round."""
    ratios = [one / other for one, other in zip(numerators, denominators, strict=True)]
    draw = random.Random(0)
    medians = sorted(median(draw.choices(ratios, k=len(ratios))) for _ in range(_RESAMPLES))
    edge = int(0.025 * _RESAMPLES)
    return Ratio(median(ratios), medians[edge], medians[-1 - edge])


def pick(series: Series, name: str, key: str = "seconds") -> list[float]:
    """One number of each round of one variant."""
    return [measurement[key] for measurement in series[name]]
