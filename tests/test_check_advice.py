"""Whoever follows an advice of the label doctor can train: each is read from the words, and carried out."""

from __future__ import annotations

import json
import re
import shutil
import tarfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageSequence

from conftest import TINY, build_listeners
from gluonseg.cli import main
from gluonseg.data.channel import find_channels
from gluonseg.data.check.doctor import CheckReport
from gluonseg.data.decode import read_image
from gluonseg.errors import DataError, describe_failure
from gluonseg.hyperparameters import parse_hyperparameters
from gluonseg.train.data import check_job_data
from gluonseg.train.job import JobSettings, run_job
from repository import ROOT
from small_data import HEIGHT, WIDTH, SmallData

RNG = np.random.default_rng(11)
SPLITS = ("train", "validation")


@dataclass
class Job:
    """What a person has: data, hyperparameters, and the data as it was before the mistake."""

    data: SmallData
    before: SmallData
    hyperparameters: dict[str, Any]
    channels: dict[str, Path] = field(default_factory=dict)
    """Channels that are given in the place of those in the folder."""

    def check(self) -> CheckReport:
        hp = parse_hyperparameters(self.hyperparameters)
        return check_job_data(hp, {**find_channels(self.data.root), **self.channels})

    def read_words(self, kind: str) -> str:
        """The text of the failure file; without an error the warning of this kind."""
        report = self.check()
        try:
            report.raise_for_errors()
        except DataError as error:
            assert kind in [finding.kind for finding in report.errors], report.errors
            return describe_failure(error)[0]
        return " ".join(str(finding) for finding in report.warnings if finding.kind == kind)

    def files(self, folder: str) -> list[Path]:
        return sorted(path for split in SPLITS for path in self.data.path(split + folder).iterdir() if path.is_file())


Change = Callable[[Job], object]
Step = Callable[[Job, str], object]
"""Carries out one advice; the words of the doctor are given."""


def _find(pattern: str, words: str) -> tuple[str, ...]:
    match = re.search(pattern, words)
    assert match, words
    return match.groups()


# Steps that follow an advice.


def _give_map(job: Job, words: str) -> None:
    start = words.index("give the label map ") + len("give the label map ")
    content, length = json.JSONDecoder().raw_decode(words[start:])
    (files,) = _find(r"^ \(([\w. ]+) in the label_map channel\)", words[start + length :])
    for name in files.split(" and "):
        job.data.label_map(name.removesuffix("_label_map.json"), content)


def _set_classes(job: Job, words: str) -> None:
    (job.hyperparameters["num_classes"],) = _find(r"[Ss]et num_classes to (\d+)", words)


def _copy_map(job: Job, words: str) -> None:
    missing, other = _find(r"(\w+\.json) is missing.*? copy (\w+\.json)", words)
    shutil.copy(job.data.path("label_map", other), job.data.path("label_map", missing))


def _put_into_map(pattern: str) -> Step:
    """Put ``"255": [4, 9]``, as it stands in the words, into the label map files that are there."""

    def step(job: Job, words: str) -> None:
        (entry,) = _find(pattern, words)
        for path in job.data.path("label_map").glob("*_label_map.json"):
            content = json.loads(path.read_text())
            content["map"].update(json.loads("{" + entry + "}"))
            path.write_text(json.dumps(content))

    return step


def _set_max_pixels(job: Job, words: str) -> None:
    (job.hyperparameters["max_pixels"],) = _find(r"Set max_pixels to (\d+)", words)


def _rename_channel(job: Job, words: str) -> None:
    meant, name = _find(r"Is the channel (\w+) meant\? Name it (\w+)", words)
    job.data.path(meant).rename(job.data.path(name))


def _give_deeper_folder(job: Job, words: str) -> None:
    (folder,) = _find(r"There is one in ([^:]+): give the folder that holds it", words)
    job.data.root = Path(folder)


def _give_channel(job: Job, words: str) -> None:
    folder, channel = _find(r"Give (\S+) as the channel (\w+)", words)
    job.channels[channel] = job.data.path(folder)


def _move_up(job: Job, _words: str) -> None:
    for path in list(job.data.path("train").rglob("*.jpg")):
        path.rename(job.data.path("train", path.name))


def _unpack(job: Job, _words: str) -> None:
    with tarfile.open(job.data.path("train/photos.tar")) as archive:
        archive.extractall(job.data.path("train"), filter="data")


