"""SageMaker Ground Truth: manifests as a semantic segmentation job writes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gluonseg.cli import main
from gluonseg.data.prepare.ground_truth import find_ground_truth
from gluonseg.errors import DataError
from gluonseg.labels import IGNORE
from prepare_kit import draw_photo, prepare, read_masks, save_colours, save_mask, stripes

Capture = pytest.CaptureFixture[str]
WHITE, GREEN, BLUE = (255, 255, 255), (44, 160, 44), (31, 119, 180)
COLOURS = {
    "0": {"class-name": "BACKGROUND", "hex-color": "#ffffff", "confidence": 0.0},
    "1": {"class-name": "tree", "hex-color": "#2ca02c", "confidence": 0.0},
    "2": {"class-name": "sea", "hex-color": "#1f77b4", "confidence": 0.0},
}


def _line(name: str, **metadata: Any) -> str:
    fields = {
        **{"internal-color-map": COLOURS, "type": "groundtruth/semantic-segmentation", "human-annotated": "yes"},
        **{"creation-date": "2021-11-23T20:31:57.758889", "job-name": "labeling-job/land", **metadata},
    }
    mask = f"s3://bucket/out/land/annotations/consolidated-annotation/output/{name}.png"
    return json.dumps({"source-ref": f"s3://bucket/in/{name}.jpg", "land-ref": mask, "land-ref-metadata": fields})


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A manifest of two photos, one mask in colour and one with a palette; their copies in ``photos`` and ``job``."""
    masks = tmp_path / "job/annotations/consolidated-annotation/output"
    save_colours(masks / "a.png", stripes(0, 1, 2, 3), [WHITE, GREEN, BLUE, (1, 2, 3)])
    save_mask(masks / "b.png", stripes(0, 2), [WHITE, GREEN, BLUE])
    for name in "ab":
        draw_photo(tmp_path / f"photos/{name}.jpg")
    (tmp_path / "manifests").mkdir()
    path = tmp_path / "manifests/output.manifest"
    path.write_text("\n".join([_line("a"), _line("b")]) + "\n")
    return path


def test_output_manifest(source: Path, tmp_path: Path, capsys: Capture) -> None:
    command = ["prepare", "ground-truth", str(source), str(tmp_path / "out")]
    assert main(command) == 2
    advice = "gluonseg: no --map says where a copy of s3://bucket/in/a.jpg is; give --map s3://bucket/in=FOLDER\n"
    assert capsys.readouterr().err == advice
    folders = [f"s3://bucket/in={tmp_path / 'photos'}", f"s3://bucket/out/land/={tmp_path / 'job'}"]
    options = ["--map", folders[0], "--map", folders[1], "--validation_share", "0.5"]
    assert main([*command, *options]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"wrote 1 training and 1 validation pairs to {tmp_path / 'out'}",
        "3 classes: BACKGROUND, tree, sea",
        "split at random, seed 0",
        "colours that are not in the table, not scored: a (25.0%, such as #010203)",
    ]


def test_classes_follow_the_colour_maps(source: Path, tmp_path: Path) -> None:
    """A mask is read with the colour map of its own line, and by its keys when it is grey."""
    masks = tmp_path / "job/annotations/consolidated-annotation/output"
    own = {"0": {"class-name": "sea", "hex-color": "#2ca02c"}, "1": {"class-name": "road", "hex-color": "#ffffff"}}
    lines = [
        _line("a"),
        _line("b", **{"internal-color-map": own}),
        _line("c"),
        _line("d"),
        '{"source-ref": "s3://x/e.jpg"}',
    ]
    failed = {"failure-reason": "ClientError: no worker", "type": "groundtruth/semantic-segmentation"}
    lines.append(json.dumps({"source-ref": "s3://bucket/in/f.jpg", "good": 1, "land-ref-metadata": failed}))
    source.write_text("\n".join(lines))
    draw_photo(tmp_path / "photos/c.jpg")
    save_mask(masks / "c.png", stripes(0, 1, 2))
    folders = [("s3://bucket", tmp_path), ("s3://bucket/in", tmp_path / "photos")]
    folders.append(("s3://bucket/out/land", tmp_path / "job"))
    report = prepare(find_ground_truth, source, map=folders)
    assert report.class_names == ("BACKGROUND", "sea", "road", "tree")
    read = read_masks(report)
    assert np.array_equal(read["a"], stripes(0, 3, 1, IGNORE))
    assert np.array_equal(read["b"], stripes(2, IGNORE))
    assert np.array_equal(read["c"], stripes(0, 3, 1))
    assert report.skipped == {
        "d": "its photo cannot be read: No such file or directory",
        "s3://bucket/in/f.jpg": "the labeling job failed: ClientError: no worker",
        "s3://x/e.jpg": "its line lacks source-ref, or a mask with an internal-color-map",
    }
    own["7"] = {"class-name": "Background", "hex-color": "#1f77b4"}
    source.write_text("\n".join(_line(name, **{"internal-color-map": own}) for name in "ab"))
    assert prepare(find_ground_truth, source, map=folders).class_names == ("Background", "sea", "road")
    source.write_text(_line("a", **{"internal-color-map": {"0": {"class-name": "sea"}}}))
    with pytest.raises(DataError, match=r"output.manifest line 1: its internal-color-map is malformed: .*hex-color"):
        prepare(find_ground_truth, source, map=folders)
