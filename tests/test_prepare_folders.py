"""Photos and masks in any two folders: matched by name, read by value, grey or colour."""

from __future__ import annotations

from pathlib import Path, PurePath

import numpy as np
import pytest
from PIL import Image

from gluonseg.cli import build_parser, main
from gluonseg.data.check.doctor import check_channels
from gluonseg.data.prepare.core import NOT_LISTED, Split, write_data_set
from gluonseg.data.prepare.folders import find_folders, match_names
from gluonseg.errors import DataError
from gluonseg.labels import IGNORE, voc_colours
from prepare_kit import draw_photo, prepare, read_class_names, read_masks, read_names, save_colours, save_mask, stripes

Capture = pytest.CaptureFixture[str]
RED, GREEN, BLACK = (255, 0, 0), (0, 255, 0), (0, 0, 0)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Folder of four photos a to d; masks go into the folder ``masks`` beside it."""
    for name in "abcd":
        draw_photo(tmp_path / f"photos/{name}.jpg")
    return tmp_path / "photos"


def _paths(names: str) -> list[PurePath]:
    return [PurePath(f"{name}.png") for name in names.split()]


@pytest.mark.parametrize(
    ("photos", "masks", "found"),
    [
        ("a b", "a b", "a b"),
        ("a b c", "a_mask b_mask", "a b"),
        ("img_01 img_02", "mask_01 mask_02", "01 02"),
        ("x_image y_image", "x_label y_label", "x y"),
        ("train/a val/a", "train/a_gt val/a_gt", "train/a val/a"),
        ("a b", "one/a two/b", "a b"),
        ("train/a val/a", "train_annotation/a val_annotation/a", "train/a val/a"),
        ("train/images/a val/images/a", "train/masks/a_m val/masks/a_m", "train/a val/a"),
        ("f/b_left f/c_left", "f/b_fine f/c_fine", "f/b f/c"),
    ],
)
def test_names_are_matched_by_what_they_have_in_common(photos: str, masks: str, found: str) -> None:
    assert list(match_names(_paths(photos), _paths(masks)).pairs) == found.split()


def test_what_does_not_match_is_named() -> None:
    match = match_names(_paths("a b x/c y/c"), _paths("a_mask d_mask x/c_mask"), mask_pattern="*_mask")
    assert list(match.pairs) == ["a", "x/c"]
    assert match.left_over == {
        "b.png": "the photo has no mask",
        "d_mask.png": "the mask has no photo",
        "y/c.png": "the photo has no mask",
    }
    twice = match_names(_paths("a b"), [*_paths("a"), PurePath("a.bmp"), PurePath("b.png")])
    assert twice.left_over == {"a.bmp": "two files have its name", "a.png": "two files have its name"}


def test_masks_by_value(source: Path, tmp_path: Path) -> None:
    for name in "abcd":
        save_mask(tmp_path / f"masks/{name}_mask.png", stripes(3, 7, 255))
    report = prepare(find_folders, source, masks=tmp_path / "masks")
    assert read_class_names(report) == ["label_3", "label_7"]
    assert np.array_equal(read_masks(report)["a"], stripes(0, 1, IGNORE))
    assert list(report.notes) == ["masks are read by value; their labels are 3, 7, and 255, not scored"]


def test_names_of_values(source: Path, tmp_path: Path) -> None:
    for name in "abcd":
        save_mask(tmp_path / f"masks/{name}.png", stripes(0, 2))
    report = prepare(find_folders, source, masks=tmp_path / "masks", classes=["ground", "cat", "dog"])
    assert report.class_names == ("ground", "cat", "dog")
    assert np.array_equal(read_masks(report)["a"], stripes(0, 2))
    report = prepare(find_folders, source, masks=tmp_path / "masks", classes=["ground", "dog"])
    assert np.array_equal(read_masks(report)["a"], stripes(0, 1))
    with pytest.raises(DataError, match=r"^1 class names, and the masks in .* hold 2 labels: 0, 2"):
        prepare(find_folders, source, masks=tmp_path / "masks", classes=["dog"])


def test_black_and_white_masks_have_two_classes(source: Path, tmp_path: Path) -> None:
    for name in "abcd":
        save_mask(tmp_path / f"masks/{name}.bmp", stripes(0, 255))
    report = prepare(find_folders, source, masks=tmp_path / "masks", classes=["ground", "cat"])
    assert np.array_equal(read_masks(report)["a"], stripes(0, 1))


def test_colours_by_a_table(source: Path, tmp_path: Path) -> None:
    for name in "abcd":
        save_colours(tmp_path / f"masks/{name}.png", stripes(0, 1, 2, 3), [RED, GREEN, BLACK, (1, 2, 3)])
    (tmp_path / "table.csv").write_text("grass,0,255,0\nroof,255,0,0\nvoid,0,0,0\n")
    report = prepare(find_folders, source, masks=tmp_path / "masks", colours=tmp_path / "table.csv")
    assert report.class_names == ("grass", "roof")
    assert np.array_equal(read_masks(report)["a"], stripes(1, 0, IGNORE, IGNORE))
    names = [f"{name} (25.0%, such as #010203)" for name in "abcd"]
    assert report.notes == {"colours that are not in the table, not scored": names}


def test_colours_that_are_found_are_written_down(source: Path, tmp_path: Path) -> None:
    for name in "abcd":
        save_colours(tmp_path / f"masks/{name}.png", stripes(0, 1), [GREEN, BLACK])
    report = prepare(find_folders, source, masks=tmp_path / "masks")
    assert read_class_names(report) == ["colour_000000", "colour_00ff00"]
    assert np.array_equal(read_masks(report)["a"], stripes(1, 0))
    written = report.out / "colours.csv"
    assert written.read_text() == "name,r,g,b\ncolour_000000,0,0,0\ncolour_00ff00,0,255,0\n"
    written.write_text(written.read_text().replace("colour_00ff00", "grass"))
    report = prepare(find_folders, source, masks=tmp_path / "masks", colours=written)
    assert read_class_names(report) == ["colour_000000", "grass"]


def test_an_index_that_changes_its_colour_is_read_by_colour(source: Path, tmp_path: Path) -> None:
    save_mask(tmp_path / "masks/a.png", stripes(0, 1), [RED, BLACK])
    save_mask(tmp_path / "masks/b.png", stripes(0, 1), [GREEN, BLACK])
    report = prepare(find_folders, source, masks=tmp_path / "masks")
    assert report.class_names == ("colour_000000", "colour_00ff00", "colour_ff0000")


def test_palettes_that_differ_are_read_by_colour(source: Path, tmp_path: Path) -> None:
    """A program that saves a colour mask with a palette of its own gives one colour another index in each file."""
    for name, palette, mask in (("a", [RED, GREEN], (0, 1)), ("b", [GREEN, RED], (1, 0))):
        save_mask(tmp_path / f"masks/{name}.png", stripes(*mask), palette)
    report = prepare(find_folders, source, masks=tmp_path / "masks")
    masks = read_masks(report)
    assert report.class_names == ("colour_00ff00", "colour_ff0000")
    assert np.array_equal(masks["a"], stripes(1, 0))
    assert np.array_equal(masks["b"], stripes(1, 0))
    report = prepare(find_folders, source, masks=tmp_path / "masks", by="value")
    assert np.array_equal(read_masks(report)["b"], stripes(1, 0))
    assert report.class_names == ("label_0", "label_1")
    save_colours(tmp_path / "masks/c.png", stripes(0, 1), [RED, GREEN])
    report = prepare(find_folders, source, masks=tmp_path / "masks", by="value")
    assert report.skipped["c"].endswith("gluonseg prepare folders PHOTOS OUT --masks MASKS --by colour reads it")


def test_palette_and_grey_masks_go_together(source: Path, tmp_path: Path) -> None:
    """VOC's masks have a palette, those that others added to VOC are grey."""
    save_mask(tmp_path / "masks/a.png", stripes(0, 15), voc_colours(256))
    save_mask(tmp_path / "masks/b.png", stripes(0, 15))
    report = prepare(find_folders, source, masks=tmp_path / "masks")
    assert report.class_names == ("label_0", "label_15")
    assert np.array_equal(read_masks(report)["b"], stripes(0, 1))
    assert (report.out / "colours.csv").read_text().splitlines()[1:] == ["label_0,0,0,0", "label_15,192,128,128"]