def _name_by_content(job: Job, words: str) -> None:
    content, ending = _find(r"By their content they are (\w+): let their names end in one of (\.\w+)", words)
    assert content == "PNG"
    for path in job.data.path("train").iterdir():
        path.rename(path.with_suffix(ending))


def _take_off(job: Job, words: str) -> None:
    for part, place, whose in re.findall(r"'([^']+)' off the (beginning|end) of the (images|masks)' names", words):
        for path in job.files("" if whose == "images" else "_annotation"):
            stem = path.stem.removeprefix(part) if place == "beginning" else path.stem.removesuffix(part)
            path.rename(path.with_stem(stem))


def _make_masks_again(job: Job, _words: str) -> None:
    for split in SPLITS:
        shutil.rmtree(job.data.path(f"{split}_annotation"))
        shutil.copytree(job.before.path(f"{split}_annotation"), job.data.path(f"{split}_annotation"))


def _resize(job: Job, size: tuple[int, int], folders: Iterable[str] = ("_annotation",)) -> None:
    for path in (path for folder in folders for path in job.files(folder)):
        with Image.open(path) as picture:
            picture.resize(size, Image.Resampling.NEAREST).save(path)


def _set_photo_range(job: Job, words: str) -> None:
    (job.hyperparameters["photo_range"],) = _find(r'Set photo_range to "(\d+, \d+)"', words)
    photo_range = parse_hyperparameters(job.hyperparameters).photo_range
    assert all(np.ptp(read_image(path, photo_range=photo_range)) > 128 for path in job.files(""))


def _stretch(job: Job, _words: str) -> None:
    pixels = {path: np.asarray(Image.open(path)) for path in job.files("")}
    highest = max(int(one.max()) for one in pixels.values())
    for path, one in pixels.items():
        Image.fromarray((one.astype(float) * 255 / highest).astype(np.uint8)).save(path)


def _save_grey(job: Job, _words: str) -> None:
    for path in job.files("_annotation"):
        Image.fromarray(np.array(Image.open(path))).save(path)


def _prepare(job: Job, words: str) -> None:
    (command,) = _find(r"(gluonseg prepare folders DATA OUT --masks DATA(?: --by colour)?)", words)
    data, out = job.data.root, job.data.root.parent / "converted"
    assert main([str({"DATA": data, "OUT": out}.get(word, word)) for word in command.split()[1:]]) == 0
    job.data.root = out


def _upright(job: Job, _words: str) -> None:
    with Image.open(job.data.path("train/t0.jpg")) as picture:
        pixels = np.rot90(np.asarray(picture), -1)
    Image.fromarray(pixels).save(job.data.path("train/t0.jpg"))


def _turn_mask(job: Job, _words: str) -> None:
    job.data.mask("train", "t0.png", np.rot90(np.array(Image.open(job.data.path("train_annotation/t0.png")))))


def _move_pair(source: str, target: str) -> Step:
    def step(job: Job, words: str) -> None:
        assert f"Move some of their images, with masks, to {target}" in words
        stem = f"{source[0]}0"
        job.data.path(source, f"{stem}.jpg").rename(job.data.path(target, f"{stem}.jpg"))
        job.data.path(f"{source}_annotation", f"{stem}.png").rename(
            job.data.path(f"{target}_annotation", f"{stem}.png")
        )

    return step


def _save_pages(job: Job, _words: str) -> None:
    with Image.open(job.data.path("train/t0.tif")) as picture:
        for number, page in enumerate(ImageSequence.Iterator(picture)):
            page.save(job.data.path(f"train/page{number}.png"))
            job.data.mask("train", f"page{number}.png", RAMP)
    job.data.path("train/t0.tif").unlink()
    job.data.path("train_annotation/t0.png").unlink()


def _name_map(job: Job, words: str) -> None:
    first, second = _find(r"Label maps are (\S+) and (\S+),", words)
    for name in (first, second):
        shutil.copy(job.data.path("label_map/labels.json"), job.data.path("label_map", name))
    job.data.path("label_map/labels.json").unlink()


def _hide_transparent(job: Job, _words: str) -> None:
    red, *_, alpha = Image.open(job.data.path("train_annotation/t1.png")).split()
    job.data.mask("train", "t1.png", np.where(np.asarray(alpha), np.asarray(red), 255).astype(np.uint8))


