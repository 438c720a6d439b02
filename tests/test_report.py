"""The report of a comparison: the answer, the tables, the pictures, and what becomes of text from data."""

from __future__ import annotations

import csv
import dataclasses
import json
import re
import shutil
import tarfile
from collections.abc import Mapping, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gluonseg.data.channel import encode_palette_png
from gluonseg.data.pairs import match_pairs
from gluonseg.errors import DataError, UserError
from gluonseg.labels import default_class_names, voc_colours
from gluonseg.models.registry import get_networks
from gluonseg.predict.overlay import UNTINTED, choose_colours, draw_overlay
from gluonseg.predict.score import PhotoScore, Score
from gluonseg.report.columns import compute_seed_mean
from gluonseg.report.comparison import ModelSummary, read_comparison
from gluonseg.report.data_facts import describe_sizes
from gluonseg.report.gallery import choose_photos
from gluonseg.report.mark import COLOURS, build_mark
from gluonseg.report.page import write_comparison_report, write_model_report
from gluonseg.report.photo import Album, Picture, choose_spread, encode_pictures
from gluonseg.report.record import FAILED, FINISHED, RunRecord, write_record
from gluonseg.report.run_facts import find_settings
from gluonseg.report.source import write_source_report
from gluonseg.report.strip import build_strip, compute_ticks
from gluonseg.report.verdict import Verdict, build_verdict, compute_gap

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


def answer_runs(folder: Path, wrong: Mapping[str, Sequence[int]], **settings: Any) -> Verdict:
    """Of a comparison of runs with so many wrong pixels, by algorithm and seed."""
    records = [build_record(name, seed, count) for name, pair in wrong.items() for seed, count in enumerate(pair, 1)]
    return build_verdict(read_comparison(write_comparison(folder, records, **settings)))


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
        self.names: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.names += [value or "" for name, value in attrs if name == "id"]
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


def test_number_over_seeds_is_mean_and_sample_deviation() -> None:
    figure = compute_seed_mean([0.5, 0.7, None, float("nan")])
    assert figure is not None
    assert [figure.mean, figure.spread] == pytest.approx([0.6, 0.02**0.5])
    assert figure.count == 2
    alone = compute_seed_mean([0.5])
    assert alone is not None
    assert alone.spread is None
    assert compute_seed_mean([None]) is None


@pytest.mark.parametrize(
    ("wrong", "headline", "caveat"),
    [
        ({"fcn": [5], "psp": [30]}, "FCN resnet-18 scores highest", "One seed each says nothing about the spread"),
        ({"fcn": [5], "psp": [5]}, "FCN resnet-18 and PSP resnet-18 score the same: mIoU 0.905", "One seed each"),
        ({"fcn": [5, 6], "psp": [30]}, "FCN resnet-18 scores highest", "One seed of PSP resnet-18 says nothing"),
        ({"fcn": [5, 6], "psp": [30, 31]}, "FCN resnet-18 is best", "more than the spread over seeds (2 seeds each)"),
        ({"fcn": [5, 20], "psp": [8, 22]}, "FCN resnet-18 and PSP resnet-18 cannot be told apart", "within the spread"),
        ({"fcn": [5, 20], "psp": [8, 22], "deeplab": [9, 23]}, "FCN", "So is that to DeepLab resnet-18."),
        ({"fcn": [5]}, "FCN resnet-18 reaches mIoU 0.905", "One seed says nothing"),
        ({"fcn": [5, 6]}, "FCN resnet-18 reaches mIoU 0.896", "Spread over 2 seeds"),
        ({}, "No run has finished yet", ""),
    ],
)
def test_answer(tmp_path: Path, wrong: Mapping[str, Sequence[int]], headline: str, caveat: str) -> None:
    found = answer_runs(tmp_path, wrong)
    assert found.headline.startswith(headline)
    assert caveat in found.caveat


