"""int8 beside float32, both in our engine: photos per second, and mIoU on whole validation photos.

Of the model in ``GLUONSEG_BENCH_MODEL`` and the channels in ``GLUONSEG_BENCH_CHANNELS`` where these are named; else of
an FCN resnet-18 that is trained here for a few epochs.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from benchmarks.photo import describe_channels, name_folder, name_source, prepare_channels
from benchmarks.rounds import pick, run_rounds
from benchmarks.row import AT_MOST, Row, build_ratio_row
from benchmarks.variant import ROOT, Variant
from gluonseg.models.onnx_file import ONNX_FILE

MODEL_VARIABLE, CHANNELS_VARIABLE = "GLUONSEG_BENCH_MODEL", "GLUONSEG_BENCH_CHANNELS"
_TRAINING: Mapping[str, str] = {
    "algorithm": "fcn", "backbone": "resnet-18", "use_pretrained_model": "false", "epochs": "4", "crop_size": "128",
    "base_size": "160", "prediction_size": "160", "mini_batch_size": "8", "learning_rate": "0.02",
}  # fmt: skip


def _count_classes(channels: Path) -> int:
    path = channels / "label_map" / "class_names.json"
    if not path.is_file():
        raise FileNotFoundError(f"there is no {path}, so no model can be trained here: name one in {MODEL_VARIABLE}")
    return len(json.loads(path.read_text(encoding="utf-8")))


def _train(channels: Path, folder: Path) -> Path:
    # What training writes last, of what is needed here: the card is there from the first epoch that is the best so far.
    if not (folder / "model" / ONNX_FILE).is_file():
        options = [part for name, value in _TRAINING.items() for part in (f"--{name}", value)]
        command = [sys.executable, "-m", "gluonseg", "train", str(channels), "--output", str(folder), *options]
        classes = str(_count_classes(channels))
        subprocess.run([*command, "--num_classes", classes], cwd=ROOT, stdout=sys.stderr, check=True)
    return folder / "model"


def measure(scratch: Path) -> list[Row]:
    """Raises CalledProcessError when training fails, FileNotFoundError when it cannot be started."""
    given = os.environ.get(CHANNELS_VARIABLE)
    channels = Path(given).resolve() if given else prepare_channels(scratch)
    source = name_folder("named", channels) if given else name_source()
    named = os.environ.get(MODEL_VARIABLE)
    model = Path(named) if named else _train(channels, scratch / f"int8-job-{source}")
    arguments = (str(model), str(channels))
    with ExitStack() as stack:
        variants = [
            stack.enter_context(Variant(name, "benchmarks.variants.precision", (name, *arguments)))
            for name in ("float32", "int8")
        ]
        series = run_rounds(variants)
        scores = {variant.name: 100 * variant.ready["miou"] for variant in variants}
    rates = [
        [photos / time for photos, time in zip(pick(series, name, "photos"), pick(series, name), strict=True)]
        for name in ("int8", "float32")
    ]
    note = "" if named else "FCN resnet-18, trained for a few epochs within the stage"
    caution = "" if named else (
        "below 0 is a gain: of so short a training chance moves the score by more than the bar; "
        f"name a trained model in {MODEL_VARIABLE} for a figure that tells something"
    )
    if given:
        data = describe_channels(channels)
        note = f"{note}{'; ' if note else ''}of {CHANNELS_VARIABLE}: {data['count']} files, sha256 {data['sha256']}"
    int8, float32 = scores["int8"], scores["float32"]
    return [
        build_ratio_row("int8", "our float32", "photos/s", rates[0], rates[1], 1.8, note=note),
        Row("int8, mIoU lost", "our float32", "points", int8, float32, float32 - int8, 0.3, AT_MOST, note=caution),
    ]