def _write_class(job: Job, _words: str) -> None:
    job.data.mask("train", "t1.png", np.array(Image.open(job.data.path("train_annotation/t1.png"))) // 255)


def _balance(job: Job, words: str) -> None:
    name, value = _find(r"(\w+)=(balanced) may help", words)
    job.hyperparameters[name] = value


def _name_classes(job: Job, words: str) -> None:
    (count,) = _find(r"give (\d+) names", words)
    job.data.path("label_map/class_names.json").write_text(json.dumps([f"class {n}" for n in range(int(count))]))


# Mistakes.

COLOURS = np.array([(0, 0, 0), (200, 30, 30), (30, 200, 30)], np.uint8)
RAMP = (np.arange(HEIGHT * WIDTH) % 3).astype(np.uint8).reshape(HEIGHT, WIDTH)


def _map(table: dict[int, int], splits: Iterable[str] = SPLITS) -> Change:
    return lambda job: job.data.map_masks(table, list(splits))


def _map_with(content: object, table: dict[int, int], splits: Iterable[str] = SPLITS) -> Change:
    """Change labels, and give the label map to ``splits``."""

    def change(job: Job) -> None:
        job.data.map_masks(table)
        for split in splits:
            job.data.label_map(split, content)

    return change


def _write_names(*names: str) -> Change:
    def change(job: Job) -> None:
        job.data.path("label_map").mkdir()
        job.data.path("label_map/class_names.json").write_text(json.dumps(names))

    return change


def _nothing(_job: Job) -> None:
    """The hyperparameters alone are the mistake."""


def _then(change: Change) -> Step:
    return lambda job, _words: change(job)


def _classes(count: int) -> Step:
    return _then(lambda job: job.hyperparameters.update(num_classes=count))


def _unlink(name: str) -> Change:
    return lambda job: job.data.path(name).unlink()


def _unlink_v1(job: Job, _words: str) -> None:
    for name in ("validation/v1.jpg", "validation_annotation/v1.png"):
        job.data.path(name).unlink()


def _copy(source: str, target: str) -> Change:
    return lambda job: shutil.copy(job.data.path(source), job.data.path(target))


def _add_deeper(job: Job) -> None:
    job.data.path("train/more").mkdir()
    shutil.copy(job.data.path("train/t0.jpg"), job.data.path("train/more/t9.jpg"))


def _move_up_with_masks(job: Job, words: str) -> None:
    _move_up(job, words)
    job.data.path("train/more").rmdir()
    job.data.mask("train", "t9.png", RAMP)


def _put_deeper(job: Job) -> None:
    job.data.path("channels").mkdir()
    for path in [path for path in job.data.root.iterdir() if path.name != "channels"]:
        path.rename(job.data.path("channels", path.name))


def _move_deeper(job: Job) -> None:
    job.data.path("train/images").mkdir()
    for path in list(job.data.path("train").glob("*.jpg")):
        path.rename(job.data.path("train/images", path.name))


def _move_jpegs_deeper(job: Job) -> None:
    _move_deeper(job)
    for path in list(job.data.path("train/images").iterdir()):
        path.rename(path.with_suffix(".jfif"))


def _pack(job: Job) -> None:
    with tarfile.open(job.data.path("train/photos.tar"), "w") as archive:
        for path in list(job.data.path("train").glob("*.jpg")):
            archive.add(path, path.name)
            path.unlink()


def _rename_photos(job: Job) -> None:
    for path in list(job.data.path("train").iterdir()):
        Image.open(path).save(path.with_suffix(".photo"), "PNG")
        path.unlink()


def _rename_both(job: Job) -> None:
    for path in job.files(""):
        path.rename(path.with_stem(f"img_{path.stem}_rgb"))
    for path in job.files("_annotation"):
        path.rename(path.with_stem(f"{path.stem}_gt"))


def _write_jpeg_masks(job: Job) -> None:
    for path in job.files("_annotation"):
        Image.open(path).save(path.with_suffix(".jpg"))
        path.unlink()


def _smear(job: Job) -> None:
    for path in job.files("_annotation"):
        values = np.arange(HEIGHT * WIDTH, dtype=np.uint8).reshape(HEIGHT, WIDTH)
        Image.fromarray(values).save(path)


def _deepen(highest: int, lowest: int = 0) -> Change:
    def change(job: Job) -> None:
        for path in job.files(""):
            pixels = RNG.integers(lowest, highest, (HEIGHT, WIDTH), dtype=np.uint16, endpoint=True)
            pixels[0, 0] = highest
            path.unlink()
            Image.fromarray(pixels).save(path.with_suffix(".png"))

    return change


def _mix_palettes(job: Job) -> None:
    for number, path in enumerate(job.files("_annotation")):
        picture = Image.fromarray(np.array(Image.open(path)) % 255)
        picture.putpalette([0, 0, 0, *([200, 0, 0, 0, 200, 0] if number % 2 else [0, 200, 0, 200, 0, 0])])
        picture.save(path)


def _write_floats(job: Job) -> None:
    job.data.path("train/t0.jpg").unlink()
    job.data.image("train", "t0.tif", RNG.random((HEIGHT, WIDTH), dtype=np.float32))


def _save_8_bits(job: Job, words: str) -> None:
    assert "32 bits" in words
    assert "save it as PNG, or as a grey or RGB TIFF of 8 bits" in words
    path = job.data.path("train/t0.tif")
    Image.fromarray((np.asarray(Image.open(path)) * 255).astype(np.uint8)).save(path)


def _write_high_labels(job: Job) -> None:
    job.data.mask("train", "t0.png", RAMP.astype(np.uint16) * 1000)


def _recolour(job: Job) -> None:
    _mix_palettes(job)
    for number, path in enumerate(job.files("_annotation")):
        picture = Image.open(path)
        picture.putpalette([0, 0, 0, 0, 0, 200, *([9, 9, 9] if number % 2 else [0, 200, 0])])
        picture.save(path)


def _colour(job: Job) -> None:
    for path in job.files("_annotation"):
        Image.fromarray(COLOURS[np.array(Image.open(path)) % 255]).save(path)


def _turn(job: Job) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    job.data.image("train", "t0.jpg", RNG.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8), exif=exif)
    job.data.mask("train", "t0.png", np.rot90(RAMP, -1))