def test_page_needs_nothing_else(with_photos: Path) -> None:
    page = read_page(write_comparison_report(with_photos))
    assert page.tags.count("img") > 10
    links = {source for source in page.sources if not source.startswith("data:image/webp;base64,")}
    assert links == {f"#{name}" for name in page.names}
    text = (with_photos / "report.html").read_text(encoding="utf-8")
    assert "http" not in re.sub(r"<meta http-equiv=\"Content-Security-Policy\"[^>]*>", "", text)
    assert "@import" not in text
    assert "script" not in page.tags
    assert "url(" not in text


def test_page_says_what_was_run(with_photos: Path) -> None:
    text = read_page(write_comparison_report(with_photos)).text
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
    page = read_page(write_comparison_report(folder))
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
    text = read_page(write_comparison_report(folder)).text
    assert "2 of 4 runs are still to come. PSP resnet-50 failed." in text
    assert "psp_resnet-50_seed2" in text
    with (folder / "report.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["rank"], row["status"], row["error"]) for row in rows] == [
        ("1", "finished", ""),
        ("", "failed", "killed by SIGKILL"),
    ]
    assert float(rows[0]["miou"]) == pytest.approx(90 / 110)
    assert float(rows[0]["IoU a <b> & |c|"]) == pytest.approx(90 / 110)


@pytest.mark.parametrize(
    ("wrong", "text", "is_within"),
    [
        ({"fcn": [5], "psp": [6]}, "0.018 behind, spread unknown", None),
        ({"fcn": [5, 20], "psp": [8, 22]}, "0.040 behind, within the spread", True),
        ({"fcn": [5, 6], "psp": [30, 31]}, "0.363 behind, more than the spread", False),
    ],
)
def test_gap_to_the_first(
    tmp_path: Path, wrong: Mapping[str, Sequence[int]], text: str, is_within: bool | None
) -> None:
    answer_runs(tmp_path, wrong)
    first, second = read_comparison(tmp_path).models
    gap = compute_gap(first, second)
    assert gap is not None
    assert (gap.text, gap.is_within_spread) == (text, is_within)
    assert compute_gap(first, first) is None
    page = read_page(write_comparison_report(tmp_path))
    assert text.split(", ")[1] in page.text
    assert json.loads((tmp_path / "report.json").read_text())["models"][1]["behind_first"]["within_spread"] is is_within


def test_json_ranks_models(tmp_path: Path) -> None:
    records = [build_record("psp", 1, 4), build_record("fcn", 1, 20), build_record("fcn", 2, 30)]
    write_comparison_report(write_comparison(tmp_path, records))
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


def test_chosen_photos(with_photos: Path) -> None:
    models = read_comparison(with_photos).models
    names = sorted(models[0].photo_miou)
    chosen = choose_photos(models, {names[1]: 0.25})
    assert list(chosen) == [names[1], names[0], names[2]]
    assert chosen[names[1]][0] == "models disagree on 25% of the pixels"
    assert chosen[names[0]] == ["worst of FCN resnet-18", "worst of PSP resnet-18"]
    assert chosen[names[2]] == ["best of FCN resnet-18", "best of PSP resnet-18"]
    chosen = choose_photos(models, {"same": 0.0, "nearly": 0.001})
    assert "same" not in chosen
    assert chosen["nearly"] == ["models disagree on less than 1% of the pixels"]


@pytest.mark.parametrize("damage", ["missing", "broken", "other size"])
def test_unusable_mask_is_left_grey(with_photos: Path, damage: str) -> None:
    for path in with_photos.glob("runs/psp*/masks/*.png"):
        if damage == "missing":
            path.unlink()
        else:
            small = encode_palette_png(np.zeros((7, 9), dtype=np.uint8))
            path.write_bytes(b"no picture" if damage == "broken" else small)
    page = read_page(write_comparison_report(with_photos))
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


