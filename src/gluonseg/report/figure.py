"""The pictures of a comparison as matplotlib figures, for notebooks."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from PIL import Image

from gluonseg.data.label_channel import read_label_maps
from gluonseg.data.palettes import choose_palette
from gluonseg.labels import IGNORE, default_class_names, voc_colours
from gluonseg.predict.overlay import UNTINTED, choose_colours, format_colour
from gluonseg.report.comparison import Colour, Comparison, ModelSummary
from gluonseg.report.curves import draw_panels
from gluonseg.report.gallery import GalleryRow, build_gallery
from gluonseg.report.photo import Album, Encoded, UInt8Array, choose_spread, overlay

CELL = 2.3
"""Width of a picture, in inches."""
MAX_COLUMNS = 3
MAX_NUMBERED = 12
"""Classes up to which a confusion matrix has its numbers written in."""
MAX_LEGEND = 21


def _escape(text: str) -> str:
    """Text that matplotlib takes for no formula: it would for what stands between two dollar signs."""
    return text.replace("$", r"\$")


def _add_legend(figure: Figure, names: Sequence[str], colours: Sequence[Colour]) -> None:
    """The classes' colours, above the pictures; white for one that leaves the photo as it is."""
    faces = ["#ffffff" if colour == UNTINTED else format_colour(colour) for colour in colours]
    shown = list(zip(names, faces, strict=False))[:MAX_LEGEND]
    patches = [Patch(facecolor=face, edgecolor="0.6", label=_escape(name)) for name, face in shown]
    figure.legend(handles=patches, loc="outside upper left", ncols=min(7, len(patches)), frameon=False, fontsize=9)


def _show(axes: Axes, image_hwc: UInt8Array, caption: str) -> None:
    axes.imshow(image_hwc)
    axes.set_xlabel(_escape(caption), fontsize=8)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


def draw_pairs(
    channels: Mapping[str, Path],
    *,
    split: str = "train",
    count: int = 5,
    ignore_label: int = IGNORE,
    palette: str | None = None,
) -> Figure:
    """Photos of a channel, evenly spread over it, and below each the same under its mask.

    Args:
        channels: channel name -> folder; ``label_map`` is obeyed where there is one.
        split: ``train`` or ``validation``.
        count: at most so many photos.
        ignore_label: as the hyperparameter.
        palette: as the hyperparameter.
    """
    album = Album({"channels": channels, "hyperparameters": {"ignore_label": ignore_label}})
    pairs = album.find_pairs(split)
    found = [(pair.name, album.read(pair, split)) for pair in choose_spread(pairs, count)]
    shown = [(name, *read) for name, read in found if read is not None]
    class_ids = [int(mask[mask != IGNORE].max(initial=0)) for _, _, mask in shown]
    names = read_label_maps(channels.get("label_map"), ignore_label).class_names
    names = names or default_class_names(max(class_ids, default=0) + 1)
    colours = choose_palette(palette, len(names)) if palette else choose_colours(names, voc_colours(len(names)))
    figure = Figure(figsize=(CELL * max(1, len(shown)), 2 * CELL + 0.4), layout="constrained")
    grid = figure.subplots(2, max(1, len(shown)), squeeze=False)
    for (upper, lower), (name, image, mask) in zip(grid.T, shown, strict=False):
        _show(upper, image, name)
        _show(lower, overlay(image, mask, colours), "")
    _add_legend(figure, names, colours)
    return figure


def draw_curves(comparison: Comparison) -> Figure:
    """Training loss and the built-in's validation mIOU of all runs, failed ones too, as on the page."""
    return draw_panels(comparison.trained)


def draw_confusions(comparison: Comparison) -> Figure:
    """The confusion matrix of each model: of a true class's pixels (a row), the share given to each class."""
    models, names = comparison.models, comparison.class_names
    columns = max(1, min(MAX_COLUMNS, len(models)))
    rows = max(1, -(-len(models) // columns))
    figure = Figure(figsize=(3.7 * columns, 3.6 * rows), layout="constrained")
    grid = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes, model in zip(grid, models, strict=False):
        _draw_confusion(axes, model, names)
    for axes in grid[len(models) :]:
        axes.set_visible(False)
    return figure


def _draw_confusion(axes: Axes, model: ModelSummary, names: Sequence[str]) -> None:
    shares = model.confusion.compute_row_shares()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_title(_escape(model.title), loc="left", fontsize=10)
    axes.set(xlabel="predicted", ylabel="true")
    is_crowded = len(names) > MAX_NUMBERED
    places, size = range(len(names)), 6 if is_crowded else 9
    titles = [_escape(name) for name in names]
    axes.set_xticks(places, titles, fontsize=size, rotation=90 if len(names) > 4 else 0)
    axes.set_yticks(places, titles, fontsize=size)
    for (row, column), share in np.ndenumerate(shares if not is_crowded else shares[:0]):
        colour = "white" if share > 0.55 else "black"
        axes.text(column, row, f"{share:.2f}", ha="center", va="center", color=colour, fontsize=size)


def draw_gallery(comparison: Comparison) -> Figure:
    """The photos of the page's gallery: each with its truth and every model's mask, and why it was chosen."""
    return _draw_rows(build_gallery(comparison, Album(comparison.settings)).rows, comparison)


def _draw_rows(rows: Sequence[GalleryRow], comparison: Comparison) -> Figure:
    heights = [0.65 + CELL * min(1.1, max(one.height / one.width for one in row.pictures)) for row in rows]
    columns = max((len(row.pictures) for row in rows), default=2)
    figure = Figure(figsize=(CELL * columns, sum(heights) + 0.4), layout="constrained")
    _add_legend(figure, comparison.class_names, comparison.colours)
    if not rows:
        figure.text(0.01, 0.1, "The validation photos are no longer where they were, so none are shown.")
        return figure
    parts = figure.subfigures(len(rows), 1, height_ratios=heights, squeeze=False).flat
    for part, row in zip(parts, rows, strict=True):
        # The empty line keeps the title away from the captions of the row above.
        title = f"\n{row.name}: {', '.join(row.reasons)}"
        part.suptitle(_escape(title), x=0.01, ha="left", fontsize=9, fontweight="bold", wrap=True)
        for axes, picture in zip(part.subplots(1, columns, squeeze=False).flat, row.pictures, strict=False):
            _show(axes, _decode(picture), f"{picture.caption} {picture.note}".strip())
    return figure


def _decode(picture: Encoded) -> UInt8Array:
    with Image.open(io.BytesIO(base64.b64decode(picture.uri.partition(",")[2]))) as image:
        return np.asarray(image.convert("RGB"))
