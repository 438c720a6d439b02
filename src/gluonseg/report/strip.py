"""The mIoU of every run as dots on one axis, a row a model: whether two models differ is seen before it is read."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from gluonseg.report.chart import Tick, compute_ticks
from gluonseg.report.mark import Mark
from gluonseg.report.summary import METRICS, ModelSummary


@dataclasses.dataclass(frozen=True)
class Dot:
    """One run, ``position`` in percent of the axis."""

    position: float
    title: str


@dataclasses.dataclass(frozen=True)
class StripRow:
    """One model: its runs, its mean, and mean ± spread as ``low`` and ``width``, all in percent of the axis."""

    title: str
    mark: Mark
    dots: Sequence[Dot]
    mean: float
    low: float
    width: float


@dataclasses.dataclass(frozen=True)
class Strip:
    """The whole drawing; ``text`` says the same in words."""

    rows: Sequence[StripRow]
    ticks: Sequence[Tick]
    text: str


def _read_values(model: ModelSummary) -> list[tuple[int, float]]:
    found = [(run.seed, METRICS[0].read(run)) for run in model.runs]
    return [(seed, value) for seed, value in found if value is not None]


def build_strip(models: Sequence[ModelSummary]) -> Strip | None:
    """The drawing for two models or more, best first; None for fewer."""
    measured = [(model, figure) for model in models if (figure := model.figures["miou"])]
    if len(measured) < 2:
        return None
    ends = [figure.mean + sign * (figure.spread or 0.0) for _, figure in measured for sign in (-1, 1)]
    values = [value for model, _ in measured for _, value in _read_values(model)]
    axis = compute_ticks(max(0.0, min(*ends, *values)), max(*ends, *values))
    low, span = axis[0], axis[-1] - axis[0]

    def place(value: float) -> float:
        return 100 * (max(value, low) - low) / span

    rows = []
    for model, figure in measured:
        spread = figure.spread or 0.0
        left, right = place(figure.mean - spread), place(figure.mean + spread)
        dots = [Dot(place(value), f"{model.title}, seed {seed}: {value:.3f}") for seed, value in _read_values(model)]
        rows.append(StripRow(model.title, model.mark, dots, place(figure.mean), left, right - left))
    text = "; ".join(dot.title for row in rows for dot in row.dots)
    return Strip(rows, [Tick(place(value), f"{value:g}") for value in axis], f"mIoU of every run: {text}")