def test_unknown_algorithms_follow_those_of_the_registry(tmp_path: Path) -> None:
    records = [build_record("other"), build_record("another", score=None, status=FAILED), build_record("deeplab")]
    comparison = read_comparison(write_comparison(tmp_path, records))
    known = list(get_networks())
    assert {model.title: model.place for model in comparison.trained} == {
        "DeepLab resnet-18": known.index("deeplab"),
        "another resnet-18": len(known),
        "other resnet-18": len(known) + 1,
    }


@pytest.mark.parametrize(
    ("names", "untinted"),
    [
        (["pet", "Background", "border"], [1]),
        (["sky", "road", "car"], []),
        (["class_0", "class_1", "class_2"], [0]),
    ],
)
def test_background_is_not_tinted(names: Sequence[str], untinted: Sequence[int]) -> None:
    colours = choose_colours(names, voc_colours(len(names)))
    assert [index for index, colour in enumerate(colours) if colour == UNTINTED] == untinted
    assert len(set(colours)) == len(names)


@pytest.mark.parametrize("colours", [[(0, 0, 0), (1, 2, 3)], voc_colours(60)])
def test_colours_of_the_model_are_kept(colours: list[tuple[int, int, int]]) -> None:
    assert choose_colours(default_class_names(len(colours)), colours) == colours


def test_overlay_leaves_untinted_pixels_as_they_are() -> None:
    image = np.full((1, 3, 3), 100, dtype=np.uint8)
    drawn = draw_overlay(image, np.array([[0, 1, 255]], dtype=np.uint8), [UNTINTED, (200, 0, 100)])
    assert drawn.tolist() == [[[100, 100, 100], [150, 50, 100], [162, 162, 146]]]


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


def test_report_of_a_run(with_photos: Path, trained_model: Path) -> None:
    run = with_photos / "runs" / "fcn_resnet-18_seed1"
    (run / "model").mkdir()
    (run / "model" / "model_card.json").write_bytes((trained_model / "model_card.json").read_bytes())
    page = read_page(write_model_report(run))
    assert "Confusion matrix" in page.text
    assert "worst of FCN resnet-18" in page.text
    assert "disagree" not in page.text
    assert page.tags.count("img") > 5


def _pack(archive: Path, folder: Path, names: Sequence[str]) -> Path:
    with tarfile.open(archive, "w:gz", compresslevel=0) as tar:
        for name in names:
            tar.add(folder / name, name)
    return archive


def test_report_of_an_archive(trained_model: Path, tmp_path: Path, drawn_channels: Mapping[str, Path]) -> None:
    names = ("model_best.params", "model_card.json", "curves.json")
    archive = _pack(tmp_path / "model.tar.gz", trained_model, names)
    path = write_source_report(archive)
    assert path == tmp_path / "model_report" / "report.html"
    page = read_page(path)
    assert "Scores on whole validation photos" in page.text
    assert page.tags.count("figure") == 2
    # The folder that holds the archive alone, as S3 has it; with photos the model is scored on them.
    path = write_source_report(tmp_path, drawn_channels, tmp_path / "out")
    page = read_page(path)
    assert path.parent == tmp_path / "out"
    assert "Confusion matrix" in page.text
    assert page.tags.count("img") > 5


def test_report_of_a_model_without_a_card(trained_model: Path, tmp_path: Path) -> None:
    archive = _pack(tmp_path / "model.tar.gz", trained_model, ["model_best.params"])
    assert "has not been scored yet" in read_page(write_source_report(archive)).text
    folder = tmp_path / "unpacked"
    folder.mkdir()
    (folder / "model_best.params").write_bytes((trained_model / "model_best.params").read_bytes())
    assert "has not been scored yet" in read_page(write_source_report(folder)).text


