"""The mIoU of every run as dots on one axis, a row a model: whether two models differ is seen before it is read."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from gluonseg.report.columns import MIOU
from gluonseg.report.comparison import ModelSummary


@dataclasses.dataclass(frozen=True)
class StripRow:
    """One model: ``dots`` are place and text of its runs; ``low`` and ``width`` are the band of mean ± spread.

    All places are in percent of the axis.
    """

    model: ModelSummary
    dots: Sequence[tuple[float, str]]
    mean: float
    low: float
    width: float


@dataclasses.dataclass(frozen=True)
class Strip:
    """The whole drawing; ``ticks`` are place and text, ``text`` says the same as the drawing in words."""

    rows: Sequence[StripRow]
    ticks: Sequence[tuple[float, str]]
    text: str


def compute_ticks(low: float, high: float) -> list[float]:
    """Round numbers from at or below ``low`` to at or above ``high``; some around a single value."""
    from matplotlib.ticker import MaxNLocator

    return [float(tick) for tick in MaxNLocator(6, steps=[1, 2, 5, 10]).tick_values(low - 1e-3, high + 1e-3)]


def build_strip(models: Sequence[ModelSummary]) -> Strip | None:
    """The drawing for two models or more, best first; None for fewer."""
    measured = [(model, number.mean, number.spread or 0.0) for model in models if (number := model.means["miou"])]
    if len(measured) < 2:
        return None
    values = [value for model, _, _ in measured for _, value in _read_values(model)]
    ends = [mean + sign * spread for _, mean, spread in measured for sign in (-1, 1)]
    axis = compute_ticks(max(0.0, min(*ends, *values)), max(*ends, *values))

    def place(value: float) -> float:
        return 100 * (max(value, axis[0]) - axis[0]) / (axis[-1] - axis[0])

    rows = []
    for model, mean, spread in measured:
        dots = [(place(value), f"{model.title}, seed {seed}: {value:.3f}") for seed, value in _read_values(model)]
        low = place(mean - spread)
        rows.append(StripRow(model, dots, place(mean), low, place(mean + spread) - low))
    text = "; ".join(title for row in rows for _, title in row.dots)
    return Strip(rows, [(place(value), f"{value:g}") for value in axis], f"mIoU of every run: {text}")


def _read_values(model: ModelSummary) -> list[tuple[int, float]]:
    return [(run.seed, value) for run in model.runs if (value := MIOU.read(run)) is not None]
