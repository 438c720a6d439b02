"""The report of a comparison: the answer, the tables, the pictures, and what becomes of text from data."""

from __future__ import annotations

import csv
import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gluonseg.compare.record import FAILED, FINISHED, PhotoScore, RunRecord, Score, write_record
from gluonseg.data.channel import encode_palette_png
from gluonseg.data.pairs import match_pairs
from gluonseg.errors import UserError
from gluonseg.report.chart import build_charts, compute_ticks, spread_labels
from gluonseg.report.data import describe_sizes
from gluonseg.report.gallery import choose_photos, compute_disagreement
from gluonseg.report.page import write_model_report, write_report
from gluonseg.report.photo import Picture, encode_pictures, shrink
from gluonseg.report.setting import find_settings
from gluonseg.report.summary import ModelSummary, answer, compute_figure, read_comparison

NAMES = ["sky", "a <b> & |c|", "road", "tree"]
VOID = {"meta", "img", "line", "polyline", "br", "link", "input", "hr"}


def build_score(wrong: int, photos: Mapping[str, float] | None = None) -> Score:
    """Each class has 100 true pixels, ``wrong`` of which are taken for the next class."""
    confusion = [[0] * 4 for _ in range(4)]
    for row in range(4):
        confusion[row][row] = 100 - wrong
        confusion[row][(row + 1) % 4] = wrong
    scores = [PhotoScore(name, miou, miou) for name, miou in (photos or {}).items()]
    return Score(NAMES, confusion, 0.5, scores, 11_900_000, 1.5, [40, 40], 20.0, 50.0, 300.0)


def build_record(algorithm: str, seed: int = 1, wrong: int = 10, **changes: Any) -> RunRecord:
    epochs = [
        {"epoch": epoch, "train_loss": 2.0 / (epoch + 1), "train_throughput": 8.0 + epoch,
         "validation": {"mIOU_builtin": 0.2 + 0.1 * epoch}}
        for epoch in range(3)
    ]  # fmt: skip
    record = RunRecord(
        algorithm, "resnet-18", seed, FINISHED, "", 90.0, 800.0, epochs, {"epochs": "3", "seed": str(seed)},
        {"mxnet": "1.9.1"}, build_score(wrong),
    )  # fmt: skip
    return dataclasses.replace(record, **changes)


def write_comparison(folder: Path, records: Sequence[RunRecord], **settings: Any) -> Path:
    for record in records:
        (folder / "runs" / record.name).mkdir(parents=True)
        write_record(folder / "runs" / record.name, record)
    (folder / "comparison.json").write_text(json.dumps({"format_version": 1, **settings}))
    return folder


