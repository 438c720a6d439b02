"""Training curves, drawn in one way: as SVG for the page, as a PNG for a job, as a figure for notebooks."""

from __future__ import annotations

import html
import io
import itertools
import math
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gluonseg.files import write_bytes
from gluonseg.report.comparison import ModelSummary
from gluonseg.report.record import FAILED, RunRecord
from gluonseg.text import join_names

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANEL_INCHES = (5.2, 3.2)
DASHES = ("-", "--", ":", "-.")
"""One a backbone."""
LABEL_GAP = 0.07
"""Between two models' names at the ends of their lines, as a share of the axes' height."""
TEXT, QUIET, RULE, PAGE = "#1c2024", "#626b74", "#e3e6e9", "#ffffff"
"""The colours of style.css on a light page."""
_VARIABLES = {TEXT: "text", QUIET: "quiet", RULE: "rule", PAGE: "page"}

Reader = Callable[[Mapping[str, Any]], float | None]
PANELS: Mapping[str, Reader] = {
    "Training loss": lambda entry: entry.get("train_loss"),
    "Validation mIOU": lambda entry: entry.get("validation", {}).get("mIOU_builtin"),
    "Validation pixel accuracy": lambda entry: entry.get("validation", {}).get("pixel_accuracy"),
}
COMPARED_PANELS = tuple(PANELS)[:2]


def _build_title(panel: str, models: Sequence[ModelSummary]) -> str:
    """The title of a panel, which says of validation numbers what they are of."""
    kinds = sorted({run.validated_on for model in models for run in model.runs})
    return f"{panel} ({join_names(kinds)})" if panel.startswith("Validation") else panel


def _read_values(record: RunRecord, panel: str) -> list[tuple[int, float]]:
    """Epoch and value of every epoch that has one: a training that diverged has none in its last."""
    found = [(int(entry["epoch"]), PANELS[panel](entry)) for entry in record.epochs]
    return [(epoch, value) for epoch, value in found if value is not None and math.isfinite(value)]


def find_stages(models: Sequence[ModelSummary]) -> list[int]:
    """The epochs, each once, that are the first of another phase than the one before."""
    pairs = itertools.chain.from_iterable(itertools.pairwise(run.epochs) for model in models for run in model.runs)
    return sorted({int(new["epoch"]) for old, new in pairs if old.get("phase") != new.get("phase")})


def _find_dashes(models: Sequence[ModelSummary]) -> dict[str, str]:
    """A kind of line for each backbone, the shallower backbones first."""
    backbones = sorted({model.runs[0].backbone for model in models}, key=lambda name: (len(name), name))
    return dict(zip(backbones, itertools.cycle(DASHES), strict=False))


def draw_panels(models: Sequence[ModelSummary], panels: Sequence[str] = COMPARED_PANELS) -> Figure:
    """A panel for each of ``panels``, a line for each run, failed ones too.

    Colour and marker tell the algorithm, dashes the backbone; a dotted line stands where the second stage of training
    begins. Each line has its run's name as its label.
    """
    import matplotlib
    from matplotlib.figure import Figure

    # Without the matplotlibrc of the folder in which the job was started: it could have TeX run.
    with matplotlib.rc_context(matplotlib.rcParamsDefault):
        width, height = PANEL_INCHES
        figure = Figure(figsize=(width * len(panels), height), layout="constrained")
        for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False).flat, panels, strict=True):
            _draw_panel(axes, models, panel)
    return figure


def _save(figure: Figure, kind: str) -> bytes:
    """The figure as a ``png`` or an ``svg``; the same figure gives the same bytes."""
    import matplotlib

    buffer = io.BytesIO()
    with matplotlib.rc_context(matplotlib.rcParamsDefault):
        matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "gluonseg"})
        figure.savefig(buffer, format=kind, transparent=kind == "svg")
    return buffer.getvalue()


def _draw_panel(axes: Axes, models: Sequence[ModelSummary], panel: str) -> None:
    from matplotlib.ticker import MaxNLocator

    dashes, ends = _find_dashes(models), []
    for model in models:
        drawn = [(run, values) for run in model.runs if (values := _read_values(run, panel))]
        for run, values in drawn:
            (line,) = axes.plot(*zip(*values, strict=True), linestyle=dashes[run.backbone], **_style(model))
            line.set_markevery(model.mark.thin(len(values)))
            line.set_label(f"{model.title}, seed {run.seed}{' (failed)' if run.status == FAILED else ''}")
        if drawn:
            ends.append((model, statistics.fmean(values[-1][1] for _, values in drawn)))
    axes.set_title(_build_title(panel, models), loc="left", fontsize=9, fontweight="bold", color=TEXT)
    axes.set_xlabel("epoch", loc="right", fontsize=8, color=QUIET)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.tick_params(length=0, labelsize=8, labelcolor=QUIET)
    axes.grid(axis="y", color=RULE)
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)
    for epoch in find_stages(models):
        axes.axvline(epoch - 0.5, color=QUIET, linestyle=":", linewidth=1)
        at_top = axes.get_xaxis_transform()
        words = axes.annotate("second stage", (epoch - 0.5, 1), (-2, -2), xycoords=at_top, textcoords="offset points")
        words.set(rotation=90, color=QUIET, fontsize=7, horizontalalignment="right", verticalalignment="top")
    _label_ends(axes, ends)