def test_report_names_what_it_cannot_use(trained_model: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist; give a comparison's folder"):
        write_source_report(tmp_path / "nowhere")
    for name, content in (("comparison.json", "{"), ("curves.json", "[1, 2]")):
        folder = tmp_path / name.partition(".")[0]
        folder.mkdir()
        shutil.copy(trained_model / "model_card.json", folder)
        (folder / name).write_text(content)
        with pytest.raises(UserError, match=f"{name} cannot be read"):
            write_source_report(folder)
    data = tmp_path / "data"
    data.mkdir()
    (data / "report.html").write_text("a page")
    with pytest.raises(UserError, match=r"holds no comparison.*; .*data/report.html is there to be looked at"):
        write_source_report(tmp_path)
    with pytest.raises(UserError, match="is a job's output data, not its model"):
        write_source_report(_pack(tmp_path / "output.tar.gz", tmp_path, ["data/report.html"]))
    (tmp_path / "x.tar.gz").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"x\.tar\.gz is not a usable model\.tar\.gz"):
        write_source_report(tmp_path / "x.tar.gz")
    with pytest.raises(UserError, match=r"there is no model_best\.params"):
        write_source_report(_pack(tmp_path / "y.tar.gz", trained_model, ["curves.json"]))


def test_a_third_model_within_the_spread_is_no_worse_than_the_best(tmp_path: Path) -> None:
    found = answer_runs(tmp_path / "a", {"fcn": [5, 6], "psp": [10, 11], "deeplab": [2, 30]})
    assert "is best" not in found.headline
    assert found.headline.endswith("but cannot be told apart from DeepLab resnet-18.")
    assert "to PSP resnet-18, 0.086, is more than the spread" in found.caveat
    found = answer_runs(tmp_path / "b", {"fcn": [5, 6], "psp": [10, 11], "deeplab": [30]})
    assert "scores highest" in found.headline
    assert "Whether that to DeepLab resnet-18 is, one seed does not tell." in found.caveat
    found = answer_runs(tmp_path / "c", {"fcn": [5, 6], "psp": [10, 11], "deeplab": [30, 31]})
    assert "FCN resnet-18 is best" in found.headline


def test_failed_models_and_seeds_are_in_the_answer(tmp_path: Path) -> None:
    failed = [RunRecord(name, "resnet-18", 9, FAILED, "no memory") for name in ("fcn", "deeplab")]
    records = [build_record("fcn", 1), build_record("fcn", 2), *failed]
    caveat = build_verdict(read_comparison(write_comparison(tmp_path, records))).caveat
    assert "DeepLab resnet-18 failed." in caveat
    assert "1 of 3 seeds of FCN resnet-18 failed: its numbers are of the rest." in caveat


def test_class_that_no_mask_has_is_named_with_the_models_that_predict_it(tmp_path: Path) -> None:
    confusion = np.diag([90, 80, 70, 0])
    stray = confusion.copy()
    stray[0, 3] = 1
    scores = [dataclasses.replace(build_score(5), confusion=one.tolist()) for one in (confusion, stray)]
    pair = zip(("fcn", "psp"), scores, strict=True)
    records = [build_record(name, score=score) for name, score in pair]
    caveat = build_verdict(read_comparison(write_comparison(tmp_path / "a", records))).caveat
    assert "(PSP resnet-18: tree), and not at all for the others" in caveat
    caveat = build_verdict(read_comparison(write_comparison(tmp_path / "b", records[:1]))).caveat
    assert "no validation mask" not in caveat


def test_model_without_a_scored_pixel_has_no_miou(tmp_path: Path) -> None:
    score = dataclasses.replace(build_score(5), confusion=[[0] * 4] * 4)
    folder = write_comparison(tmp_path, [build_record("fcn", score=score)])
    write_comparison_report(folder)
    for name in ("html", "json", "md"):
        content = (folder / f"report.{name}").read_text(encoding="utf-8")
        assert "has no mIoU: no validation pixel is scored" in content
        assert "-1.000" not in content