@pytest.fixture
def with_photos(drawn_channels: Mapping[str, Path], tmp_path: Path) -> Path:
    """Two models on the drawn photos: PSP predicts class 0 everywhere, FCN the truth but for one photo."""
    pairs = match_pairs(drawn_channels["validation"], drawn_channels["validation_annotation"]).pairs
    scores = {pair.name: 0.3 + 0.2 * number for number, pair in enumerate(pairs)}
    records = [build_record(name, wrong=wrong) for name, wrong in (("fcn", 5), ("psp", 30))]
    records = [dataclasses.replace(record, score=build_score(5, scores)) for record in records]
    settings = {
        "channels": {name: str(path) for name, path in drawn_channels.items()},
        "hardware": {"processor": "A <processor>", "cores": 2},
        "created": "2026-02-03T04:05:06+00:00",
        "data": {"num_training_samples": 9, "pixels": {"train": [10, 20, 30, 40]}},
    }
    folder = write_comparison(tmp_path / "out", records, **settings)
    for record in records:
        masks = folder / "runs" / record.name / "masks"
        masks.mkdir()
        for number, pair in enumerate(pairs):
            with Image.open(pair.label) as picture:
                width, height = picture.size
            mask = np.zeros((height, width), dtype=np.uint8)
            mask[: height * number // 4] = record.algorithm == "fcn"
            (masks / f"{pair.name}.png").write_bytes(encode_palette_png(mask))
    return folder


class _Checker(HTMLParser):
    """Collects what a page would load, its text and its tags; fails on tags that do not match."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []
        self.tags: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.sources += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.text += data


def read_page(path: Path) -> _Checker:
    checker = _Checker()
    checker.feed(path.read_text(encoding="utf-8"))
    assert checker.open == []
    return checker


def test_figure_is_mean_and_sample_deviation() -> None:
    figure = compute_figure([0.5, 0.7, None, float("nan")])
    assert figure is not None
    assert [figure.mean, figure.spread] == pytest.approx([0.6, 0.02**0.5])
    assert figure.count == 2
    alone = compute_figure([0.5])
    assert alone is not None
    assert alone.spread is None
    assert compute_figure([None]) is None


@pytest.mark.parametrize(
    ("wrong", "headline", "caveat"),
    [
        ({"fcn": [5], "psp": [30]}, "FCN resnet-18 scores highest", "One seed each says nothing about the spread"),
        ({"fcn": [5], "psp": [5]}, "FCN resnet-18 and PSP resnet-18 score the same: mIoU 0.905", "One seed each"),
        ({"fcn": [5, 6], "psp": [30]}, "FCN resnet-18 scores highest", "One seed of PSP resnet-18 says nothing"),
        ({"fcn": [5, 6], "psp": [30, 31]}, "FCN resnet-18 is best", "more than the spread over seeds (2 seeds each)"),
        ({"fcn": [5, 20], "psp": [8, 22]}, "FCN resnet-18 and PSP resnet-18 cannot be told apart", "within the spread"),
        ({"fcn": [5]}, "FCN resnet-18 reaches mIoU 0.905", "One seed says nothing"),
        ({"fcn": [5, 6]}, "FCN resnet-18 reaches mIoU 0.896", "Spread over 2 seeds"),
        ({}, "No run has finished yet", ""),
    ],
)
def test_answer(tmp_path: Path, wrong: Mapping[str, Sequence[int]], headline: str, caveat: str) -> None:
    records = [
        build_record(name, seed, count) for name, counts in wrong.items() for seed, count in enumerate(counts, 1)
    ]
    found = answer(read_comparison(write_comparison(tmp_path, records)))
    assert found.headline.startswith(headline)
    assert caveat in found.caveat


def test_equal_models_cannot_be_told_apart(tmp_path: Path) -> None:
    records = [build_record(name, seed) for name in ("fcn", "psp") for seed in (1, 2)]
    found = answer(read_comparison(write_comparison(tmp_path, records)))
    assert "cannot be told apart" in found.headline


def test_answer_counts_photos(with_photos: Path) -> None:
    comparison = read_comparison(with_photos)
    better = dataclasses.replace(build_score(5), photos=[PhotoScore("x", 0.9, 0.9), PhotoScore("y", 0.2, 0.2)])
    worse = dataclasses.replace(build_score(9), photos=[PhotoScore("x", 0.5, 0.5), PhotoScore("y", 0.3, 0.3)])
    records = [
        dataclasses.replace(run, score=score) for run, score in zip(comparison.records, (better, worse), strict=True)
    ]
    found = answer(dataclasses.replace(comparison, records=records))
    assert "FCN resnet-18 scores higher than PSP resnet-18 on 1 of 2" in found.caveat


def test_page_needs_nothing_else(with_photos: Path) -> None:
    page = read_page(write_report(with_photos))
    assert page.tags.count("img") > 10
    assert all(source.startswith("data:image/webp;base64,") for source in page.sources)
    text = (with_photos / "report.html").read_text(encoding="utf-8")
    assert "http" not in re.sub(r"<meta http-equiv=\"Content-Security-Policy\"[^>]*>", "", text)
    assert "@import" not in text
    assert "script" not in page.tags
    assert "url(" not in text


def test_page_says_what_was_run(with_photos: Path) -> None:
    text = read_page(write_report(with_photos)).text
    for wanted in (
        "3 February 2026, 04:05 UTC",
        "1.9.1",
        "A <processor>",
        "33×45 to 38×47, median 38×43",
        "40.0 %",
        "worst of FCN",
    ):
        assert wanted in text


def test_text_from_data_is_escaped(tmp_path: Path) -> None:
    name = "<script>alert('x')</script>"
    score = dataclasses.replace(build_score(5), class_names=[name, *NAMES[1:]])
    failed = RunRecord("psp", "resnet-18", 1, FAILED, "no memory <img src=x> | & more")
    folder = write_comparison(tmp_path, [build_record("fcn", score=score), failed], hardware={"<i>": "<u>"})
    page = read_page(write_report(folder))
    assert name in page.text
    assert failed.error in page.text
    assert not {"script", "img", "b", "u"} & set(page.tags)
    markdown = (folder / "report.md").read_text(encoding="utf-8")
    assert "<script>" not in markdown
    assert r"no memory \<img src=x\> \| \& more" in markdown
    rows = [line for line in markdown.splitlines() if line.startswith(r"| a \<b")]
    assert [row.replace(r"\|", "").count("|") for row in rows] == [3]


def test_failed_run_keeps_its_row(tmp_path: Path) -> None:
    failed = RunRecord("psp", "resnet-50", 2, FAILED, "killed by SIGKILL")
    folder = write_comparison(tmp_path, [build_record("fcn"), failed], runs=[["fcn", "resnet-18", 1]] * 4)
    text = read_page(write_report(folder)).text
    assert "1 of 4 runs finished, 1 failed, 2 still to come" in text
    assert "psp_resnet-50_seed2" in text
    with (folder / "report.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["rank"], row["status"], row["error"]) for row in rows] == [
        ("1", "finished", ""),
        ("", "failed", "killed by SIGKILL"),
    ]
    assert float(rows[0]["miou"]) == pytest.approx(90 / 110)
    assert float(rows[0]["IoU a <b> & |c|"]) == pytest.approx(90 / 110)


def test_json_ranks_models(tmp_path: Path) -> None:
    records = [build_record("psp", 1, 4), build_record("fcn", 1, 20), build_record("fcn", 2, 30)]
    write_report(write_comparison(tmp_path, records))
    content = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert [(model["rank"], model["name"]) for model in content["models"]] == [
        (1, "psp resnet-18"),
        (2, "fcn resnet-18"),
    ]
    second = content["models"][1]
    assert second["metrics"]["miou"]["mean"] == pytest.approx((80 / 120 + 70 / 130) / 2)
    assert second["metrics"]["builtin_miou"]["mean"] == pytest.approx(0.4)
    assert second["metrics"]["train_images_per_second"]["mean"] == 9.0
    assert second["confusion"][0] == [150, 50, 0, 0]
    assert [run["seed"] for run in second["runs"]] == [1, 2]


@pytest.mark.parametrize("settings", [{}, {"channels": {"validation": "/nowhere"}, "colours": [[1, 2, 3]]}])
def test_report_without_photos_and_settings(tmp_path: Path, settings: Mapping[str, Any]) -> None:
    page = read_page(write_report(write_comparison(tmp_path, [build_record("fcn"), build_record("psp")], **settings)))
    assert "img" not in page.tags
    assert "no longer where they were" in page.text


def test_report_before_the_first_run(tmp_path: Path) -> None:
    folder = write_comparison(tmp_path, [], runs=[["fcn", "resnet-18", 1]], class_names=NAMES)
    text = read_page(write_report(folder)).text
    assert "No run has finished yet" in text
    assert "0 of 1 runs finished, 1 still to come" in text


def test_class_found_nowhere_and_missing_boundary(tmp_path: Path) -> None:
    confusion = [[5, 1, 0, 0], [0, 9, 0, 0], [0] * 4, [0] * 4]
    score = dataclasses.replace(build_score(5), confusion=confusion, boundary_f=None)
    folder = write_comparison(tmp_path, [build_record("fcn", score=score)])
    read_page(write_report(folder))
    model = json.loads((folder / "report.json").read_text())["models"][0]
    assert model["class_IoU"]["road"] is None
    assert model["metrics"]["boundary_f"] is None


def test_damaged_comparison_is_named(tmp_path: Path) -> None:
    (tmp_path / "comparison.json").write_text("{")
    with pytest.raises(UserError, match=r"comparison\.json"):
        write_report(tmp_path)
    with pytest.raises(UserError, match="no comparison, no run and no model"):
        write_report(tmp_path / "elsewhere")


def test_disagreement_is_the_share_of_pixels(with_photos: Path) -> None:
    comparison = read_comparison(with_photos)
    names = sorted(comparison.models[0].photo_miou)
    found = compute_disagreement(comparison, [*names, "no such photo"])
    assert [found[name] for name in names] == pytest.approx([0.0, 0.25, 0.5], abs=0.03)


def test_chosen_photos(with_photos: Path) -> None:
    models = read_comparison(with_photos).models
    names = sorted(models[0].photo_miou)
    chosen = choose_photos(models, {names[1]: 0.25})
    assert list(chosen) == [names[1], names[0], names[2]]
    assert chosen[names[1]][0] == "models disagree on 25% of the pixels"
    assert chosen[names[0]] == ["worst of FCN resnet-18", "worst of PSP resnet-18"]
    assert chosen[names[2]] == ["best of FCN resnet-18", "best of PSP resnet-18"]


@pytest.mark.parametrize("damage", ["missing", "broken", "other size"])
def test_unusable_mask_is_left_grey(with_photos: Path, damage: str) -> None:
    for path in with_photos.glob("runs/psp*/masks/*.png"):
        if damage == "missing":
            path.unlink()
        else:
            small = encode_palette_png(np.zeros((7, 9), dtype=np.uint8))
            path.write_bytes(b"no picture" if damage == "broken" else small)
    page = read_page(write_report(with_photos))
    assert page.tags.count("img") > 5
    assert "disagree" not in page.text


def test_pictures_fit_the_budget() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (400, 300, 3), dtype=np.uint8)
    pictures = [Picture(noise, str(number)) for number in range(4)]
    large = encode_pictures(pictures)
    small = encode_pictures(pictures, budget=len(large[0].uri) * 2)
    assert (large[0].height, large[0].width) == (320, 240)
    assert small[0].height < large[0].height
    assert sum(len(one.uri) * 3 // 4 for one in small) <= len(large[0].uri) * 2


def test_masks_shrink_without_new_classes() -> None:
    mask = np.zeros((640, 480), dtype=np.uint8)
    mask[:, 240:] = 7
    small = shrink(mask, 320, smooth=False)
    assert small.shape == (320, 240)
    assert set(np.unique(small)) == {0, 7}


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (0.31, 0.58, [0.3, 0.4, 0.5, 0.6]),
        (3, 3, None),
        (0, 35, [0, 10, 20, 30, 40]),
    ],
)
def test_ticks_are_round_and_enclose(low: float, high: float, ticks: list[float] | None) -> None:
    found = compute_ticks(low, high)
    assert found[0] <= low <= high <= found[-1]
    assert ticks is None or found == pytest.approx(ticks)


def test_labels_do_not_overlap() -> None:
    found = spread_labels([50, 52, 51, 99], 10, 0, 100)
    assert sorted(found) == sorted(found, key=lambda y: y)
    assert np.diff(sorted(found)).min() >= 10
    assert max(found) <= 100
    assert found[0] < found[2] < found[1] < found[3]


def test_chart_has_a_line_a_run_and_skips_missing_values() -> None:
    epochs = [{"epoch": 0, "train_loss": None}, {"epoch": 1, "train_loss": 0.5}, {"epoch": 2, "train_loss": 0.25}]
    models = [
        ModelSummary([build_record("fcn", epochs=epochs), build_record("fcn", 2)]),
        ModelSummary([build_record("psp", epochs=[])]),
    ]
    loss, miou = build_charts(models)
    assert [len(line.points) for line in loss.lines] == [2, 3]
    assert [label.text for label in loss.labels] == ["FCN resnet-18"]
    assert loss.lines[0].points[-1].title == "FCN resnet-18, seed 1, epoch 2: 0.2500"
    assert len(miou.lines) == 1


@pytest.mark.parametrize(
    ("sizes", "text"),
    [([], ""), ([(4, 3), (4, 3)], "all 4×3"), ([(2, 2), (9, 9), (4, 5)], "2×2 to 9×9, median 4×5")],
)
def test_sizes_in_words(sizes: list[tuple[int, int]], text: str) -> None:
    assert describe_sizes(sizes) == text


def test_settings_are_those_off_their_defaults(tmp_path: Path) -> None:
    given = {"momentum": "0.90", "crop_size": "64", "early_stopping": "false", "num_classes": "4"}
    records = [
        build_record(name, hyperparameters={**given, "epochs": epochs}) for name, epochs in (("fcn", "3"), ("psp", "5"))
    ]
    found = {one.name: one.value for one in find_settings(read_comparison(write_comparison(tmp_path, records)))}
    assert found == {
        "crop_size": "64",
        "epochs": "fcn_resnet-18_seed1: 3; psp_resnet-18_seed1: 5",
        "num_classes": "4",
    }


def test_report_of_a_model(trained_model: Path, tmp_path: Path, drawn_channels: Mapping[str, Path]) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("model_card.json", "curves.json"):
        (folder / name).write_bytes((trained_model / name).read_bytes())
    page = read_page(write_report(folder))
    assert "FCN resnet‑18 reaches mIoU" in page.text
    assert "Scores on whole validation photos" in page.text
    assert page.tags.count("svg") == 2
    page = read_page(write_model_report(folder, drawn_channels))
    assert "Training photos under their masks" in page.text


def test_report_of_a_run(with_photos: Path, trained_model: Path) -> None:
    run = with_photos / "runs" / "fcn_resnet-18_seed1"
    (run / "model").mkdir()
    (run / "model" / "model_card.json").write_bytes((trained_model / "model_card.json").read_bytes())
    page = read_page(write_report(run))
    assert "Confusion matrix" in page.text
    assert "worst of FCN resnet-18" in page.text
    assert "disagree" not in page.text
    assert page.tags.count("img") > 5