def _style(model: ModelSummary) -> dict[str, Any]:
    edge = {"markeredgecolor": PAGE, "markeredgewidth": 0.6}
    return {"color": model.mark.light, "linewidth": 1.3, "marker": model.mark.symbol, "markersize": 5, **edge}


def spread_labels(positions: Sequence[float], gap: float) -> list[float]:
    """Move positions of 0..1 apart to at least ``gap``, in their order, and below 1 as far as they fit."""
    order = np.argsort(positions, kind="stable")
    steps = gap * np.arange(len(positions))
    placed = np.maximum.accumulate(np.asarray(positions)[order] - steps) + steps
    spread = np.empty(len(positions))
    spread[order] = np.minimum(placed, 1 - gap * (len(positions) - 1) + steps)
    return [float(position) for position in spread]


def _label_ends(axes: Axes, ends: Sequence[tuple[ModelSummary, float]]) -> None:
    """Write each model's name at the mean height at which its lines end."""
    low, high = axes.get_ylim()
    tips = [(value - low) / (high - low) for _, value in ends]
    for (model, _), tip, height in zip(ends, tips, spread_labels(tips, LABEL_GAP), strict=True):
        (leader,) = axes.plot([1, 1.05], [tip, height], transform=axes.transAxes, clip_on=False, **_style(model))
        leader.set(linewidth=0.7, markevery=[1])
        name = axes.text(1.075, height, model.title, transform=axes.transAxes, color=model.mark.light, parse_math=False)
        name.set(fontsize=8, fontweight="bold", verticalalignment="center")


def draw_svgs(models: Sequence[ModelSummary]) -> list[str]:
    """Each panel that has a line, as an SVG element of the page; its points tell their values.

    Its colours are the variables of style.css, so that they follow the page into the dark; its font is the page's.
    The same curves give the same text.
    """
    drawn = [panel for panel in COMPARED_PANELS if any(_read_values(run, panel) for one in models for run in one.runs)]
    return [_draw_svg(models, panel) for panel in drawn]


def _draw_svg(models: Sequence[ModelSummary], panel: str) -> str:
    figure = draw_panels(models, [panel])
    drawn = _save(figure, "svg").decode()
    # The page has its own head and styles, the names of groups would be in it twice, and no line leaves its axes.
    noise = r'^.*?<svg[^>]*>|<(metadata|style|clipPath).*?</\1>| id="[\w.]+_\d+"| clip-path="[^"]*"'
    content = re.sub(noise, "", drawn, flags=re.DOTALL)
    axes, text = figure.axes[0], [f"{_build_title(panel, models)} by epoch"]
    width, height = (72 * inches for inches in PANEL_INCHES)
    for line in axes.lines:
        if not str(line.get_label()).startswith("_"):
            points = np.asarray(line.get_xydata())
            titles = [html.escape(f"{line.get_label()}, epoch {epoch:.0f}: {value:.4f}") for epoch, value in points]
            places = axes.transData.transform(points) * 72 / figure.dpi
            circles = [
                f'<circle cx="{x:.1f}" cy="{height - y:.1f}" r="4"><title>{title}</title></circle>'
                for (x, y), title in zip(places, titles, strict=True)
            ]
            content = content.replace("</svg>", f'<g style="color: {line.get_color()}">{"".join(circles)}</g></svg>')
            text.append(titles[-1])
    for colour, name in (_VARIABLES | {model.mark.light: model.mark.variable for model in models}).items():
        content = content.replace(colour, f"var(--{name})")
    whole = 100 / (axes.get_position().x1 + 0.02)
    size = f"0 0 {width:.0f} {height:.0f}"
    return f'<svg viewBox="{size}" role="img" aria-label="{"; ".join(text)}" style="--whole:{whole:.0f}%">{content}'


def draw_curves(record: RunRecord, path: Path) -> None:
    """Draw loss, validation mIOU and pixel accuracy of a training to the PNG ``path``."""
    write_bytes(path, _save(draw_panels([ModelSummary([record])], tuple(PANELS)), "png"))
