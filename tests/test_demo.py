"""``container/demo.py``, what ``make demo`` runs, from data to a served mask."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from gluonseg.data.pairs import match_pairs
from gluonseg.data.prepare.synthetic import draw_oxford_layout
from gluonseg.hyperparameters import parse_hyperparameters
from program import build_environment, run_program
from repository import ROOT

DEMO = ROOT / "container" / "demo.py"
STEPS = ("== 1. Prepare", "== 2. Train", "== 3. Evaluate", "== 4. Serve", "== Done")
TITLES = ("photo", "mask (class ids)", "overlay to look at", "model")


def _run_demo(temporary: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = build_environment(OMP_NUM_THREADS="1", TMPDIR=str(temporary))
    return run_program([sys.executable, DEMO, *arguments], environment, timeout=280)


def _find_results(output: str) -> dict[str, Path]:
    """The paths that the demo prints at its end, by title."""
    found = {}
    for line in output[output.index("== Done") :].splitlines():
        for title in TITLES:
            if line.startswith(f"{title} "):
                found[title] = Path(line.removeprefix(title).strip())
    return found


def test_the_demo_shows_where_its_results_are(tmp_path: Path) -> None:
    pets = draw_oxford_layout(tmp_path / "my pets", count=12, size=40)
    done = _run_demo(tmp_path, "--epochs", "1", "--data", str(pets))
    assert done.returncode == 0, done.stdout
    places = [done.stdout.index(step) for step in STEPS]
    assert places == sorted(places)
    assert "mIoU, classes that occur" in done.stdout
    assert "Traceback" not in done.stdout

    found = _find_results(done.stdout)
    assert set(found) == set(TITLES)
    with Image.open(found["photo"]) as photo, Image.open(found["mask (class ids)"]) as mask:
        assert photo.size == mask.size
        assert mask.mode == "L"
        assert np.array(mask).max() < 3
        size = photo.size
    with Image.open(found["overlay to look at"]) as overlay:
        assert (overlay.size, overlay.mode) == (size, "RGB")
    assert (found["model"] / "model_best.params").is_file()
    card = json.loads((found["model"] / "model_card.json").read_text())
    assert card["class_names"] == ["pet", "background", "border"]


def test_without_data_the_demo_draws_photos(tmp_path: Path) -> None:
    """All else is as with data, which the test above has."""
    runpy.run_path(str(DEMO))["prepare"](tmp_path, None, None)
    config = json.loads((tmp_path / "input" / "config" / "hyperparameters.json").read_text())
    hp = parse_hyperparameters(config)
    assert (hp.num_classes, hp.epochs, hp.algorithm) == (4, 16, "fcn")
    data = tmp_path / "input" / "data"
    assert len(match_pairs(data / "train", data / "train_annotation").pairs) == 72


def test_the_demo_stops_at_data_that_is_not_there(tmp_path: Path) -> None:
    done = _run_demo(tmp_path, "--data", str(tmp_path / "nowhere"))
    assert done.returncode == 2
    assert f"gluonseg: {tmp_path / 'nowhere'}" in done.stdout
    assert "Traceback" not in done.stdout
    assert "== 2." not in done.stdout
