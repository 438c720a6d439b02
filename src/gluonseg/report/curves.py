"""Training curves as a picture."""

from __future__ import annotations

import io
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gluonseg.files import write_bytes


def find_changes(epochs: Sequence[Mapping[str, Any]]) -> list[int]:
    """The epochs of ``curves.json`` entries that are the first of another phase than the one before."""
    pairs = itertools.pairwise(epochs)
    return [int(new.get("epoch", 0)) for old, new in pairs if old.get("phase") != new.get("phase")]


def draw_curves(epochs: Sequence[Mapping[str, Any]], path: Path, title: str) -> None:
    """Draw loss, validation mIOU and pixel accuracy of ``curves.json`` entries to the PNG ``path``.

    A dotted line stands where the second stage of training begins.
    """
    import matplotlib

    # Whatever a matplotlibrc says that lies in the folder in which the job was started: it could have TeX run.
    with matplotlib.rc_context(matplotlib.rcParamsDefault):
        _draw(epochs, path, title)


def _draw(epochs: Sequence[Mapping[str, Any]], path: Path, title: str) -> None:
    # The object interface: pyplot would keep global state and look for a display.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

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
        for number, epoch in enumerate(find_changes(epochs)):
            # A name that begins with _ is left out of the legend.
            label = "_" if number else "second stage begins"
            axes.axvline(epoch - 0.5, color="0.35", linestyle=":", label=label)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.legend()
    figure.suptitle(title)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=110)
    write_bytes(path, picture.getvalue())
