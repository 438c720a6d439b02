"""The curves, as the page, a job and a notebook show them, and the other figures of a notebook."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from PIL import Image

from gluonseg.data.channel import encode_palette_png
from gluonseg.data.decode import read_label
from gluonseg.data.pairs import match_pairs
from gluonseg.predict.score import PhotoScore, Score
from gluonseg.report.comparison import Comparison
from gluonseg.report.curves import draw_curves as draw_picture
from gluonseg.report.curves import draw_svgs, spread_labels
from gluonseg.report.figure import draw_confusions, draw_curves, draw_gallery, draw_pairs
from gluonseg.report.mark import MAX_MARKERS, build_mark
from gluonseg.report.record import FAILED, FINISHED, RunRecord

NAMES = ("background", "disc", "box", "triangle")


def build_record(
    algorithm: str,
    seed: int = 1,
    names: Sequence[str] = NAMES,
    losses: Sequence[float | None] = (1.0, 0.5),
    photos: Sequence[str] = (),
) -> RunRecord:
    """Three quarters of each class are predicted right, the rest as the next class."""
    confusion = 75 * np.eye(len(names), dtype=int) + 25 * np.roll(np.eye(len(names), dtype=int), 1, axis=1)
    scored = [PhotoScore(name, 0.5, 0.5) for name in photos]
    score = Score(names, confusion.tolist(), 0.5, scored, 11_900_000, 1.5, [40, 40], 20.0, 50.0, 300.0)
    epochs: list[Mapping[str, Any]] = [
        {"epoch": epoch, "train_loss": loss, "validation": {"mIOU_builtin": 0.1 * epoch}}
        for epoch, loss in enumerate(losses)
    ]
    return RunRecord(algorithm, "resnet-18", seed, FINISHED, epochs=epochs, score=score)


def build_comparison(*records: RunRecord, channels: Mapping[str, Path] | None = None, folder: Path) -> Comparison:
    settings = {"channels": {name: str(path) for name, path in (channels or {}).items()}}
    return Comparison(folder, settings, records, {record.name: folder / record.name for record in records})


def list_texts(figure: Figure) -> list[str]:
    """The texts on the figure itself and in its legends."""
    legends = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    return legends + [text.get_text() for text in figure.texts]


def test_photos_are_shown_above_their_masks(drawn_channels: Mapping[str, Path]) -> None:
    figure = draw_pairs(drawn_channels, count=3)
    upper, lower = figure.axes[:3], figure.axes[3:]
    names = [pair.name for pair in match_pairs(drawn_channels["train"], drawn_channels["train_annotation"]).pairs]
    assert [axes.get_xlabel() for axes in upper] == names[::3]
    for above, below in zip(upper, lower, strict=True):
        photo, masked = (np.asarray(axes.get_images()[0].get_array()) for axes in (above, below))
        assert photo.shape == masked.shape
        assert (photo != masked).any()
    assert list_texts(figure) == list(NAMES)
    patches = draw_pairs(drawn_channels, count=1, palette="camvid").legends[0].get_patches()
    assert to_hex(patches[0].get_facecolor()) == "#808080", "CamVid's first colour"


def test_classes_without_names_are_numbered(drawn_channels: Mapping[str, Path]) -> None:
    unnamed = {name: path for name, path in drawn_channels.items() if name != "label_map"}
    assert len(list_texts(draw_pairs(unnamed, split="validation", count=9))) == len(NAMES)


def test_confusions_are_shares_of_the_true_class(tmp_path: Path) -> None:
    records = [build_record(name) for name in ("fcn", "psp", "deeplab")]
    panels = draw_confusions(build_comparison(*records, folder=tmp_path)).axes
    assert [axes.get_title(loc="left") for axes in panels] == ["DeepLab resnet-18", "FCN resnet-18", "PSP resnet-18"]
    for axes in panels:
        assert [text.get_text() for text in axes.texts[:4]] == ["0.75", "0.25", "0.00", "0.00"]
        assert [label.get_text() for label in axes.get_yticklabels()] == list(NAMES)


def test_many_classes_have_no_numbers_and_spare_panels_are_hidden(tmp_path: Path) -> None:
    names = [f"class {number}" for number in range(20)]
    records = [build_record(algorithm, names=names) for algorithm in ("a", "b", "c", "d")]
    panels = draw_confusions(build_comparison(*records, folder=tmp_path)).axes
    assert [axes.get_visible() for axes in panels] == [True] * 4 + [False] * 2
    assert not any(axes.texts for axes in panels)


def test_the_gallery_has_a_row_a_photo(drawn_channels: Mapping[str, Path], tmp_path: Path) -> None:
    pairs = match_pairs(drawn_channels["validation"], drawn_channels["validation_annotation"]).pairs
    records = [build_record(algorithm, photos=[pair.name for pair in pairs]) for algorithm in ("fcn", "psp")]
    comparison = build_comparison(*records, channels=drawn_channels, folder=tmp_path)
    for record in records:
        masks = tmp_path / record.name / "masks"
        masks.mkdir(parents=True)
        for pair in pairs:
            mask = read_label(pair.label)
            (masks / f"{pair.name}.png").write_bytes(encode_palette_png(mask * (record.algorithm == "fcn")))
    figure = draw_gallery(comparison)
    captions = [axes.get_xlabel() for axes in figure.axes]
    assert captions[:4] == ["Photo", "Truth", "FCN resnet-18 0.500", "PSP resnet-18 0.500"]
    assert len(captions) % len(pairs) == 0
    titles = [str(part.get_suptitle()).strip() for part in figure.subfigs]
    assert "models disagree on" in titles[0]
    assert {title.partition(":")[0] for title in titles} == {pair.name for pair in pairs}


def test_the_gallery_says_that_the_photos_are_gone(tmp_path: Path) -> None:
    figure = draw_gallery(build_comparison(build_record("fcn", photos=["a"]), folder=tmp_path))
    assert "no longer where they were" in list_texts(figure)[-1]


def test_dollar_signs_in_names_are_no_formula(tmp_path: Path, drawn_channels: Mapping[str, Path]) -> None:
    names = ["a_$1_$2", r"$\foo$", "c", "d"]
    channels = {name: tmp_path / name for name in ("validation", "validation_annotation")}
    pair = match_pairs(drawn_channels["validation"], drawn_channels["validation_annotation"]).pairs[0]
    for folder, path in zip(channels.values(), (pair.image, pair.label), strict=True):
        folder.mkdir()
        (folder / f"img_$1_$2{path.suffix}").write_bytes(path.read_bytes())
    record = build_record("fcn", names=names, photos=["img_$1_$2"])
    comparison = build_comparison(record, channels=channels, folder=tmp_path)
    figures = [draw_confusions(comparison), draw_gallery(comparison), draw_pairs(channels, split="validation")]
    for number, figure in enumerate(figures):
        figure.savefig(tmp_path / f"{number}.png")
    assert next(axes.get_xlabel() for axes in figures[2].axes) == r"img_\$1_\$2"


# Curves: one drawing for all three.


def list_runs(axes: Axes) -> list[Line2D]:
    """The lines that stand for runs."""
    return [line for line in axes.lines if not str(line.get_label()).startswith("_")]


def stage(record: RunRecord) -> RunRecord:
    """The run with a second stage from its second epoch on."""
    epochs = [{**entry, "phase": "all" if entry["epoch"] else "head"} for entry in record.epochs]
    return dataclasses.replace(record, epochs=epochs)


def test_curves_have_a_line_a_run_a_mark_an_algorithm_and_dashes_a_backbone(tmp_path: Path) -> None:
    failed = dataclasses.replace(build_record("psp"), score=None, status=FAILED)
    deep = dataclasses.replace(build_record("fcn"), backbone="resnet-50")
    records = [build_record("fcn", 1), build_record("fcn", 2, losses=[1.0, None, math.nan, 0.3]), deep, failed]
    loss, miou = draw_curves(build_comparison(*records, folder=tmp_path)).axes
    drawn = {str(line.get_label()): line for line in list_runs(loss)}
    assert list(drawn) == [
        "FCN resnet-18, seed 1", "FCN resnet-18, seed 2", "FCN resnet-50, seed 1", "PSP resnet-18, seed 1 (failed)",
    ]  # fmt: skip
    marks = [(to_hex(str(line.get_color())), line.get_marker()) for line in drawn.values()]
    assert marks == [(mark.light, mark.symbol) for mark in map(build_mark, (0, 0, 0, 1))]
    assert [line.get_linestyle() for line in drawn.values()] == ["-", "-", "--", "-"]
    # Epochs without a loss are left out.
    assert np.asarray(drawn["FCN resnet-18, seed 2"].get_xydata()).tolist() == [[0, 1.0], [3, 0.3]]
    assert np.asarray(list_runs(miou)[1].get_ydata()) == pytest.approx([0.0, 0.1, 0.2, 0.3])
    assert [text.get_text() for text in loss.texts] == ["FCN resnet-18", "FCN resnet-50", "PSP resnet-18"]


def test_the_second_stage_begins_at_a_line(tmp_path: Path) -> None:
    panels = draw_curves(build_comparison(stage(build_record("fcn")), folder=tmp_path)).axes
    assert [np.asarray(axes.lines[1].get_xdata()).tolist() for axes in panels] == [[0.5, 0.5]] * 2
    assert all(axes.texts[0].get_text() == "second stage" for axes in panels)


def test_long_lines_have_few_markers_and_not_at_the_same_points(tmp_path: Path) -> None:
    records = [build_record(name, losses=[1.0] * 100) for name in ("fcn", "psp")]
    lines = list_runs(draw_curves(build_comparison(*records, folder=tmp_path)).axes[0])
    starts, steps = np.asarray([line.get_markevery() for line in lines]).T.tolist()
    first, second = (set(range(start, 100, step)) for start, step in zip(starts, steps, strict=True))
    assert MAX_MARKERS // 2 < len(first) <= MAX_MARKERS
    assert not first & second


def test_labels_do_not_overlap() -> None:
    found = spread_labels([0.5, 0.52, 0.51, 0.99], 0.1)
    assert np.diff(sorted(found)).min() >= 0.1 - 1e-9
    assert found[0] < found[2] < found[1] < found[3] <= 1


def test_curves_of_the_page_tell_their_values_in_the_colours_of_the_page(tmp_path: Path) -> None:
    records = [build_record("fcn", losses=[None, None]), build_record("a<b>")]
    models = build_comparison(*records, folder=tmp_path).trained
    loss, miou = draw_svgs(models)
    assert draw_svgs(models) == [loss, miou]
    root = ElementTree.fromstring(miou.replace("xlink:", ""))
    titles = [title.text for title in root.iter("title")]
    assert titles[:2] == ["a<b> resnet-18, seed 1, epoch 0: 0.0000", "a<b> resnet-18, seed 1, epoch 1: 0.1000"]
    assert titles[2:] == ["FCN resnet-18, seed 1, epoch 0: 0.0000", "FCN resnet-18, seed 1, epoch 1: 0.1000"]
    assert root.get("aria-label") == f"Validation mIOU (centre crops) by epoch; {titles[1]}; {titles[3]}"
    # A tooltip's place is that of the line's point: both runs have the same values.
    first, second = (list(group.iter("circle")) for group in root.findall("g[@style]"))
    assert [(one.get("cx"), one.get("cy")) for one in first] == [(one.get("cx"), one.get("cy")) for one in second]
    assert {f"var(--{model.mark.variable})" in miou for model in models} == {True}
    assert not re.search("#[0-9a-f]{6}|http|<style", miou)
    assert "FCN" not in loss
    assert draw_svgs([]) == []


def test_a_job_has_its_curves_as_a_picture(tmp_path: Path) -> None:
    draw_picture(stage(build_record("fcn")), tmp_path / "curves.png")
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.size == (1560, 320)
        assert len(picture.convert("L").getcolors() or ()) > 1
