"""What can be in the folder of a channel besides pictures, and names that are hard to match, to print or to trust."""

from __future__ import annotations

import os
import shutil
import socket
import time
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from file_tree import read_files
from gluonseg.data.check import check_channels, format_report
from gluonseg.data.check_channel import find_skipped
from gluonseg.data.pairs import match_pairs
from gluonseg.errors import DataError
from gluonseg.predict.batch import find_images
from job_layout import lay_out_job
from small_data import CHANNELS, HEIGHT, WIDTH, SmallData

LONGEST = "n" * 251


@pytest.fixture
def data(tmp_path: Path) -> SmallData:
    (tmp_path / "data").mkdir()
    return SmallData(tmp_path / "data")


def _add_pair(data: SmallData, image: str, mask: str) -> None:
    data.image("train", f"{image}.jpg", np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    data.mask("train", f"{mask}.png", np.zeros((HEIGHT, WIDTH), np.uint8))


ODD_NAMES = (
    "-rf",
    "--help",
    "a b",
    " leading",
    "trailing ",
    "a\nb",
    "a\r\nb",
    "a\tb",
    "\x1b[2J",
    "$(touch INJECTED)",
    "`touch INJECTED`",
    "a;touch INJECTED;b",
    "a|b&c>d<e",
    "a'b\"c",
    "%s%n%d{0}",
    "a.b.c",
    "~",
    "猫",
    "e\u0301",
    "\u202egnp",
    "\u00a0",
    os.fsdecode(b"\xff\xfe"),
    LONGEST,
)


@pytest.mark.fault(family=5, outcome="accepted: pairs match by their exact names", inputs=len(ODD_NAMES))
def test_any_name_that_a_file_can_have_is_matched_with_its_like(data: SmallData) -> None:
    for name in ODD_NAMES:
        _add_pair(data, name, name)
    report = data.check()
    assert report.errors == ()
    assert report.num_train == 3 + len(ODD_NAMES)
    assert all(line.isprintable() for line in format_report(report).split("\n"))


LOOKALIKES = {
    "case": ("Photo", "photo"),
    "Unicode form": (unicodedata.normalize("NFC", "é"), unicodedata.normalize("NFD", "é")),
    "space at the end": ("a", "a "),
    "space in front": ("a", " a"),
    "compatibility form": ("ﬁ", "fi"),
    "other alphabet": ("аdd", "add"),
    "line end": ("a", "a\n"),
    "invisible": ("a", "a\u200b"),
}


@pytest.mark.fault(family=5, outcome="refused: both names are told, and never paired", inputs=len(LOOKALIKES))
@pytest.mark.parametrize(("image", "mask"), LOOKALIKES.values(), ids=LOOKALIKES.keys())
def test_names_that_only_look_alike_never_match(data: SmallData, image: str, mask: str) -> None:
    _add_pair(data, image, mask)
    report = data.check()
    assert [finding.kind for finding in report.errors] == ["image_without_mask", "mask_without_image"]
    assert report.num_train == 3
    assert all(str(finding).isprintable() for finding in report.errors)


def _link(target: str) -> Callable[[Path], object]:
    return lambda path: path.symlink_to(target)


def _make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        folder = os.open(path.parent, os.O_RDONLY)
        try:  # the path of a socket has at most 107 bytes
            one.bind(f"/proc/self/fd/{folder}/{path.name}")
        finally:
            os.close(folder)


NO_FILES: dict[str, Callable[[Path], object]] = {
    "folder": lambda path: path.mkdir(),
    "pipe": os.mkfifo,
    "socket": _make_socket,
    "link to itself": _link("x.jpg"),
    "link to nothing": _link("/nowhere/at/all.jpg"),
    "link to a folder": _link("."),
    "link to a device": _link("/dev/zero"),
    "link to a terminal": _link("/dev/tty"),
}


@pytest.mark.fault(family=16, outcome="skipped with a warning, and never opened", inputs=len(NO_FILES))
@pytest.mark.parametrize("make", NO_FILES.values(), ids=NO_FILES.keys())
def test_what_is_no_file_is_skipped_and_named(data: SmallData, make: Callable[[Path], object]) -> None:
    make(data.path("train", "x.jpg"))
    report = data.check()
    assert report.errors == ()
    assert [(finding.kind, finding.examples) for finding in report.warnings] == [("skipped", ("train/x.jpg",))]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a device")
@pytest.mark.fault(family=16, outcome="skipped with a warning, and never opened")
def test_a_device_is_skipped(data: SmallData) -> None:
    try:
        os.mknod(data.path("train", "x.jpg"), 0o020666, os.makedev(1, 5))
    except PermissionError:
        pytest.skip("devices cannot be made in this container")
    assert [finding.kind for finding in data.check().warnings] == ["skipped"]


LINKS_OUT = ("train", "train_annotation", "validation", "validation_annotation")


@pytest.mark.fault(family=16, outcome="refused: the link is named, and not followed", inputs=2 * len(LINKS_OUT))
@pytest.mark.parametrize("channel", LINKS_OUT)
@pytest.mark.parametrize("is_relative", [True, False], ids=["relative", "absolute"])
def test_links_out_of_a_channel_are_refused(data: SmallData, channel: str, is_relative: bool) -> None:
    path = min(data.path(channel).iterdir())
    outside = data.root.parent / f"outside{path.suffix}"
    path.rename(outside)
    path.symlink_to(f"../../{outside.name}" if is_relative else outside)
    first = data.check().errors[0]
    assert (first.kind, first.examples) == ("link_out", (f"{channel}/{path.name}",))


@pytest.mark.fault(family=16, outcome="accepted: links within a channel, links to a channel, hard links", inputs=3)
def test_links_that_stay_inside_are_files_like_any_other(data: SmallData, tmp_path: Path) -> None:
    for extension, channel in ((".jpg", "train"), (".png", "train_annotation")):
        data.path(channel, f"linked{extension}").symlink_to(f"t0{extension}")
        data.path(channel, f"hard{extension}").hardlink_to(data.path(channel, f"t0{extension}"))
        (tmp_path / channel).symlink_to(data.path(channel))
    channels = {"train": tmp_path / "train", "train_annotation": tmp_path / "train_annotation"}
    report = check_channels(channels, num_classes=3, splits=("train",))
    assert report.errors == ()
    assert report.num_train == 5


@pytest.mark.fault(family=16, outcome="refused: the file and the reason are named")
@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission(data: SmallData) -> None:
    data.path("train", "t0.jpg").chmod(0)
    (error,) = data.check().errors
    assert "train/t0.jpg cannot be read: Permission denied" in str(error)


@pytest.mark.fault(family=16, outcome="skipped with a warning: folders inside a channel are not entered")
def test_folders_inside_are_not_entered(data: SmallData) -> None:
    shutil.copytree(data.path("train"), data.path("train/more/and/more"))
    report = data.check()
    assert report.num_train == 3
    assert report.warnings[0].kind == "skipped"
    assert "Folders inside a channel are not entered" in str(report.warnings[0])


@pytest.mark.fault(family=16, outcome="accepted: 20 000 files a channel are matched within 3 s")
def test_very_many_files(data: SmallData) -> None:
    for number in range(20_000):
        data.path("train", f"n{number}.jpg").hardlink_to(data.path("train/t0.jpg"))
        data.path("train_annotation", f"n{number}.png").hardlink_to(data.path("train_annotation/t0.png"))
    start = time.monotonic()
    matching = match_pairs(data.path("train"), data.path("train_annotation"))
    assert time.monotonic() - start < 3
    assert len(matching.pairs) == 20_003
    assert find_skipped({"train": matching}) == []


@pytest.mark.fault(family=16, outcome="refused: the links are named", inputs=1)
def test_predict_does_not_follow_links_out_of_a_folder(data: SmallData, tmp_path: Path) -> None:
    (tmp_path / "secret.jpg").write_bytes(data.path("train/t0.jpg").read_bytes())
    data.path("train/stolen.jpg").symlink_to(tmp_path / "secret.jpg")
    with pytest.raises(DataError, match=r"links that lead out of .*train are not followed: stolen\.jpg"):
        find_images([data.path("train")])
    assert find_images([tmp_path / "secret.jpg"]) == [tmp_path / "secret.jpg"]


SECRET = "root:x:0:0:the content of another file"


@pytest.mark.fault(family=16, outcome="refused: a label map that is a link out, and nothing of its target is told")
def test_a_label_map_that_leads_out(data: SmallData, tmp_path: Path) -> None:
    from gluonseg.data.label_channel import read_label_maps

    (tmp_path / "secret").write_text(SECRET)
    (tmp_path / "label_map").mkdir()
    (tmp_path / "label_map" / "train_label_map.json").symlink_to(tmp_path / "secret")
    with pytest.raises(DataError, match="is a symbolic link that leads out of its channel") as caught:
        read_label_maps(tmp_path / "label_map")
    assert SECRET[:8] not in str(caught.value)


FORGED = "\n[01-01-2030 00:00:00 INFO 1] #quality_metric. host: algo-1, epoch: 0, validation mIOU: 0.999 ."


@pytest.mark.fault(family=5, outcome="accepted: no shell sees a name, no log line can be forged by one", inputs=6)
def test_a_job_on_hostile_names(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The whole of training, its report and its log, on names that are commands, terminal sequences and log lines."""
    from job_layout import draw_channels

    job = lay_out_job(tmp_path / "ml", draw_channels(tmp_path_factory.getbasetemp()))
    names = ("$(touch INJECTED)", "`touch INJECTED`", ";touch INJECTED;", "\x1b[2J\x1b[31m", f"a{FORGED[:200]}", "-rf")
    for split in ("train", "validation"):
        images = sorted(job.channel(split).glob("*.jpg"))[:3]
        for image, name in zip(images, names[3:] if split == "train" else names[:3], strict=True):
            mask = job.channel(f"{split}_annotation") / f"{image.stem}.png"
            image.rename(image.with_name(f"{name}.jpg"))
            mask.rename(mask.with_name(f"{name}.png"))
    # What is skipped is told by name.
    (job.channel("train") / f"b{FORGED[:200]}.txt").touch()
    run = job.run()
    assert run.code == 0, run.log
    assert not [path for path in (*tmp_path.rglob("*"), *Path.cwd().glob("*")) if path.name == "INJECTED"]
    assert "0.999" in run.log
    for line in run.log.split("\n"):
        assert line.isprintable()
        assert "0.999" not in line or ("#quality_metric" not in line and not line.startswith("[01-01-2030"))


@pytest.mark.fault(family=17, outcome="accepted: training and checks only read their channels", inputs=2)
def test_channels_are_left_as_they_were(data: SmallData) -> None:
    """So one that is mounted read-only is as good."""
    before = read_files(data.root)
    times = {path: path.stat().st_mtime_ns for path in data.root.rglob("*")}
    data.check()
    assert read_files(data.root) == before
    assert {path: path.stat().st_mtime_ns for path in data.root.rglob("*")} == times
    assert set(CHANNELS) <= {path.name for path in data.root.iterdir()}
