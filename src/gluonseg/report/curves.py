"""Training curves as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gluonseg.atomic import replacing_file


def draw_curves(epochs: Sequence[Mapping[str, Any]], path: Path, title: str) -> None:
    """Draw loss, validation mIOU and pixel accuracy of ``curves.json`` entries to the PNG ``path``."""
    # The object interface: pyplot would keep global state and look for a display.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    loss_axes, quality_axes = figure.subplots(1, 2)
    numbers = [entry["epoch"] for entry in epochs]
    loss_axes.plot(numbers, [entry["train_loss"] for entry in epochs], marker=".", label="train loss")
    quality = {"mIOU": "mIOU_builtin", "pixel accuracy": "pixel_accuracy"}
    for label, key in quality.items():
        values = [entry["validation"][key] for entry in epochs]
        quality_axes.plot(numbers, values, marker=".", label=f"validation {label}")
    quality_axes.set_ylim(0, 1)
    for axes in (loss_axes, quality_axes):
        axes.set_xlabel("epoch")
        axes.grid(alpha=0.3)
        axes.legend()
    figure.suptitle(title)
    with replacing_file(path) as partial:
        figure.savefig(partial, format="png", dpi=110)