def _write_pages(job: Job) -> None:
    pages = [Image.fromarray(RNG.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)) for _ in range(3)]
    job.data.path("train/t0.jpg").unlink()
    pages[0].save(job.data.path("train/t0.tif"), save_all=True, append_images=pages[1:])


def _write_other_map(job: Job) -> None:
    job.data.path("label_map").mkdir()
    job.data.path("label_map/labels.json").write_text('{"map": {"0": 0, "1": 1, "2": 2}}')


def _write_maps_elsewhere(job: Job) -> None:
    _write_other_map(job)
    job.data.path("label_map").rename(job.data.path("label_maps"))


def _name_channel(job: Job, words: str) -> None:
    old, new = _find(r"If it is meant as one, name (\w+) (\w+)", words)
    job.data.path(old).rename(job.data.path(new))


def _see_through(job: Job) -> None:
    alpha = np.where(RAMP, 255, 0).astype(np.uint8)
    job.data.mask("train", "t1.png", np.dstack([RAMP, RAMP, RAMP, alpha]))


def _blacken(job: Job) -> None:
    job.data.mask("train", "t1.png", np.where(RAMP, 255, 0).astype(np.uint8))


def _dominate(job: Job) -> None:
    mask = np.ones((HEIGHT, WIDTH), np.uint8)
    for name in ("t1.png", "t2.png"):
        job.data.mask("train", name, mask)
    mask[0, :2] = (0, 2)
    job.data.mask("train", "t0.png", mask)


BLACK_AND_WHITE = {1: 255, 2: 255}
JOB = {"backbone": "resnet-18", "use_pretrained_model": False, "crop_size": 24}
CITY = {"map": {"0": 0, "1": 9}}
"""A label map that does not say what the label 2, and another, are."""