def test_the_verdict_is_on_the_numbers_as_they_are_shown() -> None:
    models = []
    for name, values in (("fcn", (0.6004 - 0.0038, 0.6004 + 0.0038)), ("psp", (0.5895 - 0.0038, 0.5895 + 0.0038))):
        figure = compute_seed_mean(values)
        model = ModelSummary([build_record(name)])
        model.__dict__["means"] = {"miou": figure}
        models.append(model)
    gap = compute_gap(*models)
    assert gap is not None
    assert gap.text == "0.010 behind, within the spread"


def test_ties_are_told_and_all_ties_are_not(with_photos: Path) -> None:
    assert "Photo by photo" not in build_verdict(read_comparison(with_photos)).caveat
    score = dataclasses.replace(build_score(5), photos=[PhotoScore("x", 0.5, 0.5), PhotoScore("y", 0.9, 0.9)])
    other = dataclasses.replace(build_score(9), photos=[PhotoScore("x", 0.5, 0.5), PhotoScore("y", 0.8, 0.8)])
    records = [build_record("fcn", score=score), build_record("psp", score=other)]
    found = build_verdict(dataclasses.replace(read_comparison(with_photos), records=records))
    assert "FCN resnet-18 scores higher than PSP resnet-18 on 1 of 2, the same on 1." in found.caveat


def test_model_scored_on_other_photos_does_not_mix_them_with_the_trainings(
    trained_model: Path, tmp_path: Path, drawn_channels: Mapping[str, Path]
) -> None:
    same = write_source_report(trained_model, drawn_channels, tmp_path / "same")
    data = json.loads((same.parent / "report.json").read_text())["comparison"]["data"]
    assert (data["num_training_samples"], data["num_validation_samples"]) == (9, 3)
    other = tmp_path / "other"
    for name in ("validation", "validation_annotation"):
        (other / name).mkdir(parents=True)
        first = sorted(drawn_channels[name].iterdir())[0]
        (other / name / first.name).write_bytes(first.read_bytes())
    channels = {**{path.name: path for path in other.iterdir()}, "label_map": drawn_channels["label_map"]}
    page = write_source_report(trained_model, channels, tmp_path / "out")
    text = " ".join(read_page(page).text.split())
    assert "Photos–1" in text
    assert "Built-in mIOU at training" in text
    assert "on its own validation photos" in text
    content = json.loads((page.parent / "report.json").read_text())
    rows = np.sum(content["models"][0]["confusion"], axis=1).tolist()
    assert content["comparison"]["data"] == {"pixels": {"validation": rows}}
    assert "processor" in text
    with pytest.raises(DataError, match="the channel validation is missing"):
        write_source_report(trained_model, {"train": drawn_channels["train"]}, tmp_path / "none")


