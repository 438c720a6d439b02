"""Curves of all runs on shared axes, as the geometry of an SVG."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gluonseg.report.curves import find_changes
from gluonseg.report.mark import Mark
from gluonseg.report.record import FAILED, RunRecord
from gluonseg.report.summary import ModelSummary

WIDTH, HEIGHT = 640, 330
LEFT, TOP, BOTTOM = 48, 14, 38
LABEL_SPACE, LETTER = 42, 8.2
"""Beside the axes, for the models' names: as much as the longest needs."""
LABEL_GAP = 15
DASHES = ("", "7 4", "2 4", "9 3 2 3", "14 4")


@dataclasses.dataclass(frozen=True)
class Point:
    """A measured point: where it is drawn, and what it says when pointed at."""

    x: float
    y: float
    title: str


@dataclasses.dataclass(frozen=True)
class Line:
    """One run. ``mark`` tells the algorithm, ``dash`` the backbone."""

    points: Sequence[Point]
    mark: Mark
    dash: str

    @property
    def path(self) -> str:
        """The points as an SVG polyline takes them."""
        return " ".join(f"{point.x:.1f},{point.y:.1f}" for point in self.points)

    @property
    def markers(self) -> str:
        """The algorithm's marker at some of the points, as the path of an SVG."""
        first, step = self.mark.thin(len(self.points))
        return "".join(f"M{point.x:.1f} {point.y:.1f}{self.mark.path}" for point in self.points[first::step])


@dataclasses.dataclass(frozen=True)
class Label:
    """A model's name at the end of its lines; ``tip`` is the height of the lines' end."""

    text: str
    y: float
    tip: float
    mark: Mark


@dataclasses.dataclass(frozen=True)
class Tick:
    """A mark on an axis."""

    position: float
    text: str


@dataclasses.dataclass(frozen=True)
class Change:
    """Where runs go from training the heads to training everything."""

    position: float
    title: str


@dataclasses.dataclass(frozen=True)
class Chart:
    """All that is drawn. Positions are in the SVG's own units."""

    title: str
    lines: Sequence[Line]
    labels: Sequence[Label]
    x_ticks: Sequence[Tick]
    y_ticks: Sequence[Tick]
    right: float
    changes: Sequence[Change] = ()
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    bottom: int = HEIGHT - BOTTOM


def compute_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers from at or below ``low`` to at or above ``high``; some around a single value."""
    if high - low <= 1e-4 * max(abs(low), abs(high)):
        # Ticks closer than this would have one text.
        margin = 0.1 * max(abs(low), abs(high)) or 0.1
        low, high = low - margin, high + margin
    rough = max(high - low, 1e-9) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(index * step, 10) for index in range(first, max(last, first + 1) + 1)]


def spread_labels(positions: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Move positions apart to at least ``gap``, in their order, within low..high as far as they fit."""
    order = sorted(range(len(positions)), key=lambda index: positions[index])
    placed = list(positions)
    floor = low
    for index in order:
        placed[index] = floor = max(placed[index], floor)
        floor += gap
    ceiling = high
    for index in reversed(order):
        placed[index] = ceiling = min(placed[index], ceiling)
        ceiling -= gap
    return placed


Reader = Callable[[Mapping[str, Any]], float | None]
CURVES: Mapping[str, Reader] = {
    "Training loss": lambda entry: entry.get("train_loss"),
    "Validation mIOU (centre crops)": lambda entry: entry.get("validation", {}).get("mIOU_builtin"),
}


def _read_values(record: RunRecord, read: Reader) -> list[tuple[int, float]]:
    found = [(int(entry.get("epoch", index)), read(entry)) for index, entry in enumerate(record.epochs)]
    return [(epoch, value) for epoch, value in found if value is not None and math.isfinite(value)]


def find_all_changes(models: Sequence[ModelSummary]) -> list[int]:
    """The epochs, each once, that are the first of another phase than the one before."""
    return sorted({epoch for model in models for run in model.runs for epoch in find_changes(run.epochs)})


def list_backbones(models: Sequence[ModelSummary]) -> list[str]:
    """The backbones, the shallower first: their place gives the kind of line."""
    return sorted({model.runs[0].backbone for model in models}, key=lambda name: (len(name), name))


def _scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    span = (high - low) or 1.0
    return lambda value: start + (value - low) / span * (end - start)


def build_chart(models: Sequence[ModelSummary], title: str, read: Reader) -> Chart | None:
    """The chart of one number an epoch, a line a run; None when no run has it."""
    curves = [(model, run, values) for model in models for run in model.runs if (values := _read_values(run, read))]
    if not curves:
        return None
    epochs = [epoch for _, _, values in curves for epoch, _ in values]
    numbers = [value for _, _, values in curves for _, value in values]
    y_values = compute_ticks(min(numbers), max(numbers))
    x_values = [value for value in compute_ticks(min(epochs), max(epochs)) if value == int(value)]
    x_values = [value for value in x_values if min(epochs) <= value <= max(epochs)]
    right = WIDTH - LABEL_SPACE - LETTER * max(len(model.title) for model, _, _ in curves)
    to_x = _scale(min(epochs), max(epochs), LEFT, right)
    to_y = _scale(y_values[0], y_values[-1], HEIGHT - BOTTOM, TOP)
    backbones = list_backbones(models)

    def draw(model: ModelSummary, run: RunRecord, values: Sequence[tuple[int, float]]) -> Line:
        text = f"{model.title}, seed {run.seed}{' (failed)' if run.status == FAILED else ''}"
        points = [Point(to_x(epoch), to_y(value), f"{text}, epoch {epoch}: {value:.4f}") for epoch, value in values]
        dash = DASHES[backbones.index(run.backbone) % len(DASHES)]
        return Line(points, model.mark, dash)

    lines = {id(run): draw(model, run, values) for model, run, values in curves}
    return Chart(
        title=title,
        lines=list(lines.values()),
        labels=_place_labels(models, lines),
        x_ticks=[Tick(to_x(value), str(int(value))) for value in x_values],
        y_ticks=[Tick(to_y(value), f"{value:g}") for value in y_values],
        right=right,
        changes=[
            Change(to_x(epoch - 0.5), f"from epoch {epoch} on everything is trained, the backbone too")
            for epoch in find_all_changes(models)
            if min(epochs) < epoch <= max(epochs)
        ],
    )


def _place_labels(models: Sequence[ModelSummary], lines: Mapping[int, Line]) -> list[Label]:
    drawn = [(model, [lines[id(run)] for run in model.runs if id(run) in lines]) for model in models]
    drawn = [(model, found) for model, found in drawn if found]
    tips = [sum(line.points[-1].y for line in found) / len(found) for _, found in drawn]
    heights = spread_labels(tips, LABEL_GAP, TOP, HEIGHT - BOTTOM)
    return [Label(model.title, y, tip, model.mark) for (model, _), y, tip in zip(drawn, heights, tips, strict=True)]


def build_charts(models: Sequence[ModelSummary]) -> list[Chart]:
    """Training loss and the built-in's validation mIOU."""
    return [chart for title, read in CURVES.items() if (chart := build_chart(models, title, read))]