ADVICE: list[tuple[str, dict[str, Any], Change, tuple[Step, ...]]] = [
    # Folders and names.
    ("missing_channel", {}, lambda job: job.data.path("train").rename(job.data.path("traim")), (_rename_channel,)),
    ("missing_channel", {}, _put_deeper, (_give_deeper_folder,)),
    ("empty_channel", {}, _move_deeper, (_give_channel,)),
    ("empty_channel", {}, _move_deeper, (_move_up,)),
    ("empty_channel", {}, _move_jpegs_deeper, (_give_channel,)),
    ("empty_channel", {}, _pack, (_unpack,)),
    ("empty_channel", {}, _rename_photos, (_name_by_content,)),
    ("empty_channel", {}, _write_jpeg_masks, (_make_masks_again,)),
    ("skipped_folder", {}, _add_deeper, (_move_up_with_masks,)),
    ("image_without_mask", {}, _rename_both, (_take_off,)),
    ("image_without_mask", {}, _rename_both, (_prepare,)),
    ("mask_without_image", {}, _unlink("train/t0.jpg"), (_then(_unlink("train_annotation/t0.png")),)),
    ("image_without_mask", {}, _unlink("train_annotation/t0.png"), (_make_masks_again,)),
    ("ambiguous", {}, _copy("train/t1.jpg", "train/t1.JPG"), (_then(_unlink("train/t1.JPG")),)),
    ("duplicate", {}, _copy("train/t1.jpg", "validation/v1.jpg"), (_unlink_v1,)),
    # Files.
    ("too_large", {"max_pixels": 47}, _nothing, (_set_max_pixels,)),
    ("too_large", {"max_pixels": 47}, _nothing, (_then(lambda job: _resize(job, (6, 6), ("", "_annotation"))),)),
    ("size_mismatch", {}, lambda job: _resize(job, (9, 9)), (_make_masks_again,)),
    ("size_mismatch", {}, lambda job: _resize(job, (9, 9)), (_then(lambda job: _resize(job, (WIDTH, HEIGHT))),)),
    ("size_mismatch", {}, _turn, (_upright,)),
    ("size_mismatch", {}, _turn, (_turn_mask,)),
    ("flat", {}, _deepen(255), (_set_photo_range,)),
    ("flat", {"photo_range": "5000, 9000"}, _deepen(4095), (_set_photo_range,)),
    ("clipped", {"photo_range": "0, 25000"}, _deepen(65535), (_set_photo_range,)),
    ("dark", {}, _deepen(31000, 30000), (_set_photo_range,)),
    ("dark", {}, _deepen(4095), (_set_photo_range,)),
    ("dark", {}, _deepen(4095), (_stretch,)),
    ("pages", {}, _write_pages, (_save_pages,)),
    ("transparent", {}, _see_through, (_hide_transparent,)),
    ("palettes", {}, _mix_palettes, (_save_grey,)),
    ("palettes", {}, _mix_palettes, (_prepare,)),
    ("index_colours", {}, _recolour, (_prepare, _classes(4))),
    ("colour", {}, _colour, (_prepare,)),
    ("unreadable", {}, _write_floats, (_save_8_bits,)),
    ("unreadable", {}, _write_high_labels, (_make_masks_again,)),
    # Labels and classes.
    ("nothing_left", {"num_classes": 2}, _map(BLACK_AND_WHITE), (_give_map,)),
    ("nothing_left", {"num_classes": 21}, _map(BLACK_AND_WHITE), (_give_map, _set_classes)),
    ("nothing_left", {}, _map(BLACK_AND_WHITE, ["validation"]), (_give_map,)),
    ("nothing_left", {}, _map({0: 255, 1: 255, 2: 255}), (_make_masks_again,)),
    ("nothing_left", {"ignore_label": 1}, _map({2: 1}), (_give_map,)),
    ("nothing_left", {}, _map_with({"scale": 3}, {}), (_give_map,)),
    ("nothing_left", {}, _map_with({"map": {"0": 0, "1": 255}}, BLACK_AND_WHITE, ["train"]), (_copy_map,)),
    ("few_classes", {"num_classes": 21}, _map({2: 1}), (_set_classes,)),
    ("few_classes", {"num_classes": 21}, _map({2: 17}), (_give_map, _set_classes)),
    ("out_of_range", {}, _map({1: 4, 2: 9}), (_give_map,)),
    ("out_of_range", {}, _map({1: 3, 2: 6}), (_give_map,)),
    ("out_of_range", {}, _map({2: 3, 255: 2}), (_set_classes,)),
    ("out_of_range", {}, _map({255: 3}), (_give_map,)),
    ("out_of_range", {}, _map({255: 5}), (_give_map,)),
    ("out_of_range", {}, _map({0: 1, 1: 100, 2: 200, 255: 201}), (_give_map, _set_classes)),
    ("out_of_range", {"num_classes": 2}, _map({0: 7, 1: 7, 2: 7}), (_give_map,)),
    ("out_of_range", {"num_classes": 2}, _smear, (_make_masks_again, _classes(3))),
    ("out_of_range", {}, _map_with({"map": {"0": 0, "1": 4, "2": 9}}, {1: 4, 2: 9}, ["train"]), (_copy_map,)),
    ("out_of_range", {}, _map_with(CITY, {1: 9}), (_put_into_map(r'("255": \[[\d, ]+\])'),)),
    ("out_of_range", {}, _map_with(CITY, {1: 9}), (_put_into_map(r'("0": \[[\d, ]+\])'),)),
    ("out_of_range", {}, _map_with(CITY, {1: 9}, ["train"]), (_put_into_map(r'("255": \[[\d, ]+\])'), _copy_map)),
    ("out_of_range", {}, _map_with({"scale": 10}, {1: 50, 2: 100}), (_set_classes,)),
    ("label_map_range", {}, _map_with({"map": {"0": 0, "1": 1, "6": 2}}, {}), (_set_classes,)),
    ("off_by_one", {"num_classes": 4}, _map({2: 3, 1: 2, 0: 1}), (_give_map, _set_classes)),
    ("only_in_validation", {}, _map({2: 0}, ["train"]), (_move_pair("validation", "train"),)),
    ("only_in_train", {}, _map({2: 0}, ["validation"]), (_move_pair("train", "validation"),)),
    ("black_and_white", {}, _blacken, (_write_class,)),
    ("dominant_class", {}, _dominate, (_balance,)),
    # The label_map channel.
    ("different_label_maps", {}, _map_with({"map": {"0": 0, "1": 1, "2": 2}}, {}, ["train"]), (_copy_map,)),
    ("class_names", {"num_classes": 4}, _write_names("sky", "road", "tree"), (_set_classes,)),
    ("class_names", {}, _write_names("sky", "road"), (_name_classes,)),
    ("unknown_channel", {}, _write_maps_elsewhere, (_name_channel,)),
    ("unused_label_map", {}, _write_other_map, (_name_map,)),
]
NO_STEP = {"unreadable_channel", "nested_channel", "skipped", "orientation", "small", "joined"}
NO_STEP |= {"ignored_mask", "mostly_ignored", "never_seen"}
"""Findings whose words ask for nothing, or for rights that root always has."""