def test_folder_that_cannot_be_written_is_told_before_the_model_is_scored(
    trained_model: Path, tmp_path: Path, drawn_channels: Mapping[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr("gluonseg.report.source.score_model", pytest.fail)
    for out, why in ((tmp_path / "file", "it is a file"), (Path("/proc/no/folder"), "No such file")):
        with pytest.raises(UserError, match=rf"cannot be written into {out} \({why}.*--out"):
            write_source_report(trained_model, drawn_channels, out)


def test_report_of_a_failed_run_says_why(tmp_path: Path) -> None:
    write_comparison(tmp_path, [RunRecord("psp", "resnet-18", 1, FAILED, "killed by SIGKILL")])
    with pytest.raises(UserError, match="has no model: the run failed: killed by SIGKILL"):
        write_source_report(tmp_path / "runs" / "psp_resnet-18_seed1")


def test_error_leaves_the_earlier_reports(with_photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_comparison_report(with_photos)
    earlier = {path.name: path.read_bytes() for path in with_photos.glob("report.*")}
    assert len(earlier) == 4
    next(with_photos.glob("runs/psp*/run.json")).unlink()

    def fail(_context: object) -> str:
        raise RuntimeError

    monkeypatch.setattr("gluonseg.report.page._render", fail)
    with pytest.raises(RuntimeError):
        write_comparison_report(with_photos)
    assert {path.name: path.read_bytes() for path in with_photos.glob("report.*")} == earlier


def test_numbers_of_the_page_are_in_the_files(with_photos: Path, trained_model: Path, tmp_path: Path) -> None:
    write_comparison_report(with_photos)
    content = json.loads((with_photos / "report.json").read_text())
    run = content["models"][0]["runs"][0]
    assert [entry["train_loss"] for entry in run["curves"]] == pytest.approx([2.0, 1.0, 2 / 3])
    assert list(run["photo_mIoU"].values()) == pytest.approx([0.3, 0.5, 0.7])
    assert sorted(content["disagreement"].values()) == pytest.approx([0.0, 0.25, 0.5], abs=0.03)
    assert content["versions"] == {"mxnet": "1.9.1"}
    folder = tmp_path / "model"
    folder.mkdir()
    shutil.copy(trained_model / "model_card.json", folder)
    scores = json.loads((folder / "model_card.json").read_text())["metrics"]["whole_image"]
    write_model_report(folder)
    content = json.loads((folder / "report.json").read_text())
    assert content["card_scores"][0]["metrics"]["mIoU"] == scores["mIoU"]
    assert content["card_scores"][0]["class_IoU"] == scores["class_IoU"]
    with (folder / "report.csv").open(encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    assert float(row["miou"]) == scores["mIoU"]
    markdown = (folder / "report.md").read_text(encoding="utf-8")
    assert markdown.startswith("# Model\n")
    assert f"| mIoU | {scores['mIoU']:.3f} |" in markdown


def test_gallery_says_what_it_does_not_show(with_photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gluonseg.report.gallery.MAX_COMPARED", 2)
    monkeypatch.setattr("gluonseg.report.gallery.MAX_PICTURES", 5)
    text = read_page(write_comparison_report(with_photos)).text
    assert "Disagreement was looked for in 2 of the 3 photos" in text
    assert "Not shown, for want of room or because they cannot be read: " in text
    assert text.count("best of PSP resnet-18") == 1


def test_photos_are_read_up_to_the_limit_of_the_runs(drawn_channels: Mapping[str, Path]) -> None:
    settings = {"channels": drawn_channels, "hyperparameters": {"max_pixels": "100"}}
    album = Album(settings)
    pair = next(iter(album.validation.values()))
    assert album.read(pair, "validation") is None
    assert Album({**settings, "hyperparameters": {}}).read(pair, "validation") is not None


def test_spread_reaches_the_end() -> None:
    assert choose_spread(range(11), 6) == [0, 1, 3, 5, 7, 9]
    assert choose_spread(range(3), 6) == [0, 1, 2]
    assert choose_spread([], 6) == []


@pytest.mark.parametrize(
    ("status", "text"), [(FAILED, "failed: killed by SIGKILL"), (FINISHED, "0 of 4 runs finished")]
)
def test_report_before_any_result(tmp_path: Path, status: str, text: str) -> None:
    records = [RunRecord("psp", "resnet-50", 2, status, "killed by SIGKILL")][: status == FAILED]
    folder = write_comparison(tmp_path, records, runs=[["psp", "resnet-50", 2]] * 4, class_names=NAMES)
    page = read_page(write_comparison_report(folder)).text
    assert "No run has" in page
    assert text in page


def test_report_of_unfinished_runs_without_photos_and_with_a_class_found_nowhere(tmp_path: Path) -> None:
    confusion = [[5, 1, 0, 0], [0, 9, 0, 0], [0] * 4, [0] * 4]
    score = dataclasses.replace(build_score(5), confusion=confusion, boundary_f=None)
    settings = {"channels": {"validation": "/nowhere"}, "colours": [[1, 2, 3]], "hardware": {"cores": 2, "load": 5.3}}
    folder = write_comparison(tmp_path, [build_record("fcn", score=score)], runs=[1, 2, 3], **settings)
    page = read_page(write_comparison_report(folder))
    assert "img" not in page.tags
    assert "no longer where they were" in page.text
    model = json.loads((folder / "report.json").read_text())["models"][0]
    assert model["class_IoU"]["road"] is None
    assert model["metrics"]["boundary_f"] is None
    for name in ("html", "json", "md"):
        content = (folder / f"report.{name}").read_text(encoding="utf-8")
        assert "2 of 3 runs are still to come." in content, name
        assert "So far, FCN" in content.replace("‑", "-"), name
        assert name == "json" or "The machine was busy when this began: a load of 5.3 on 2 cores" in content


def test_very_many_classes_have_a_list_of_mistakes_and_a_small_page(tmp_path: Path) -> None:
    names = [f"kind {number}" for number in range(254)]
    confusion = np.eye(254, dtype=int) * 50
    confusion[3, 7] = 50
    score = dataclasses.replace(build_score(5), class_names=names, confusion=confusion.tolist())
    folder = write_comparison(tmp_path, [build_record("fcn", score=score)])
    page = read_page(write_comparison_report(folder))
    assert "Confusion matri" not in page.text
    assert "kind 3kind 750.0%" in " ".join(page.text.split())
    assert sum(path.stat().st_size for path in folder.glob("report.*")) < 2_000_000


@pytest.mark.parametrize(("low", "high"), [(0.31, 0.58), (0.905, 0.905), (0, 0), (0, 1)])
def test_ticks_are_round_and_enclose(low: float, high: float) -> None:
    found = compute_ticks(low, high)
    assert found[0] <= low <= high <= found[-1]
    assert 2 <= len({f"{tick:g}" for tick in found}) == len(found) <= 9


def test_strip_places_runs_on_one_axis() -> None:
    runs = [[build_record("fcn", 1, 5), build_record("fcn", 2, 10)], [build_record("psp")]]
    models = [ModelSummary(records) for records in runs]
    strip = build_strip(models)
    assert strip is not None
    first, second = strip.rows
    (higher, _), (lower, text) = first.dots
    assert first.mean == pytest.approx((higher + lower) / 2)
    assert first.low < lower < first.mean < higher < first.low + first.width
    assert second.dots[0][0] == pytest.approx(lower)
    assert second.width == 0
    assert [strip.ticks[0][0], strip.ticks[-1][0]] == [0, 100]
    assert text == "FCN resnet-18, seed 2: 0.818"
    assert build_strip(models[:1]) is None


def test_ten_algorithms_are_told_apart(tmp_path: Path) -> None:
    names = [*get_networks(), *"zyxwvutsrq"][:10]
    folder = write_comparison(tmp_path, [build_record(name) for name in names])
    page = write_comparison_report(folder).read_text("utf-8")
    marks = [model.mark for model in read_comparison(folder).models]
    for key in ("light", "dark", "symbol", "path", "variable"):
        assert len({getattr(mark, key) for mark in marks}) == 10
    for mark in marks:
        assert f'style="color:var(--{mark.variable})"><span class="who">' in page
        assert f"M0 0{mark.path}" in page
        assert [f"--{mark.variable}: {colour};" in page for colour in (mark.light, mark.dark)] == [True, True]
    assert len({(mark.light, mark.symbol) for mark in map(build_mark, range(100))}) == 10 * len(COLOURS)


def test_report_of_a_model(trained_model: Path, tmp_path: Path, drawn_channels: Mapping[str, Path]) -> None:
    shutil.copy(trained_model / "curves.json", tmp_path)
    card = json.loads((trained_model / "model_card.json").read_text())
    card["hyperparameters"]["seed"] = "77"
    (tmp_path / "model_card.json").write_text(json.dumps(card))
    page = read_page(write_model_report(tmp_path))
    assert "FCN resnet‑18 reaches mIoU" in page.text
    assert "Scores on whole validation photos" in page.text
    assert "seed77" in "".join(page.text.split())
    assert page.tags.count("figure") == 2
    page = read_page(write_model_report(tmp_path, drawn_channels))
    assert "Training photos under their masks" in page.text