def test_one_class_is_too_few(source: Path, tmp_path: Path) -> None:
    save_mask(tmp_path / "masks/a.png", stripes(0))
    with pytest.raises(DataError, match="2 to 254 classes can be learned, and the data has 1: label_0"):
        prepare(find_folders, source, masks=tmp_path / "masks")


def test_smooth_edges_are_refused_with_what_helps(source: Path, tmp_path: Path) -> None:
    for name in "ab":
        picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (30, 30, 3), dtype=np.uint8))
        draw_photo(source / f"{name}.jpg", (30, 30))
        (tmp_path / "masks").mkdir(exist_ok=True)
        picture.save(tmp_path / f"masks/{name}.png")
    with pytest.raises(DataError, match=r"hold \d+ colours: edges were smoothed.* into a file for --colours"):
        prepare(find_folders, source, masks=tmp_path / "masks")


def test_photos_and_masks_in_one_folder_with_a_split(tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        draw_photo(tmp_path / f"all/{split}/one.jpg")
        save_mask(tmp_path / f"all/{split}/one.png", stripes(0, 1))
    report = prepare(find_folders, tmp_path / "all", masks=tmp_path / "all")
    assert (read_names(report, "train"), read_names(report, "validation")) == (["train_one"], ["val_one"])
    assert report.skipped == {"test_one": NOT_LISTED}


def test_channels_of_any_masks_are_made_anew(tmp_path: Path) -> None:
    """What the doctor advises where a channel's masks are in colour, or are called otherwise than the photos."""
    for split in ("train", "validation"):
        draw_photo(tmp_path / f"data/{split}/one.png")
        save_colours(tmp_path / f"data/{split}_annotation/one_mask.png", stripes(0, 1), [BLACK, RED])
    report = prepare(find_folders, tmp_path / "data", masks=tmp_path / "data", by="colour")
    assert (report.num_train, report.num_validation, report.skipped) == (1, 1, {})
    assert np.array_equal(read_masks(report)["train_one"], stripes(0, 1))


def test_what_an_earlier_run_wrote_is_no_source(source: Path, tmp_path: Path) -> None:
    for name in "abcd":
        save_mask(tmp_path / f"masks/{name}.png", stripes(0, 1))
    for _ in range(2):
        report = write_data_set(
            lambda: find_folders(source, tmp_path / "masks"), source, source / "out", Split(validation_share=0.5)
        )
        assert (report.num_train, report.num_validation, report.skipped) == (2, 2, {})
    found = find_folders(source / "out", source / "out")
    assert len(found.examples) == 4
    assert f"{source / 'out/label_map'} was passed over; --colours or --classes names the classes" in found.notes


def test_a_jpeg_is_a_photo_whatever_its_name(source: Path, tmp_path: Path) -> None:
    for name, other in (("a", "a.jpe"), ("b", "b"), ("c", "c.jfif"), ("d", "d.jpg.bak")):
        (source / f"{name}.jpg").rename(source / other)
        save_mask(source / f"{name}.png", stripes(0, 1))
    report = prepare(find_folders, source, masks=source)
    assert sorted(read_masks(report)) == ["a", "b", "c"]
    assert report.skipped == {"d.png": "the mask has no photo"}


def test_the_command_and_what_it_wrote(source: Path, tmp_path: Path, capsys: Capture) -> None:
    command = ["prepare", "folders", str(source), str(tmp_path / "out"), "--masks", str(tmp_path / "masks")]
    save_mask(tmp_path / "masks/q.png", stripes(0, 1))
    assert main(command) == 2
    assert "has a mask in" in (problem := capsys.readouterr().err)
    assert "--photo_names '*_photo' --mask_names '*_mask'" in problem
    for name in "abcd":
        save_mask(tmp_path / f"masks/{name}-m1.png", stripes(0, 1, 1))
    for name in ("names.txt", "names.txt" * 40):  # a list may be longer than a file's name can be
        assert build_parser().parse_args([*command, "--classes", name]).classes == [name]
    (tmp_path / "names.txt").write_text("ground\n\ncat\n")
    assert main([*command, "--mask_names", "*-m1", "--classes", str(tmp_path / "names.txt")]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"wrote 3 training and 1 validation pairs to {tmp_path / 'out'}",
        "2 classes: ground, cat",
        "split at random, seed 0",
        "masks are read by value; their labels are 0, 1",
    ]
    channels = {path.name: path for path in (tmp_path / "out").iterdir() if path.is_dir()}
    assert not check_channels(channels, num_classes=2, workers=1).errors