@pytest.fixture
def job(tmp_path: Path) -> Job:
    for name in ("data", "before"):
        (tmp_path / name).mkdir()
    return Job(SmallData(tmp_path / "data"), SmallData(tmp_path / "before"), {"num_classes": 3, **JOB})


@pytest.mark.parametrize(("kind", "given", "spoil", "steps"), ADVICE)
def test_an_advice_leads_to_a_training(
    job: Job, kind: str, given: dict[str, Any], spoil: Change, steps: tuple[Step, ...]
) -> None:
    job.hyperparameters.update(given)
    spoil(job)
    words = job.read_words(kind)
    assert words
    for step in steps:
        step(job, words)
    report = job.check()
    assert not report.errors
    assert kind not in [warning.kind for warning in report.warnings] or kind == "dominant_class"


def test_every_finding_with_an_advice_is_followed() -> None:
    source = "".join(path.read_text() for path in (ROOT / "src/gluonseg/data/check").glob("*.py"))
    kinds = set(re.findall(r'(?:Finding|build_findings)\(\s*"(\w+)"', source)) | {
        "few_classes",
        "flat",
        "clipped",
        "dark",
    }
    assert kinds - NO_STEP - {kind for kind, *_ in ADVICE} == {"scaled", "smeared", "gaps", "too_few_classes"}


def test_the_job_trains_to_its_end(job: Job, tmp_path: Path) -> None:
    job.hyperparameters = {**TINY, "num_classes": "21", "epochs": "1", "mini_batch_size": "2"}
    job.data.map_masks(BLACK_AND_WHITE)
    words = job.read_words("nothing_left")
    _give_map(job, words)
    _set_classes(job, words)
    settings = JobSettings(job.hyperparameters, find_channels(job.data.root), tmp_path / "model")
    assert run_job(settings, build_listeners).card.num_classes == 2
